"""KnowEdit's wiki_counterfact, wiki_recent and zsRE: an edit, what follows and what must stay.

Source: Zhang et al., "A Comprehensive Study of Knowledge Editing for Large Language Models",
2024, arXiv:2401.01286 (zsRE: Levy et al. 2017, arXiv:1706.04115). A record has ``subject``,
``prompt`` (the subject spelled out; a question in zsRE), ``target_new``, ``ground_truth`` (a
text, a list, or missing where the fact is new), ``rephrase_prompt`` or ``rephrase``, and
``portability`` and ``locality``: by kind, a list of ``{"prompt", "ground_truth"}``. An answer is
a text, a list of accepted texts or, in the publishers' own files, a list of such lists; all of
them count as accepted. A prompt that is a list of wordings makes one group.

An alias question asks for the edited fact, so the edit's old answers are its old answers too;
what the other portability questions were answered with before is not in the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from memedit.edits import Edit, question, structured
from memedit.evaluation.cases import Case, Fact
from memedit.evaluation.datasets.records import Collected, Record, records_of

_KINDS = {
    "relation specifity": "relation specificity",
    "distracting neighbor": "distracting neighbour",
    "neighborhood": "neighbourhood",
}


def read(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of these files.

    Raises:
        InvalidInput: a file is not of this form.
    """

    def case_of(record: Record, number: int) -> Case:
        return _case(record, into.case_id(str(number)), into)

    for path in files.values():
        into.each(records_of(path), case_of)


def _case(record: Record, case_id: str, into: Collected) -> Case:
    if record.has("text") and record.has("concept"):
        record.wrong("prompt", "a text; WikiBio's passages are not read")
    subject, prompt, target = (record.text(name) for name in ("subject", "prompt", "target_new"))
    truth = record.answers("ground_truth")
    edit = _edit(subject, prompt, target, into.edit_id(case_id), truth)
    probes = into.probes()
    probes.add("accuracy", "prompt", prompt, [target], truth)
    for field in ("rephrase_prompt", "rephrase"):
        for text in record.answers(field):
            probes.add("generality", "rephrase", text, [target], truth)
    for kind, wording, answers, group in _asked(record, "portability"):
        old = truth if kind == "subject aliasing" else ()
        probes.add("portability", kind, wording, answers, old, group=group)
    for kind, wording, answers, group in _asked(record, "locality"):
        probes.add("locality", kind, wording, answers, [target], group=group)
    fact = Fact(subject, edit.prompt or prompt, target)
    return Case(case_id, (edit,), probes.done(), (fact,), (fact,))


def _edit(subject: str, prompt: str, target: str, edit_id: str, truth: tuple[str, ...]) -> Edit:
    old = truth[0] if truth else None
    if prompt.rstrip().endswith("?"):
        return question(prompt, target, subject=subject, id=edit_id, old_target=old)
    return structured(subject, prompt, target, id=edit_id, old_target=old)


def _asked(record: Record, field: str) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Kind, prompt, answers and group of each probe of a measure."""
    if not record.has(field):
        return
    kinds = record.inside(field)
    for name in kinds.values:
        plain = name.replace("_", " ").casefold()
        kind = _KINDS.get(plain, plain)
        for number, one in enumerate(kinds.each(name), 1):
            wordings = one.answers("prompt") or ("",)
            group = f"{kind} {number}" if len(wordings) > 1 else ""
            for wording in wordings:
                yield kind, wording, one.answers("ground_truth"), group
