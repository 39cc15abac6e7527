"""MQuAKE: multi-hop questions whose answers change with one to four edits.

Source: Zhong et al., "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop
Questions", EMNLP 2023, arXiv:2305.14795. Read are MQuAKE-CF, -CF-3k, -CF-3k-v2 and -T, which are
of one shape: ``requested_rewrite`` (a list of ``prompt`` with
``{}``, ``subject``, ``relation_id``, ``question``, ``target_new`` and ``target_true``),
``questions`` (three wordings of one), ``new_answer``, ``answer``, ``new_single_hops`` (the steps
with the edits), and ``orig`` with triples of Wikidata ids: ``new_triples`` (the new chain, which
the answer relies on) and ``edit_triples`` (what the edits state). Aliases, ``single_hops`` and
``case_id`` may be missing.

MQuAKE-Remastered (Zhong et al. 2025) has the same in flat fields: ``target_new_str`` and
``target_true_str``, and beside the rest ``new_triples``, ``orig_triples`` and ``edit_triples``;
without the last, the edited triples are those of the new chain with an edit's relation and target.
Its ``split``, which marks cases as edited or not for a number of edits, is not read: every case is
edited.

Each edit gives an accuracy probe (its cloze) and a generality probe (its question). The three
questions are portability probes of kind "2 hops", "3 hops" or "4 hops", in one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memedit.edits import Edit, structured
from memedit.evaluation.cases import Case, Fact, Hop
from memedit.evaluation.datasets.records import Collected, Probes, Record, records_of

_Triple = tuple[str, str, str]


def read(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of these files.

    Raises:
        InvalidInput: a file is not of this form.
    """

    def case_of(record: Record, number: int) -> Case:
        named = record.name("case_id") if record.has("case_id") else f"n{number}"
        return _case(record, into.case_id(named), into)

    for path in files.values():
        into.each(records_of(path), case_of)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A chain of triples with the hop of each, where they fit each other."""

    triples: tuple[_Triple, ...]
    hops: tuple[Record, ...]

    def answers(self, subject: str, relation: str, answer: str) -> tuple[str, ...]:
        """The answer, with the aliases of the hop that gives it."""
        for (head, name, _), hop in zip(self.triples, self.hops, strict=False):
            if (head, name) == (subject, relation) and hop.maybe("answer") == answer:
                return answer, *hop.texts("answer_alias")
        return (answer,)


def _chain(found: tuple[_Triple, ...], record: Record, hops: str, into: Collected) -> _Chain:
    steps = record.each(hops)
    if steps and len(steps) != len(found):
        into.left_out[f"{hops} that do not fit the chain"] += 1
        steps = []
    return _Chain(found, tuple(steps))


@dataclass(frozen=True, slots=True)
class _Triples:
    """The triples of a record: the chain before, the new one, and what the edits state."""

    before: tuple[_Triple, ...]
    new: tuple[_Triple, ...]
    edited: tuple[_Triple, ...]


def _triples(record: Record, rewrites: list[Record]) -> _Triples:
    nested = record.has("orig")
    orig = record.inside("orig") if nested else record
    if not orig.has("new_triples"):
        orig.wrong("new_triples", "a list of [subject, relation, object]")
    new = orig.triples("new_triples")
    edited = orig.triples("edit_triples")
    if not edited:
        pairs = {(one.maybe("relation_id"), _target(one, "target_new", "id")) for one in rewrites}
        edited = tuple(triple for triple in new if triple[1:] in pairs)
    return _Triples(orig.triples("triples" if nested else "orig_triples"), new, edited)


def _target(rewrite: Record, name: str, part: str) -> str:
    """The label (``str``) or id of a target, nested or flat; empty where there is none."""
    if rewrite.has(name):
        return rewrite.inside(name).maybe(part)
    return rewrite.maybe(f"{name}_{part}")


def _case(record: Record, case_id: str, into: Collected) -> Case:
    rewrites = record.each("requested_rewrite")
    if not rewrites:
        record.wrong("requested_rewrite", "a list of at least one edit")
    triples = _triples(record, rewrites)
    edited = triples.edited
    new = _chain(triples.new, record, "new_single_hops", into)
    before = _chain(triples.before, record, "single_hops", into)
    probes, edits = into.probes(), []
    for number, rewrite in enumerate(rewrites, 1):
        edit = _edit(rewrite, into.edit_id(case_id, number))
        edits.append(edit)
        stated = edited[number - 1] if len(edited) == len(rewrites) else None
        _ask_edit(probes, rewrite, edit, stated, (new, before))
    accepted = (record.text("new_answer"), *record.texts("new_answer_alias"))
    old = (record.maybe("answer"), *record.texts("answer_alias"))
    hops = tuple(
        Hop(
            hop.text("question"),
            (hop.text("answer"), *hop.texts("answer_alias")),
            hop.maybe("cloze"),
            triple in edited,
        )
        for triple, hop in zip(new.triples, new.hops, strict=False)
    )
    kind = f"{len(new.triples)} hops"
    for text in record.texts("questions"):
        probes.add("portability", kind, text, accepted, old, hops=hops, group="question")
    relies_on = tuple(Fact(*triple) for triple in new.triples)
    states = tuple(Fact(*triple) for triple in edited)
    return Case(case_id, tuple(edits), probes.done(), relies_on, states)


def _edit(rewrite: Record, edit_id: str) -> Edit:
    target = _target(rewrite, "target_new", "str")
    if not target:
        rewrite.wrong("target_new", "an object with a text str, or target_new_str")
    return structured(
        rewrite.text("subject"),
        rewrite.text("prompt"),
        target,
        id=edit_id,
        relation=rewrite.maybe("relation_id"),
        question=rewrite.maybe("question"),
        old_target=_target(rewrite, "target_true", "str") or None,
    )


def _ask_edit(
    probes: Probes,
    rewrite: Record,
    edit: Edit,
    stated: _Triple | None,
    chains: tuple[_Chain, _Chain],
) -> None:
    """The probes for one edit; aliases come from the hop of the chain that the edit makes."""
    target, truth = _target(rewrite, "target_new", "str"), edit.old_target
    accepted: tuple[str, ...] = (target,)
    old: tuple[str, ...] = (truth,) if truth else ()
    if stated is not None:
        new, before = chains
        accepted = new.answers(stated[0], stated[1], target)
        if truth:
            old = before.answers(stated[0], stated[1], truth)
    probes.add("accuracy", "prompt", edit.key, accepted, old)
    if edit.question:
        probes.add("generality", "question", edit.question, accepted, old)
