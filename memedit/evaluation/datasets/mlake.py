"""MLaKE: one set of edits and questions in English, Chinese, Japanese, French and German.

Source: Wei et al., "MLaKE: Multilingual Knowledge Editing Benchmark for Large Language Models",
2024, arXiv:2404.04990; the free-form questions of a clone of the repository, a folder with
``dataset/single_hop/qa/{language}_qa.json`` and ``dataset/multi_hop/qa/{new,old}_{language}_qa
.json``. A single-hop record has ``question``, ``e_prompt`` (the edit as a sentence),
``e_answer``, ``e_answer_aliases``, and the same with ``o_`` for before. A multi-hop record of the
``new_`` file has ``question``, ``triples`` (Wikidata ids, the edited fact first), ``relations``,
``e_prompt``, ``e_answer``, aliases and at times ``o_answer``; the ``old_`` file has the answers
before, to some of the same questions.

A single-hop record becomes a case; its question is the accuracy probe, and stays out of the edit,
which is the sentence alone: else it would be retrieved by the very question it is tested with.
Multi-hop questions belong to the case of their ``e_prompt``. In the files of the other languages
that is the English sentence: it is looked up in the English file, and the case is the one at the
same position, since the single-hop files list the same facts in the same order. Questions without
their edit are left out and counted. Steps of a multi-hop question are not in the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memedit.edits import sentence
from memedit.errors import MissingData
from memedit.evaluation.cases import Case, Fact
from memedit.evaluation.datasets.records import Collected, Probes, Record, records_of

LANGUAGES = ("en", "zh", "ja", "fr", "de")


def read(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of these single-hop files and of the multi-hop files beside them.

    Raises:
        InvalidInput: a file is not of this form.
    """
    for label, path in files.items():
        language = label if label in LANGUAGES else path.name.split("_")[0]
        records = records_of(path)
        asked = _multi_hop(path, language, records, into)

        def case_of(
            record: Record,
            number: int,
            language: str = language,
            asked: Mapping[int, list[tuple[Record, tuple[str, ...]]]] = asked,
        ) -> Case:
            case_id = into.case_id(f"{language}-{number}")
            return _case(record, case_id, asked.get(number, []), into)

        into.each(records, case_of)


def _case(
    record: Record, case_id: str, asked: list[tuple[Record, tuple[str, ...]]], into: Collected
) -> Case:
    accepted, old = _names(record, "e_answer"), _names(record, "o_answer")
    edit = sentence(
        record.text("e_prompt"),
        id=into.edit_id(case_id),
        target=record.text("e_answer"),
        old_target=record.maybe("o_answer"),
    )
    probes = into.probes()
    probes.add("accuracy", "prompt", record.text("question"), accepted, old)
    relies_on: list[Fact] = []
    states: list[Fact] = []
    for question, before in asked:
        facts = [Fact(*triple) for triple in question.triples("triples")]
        _ask(probes, question, before, f"{len(facts) or 2} hops")
        relies_on += facts
        states += facts[:1]
    return Case(
        case_id,
        (edit,),
        probes.done(),
        tuple(dict.fromkeys(relies_on)),
        tuple(dict.fromkeys(states)),
    )


def _ask(probes: Probes, question: Record, before: tuple[str, ...], kind: str) -> None:
    old = (*_names(question, "o_answer"), *before)
    probes.add("portability", kind, question.text("question"), _names(question, "e_answer"), old)


def _names(record: Record, field: str) -> tuple[str, ...]:
    return (*record.answers(field), *record.texts(f"{field}_aliases"))


def _multi_hop(
    path: Path, language: str, records: list[Record], into: Collected
) -> dict[int, list[tuple[Record, tuple[str, ...]]]]:
    """By position of the edit: its multi-hop questions, each with its answers before."""
    folder = path.parent.parent.parent / "multi_hop" / "qa"
    file = folder / f"new_{language}_qa.json"
    if not file.is_file():
        into.left_out[f"multi-hop questions: no file {file.name}"] += 1
        return {}
    places = {record.text("e_prompt"): n for n, record in reversed(list(enumerate(records)))}
    english = _optional(path.with_name("en_qa.json"))
    if len(english) == len(records):
        for n, record in enumerate(english):
            places.setdefault(record.text("e_prompt"), n)
    before = {
        record.text("question"): _names(record, "e_answer") or _names(record, "o_answer")
        for record in _optional(folder / f"old_{language}_qa.json")
    }
    found: dict[int, list[tuple[Record, tuple[str, ...]]]] = {}
    for record in records_of(file):
        place = places.get(record.text("e_prompt"))
        if place is None:
            into.left_out["multi-hop questions without their edit"] += 1
        else:
            found.setdefault(place, []).append((record, before.get(record.text("question"), ())))
    return found


def _optional(path: Path) -> list[Record]:
    try:
        return records_of(path)
    except MissingData:
        return []
