"""Records of a dataset's file, and the cases they become.

A file that is not of the expected form is refused with the file, the record and the field. A
record whose edit memedit refuses is no fault of the file: it is left out, and counted by reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from memedit.errors import InvalidEdit, InvalidInput, MissingData
from memedit.evaluation.cases import Case, Hop, Measure, Probe

_REASONS = (
    ("does not name the subject", "the prompt does not name the subject"),
    ("it needs one", "the prompt has several places for the subject"),
    ("is empty", "a text of the edit is empty"),
    ("are taken", "a text of the edit is too long"),
    ("control token", "a text of the edit holds a control token of chat templates"),
    ("start of a chat turn", "a text of the edit may read as the start of a chat turn"),
    ("control character", "a text of the edit holds a control character"),
    ("lone surrogate", "a text of the edit is no valid Unicode"),
)

_NOT_OF_ID = re.compile(r"[^A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file, which knows where it stands.

    Attributes:
        values: the object.
        where: the file, the record's number from 1, and the fields on the way, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def has(self, name: str) -> bool:
        """Whether the field is there and is not null."""
        return self.values.get(name) is not None

    def wrong(self, name: str, expected: str) -> NoReturn:
        """Refuses the file for this field.

        Raises:
            InvalidInput: always.
        """
        if name not in self.values:
            found = f"is missing; this record has {', '.join(map(str, self.values)) or 'nothing'}"
        else:
            found = f"is {json.dumps(self.values[name], ensure_ascii=False)[:60]}"
        raise InvalidInput(f"{self.where}: field {name!r} {found}; expected {expected}")

    def text(self, name: str) -> str:
        """A text.

        Raises:
            InvalidInput: it is missing or no text.
        """
        value = self.values.get(name)
        return value if isinstance(value, str) else self.wrong(name, "a text")

    def maybe(self, name: str) -> str:
        """A text, or the empty text where the field is missing or null."""
        return self.text(name) if self.has(name) else ""

    def name(self, name: str) -> str:
        """A text or a whole number, as text: ids come as either."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.wrong(name, "a text or a whole number")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, without those that are empty; none where the field is missing."""
        value = self.values.get(name, ())
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
            self.wrong(name, "a list of texts")
        return tuple(text for text in value if text.strip())

    def answers(self, name: str) -> tuple[str, ...]:
        """A text, a number, or lists of them, nested or not: each another accepted answer."""
        return tuple(dict.fromkeys(self._flat(name, self.values.get(name, ()))))

    def _flat(self, name: str, value: Any) -> Iterable[str]:
        if isinstance(value, list | tuple):
            for one in value:
                yield from self._flat(name, one)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            if str(value).strip():
                yield str(value)
        elif value is not None:
            self.wrong(name, "a text, a list of texts, or lists of texts")

    def inside(self, name: str) -> Record:
        """A field that is an object.

        Raises:
            InvalidInput: it is missing or no object.
        """
        value = self.values.get(name)
        if not isinstance(value, dict):
            self.wrong(name, "an object")
        return Record(value, f"{self.where}, {name}")

    def each(self, name: str) -> list[Record]:
        """A field that is a list of objects; none where it is missing."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.wrong(name, "a list of objects")
        return [Record(one, f"{self.where}, {name} {n}") for n, one in enumerate(value, 1)]

    def triples(self, name: str) -> tuple[tuple[str, str, str], ...]:
        """A list of [subject, relation, object]; none where it is missing."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            isinstance(one, list) and len(one) == 3 and all(isinstance(text, str) for text in one)
            for one in value
        ):
            self.wrong(name, "a list of [subject, relation, object]")
        return tuple((one[0], one[1], one[2]) for one in value)


