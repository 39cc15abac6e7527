"""Which probes are not what they seem when many cases' edits are live at once.

A dataset's cases are written one by one. With all edits of many cases live, the locality probe of
one case can ask the very thing that another case's edit changes, and one case's edit can break
another's chain of facts. Such probes are found by rule, from the data alone and the same for every
method, counted, and reported apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from memedit.evaluation.cases import Case, Fact, Probe
from memedit.evaluation.matching import normalised
from memedit.lexicon import SubjectLexicon

ASKS_LIVE_EDIT = "asks what another live edit changes"
"""A locality probe that is in scope of another case's edit."""

BROKEN_CHAIN = "its chain is broken by another live edit"
"""An in-scope probe whose answer rests on a fact that another case's edit changes."""

CONTRADICTED = "another live edit states the same fact otherwise"
"""An in-scope probe whose own edit has a rival."""


def apart(cases: Sequence[Case]) -> dict[tuple[str, int], str]:
    """The probes that must not count, when the edits of all these cases are live.

    A locality probe goes apart where its words are those of an edit or of an in-scope probe of
    another case; or, for neighbourhood prompts, where it names the subject of another case's edit
    (not inside a longer name) and asks for the same relation: told by the relation's name where
    both have one, and otherwise by the answer, since the answer that a neighbour shares with the
    edited subject is the one that the edit replaces.

    An in-scope probe goes apart where another case's edit gives another object to a subject and
    relation that its answer rests on.

    Args:
        cases: those whose edits are live together.

    Returns:
        The reason, by case id and the probe's place in the case.
    """
    live = _Live(cases)
    found: dict[tuple[str, int], str] = {}
    for case in cases:
        contradicted = live.contradicted(case)
        broken = contradicted or live.breaks(case)
        for place, probe in enumerate(case.probes):
            if not probe.in_scope:
                if live.asks_another(case, probe):
                    found[case.id, place] = ASKS_LIVE_EDIT
            elif contradicted and probe.measure != "portability":
                found[case.id, place] = CONTRADICTED
            elif broken and probe.measure == "portability":
                found[case.id, place] = BROKEN_CHAIN
    return found


class _Live:
    """What the live edits say, by what they say it about."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._texts: dict[str, set[str]] = defaultdict(set)
        self._objects: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._facts: dict[str, dict[str, set[str]]] = {}
        self._lexicon = SubjectLexicon()
        self._named: list[tuple[str, str | None, str]] = []
        for case in cases:
            for text in _texts(case):
                self._texts[text].add(case.id)
            for fact in case.states:
                objects = self._objects.setdefault((fact.subject, fact.relation), {})
                objects.setdefault(fact.object, set()).add(case.id)
            for key, target in _stated(case):
                self._facts.setdefault(key, {}).setdefault(target, set()).add(case.id)
            for edit in case.edits:
                if edit.names:
                    self._lexicon.add(len(self._named), edit.names)
                    old = normalised(edit.old_target or "")
                    self._named.append((case.id, edit.relation, old))

    def asks_another(self, case: Case, probe: Probe) -> bool:
        """Whether a locality probe is about an edit of another case."""
        if self._texts.get(_plain(probe.prompt), set()) - {case.id}:
            return True
        if probe.kind != "neighbourhood":
            return False
        relations = {edit.relation for edit in case.edits if edit.relation}
        truths = {normalised(answer) for answer in probe.answers}
        for mention in self._lexicon.find(probe.prompt):
            if mention.within_longer_name:
                continue
            for position in mention.positions:
                owner, relation, old = self._named[position]
                if owner == case.id:
                    continue
                if relation and relations:
                    if relation in relations:
                        return True
                elif old and old in truths:
                    return True
        return False

    def breaks(self, case: Case) -> bool:
        """Whether another case's edit changes a fact that this case rests on."""
        return any(self._rivals(case, fact) for fact in case.relies_on)

    def contradicted(self, case: Case) -> bool:
        """Whether another case's edit gives this case's own fact another object."""
        if any(self._rivals(case, fact) for fact in case.states):
            return True
        own = dict(_stated(case))
        for key, target in own.items():
            for other, owners in self._facts.get(key, {}).items():
                if other != target and owners - {case.id}:
                    return True
        return False

    def _rivals(self, case: Case, fact: Fact) -> bool:
        objects: Mapping[str, set[str]] = self._objects.get((fact.subject, fact.relation), {})
        return any(owners - {case.id} for o, owners in objects.items() if o != fact.object)


def _texts(case: Case) -> Iterable[str]:
    """Every wording in which the dataset asks for what the case's edits change."""
    for edit in case.edits:
        yield _plain(edit.key)
        if edit.question:
            yield _plain(edit.question)
    for probe in case.probes:
        if probe.measure in ("accuracy", "generality"):
            yield _plain(probe.prompt)


def _stated(case: Case) -> Iterable[tuple[str, str]]:
    """What the case's edits state, each fact once and as the last of them leaves it.

    A fact is told by its words; and by subject and replaced answer, where there is no name of a
    relation to tell it by: one subject hardly has the same answer under two relations.
    """
    facts: dict[str, str] = {}
    for edit in case.edits:
        target = normalised(edit.target or edit.statement)
        facts[f"words: {_plain(edit.key)}"] = target
        if edit.subject and edit.old_target and not edit.relation:
            about = f"{normalised(edit.subject)} -- {normalised(edit.old_target)}"
            facts[f"answer: {about}"] = target
        if edit.subject and edit.relation:
            facts[f"relation: {normalised(edit.subject)} -- {edit.relation}"] = target
    return facts.items()


def _plain(text: str) -> str:
    return normalised(text).rstrip(" ?.:!")
