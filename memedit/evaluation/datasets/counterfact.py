"""CounterFact: counterfactual edits with paraphrases and neighbouring subjects.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022,
arXiv:2202.05262. Two forms are read, told apart by the record's keys:

- flat: ``case_id, subject, prompt, target_new, ground_truth, rephrase_prompt, locality_prompt,
  locality_ground_truth``, where the prompt spells the subject out;
- the publishers' own: ``case_id``, ``requested_rewrite`` (``prompt`` with ``{}``,
  ``relation_id``, ``subject``, ``target_new`` and ``target_true`` as ``{"str", "id"}``),
  ``paraphrase_prompts`` and ``neighborhood_prompts``, and CounterFact+'s
  ``distracting_neighborhood_prompts`` where they are there (as texts, or as objects with a
  ``prompt``).

Left out and counted: ``attribute_prompts``, whose true answer is the edit's new target, so that
they cannot show a leak, and ``generation_prompts``, which have no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memedit.edits import structured
from memedit.evaluation.cases import Case, Fact
from memedit.evaluation.datasets.records import Collected, Record, records_of

_NEIGHBOURS = {
    "neighborhood_prompts": "neighbourhood",
    "distracting_neighborhood_prompts": "distracting neighbour",
}


def read(files: Mapping[str, Path], into: Collected) -> None:
    """Adds the cases of these files, of either form.

    Raises:
        InvalidInput: a file is of neither form.
    """

    def case_of(record: Record, number: int) -> Case:
        form = _full if record.has("requested_rewrite") else _flat
        return form(record, into)

    for path in files.values():
        into.each(records_of(path), case_of)


def _flat(record: Record, into: Collected) -> Case:
    target, truth = record.text("target_new"), record.text("ground_truth")
    case_id = into.case_id(record.name("case_id"))
    edit = structured(
        record.text("subject"),
        record.text("prompt"),
        target,
        id=into.edit_id(case_id),
        old_target=truth,
    )
    probes = into.probes()
    probes.add("accuracy", "prompt", record.text("prompt"), [target], [truth])
    probes.add("generality", "rephrase", record.text("rephrase_prompt"), [target], [truth])
    near, answers = record.text("locality_prompt"), record.answers("locality_ground_truth")
    probes.add("locality", "neighbourhood", near, answers, [target])
    fact = Fact(record.text("subject"), edit.prompt or "", target)
    return Case(case_id, (edit,), probes.done(), (fact,), (fact,))


def _full(record: Record, into: Collected) -> Case:
    rewrite = record.inside("requested_rewrite")
    target = rewrite.inside("target_new").text("str")
    truth = rewrite.inside("target_true").text("str")
    subject, prompt = rewrite.text("subject"), rewrite.text("prompt")
    relation = rewrite.maybe("relation_id")
    case_id = into.case_id(record.name("case_id"))
    edit = structured(
        subject,
        prompt,
        target,
        id=into.edit_id(case_id),
        relation=relation,
        old_target=truth,
    )
    probes = into.probes()
    probes.add("accuracy", "prompt", edit.key, [target], [truth])
    for text in record.texts("paraphrase_prompts"):
        probes.add("generality", "rephrase", text, [target], [truth])
    for field, kind in _NEIGHBOURS.items():
        for text in _prompts(record, field):
            probes.add("locality", kind, text, [truth], [target])
    for field in ("attribute_prompts", "generation_prompts"):
        if count := len(_prompts(record, field)):
            into.left_out[field.replace("_", " ")] += count
    fact = Fact(subject, relation or edit.prompt or "", target)
    return Case(case_id, (edit,), probes.done(), (fact,), (fact,))


def _prompts(record: Record, field: str) -> tuple[str, ...]:
    """Texts, or objects with a prompt."""
    value = record.values.get(field)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return tuple(one.text("prompt") for one in record.each(field))
    return record.texts(field)
