"""ConflictEdit and RoundEdit: edits that contradict each other, and an edit taken back.

Source: Li et al., "Unveiling the Pitfalls of Knowledge Editing for Large Language Models",
ICLR 2024, arXiv:2310.02129. Relations, subjects and objects are ``{"id", "label"}`` with Wikidata
ids; a relation also has ``prompt`` and ``query`` with ``{}``.

ConflictEdit: ``type``, ``rule``, ``triples``, ``prerequisites`` (positions in ``triples`` of
facts that no edit touches) and two ``edits``. They are applied in order and the later one must
win, so its prompt is the accuracy probe and its query the generality probe. Their old answers
are the object that the later edit replaces and, in ``coverage`` (the same fact twice) and
``composite`` (the same by a rule), the earlier edit's new object, which it gives or implies for
the same question, and its original one. In ``reverse`` the earlier edit implies the replaced
object itself.

What follows from the later edit is a portability probe:

- ``reverse`` ("B was made by C" after "a work of A is B"): the first relation of C is B;
- ``composite`` (rule r1 & r2 > r3, "the spouse of A is E" after "the mother of A's child B is
  D"): the second relation of B is E. The rules of families say that two descriptions name one
  person, so this follows; an office's jurisdiction does not follow from a holder's citizenship
  (``P39&P1001>P27``), and such records have no portability probe.

RoundEdit (files easy and hard): one ``edit`` and ``true_objects``. It is applied and then edited
back to its ``object``; any of the true objects is accepted, and the edit's new object is old.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memedit.edits import Edit, structured
from memedit.evaluation.cases import Case, Fact
from memedit.evaluation.datasets.records import Collected, Probes, Record, records_of

CONVERTIBLE = frozenset({"P25&P26>P22", "P40&P22>P26", "P40&P25>P26"})
"""Composed rules in which the third relation's new object is the second's as well."""


def read_conflicts(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of ConflictEdit's files.

    Raises:
        InvalidInput: a file is not of this form.
    """

    def case_of(record: Record, number: int) -> Case:
        return _conflict(record, into.case_id(f"{record.text('type')}-{number}"), into)

    for path in files.values():
        into.each(records_of(path), case_of)


def read_rounds(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of RoundEdit's files.

    Raises:
        InvalidInput: a file is not of this form.
    """

    def case_of(record: Record, number: int) -> Case:
        return _round(record, into.case_id(str(number)), into)

    for path in files.values():
        into.each(records_of(path), case_of)


def _conflict(record: Record, case_id: str, into: Collected) -> Case:
    given = record.each("edits")
    if len(given) != 2:
        record.wrong("edits", "two edits, the later to win")
    kind = record.text("type")
    if kind not in ("coverage", "reverse", "composite"):
        record.wrong("type", "coverage, reverse or composite")
    first, later = given
    edits = tuple(
        _edit(one, "object", "new_object", into.edit_id(case_id, n))
        for n, one in enumerate(given, 1)
    )
    old = [_label(later, "object")]
    if kind != "reverse":
        old = [_label(first, "new_object"), _label(first, "object"), *old]
    answer = _label(later, "new_object")
    probes = into.probes()
    _ask(probes, later, [answer], old)
    if kind == "reverse":
        asked = first.inside("relation").text("prompt").replace("{}", answer)
        probes.add("portability", kind, asked, [_label(first, "new_object")])
    elif kind == "composite" and record.maybe("rule") in CONVERTIBLE:
        asked = first.inside("relation").text("prompt").replace("{}", _label(first, "subject"))
        gone = [_label(first, "new_object"), _label(first, "object")]
        probes.add("portability", kind, asked, [answer], gone)
    states = tuple(_fact(one, "new_object") for one in given)
    kept = tuple(_fact(one, "object") for one in _prerequisites(record))
    return Case(case_id, edits, probes.done(), (*kept, states[-1]), states)


def _prerequisites(record: Record) -> list[Record]:
    triples = record.each("triples")
    places = record.values.get("prerequisites") or []
    if not isinstance(places, list) or any(
        not isinstance(place, int) or not 0 <= place < len(triples) for place in places
    ):
        record.wrong("prerequisites", "positions in triples")
    return [triples[place] for place in places]


def _round(record: Record, case_id: str, into: Collected) -> Case:
    given = record.inside("edit")
    edits = (
        _edit(given, "object", "new_object", into.edit_id(case_id, 1)),
        _edit(given, "new_object", "object", into.edit_id(case_id, 2)),
    )
    true = [_label(given, "object"), *(one.text("label") for one in record.each("true_objects"))]
    probes = into.probes()
    _ask(probes, given, true, [_label(given, "new_object")])
    back = _fact(given, "object")
    return Case(case_id, edits, probes.done(), (back,), (_fact(given, "new_object"), back))


def _ask(probes: Probes, edit: Record, answers: list[str], old: list[str]) -> None:
    relation, subject = edit.inside("relation"), _label(edit, "subject")
    prompt = relation.text("prompt").replace("{}", subject)
    probes.add("accuracy", "prompt", prompt, answers, old)
    if relation.has("query"):
        query = relation.text("query").replace("{}", subject)
        probes.add("generality", "question", query, answers, old)


def _edit(one: Record, old: str, new: str, edit_id: str) -> Edit:
    relation, subject = one.inside("relation"), _label(one, "subject")
    return structured(
        subject,
        relation.text("prompt"),
        _label(one, new),
        id=edit_id,
        relation=relation.maybe("id"),
        question=relation.maybe("query").replace("{}", subject),
        old_target=_label(one, old),
    )


def _label(one: Record, name: str) -> str:
    return one.inside(name).text("label")


def _fact(one: Record, name: str) -> Fact:
    ends = one.inside("subject"), one.inside("relation"), one.inside(name)
    return Fact(*(end.text("id") for end in ends))
