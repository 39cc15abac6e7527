"""RippleEdits: what should change with an edit, and what should not.

Source: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models",
TACL 2024, arXiv:2307.12976; data/benchmark/{recent,random,popular}.json. A record has
``example_type``, ``edit`` (``prompt``: a whole sentence; ``subject_id``, ``relation``,
``target_id``, and ``previous_fact`` of the same form where there is one) and six kinds of tests.
A test has ``test_queries`` (``prompt``, ``answers`` as ``{"value", "aliases"}``, ids), a
``test_condition`` and ``condition_queries``.

Relation_Specificity and Forgetfulness are locality; the other four are portability. Under ``OR``
one right query passes the test, so its queries share a group; under ``AND`` each counts.

What differs from the publishers' own scoring: *condition queries are left out* (and counted):
they select the tests whose facts the model knew before the edit, which depends on the model. And
a query with several true objects asks for all of them there; here any one is accepted.

Labels of an edit's subject and target are not in the data: they are read from its sentence by
the publishers' wording of its relation (:data:`WORDINGS`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from memedit.edits import sentence
from memedit.evaluation.cases import Case, Fact, Measure
from memedit.evaluation.datasets.records import Collected, Record, records_of

KINDS: Mapping[str, tuple[Measure, str]] = {
    "Logical_Generalization": ("portability", "logical generalization"),
    "Compositionality_I": ("portability", "compositionality i"),
    "Compositionality_II": ("portability", "compositionality ii"),
    "Subject_Aliasing": ("portability", "subject aliasing"),
    "Relation_Specificity": ("locality", "relation specificity"),
    "Relation_Specifity": ("locality", "relation specificity"),
    "Forgetfulness": ("locality", "forgetfulness"),
}

WORDINGS: Mapping[str, str] = {
    "SIBLING": "The names of the siblings of {} are",
    "CAST_MEMBER": "The names of the cast members of {} are",
    "NUMBER_OF_CHILDREN": "The number of children {} has is",
    "SEX_OR_GENDER": "The gender of {} is",
    "COUNTRY": "The name of the country which {} is associated with is",
    "ETHNIC_GROUP": "The name of the ethnic group which {} is associated with is",
    "RELIGION": "The name of the religion which {} is associated with is",
    "POSITION_HELD": "The name of the position held by {} is",
    "MEMBER_OF_SPORTS_TEAM": "The name of the sports team which {} is a member of is",
    "LEAGUE": "The name of the league which {} plays in is",
    "NATIVE_LANGUAGE": "The mother tongue of {} is",
    "AWARD_RECEIVED": "The name of the award {} won is",
    "FOLLOWS": "{} follows",
    "FOLLOWED_BY": "{} is followed by",
    "CONTINENT": "The name of the continent which {} is part of is",
    "CAPITAL": "The name of the capital city of {} is",
    "CURRENCY": "The name of the currency in {} is",
    "CAPITAL_OF": "The name of the country which {} is the capital of is",
}
"""How the publishers word a relation; the others are "The [name of the] R of {} is"."""


def read(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of these files.

    Raises:
        InvalidInput: a file is not of this form.
    """

    def case_of(record: Record, number: int) -> Case:
        return _case(record, into.case_id(f"{record.text('example_type')}-{number}"), into)

    for path in files.values():
        into.each(records_of(path), case_of)


def _read_sentence(edit: Record) -> tuple[str, str, str] | None:
    """Subject, prompt with ``{}`` and target of an edit's sentence, by its relation's wording."""
    relation = edit.text("relation")
    words = re.escape(relation.replace("_", " ").casefold())
    plain = rf"(?P<head>The (?:name of the )?{words} of )(?P<subject>.+?)(?P<tail> is)"
    if wording := WORDINGS.get(relation):
        head, tail = (re.escape(side) for side in wording.split("{}"))
        plain = rf"(?P<head>{head})(?P<subject>.+?)(?P<tail>{tail})"
    found = re.fullmatch(rf"{plain} (?P<target>.+?)\.?", edit.text("prompt").strip())
    if found is None:
        return None
    return found["subject"], f"{found['head']}{{}}{found['tail']}", found["target"]


def _case(record: Record, case_id: str, into: Collected) -> Case:
    given = record.inside("edit")
    previous = given.inside("previous_fact") if given.has("previous_fact") else None
    before = _read_sentence(previous) if previous else None
    old = (before[2],) if before else ()
    parts = _read_sentence(given)
    rest = {"id": into.edit_id(case_id), "relation": given.text("relation")}
    if before:
        rest["old_target"] = before[2]
    if parts:
        rest |= {"subject": parts[0], "prompt": parts[1], "target": parts[2]}
    edit = sentence(given.text("prompt"), **rest)
    probes = into.probes()
    if parts:
        accepted = _target_names(record, given, parts[2])
        probes.add("accuracy", "prompt", parts[1].replace("{}", parts[0]), accepted, old)
    else:
        accepted = (edit.target,) if edit.target else ()
        into.left_out["prompt: the edit's wording is not known"] += 1
    stated = Fact(given.text("subject_id"), given.text("relation"), given.name("target_id"))
    relies_on = [stated]
    for field, (measure, kind) in KINDS.items():
        for number, test in enumerate(record.each(field), 1):
            queries = test.each("test_queries")
            shared = len(queries) > 1 and test.maybe("test_condition") != "AND"
            for query in queries:
                inside = measure != "locality"
                replaces = old if kind == "subject aliasing" else () if inside else accepted
                group = f"{kind} {number}" if shared else ""
                probes.add(
                    measure, kind, query.text("prompt"), _answers(query), replaces, group=group
                )
                if inside:
                    relies_on.extend(_facts(query))
            if count := len(test.each("condition_queries")):
                into.left_out["condition queries"] += count
    return Case(case_id, (edit,), probes.done(), tuple(dict.fromkeys(relies_on)), (stated,))


def _answers(query: Record) -> tuple[str, ...]:
    """Each true object with its aliases; values of one character are not told apart in a text."""
    names = (
        name
        for answer in query.each("answers")
        for name in (*answer.answers("value"), *answer.texts("aliases"))
    )
    return tuple(name for name in names if len(name) > 1 or name.isdigit())


def _target_names(record: Record, edit: Record, target: str) -> tuple[str, ...]:
    """The new target with its aliases, from a query of the record that asks for it alone."""
    tests = chain.from_iterable(record.each(field) for field in KINDS)
    for query in (query for test in tests for query in test.each("test_queries")):
        names = _answers(query)
        alone = query.values.get("target_ids") == [edit.values["target_id"]]
        if alone and query.maybe("query_type") != "two_hop" and names[:1] == (target,):
            return names
    return (target,)


def _facts(query: Record) -> Iterator[Fact]:
    """The facts that a query asks for, where each step has one true object."""
    steps = (
        ("subject_id", "relation", "target_ids"),
        ("", "second_relation", "second_hop_target_ids"),
    )
    subject = query.values.get("subject_id")
    for _, relation, targets in steps:
        found, name = query.values.get(targets), query.values.get(relation)
        if not isinstance(found, list) or len(found) != 1 or not subject or not name:
            return
        yield Fact(str(subject), str(name), str(found[0]))
        subject = found[0]
