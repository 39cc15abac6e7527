"""The public datasets that memedit reads, each in its publishers' form.

counterfact.py   CounterFact, flat and as ROME publishes it
knowedit.py      KnowEdit's wiki_counterfact (knowedit) and zsRE (zsre)
mquake.py        MQuAKE-CF, -CF-3k, -CF-3k-v2, -T and Remastered
pitfalls.py      ConflictEdit and RoundEdit
rippleedits.py   RippleEdits
mlake.py         MLaKE, in five languages
records.py       records of a file, and the cases they become
parts.py         fit, hold and report: parts by subject

No data comes with memedit. :func:`load` reads it from a folder, or one file that is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from memedit.errors import InvalidInput, MissingData
from memedit.evaluation.cases import Case
from memedit.evaluation.datasets.parts import PARTS, part_of, subject_of
from memedit.evaluation.datasets.records import Collected

__all__ = ["DATASETS", "Dataset", "Loaded", "Located", "data_root", "load", "locate"]

Reader = Callable[[Mapping[str, Path], Collected], None]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that memedit can read.

    Attributes:
        name: what commands call it.
        title: its name in print.
        summary: what it asks, in one line.
        source: the publisher's address.
        licence: the publisher's licence.
        paper: the paper's address.
        files: each of the publishers' parts, with its path in the data folder; a dataset without
            parts has one, ``all``.
        formats: the forms that are read, in words.
        read: adds the cases of some files, by part.
    """

    name: str
    title: str
    summary: str
    source: str
    licence: str
    paper: str
    files: Mapping[str, str]
    formats: str
    read: Reader

    @property
    def splits(self) -> tuple[str, ...]:
        """What :func:`load` takes: the publishers' parts and ``all``, or ``all`` and ours."""
        if "all" in self.files:
            return ("all", *PARTS)
        return (*self.files, "all")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The cases of one split; ``records == len(cases) + sum(skipped) + elsewhere``.

    Attributes:
        cases: in the order of the file.
        skipped: records that became no case, by reason.
        path: the file, or the folder that holds them all where there are several.
        records: records in the file or files.
        left_out: probes left out of the cases of the whole file, by reason.
        elsewhere: cases that belong to another part of the same file.
    """

    cases: tuple[Case, ...]
    skipped: Mapping[str, int]
    path: Path
    records: int
    left_out: Mapping[str, int]
    elsewhere: int = 0


class Located(NamedTuple):
    """Where a file of a dataset was looked for."""

    split: str
    path: Path
    found: bool
    bytes: int


def _reader(module: str, name: str = "read") -> Reader:
    """The loader of a module, which is imported when it is first called."""

    def read(files: Mapping[str, Path], into: Collected) -> None:
        getattr(import_module(f"{__name__}.{module}"), name)(files, into)

    return read


_PITFALLS = "https://github.com/zjunlp/PitfallsKnowledgeEditing"

_ALL = (
    Dataset(
        name="counterfact",
        title="CounterFact",
        summary="counterfactual edits, a paraphrase and a neighbouring subject of each",
        source="https://github.com/kmeng01/rome",
        licence="MIT",
        paper="https://arxiv.org/abs/2202.05262",
        files={"train": "counterfact/train.json", "dev": "counterfact/dev.json"},
        formats="the flat form, and ROME's own with requested_rewrite",
        read=_reader("counterfact"),
    ),
    Dataset(
        name="knowedit",
        title="KnowEdit wiki_counterfact",
        summary="counterfactual edits with portability and locality by kind",
        source="https://github.com/zjunlp/EasyEdit",
        licence="MIT; the split of YJiangcm/LTE: Apache-2.0",
        paper="https://arxiv.org/abs/2401.01286",
        files={"all": "knowedit/wiki_counterfact.json"},
        formats="KnowEdit's, with plain or nested answers; also wiki_recent",
        read=_reader("knowedit"),
    ),
    Dataset(
        name="zsre",
        title="zsRE in KnowEdit's form",
        summary="questions with a new answer, a rephrase, portability and locality",
        source="https://github.com/zjunlp/EasyEdit",
        licence="MIT; the split of YJiangcm/LTE: Apache-2.0",
        paper="https://arxiv.org/abs/2401.01286",
        files={"all": "knowedit/zsre.json"},
        formats="KnowEdit's, with plain or nested answers",
        read=_reader("knowedit"),
    ),
    Dataset(
        name="mquake",
        title="MQuAKE",
        summary="multi-hop questions whose answers change with one to four edits",
        source="https://github.com/princeton-nlp/MQuAKE",
        licence="MIT",
        paper="https://arxiv.org/abs/2305.14795",
        files={"all": "mquake/cf-3k-odd.json"},
        formats="MQuAKE-CF, -CF-3k, -CF-3k-v2, -T and Remastered",
        read=_reader("mquake"),
    ),
    Dataset(
        name="conflictedit",
        title="ConflictEdit",
        summary="two edits that conflict, of which the later must win",
        source=_PITFALLS,
        licence="MIT",
        paper="https://arxiv.org/abs/2310.02129",
        files={kind: f"conflictedit/{kind}.json" for kind in ("coverage", "reverse", "composite")},
        formats="the publishers'",
        read=_reader("pitfalls", "read_conflicts"),
    ),
    Dataset(
        name="roundedit",
        title="RoundEdit",
        summary="an edit that is edited back to the truth",
        source=_PITFALLS,
        licence="MIT",
        paper="https://arxiv.org/abs/2310.02129",
        files={"all": "roundedit/easy.json"},
        formats="the publishers' easy and hard",
        read=_reader("pitfalls", "read_rounds"),
    ),
    Dataset(
        name="rippleedits",
        title="RippleEdits",
        summary="what should change with an edit and what should not, six kinds",
        source="https://github.com/edenbiran/RippleEdits",
        licence="MIT",
        paper="https://arxiv.org/abs/2307.12976",
        files={kind: f"rippleedits/{kind}.json" for kind in ("recent", "random", "popular")},
        formats="the publishers' benchmark files",
        read=_reader("rippleedits"),
    ),
    Dataset(
        name="mlake",
        title="MLaKE",
        summary="single and multi-hop questions in five languages",
        source="https://github.com/Hi-archers/MLaKE",
        licence="none stated",
        paper="https://arxiv.org/abs/2404.04990",
        files={
            language: f"mlake/dataset/single_hop/qa/{language}_qa.json"
            for language in ("en", "zh", "ja", "fr", "de")
        },
        formats="the free-form questions of a clone of the repository",
        read=_reader("mlake"),
    ),
)

DATASETS: Mapping[str, Dataset] = {one.name: one for one in _ALL}
"""Every dataset that memedit can read, by name."""


def data_root(explicit: Path | None = None) -> Path:
    """The data folder: the one given, else ``MEMEDIT_DATA``, else ``data`` where one stands."""
    return explicit or Path(os.environ.get("MEMEDIT_DATA") or "data")


def dataset_of(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        InvalidInput: there is none; the message says which there are.
    """
    if name not in DATASETS:
        raise InvalidInput(f"no dataset {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name]


def locate(name: str, data: Path | None = None) -> list[Located]:
    """Where each file of a dataset is looked for, and whether it is there.

    Raises:
        InvalidInput: there is no such dataset.
    """
    root = data_root(data)
    found = []
    for split, relative in dataset_of(name).files.items():
        path = root / relative
        there = path.is_file()
        found.append(Located(split, path, there, path.stat().st_size if there else 0))
    return found


def load(
    name: str, split: str = "all", *, data: Path | None = None, path: Path | None = None
) -> Loaded:
    """The cases of one split of a dataset.

    Args:
        name: a name in :data:`DATASETS`.
        split: one of the dataset's :attr:`Dataset.splits`. With ``path``, a file is taken whole
            (``all``) or by subject (``fit``, ``hold``, ``report``).
        data: the data folder; see :func:`data_root`.
        path: a file of the publishers' to read instead, or a folder that holds them.

    Raises:
        InvalidInput: no such dataset or split, or a file is not of a form that is read.
        MissingData: a file is not there.
    """
    dataset = dataset_of(name)
    files = _files(dataset, split, data_root(data), path)
    for file in files.values():
        if not file.is_file():
            raise _missing(dataset, file, named=path is not None)
    into = Collected(name)
    dataset.read(files, into)
    cases = tuple(into.cases)
    if split in PARTS and split not in dataset.files:
        cases = tuple(case for case in cases if part_of(subject_of(case)) == split)
    paths = list(files.values())
    where = paths[0] if len(paths) == 1 else Path(os.path.commonpath(paths))
    elsewhere = len(into.cases) - len(cases)
    return Loaded(cases, dict(into.skipped), where, into.records, dict(into.left_out), elsewhere)


def _files(dataset: Dataset, split: str, root: Path, path: Path | None) -> dict[str, Path]:
    """The files of a split, by the publishers' part."""
    if path is None or path.is_dir():
        if split not in dataset.splits:
            raise InvalidInput(
                f"{dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}"
            )
        wanted = [split] if split in dataset.files else list(dataset.files)
        if path is None:
            return {part: root / dataset.files[part] for part in wanted}
        return {part: _under(path, dataset.files[part]) for part in wanted}
    own = next((p for p, file in dataset.files.items() if Path(file).name == path.name), None)
    allowed = ("all", *PARTS) if own in (None, "all") else (own, "all", *PARTS)
    if split not in allowed:
        raise InvalidInput(
            f"the file {path} is not known to be the part {split!r} of {dataset.name}; "
            f"ask for {', '.join(map(str, allowed))}"
        )
    return {own or "all": path}


def _under(folder: Path, relative: str) -> Path:
    """The file in a folder that may be the data folder or any folder on the way to the file."""
    parts = Path(relative).parts
    places = [folder.joinpath(*parts[n:]) for n in range(len(parts))]
    return next((place for place in places if place.is_file()), places[min(1, len(places) - 1)])


def _missing(dataset: Dataset, file: Path, *, named: bool) -> MissingData:
    remedy = (
        "check the path that was named"
        if named
        else f"put it there, name the data folder with --data or MEMEDIT_DATA (it holds "
        f"{', '.join(dataset.files.values())}), or name the publishers' file with --path"
    )
    return MissingData(
        f"{dataset.title} is not at {file}; its publishers have it at {dataset.source}: {remedy}"
    )