def records_of(path: Path) -> list[Record]:
    """The records of a file that holds one JSON list of objects.

    Raises:
        MissingData: there is no such file.
        InvalidInput: it is no JSON, no list, or a record is no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingData(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        head = "version https://git-lfs"
        hint = "it is JSON: a list of records"
        if isinstance(error, ValueError) and path.read_bytes().startswith(head.encode()):
            hint = "it is a pointer of Git LFS; fetch the file itself with git lfs pull"
        raise InvalidInput(f"{path} cannot be read ({error}); expected that {hint}") from error
    if not isinstance(data, list):
        raise InvalidInput(f"{path} holds {type(data).__name__}; expected a list of records")
    for number, one in enumerate(data, 1):
        if not isinstance(one, dict):
            kind = type(one).__name__
            raise InvalidInput(f"{path}, record {number} is {kind}; expected an object")
    return [Record(one, f"{path}, record {number}") for number, one in enumerate(data, 1)]


def replaced(old: Iterable[str], accepted: Iterable[str]) -> tuple[str, ...]:
    """The old answers, each once, without any that is accepted as well."""
    right = {_plain(text) for text in accepted}
    kept: dict[str, str] = {}
    for text in old:
        plain = _plain(text)
        if plain and plain not in right:
            kept.setdefault(plain, text)
    return tuple(kept.values())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def id_text(text: str) -> str:
    """The text in the alphabet of edit ids, ``A-Za-z0-9._:-``."""
    return _NOT_OF_ID.sub("-", text).strip("-._:") or "x"


def reason_of(error: InvalidEdit) -> str:
    """Why an edit was refused, in words that do not name the record."""
    message = str(error)
    for sign, reason in _REASONS:
        if sign in message:
            return reason
    return message.split(";")[0][:80]


@dataclass
class Collected:
    """What a loader fills: cases, and counts of what became none.

    Attributes:
        dataset: the dataset's name; edit ids begin with it.
        cases: the cases in the order of the file.
        skipped: records that became no case, by reason.
        left_out: probes (or other parts of a record that became a case) left out, by reason.
        records: records seen.
    """

    dataset: str
    cases: list[Case] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    records: int = 0
    _ids: Counter[str] = field(default_factory=Counter)
    _taken: set[str] = field(default_factory=set)

    def each(self, records: Iterable[Record], case_of: Callable[[Record, int], Case]) -> None:
        """Adds each record's case; ``case_of`` gets the record and its number from 0."""
        for number, record in enumerate(records):
            self.records += 1
            try:
                case = case_of(record, number)
            except InvalidEdit as error:
                self.skipped[reason_of(error)] += 1
                continue
            if case.probes:
                self.cases.append(case)
            else:
                self.skipped["it has no probe"] += 1

    def case_id(self, text: str) -> str:
        """The id in the alphabet of ids, with a number behind it where it was there before."""
        wanted = id_text(text)[:40]
        while True:
            self._ids[wanted] += 1
            count = self._ids[wanted]
            unique = wanted if count == 1 else f"{wanted}.{count}"
            if unique not in self._taken:
                self._taken.add(unique)
                return unique

    def edit_id(self, case_id: str, number: int = 1) -> str:
        """The id of a case's edit, at most 64 characters: the same in every run."""
        return f"{id_text(self.dataset)[:16]}-{case_id}-{number}"

    def probes(self) -> Probes:
        """An empty list of probes, which counts here what it leaves out."""
        return Probes(self.left_out)


@dataclass
class Probes:
    """The probes of one case, in order.

    Attributes:
        left_out: counts what is not taken, by reason.
        taken: the probes.
    """

    left_out: Counter[str]
    taken: list[Probe] = field(default_factory=list)

    def add(
        self,
        measure: Measure,
        kind: str,
        prompt: str,
        answers: Iterable[str],
        old: Iterable[str] = (),
        *,
        hops: tuple[Hop, ...] = (),
        group: str = "",
    ) -> None:
        """Takes a probe; one without a prompt, or in scope without an answer, is left out.

        Args:
            measure: what it counts for.
            kind: the finer kind.
            prompt: the text to ask.
            answers: accepted answers, the canonical one first.
            old: the answers that an edit replaces; those also accepted are removed.
            hops: the steps of a multi-hop question.
            group: a name shared by wordings of one question.
        """
        accepted = tuple(dict.fromkeys(text for text in answers if text.strip()))
        if not prompt.strip():
            self.left_out[f"{kind}: no prompt"] += 1
            return
        if measure != "locality" and not accepted:
            self.left_out[f"{kind}: no answer"] += 1
            return
        gone = replaced(old, accepted)
        self.taken.append(Probe(measure, kind, prompt, accepted, gone, hops, group))

    def done(self) -> tuple[Probe, ...]:
        """The probes, as a case holds them."""
        return tuple(self.taken)
