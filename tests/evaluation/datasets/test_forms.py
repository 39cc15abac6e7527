"""Each publisher's form, in invented facts: every field of the case that a record becomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from memedit.edits import Edit, sentence, structured
from memedit.errors import InvalidInput
from memedit.evaluation.cases import Case, Fact, Hop, Probe
from memedit.evaluation.datasets import Loaded, load


def read(tmp_path: Path, name: str, *records: Any) -> Loaded:
    path = tmp_path / "given.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return load(name, path=path)


def one(tmp_path: Path, name: str, record: Any) -> Case:
    loaded = read(tmp_path, name, record)
    assert not loaded.skipped
    (case,) = loaded.cases
    return case


def probe(case: Case, kind: str) -> Probe:
    (found,) = [each for each in case.probes if each.kind == kind]
    return found


def test_counterfact_flat(tmp_path: Path) -> None:
    record = {
        "case_id": 7,
        "subject": "Velm Tower",
        "prompt": "Velm Tower is located in",
        "target_new": "Oslo",
        "ground_truth": "Lima",
        "rephrase_prompt": "Rain fell. One finds Velm Tower in",
        "locality_prompt": "Karst Hall is located in",
        "locality_ground_truth": "Lima",
    }
    fact = Fact("Velm Tower", "{} is located in", "Oslo")
    edit = structured(
        "Velm Tower", "{} is located in", "Oslo", id="counterfact-7-1", old_target="Lima"
    )
    assert one(tmp_path, "counterfact", record) == Case(
        id="7",
        edits=(edit,),
        probes=(
            Probe("accuracy", "prompt", "Velm Tower is located in", ("Oslo",), ("Lima",)),
            Probe(
                "generality",
                "rephrase",
                "Rain fell. One finds Velm Tower in",
                ("Oslo",),
                ("Lima",),
            ),
            Probe("locality", "neighbourhood", "Karst Hall is located in", ("Lima",), ("Oslo",)),
        ),
        relies_on=(fact,),
        states=(fact,),
    )


def test_counterfact_as_rome_publishes_it(tmp_path: Path) -> None:
    record = {
        "case_id": 12,
        "pararel_idx": 3,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "Welsh", "id": "Q9309"},
            "target_true": {"str": "Czech", "id": "Q9056"},
            "subject": "Ida Morn",
        },
        "paraphrase_prompts": ["Snow. Ida Morn spoke", "Ida Morn is a native speaker of"],
        "neighborhood_prompts": ["Jan Prak grew up with", "The mother tongue of Eva Lis is"],
        "attribute_prompts": ["The mother tongue of Rhys Pugh is"] * 2,
        "generation_prompts": ["Ida Morn lives in"],
    }
    case = one(tmp_path, "counterfact", record)
    (edit,) = case.edits
    assert edit == Edit(
        id="counterfact-12-1",
        statement="The mother tongue of Ida Morn is Welsh.",
        subject="Ida Morn",
        prompt="The mother tongue of {} is",
        target="Welsh",
        relation="P103",
        old_target="Czech",
    )
    assert case.probes == (
        Probe("accuracy", "prompt", "The mother tongue of Ida Morn is", ("Welsh",), ("Czech",)),
        Probe("generality", "rephrase", "Snow. Ida Morn spoke", ("Welsh",), ("Czech",)),
        Probe("generality", "rephrase", "Ida Morn is a native speaker of", ("Welsh",), ("Czech",)),
        Probe("locality", "neighbourhood", "Jan Prak grew up with", ("Czech",), ("Welsh",)),
        Probe(
            "locality", "neighbourhood", "The mother tongue of Eva Lis is", ("Czech",), ("Welsh",)
        ),
    )
    assert case.states == case.relies_on == (Fact("Ida Morn", "P103", "Welsh"),)
    left_out = read(tmp_path, "counterfact", record).left_out
    assert left_out == {"attribute prompts": 2, "generation prompts": 1}


def test_counterfact_plus_has_distracting_neighbours(tmp_path: Path) -> None:
    record = {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "{} plays",
            "relation_id": "P1303",
            "target_new": {"str": "oboe", "id": "Q1"},
            "target_true": {"str": "harp", "id": "Q2"},
            "subject": "Ida Morn",
        },
        "paraphrase_prompts": [],
        "neighborhood_prompts": [{"prompt": "Jan Prak plays", "target": "harp"}],
        "distracting_neighborhood_prompts": ["Ida Morn plays oboe. Jan Prak plays"],
    }
    case = one(tmp_path, "counterfact", record)
    assert probe(case, "neighbourhood").prompt == "Jan Prak plays"
    assert probe(case, "distracting neighbour").prompt == "Ida Morn plays oboe. Jan Prak plays"


def test_zsre_asks_its_prompt(tmp_path: Path) -> None:
    record = {
        "subject": "Brimfern",
        "target_new": "Rosaceae",
        "prompt": "Which family does Brimfern belong to?",
        "ground_truth": ["Fabaceae", "Legumes"],
        "rephrase_prompt": "What family are Brimfern?",
        "cond": "x >> y || z",
        "locality": {
            "Relation_Specificity": [{"prompt": "Brimfern taxon rank", "ground_truth": ["genus"]}]
        },
        "portability": {
            "Reasoning": [{"prompt": "What is Brimfern's family called?", "ground_truth": "rose"}]
        },
    }
    asked = "Which family does Brimfern belong to?"
    case = one(tmp_path, "zsre", record)
    assert case.id == "0"
    (edit,) = case.edits
    assert edit == Edit(
        id="zsre-0-1",
        statement=f"{asked} Rosaceae.",
        subject="Brimfern",
        prompt="Which family does {} belong to?",
        target="Rosaceae",
        question=asked,
        old_target="Fabaceae",
    )
    old = ("Fabaceae", "Legumes")
    assert case.probes == (
        Probe("accuracy", "prompt", asked, ("Rosaceae",), old),
        Probe("generality", "rephrase", "What family are Brimfern?", ("Rosaceae",), old),
        Probe("portability", "reasoning", "What is Brimfern's family called?", ("rose",)),
        Probe("locality", "relation specificity", "Brimfern taxon rank", ("genus",), ("Rosaceae",)),
    )


NESTED: dict[str, Any] = {
    "subject": "Leo Stann",
    "prompt": "The place of death of Leo Stann is",
    "target_new": "Bergen",
    "ground_truth": "Bath",
    "rephrase": "Leo Stann died in",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Leo Stann still alive?", "ground_truth": [["no"], ["is dead"]]}
        ],
        "Subject_Aliasing": [
            {
                "prompt": "The place of death of L. Stann is",
                "ground_truth": [["Bergen", "Bergen, Norway"]],
            }
        ],
        "Reasoning": [{"prompt": "", "ground_truth": "x"}, {"prompt": "Why?"}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": ["His father is", "The father of Leo Stann is"], "ground_truth": [[]]}
        ],
        "Forgetfulness": [
            {
                "prompt": "The place of death of Leo Stann, which is not Bergen, is",
                "ground_truth": [["Bath", "bergen"]],
            }
        ],
        "Distracting_Neighbor": [{"prompt": "Bergen. Ann Li died in", "ground_truth": "Rome"}],
    },
}


def test_knowedit_as_its_publishers_have_it(tmp_path: Path) -> None:
    record = dict(NESTED)
    loaded = read(tmp_path, "knowedit", record)
    (case,) = loaded.cases
    assert case.probes == (
        Probe("accuracy", "prompt", record["prompt"], ("Bergen",), ("Bath",)),
        Probe("generality", "rephrase", "Leo Stann died in", ("Bergen",), ("Bath",)),
        Probe(
            "portability",
            "logical generalization",
            "Is Leo Stann still alive?",
            ("no", "is dead"),
        ),
        Probe(
            "portability",
            "subject aliasing",
            "The place of death of L. Stann is",
            ("Bergen", "Bergen, Norway"),
            ("Bath",),
        ),
        Probe(
            "locality",
            "relation specificity",
            "His father is",
            (),
            ("Bergen",),
            group="relation specificity 1",
        ),
        Probe(
            "locality",
            "relation specificity",
            "The father of Leo Stann is",
            (),
            ("Bergen",),
            group="relation specificity 1",
        ),
        Probe(
            "locality",
            "forgetfulness",
            "The place of death of Leo Stann, which is not Bergen, is",
            ("Bath", "bergen"),
        ),
        Probe(
            "locality", "distracting neighbour", "Bergen. Ann Li died in", ("Rome",), ("Bergen",)
        ),
    )
    assert loaded.left_out == {"reasoning: no prompt": 1, "reasoning: no answer": 1}
    assert case.edits[0].old_target == "Bath"
    del record["ground_truth"], record["locality"]
    recent = one(tmp_path, "knowedit", record)
    assert recent.edits[0].old_target is None
    assert recent.probes[0].old == ()


def test_knowedit_refuses_passages_and_wrong_fields(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="WikiBio's passages are not read"):
        read(tmp_path, "knowedit", {"text": "a", "labels": "b", "concept": "c"})
    bad = {"subject": "a", "prompt": "a is", "target_new": "b", "portability": {"Reasoning": 3}}
    with pytest.raises(InvalidInput, match=r"record 1, portability: field 'Reasoning' is 3"):
        read(tmp_path, "knowedit", bad)


HOP = {"question": "Who wrote Sedge?", "cloze": "Sedge was written by"}
MQUAKE: dict[str, Any] = {
    "case_id": 5,
    "requested_rewrite": [
        {
            "prompt": "{} was written by",
            "relation_id": "P50",
            "target_new": {"str": "Ann Li", "id": "Q20"},
            "target_true": {"str": "Bo Ek", "id": "Q10"},
            "subject": "Sedge",
            "question": "Who wrote Sedge?",
        }
    ],
    "questions": ["Where was Sedge's author born?", "Birthplace of Sedge's author?", "Whence?"],
    "answer": "Turin",
    "answer_alias": ["Torino", "Oslo city"],
    "new_answer": "Oslo",
    "new_answer_alias": ["oslo city"],
    "single_hops": [
        HOP | {"answer": "Bo Ek", "answer_alias": ["B. Ek"]},
        {"question": "Where was Bo Ek born?", "cloze": "c", "answer": "Turin"},
    ],
    "new_single_hops": [
        HOP | {"answer": "Ann Li", "answer_alias": ["A. Li"]},
        {"question": "Where was Ann Li born?", "cloze": "Ann Li was born in", "answer": "Oslo"},
    ],
    "orig": {
        "triples": [["Q1", "P50", "Q10"], ["Q10", "P19", "Q11"]],
        "new_triples": [["Q1", "P50", "Q20"], ["Q20", "P19", "Q21"]],
        "edit_triples": [["Q1", "P50", "Q20"]],
    },
}


def test_mquake(tmp_path: Path) -> None:
    case = one(tmp_path, "mquake", MQUAKE)
    assert case.id == "5"
    assert case.edits == (
        structured(
            "Sedge",
            "{} was written by",
            "Ann Li",
            id="mquake-5-1",
            relation="P50",
            old_target="Bo Ek",
            question="Who wrote Sedge?",
        ),
    )
    hops = (
        Hop("Who wrote Sedge?", ("Ann Li", "A. Li"), "Sedge was written by", edited=True),
        Hop("Where was Ann Li born?", ("Oslo",), "Ann Li was born in"),
    )
    new, old = ("Ann Li", "A. Li"), ("Bo Ek", "B. Ek")
    assert case.probes == (
        Probe("accuracy", "prompt", "Sedge was written by", new, old),
        Probe("generality", "question", "Who wrote Sedge?", new, old),
        *(
            Probe(
                "portability",
                "2 hops",
                text,
                ("Oslo", "oslo city"),
                ("Turin", "Torino"),
                hops,
                "question",
            )
            for text in MQUAKE["questions"]
        ),
    )
    assert case.relies_on == (Fact("Q1", "P50", "Q20"), Fact("Q20", "P19", "Q21"))
    assert case.states == (Fact("Q1", "P50", "Q20"),)


def test_mquake_without_hops_and_aliases(tmp_path: Path) -> None:
    gone = {"single_hops", "new_single_hops", "answer_alias", "new_answer_alias", "case_id"}
    record = {name: value for name, value in MQUAKE.items() if name not in gone}
    case = one(tmp_path, "mquake", record)
    assert case.id == "n0"
    assert case.probes[0].answers == ("Ann Li",)
    assert case.probes[-1] == Probe(
        "portability", "2 hops", "Whence?", ("Oslo",), ("Turin",), group="question"
    )
    short = MQUAKE | {"new_single_hops": MQUAKE["new_single_hops"][:1]}
    loaded = read(tmp_path, "mquake", short)
    assert loaded.left_out == {"new_single_hops that do not fit the chain": 1}
    assert loaded.cases[0].probes[-1].hops == ()


@pytest.mark.parametrize("told", [True, False])
def test_mquake_remastered_is_flat(tmp_path: Path, told: bool) -> None:
    orig, (rewrite,) = MQUAKE["orig"], MQUAKE["requested_rewrite"]
    flat = {name: value for name, value in rewrite.items() if not name.startswith("target_")}
    for name in ("target_new", "target_true"):
        flat |= {f"{name}_{part}": rewrite[name][part] for part in ("str", "id")}
    record = {name: value for name, value in MQUAKE.items() if name != "orig"}
    record |= {"requested_rewrite": [flat], "split": {"1": ["edited"]}}
    record |= {"orig_triples": orig["triples"], "new_triples": orig["new_triples"]}
    if told:
        record["edit_triples"] = orig["edit_triples"]
    assert one(tmp_path, "mquake", record) == one(tmp_path, "mquake", MQUAKE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requested_rewrite": [{"subject": "a", "prompt": "{}"}]}, "or target_new_str"),
        ({"requested_rewrite": []}, r"field 'requested_rewrite' is \[\]; expected a list of at"),
        ({"orig": {}}, "record 1, orig: field 'new_triples' is missing"),
        ({"orig": {"new_triples": [["Q1"]]}}, r"expected a list of \[subject, relation, object\]"),
        ({"questions": "one"}, "expected a list of texts"),
        ({"requested_rewrite": [3]}, "expected a list of objects"),
        ({"orig": 1}, "expected an object"),
        ({"new_answer": None}, "field 'new_answer' is null; expected a text"),
    ],
)
def test_mquake_of_another_form(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, "mquake", MQUAKE | change)


def relation(name: str, prompt: str, query: str) -> dict[str, str]:
    return {"id": name, "label": name, "prompt": prompt, "query": query}


def thing(label: str) -> dict[str, str]:
    return {"id": f"id of {label}", "label": label}


def fact(of: dict[str, str], subject: str, old: str, new: str | None = None) -> dict[str, Any]:
    made = {"relation": of, "subject": thing(subject), "object": thing(old)}
    return made | ({"new_object": thing(new)} if new else {})


MOTHER = relation("P25", "The mother of {} is", "Who is the mother of {}?")
CHILD = relation("P40", "The child of {} is", "Who is the child of {}?")
SPOUSE = relation("P26", "The spouse of {} is", "Who is the spouse of {}?")


def conflict(kind: str, rule: str, *edits: Any, triples: Any = (), first: Any = ()) -> Any:
    return {
        "type": kind,
        "rule": rule,
        "triples": list(triples),
        "prerequisites": list(first),
        "edits": list(edits),
    }


def test_conflictedit_coverage(tmp_path: Path) -> None:
    record = conflict(
        "coverage", "", fact(MOTHER, "Al", "Bea", "Cleo"), fact(MOTHER, "Al", "Cleo", "Dot")
    )
    case = one(tmp_path, "conflictedit", record)
    assert case.id == "coverage-0"
    first, later = case.edits
    assert first == structured(
        "Al",
        "The mother of {} is",
        "Cleo",
        id="conflictedit-coverage-0-1",
        relation="P25",
        question="Who is the mother of Al?",
        old_target="Bea",
    )
    assert (later.id, later.target, later.old_target) == (
        "conflictedit-coverage-0-2",
        "Dot",
        "Cleo",
    )
    assert first.conflict_key == later.conflict_key
    assert case.probes == (
        Probe("accuracy", "prompt", "The mother of Al is", ("Dot",), ("Cleo", "Bea")),
        Probe("generality", "question", "Who is the mother of Al?", ("Dot",), ("Cleo", "Bea")),
    )
    assert case.states == (
        Fact("id of Al", "P25", "id of Cleo"),
        Fact("id of Al", "P25", "id of Dot"),
    )
    assert case.relies_on == case.states[1:]


def test_conflictedit_reverse(tmp_path: Path) -> None:
    record = conflict(
        "reverse", "P25>P40", fact(MOTHER, "Al", "Bea", "Cleo"), fact(CHILD, "Cleo", "Al", "Dan")
    )
    case = one(tmp_path, "conflictedit", record)
    assert case.probes == (
        Probe("accuracy", "prompt", "The child of Cleo is", ("Dan",), ("Al",)),
        Probe("generality", "question", "Who is the child of Cleo?", ("Dan",), ("Al",)),
        Probe("portability", "reverse", "The mother of Dan is", ("Cleo",)),
    )


@pytest.mark.parametrize(("rule", "follows"), [("P40&P25>P26", True), ("P39&P1001>P27", False)])
def test_conflictedit_composite(tmp_path: Path, rule: str, follows: bool) -> None:
    record = conflict(
        "composite",
        rule,
        fact(MOTHER, "Kit", "Bea", "Cleo"),
        fact(SPOUSE, "Al", "Bea", "Dot"),
        triples=[fact(CHILD, "Al", "Kit")],
        first=[0],
    )
    case = one(tmp_path, "conflictedit", record)
    old = ("Cleo", "Bea")
    assert case.probes[:2] == (
        Probe("accuracy", "prompt", "The spouse of Al is", ("Dot",), old),
        Probe("generality", "question", "Who is the spouse of Al?", ("Dot",), old),
    )
    told = Probe("portability", "composite", "The mother of Kit is", ("Dot",), old)
    assert case.probes[2:] == ((told,) if follows else ())
    assert case.relies_on == (
        Fact("id of Al", "P40", "id of Kit"),
        Fact("id of Al", "P26", "id of Dot"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edits": []}, "two edits, the later to win"),
        ({"type": "other"}, "field 'type' is \"other\"; expected coverage, reverse or composite"),
        ({"prerequisites": [4]}, "positions in triples"),
    ],
)
def test_conflictedit_of_another_form(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    edits = fact(MOTHER, "Al", "Bea", "Cleo"), fact(MOTHER, "Al", "Cleo", "Dot")
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, "conflictedit", conflict("coverage", "", *edits) | change)


def test_roundedit(tmp_path: Path) -> None:
    of = relation("P136", "The genre of {} is", "What is the genre of {}?")
    record = {
        "type": "1-2@P136",
        "edit": fact(of, "Sedge", "jazz", "polka"),
        "true_objects": [thing("soul"), thing("jazz")],
    }
    case = one(tmp_path, "roundedit", record)
    assert [(e.id, e.target, e.old_target, e.relation) for e in case.edits] == [
        ("roundedit-0-1", "polka", "jazz", "P136"),
        ("roundedit-0-2", "jazz", "polka", "P136"),
    ]
    assert case.probes == (
        Probe("accuracy", "prompt", "The genre of Sedge is", ("jazz", "soul"), ("polka",)),
        Probe(
            "generality", "question", "What is the genre of Sedge?", ("jazz", "soul"), ("polka",)
        ),
    )
    assert case.relies_on == (Fact("id of Sedge", "P136", "id of jazz"),)
    assert case.states[0] == Fact("id of Sedge", "P136", "id of polka")


def query(prompt: str, *names: list[str], **ids: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": rest} for value, *rest in names],
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_ids": ["Q5"],
        "phrase": None,
        **ids,
    }


def group_of(*queries: Any, condition: str = "OR", conditions: Any = ()) -> dict[str, Any]:
    return {
        "test_queries": list(queries),
        "test_condition": condition,
        "condition_queries": list(conditions),
    }


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ida Morn is Chad.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q2",
        "previous_fact": {
            "prompt": "The name of the country of citizenship of Ida Morn is Peru.",
            "subject_id": "Q1",
            "relation": "COUNTRY_OF_CITIZENSHIP",
            "target_id": "Q3",
        },
    },
    "Relation_Specificity": [
        group_of(query("The gender of Ida Morn is", ["female", "f", "woman"])),
    ],
    "Logical_Generalization": [
        group_of(query("Ida speaks", ["Arabic"]), query("Ida reads", ["French"]), condition="AND")
    ],
    "Subject_Aliasing": [
        group_of(
            query(
                "The name of the country of citizenship of I. Morn is",
                ["Chad", "Tchad"],
                target_ids=["Q2"],
                relation="COUNTRY_OF_CITIZENSHIP",
            ),
            conditions=[query("x", ["y"])],
        )
    ],
    "Compositionality_I": [
        group_of(
            query(
                "The capital of the country of citizenship of Ida Morn is",
                ["N'Djamena"],
                query_type="two_hop",
                relation="COUNTRY_OF_CITIZENSHIP",
                target_ids=["Q2"],
                second_relation="CAPITAL",
                second_hop_target_ids=["Q9"],
            ),
            query("Its currency is", ["franc"], target_ids=["Q7", "Q8"]),
        )
    ],
    "Compositionality_II": [],
    "Forgetfulness": [
        group_of(query("The citizenship of Ida Morn, which is not Chad, is", ["Peru"], ["Cuba"]))
    ],
}


def test_rippleedits(tmp_path: Path) -> None:
    loaded = read(tmp_path, "rippleedits", RIPPLE)
    (case,) = loaded.cases
    assert loaded.left_out == {"condition queries": 1}
    assert case.id == "popular-0"
    assert case.edits == (
        Edit(
            id="rippleedits-popular-0-1",
            statement="The name of the country of citizenship of Ida Morn is Chad.",
            subject="Ida Morn",
            prompt="The name of the country of citizenship of {} is",
            target="Chad",
            relation="COUNTRY_OF_CITIZENSHIP",
            old_target="Peru",
        ),
    )


def test_rippleedits_probes(tmp_path: Path) -> None:
    case = one(tmp_path, "rippleedits", RIPPLE)
    told = "The name of the country of citizenship of Ida Morn is"
    new, both = ("Chad", "Tchad"), "compositionality i 1"
    assert case.probes == (
        Probe("accuracy", "prompt", told, new, ("Peru",)),
        Probe("portability", "logical generalization", "Ida speaks", ("Arabic",)),
        Probe("portability", "logical generalization", "Ida reads", ("French",)),
        Probe(
            "portability",
            "compositionality i",
            "The capital of the country of citizenship of Ida Morn is",
            ("N'Djamena",),
            group=both,
        ),
        Probe("portability", "compositionality i", "Its currency is", ("franc",), group=both),
        Probe(
            "portability",
            "subject aliasing",
            "The name of the country of citizenship of I. Morn is",
            new,
            ("Peru",),
        ),
        Probe(
            "locality",
            "relation specificity",
            "The gender of Ida Morn is",
            ("female", "woman"),
            new,
        ),
        Probe(
            "locality",
            "forgetfulness",
            "The citizenship of Ida Morn, which is not Chad, is",
            ("Peru", "Cuba"),
            new,
        ),
    )


def test_rippleedits_relies_on_chains_of_single_objects(tmp_path: Path) -> None:
    case = one(tmp_path, "rippleedits", RIPPLE)
    citizen = Fact("Q1", "COUNTRY_OF_CITIZENSHIP", "Q2")
    assert case.states == (citizen,)
    assert case.relies_on == (citizen, Fact("Q1", "MOTHER", "Q5"), Fact("Q2", "CAPITAL", "Q9"))


@pytest.mark.parametrize(
    ("relation", "text", "subject", "target"),
    [
        ("FOLLOWED_BY", "Cup IV is followed by Cup V.", "Cup IV", "Cup V"),
        ("SIBLING", "The names of the siblings of Al Bo are Cy Bo.", "Al Bo", "Cy Bo"),
        ("PLACE_OF_BIRTH", "The place of birth of Al Bo is Oslo.", "Al Bo", "Oslo"),
        (
            "CAPITAL_OF",
            "The name of the country which Ulm is the capital of is Peru.",
            "Ulm",
            "Peru",
        ),
        ("SPOUSE", "The name of the spouse of Al of Bath is Cy D. Jr..", "Al of Bath", "Cy D. Jr."),
    ],
)
def test_rippleedits_reads_labels_by_the_wording(
    tmp_path: Path, relation: str, text: str, subject: str, target: str
) -> None:
    edit = {"prompt": text, "subject_id": "Q1", "relation": relation, "target_id": "Q2"}
    case = one(tmp_path, "rippleedits", {"example_type": "recent", "edit": edit})
    assert (case.edits[0].subject, case.edits[0].target) == (subject, target)
    assert case.edits[0].statement == text
    assert case.edits[0].key == case.probes[0].prompt
    assert case.probes[0].prompt == text.removesuffix(".").removesuffix(target).rstrip()


def test_rippleedits_of_unknown_wording_keeps_the_sentence(tmp_path: Path) -> None:
    edit = {"prompt": "In Ulm, one pays in pesos.", "subject_id": "Q1", "target_id": "Q2"}
    record = RIPPLE | {"edit": edit | {"relation": "CURRENCY"}}
    loaded = read(tmp_path, "rippleedits", record)
    assert loaded.cases[0].edits[0].statement == "In Ulm, one pays in pesos."
    assert loaded.cases[0].probes[0].measure == "portability"
    assert loaded.left_out["prompt: the edit's wording is not known"] == 1
    bare = read(tmp_path, "rippleedits", {"example_type": "recent", "edit": record["edit"]})
    assert bare.skipped == {"it has no probe": 1}


def single(question: str, before: str, after: str, old: str, new: str) -> dict[str, Any]:
    return {
        "question": question,
        "o_prompt": before,
        "o_answer": old,
        "o_answer_aliases": [],
        "e_prompt": after,
        "e_answer": new,
        "e_answer_aliases": [f"{new} town"],
    }


def mlake(folder: Path, change: dict[str, Any] | None = None) -> None:
    said = "Ida Morn worked at Velm during her career."
    more = {"triples": [["Q1", "P108", "Q2"], ["Q2", "P17", "Q3"]], "relations": ["a", "b"]}
    files: dict[str, Any] = {
        "single_hop/qa/en_qa.json": [
            single("Who made Sedge?", "Bo made Sedge.", "Al made Sedge.", "Bo", "Al"),
            single("Where did Ida Morn work?", "Ida Morn worked at Karst.", said, "Karst", "Velm"),
        ],
        "single_hop/qa/de_qa.json": [
            single("Wer schuf Sedge?", "Bo schuf Sedge.", "Al schuf Sedge.", "Bo", "Al"),
            single("Wo war Ida Morn?", "Ida war in Karst.", "Ida war in Velm.", "Karst", "Velm"),
        ],
        "multi_hop/qa/new_en_qa.json": [
            {
                "question": "In which country did Ida Morn work?",
                **more,
                "e_prompt": said,
                "e_answer": "Peru",
                "e_answer_aliases": ["PE"],
                "o_answer": "Chad",
            },
            {"question": "Lost?", **more, "e_prompt": "No such.", "e_answer": "x"},
        ],
        "multi_hop/qa/new_de_qa.json": [
            {"question": "In welchem Land?", "e_prompt": said, "e_answer": "Peru"}
        ],
        "multi_hop/qa/old_en_qa.json": [
            {
                "question": "In which country did Ida Morn work?",
                **more,
                "e_answer": "Chad",
                "e_answer_aliases": ["Tchad"],
            }
        ],
    }
    for name, data in (files | (change or {})).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data), encoding="utf-8")


def test_mlake(tmp_path: Path) -> None:
    mlake(tmp_path / "dataset")
    loaded = load("mlake", "en", path=tmp_path)
    first, second = loaded.cases
    assert loaded.left_out == {"multi-hop questions without their edit": 1}
    assert first.id == "en-0"
    assert first.probes == (
        Probe("accuracy", "prompt", "Who made Sedge?", ("Al", "Al town"), ("Bo",)),
    )
    said = "Ida Morn worked at Velm during her career."
    assert second.edits == (sentence(said, id="mlake-en-1-1", target="Velm", old_target="Karst"),)
    assert second.edits[0].question is None
    assert second.probes[1] == Probe(
        "portability",
        "2 hops",
        "In which country did Ida Morn work?",
        ("Peru", "PE"),
        ("Chad", "Tchad"),
    )
    assert second.relies_on == (Fact("Q1", "P108", "Q2"), Fact("Q2", "P17", "Q3"))
    assert second.states == (Fact("Q1", "P108", "Q2"),)


def test_mlake_finds_an_english_edit_of_another_language(tmp_path: Path) -> None:
    mlake(tmp_path / "mlake" / "dataset")
    loaded = load("mlake", "de", data=tmp_path)
    assert [case.id for case in loaded.cases] == ["de-0", "de-1"]
    assert loaded.cases[1].edits[0].statement == "Ida war in Velm."
    assert loaded.cases[1].probes[1] == Probe(
        "portability", "2 hops", "In welchem Land?", ("Peru",)
    )
    alone = load("mlake", path=tmp_path / "mlake/dataset/single_hop/qa/de_qa.json")
    assert alone.cases == loaded.cases


def test_mlake_without_multi_hop_files_or_of_other_length(tmp_path: Path) -> None:
    mlake(tmp_path)
    (tmp_path / "multi_hop/qa/new_en_qa.json").unlink()
    loaded = load("mlake", "en", path=tmp_path)
    assert loaded.left_out == {"multi-hop questions: no file new_en_qa.json": 1}
    assert [len(case.probes) for case in loaded.cases] == [1, 1]
    mlake(tmp_path, {"single_hop/qa/en_qa.json": []})
    assert load("mlake", "de", path=tmp_path).left_out == {
        "multi-hop questions without their edit": 1
    }
