"""Probes that are in scope of another case's live edit, and chains that another case breaks."""

from memedit.edits import structured
from memedit.evaluation.cases import Case, Fact, Probe
from memedit.evaluation.interference import ASKS_LIVE_EDIT, BROKEN_CHAIN, CONTRADICTED, apart


def case(name: str, subject: str, prompt: str, target: str, *probes: Probe, **rest: object) -> Case:
    edit_fields = {key: rest.pop(key) for key in ("relation", "old_target") if key in rest}
    edit = structured(subject, prompt, target, id=name, **edit_fields)
    own = Probe("accuracy", "prompt", edit.key, (target,))
    return Case(name, (edit,), (own, *probes), **rest)  # type: ignore[arg-type]


def near(prompt: str, truth: str) -> Probe:
    return Probe("locality", "neighbourhood", prompt, (truth,))


def test_a_probe_in_the_words_of_another_edit_goes_apart() -> None:
    a = case("a", "BBC One", "{}, by", "Sega", near("BBC Radio, by", "BBC"))
    b = case("b", "BBC Radio", "{}, by", "Sony")
    assert apart([a, b]) == {("a", 1): ASKS_LIVE_EDIT}
    assert apart([a]) == {}, "alone, nothing is in its way"


def test_a_probe_in_the_words_of_another_rephrase_goes_apart() -> None:
    a = case("a", "Lyon", "{} lies in", "Spain", near("Who would say where Nice is?", "France"))
    b = case(
        "b",
        "Nice",
        "{} lies in",
        "Italy",
        Probe("generality", "rephrase", "who would say where Nice is", ("Italy",)),
    )
    assert apart([a, b]) == {("a", 1): ASKS_LIVE_EDIT}


def test_a_neighbour_with_the_replaced_answer_goes_apart_whatever_the_words() -> None:
    a = case("a", "Lyon", "{} lies in", "Spain", near("Nice belongs to", "France"))
    b = case("b", "Nice", "The country of {} is", "Italy", old_target="France")
    c = case("c", "Nice", "The mayor of {} is", "Bo", old_target="Christian Estrosi")
    assert apart([a, b]) == {("a", 1): ASKS_LIVE_EDIT}
    assert apart([a, c]) == {}, "another fact about the same subject"


def test_relations_decide_where_both_have_a_name() -> None:
    probe = near("Nice belongs to", "France")
    a = case("a", "Lyon", "{} lies in", "Spain", probe, relation="P17")
    same = case("b", "Nice", "{} is in", "Italy", relation="P17", old_target="Gaul")
    other = case("c", "Nice", "{} rose in", "Italy", relation="P19", old_target="France")
    assert apart([a, same]) == {("a", 1): ASKS_LIVE_EDIT}
    assert apart([a, other]) == {}


def test_a_longer_name_is_another_subject() -> None:
    probe = near("Porsche Carrera GT, developed by", "Porsche")
    a = case("a", "Audi A4", "{}, developed by", "Fiat", probe)
    b = case("b", "Porsche Carrera", "{}, made by", "BMW", old_target="Porsche")
    assert apart([a, b]) == {}


def test_only_neighbourhood_prompts_are_judged_by_their_answer() -> None:
    probe = Probe("locality", "relation specificity", "Nice was founded by people of", ("France",))
    a = case("a", "Lyon", "{} lies in", "Spain", probe)
    b = case("b", "Nice", "The country of {} is", "Italy", old_target="France")
    assert apart([a, b]) == {}


CHAIN = (Fact("Q1", "P27", "Q2"), Fact("Q2", "P35", "Q3"))


def hops(name: str, subject: str, target: str, states: Fact, *relies: Fact) -> Case:
    probe = Probe("portability", "2 hops", f"Who heads the country of {subject}?", ("Bo",))
    return case(
        name,
        subject,
        "{} is a citizen of",
        target,
        probe,
        relies_on=relies,
        states=(states,),
        relation=states.relation,
    )


def test_a_chain_that_another_edit_breaks_goes_apart() -> None:
    a = hops("a", "Ann", "Croatia", CHAIN[0], *CHAIN)
    breaks = hops("b", "Croatia", "Cy", Fact("Q2", "P35", "Q9"), Fact("Q2", "P35", "Q9"))
    assert apart([a, breaks]) == {("a", 1): BROKEN_CHAIN}
    agrees = hops("c", "Croatia", "Bo", CHAIN[1], CHAIN[1])
    assert apart([a, agrees]) == {}


def test_two_edits_of_one_fact_contradict_each_other_in_both_cases() -> None:
    a = hops("a", "Ann", "Croatia", CHAIN[0], *CHAIN)
    b = hops("b", "Ann", "Chile", Fact("Q1", "P27", "Q8"), Fact("Q1", "P27", "Q8"))
    assert apart([a, b]) == {
        ("a", 0): CONTRADICTED,
        ("a", 1): BROKEN_CHAIN,
        ("b", 0): CONTRADICTED,
        ("b", 1): BROKEN_CHAIN,
    }


def test_twins_without_a_relation_are_told_by_subject_and_replaced_answer() -> None:
    a = case("a", "Danielle Darrieux", "{} speaks", "English", old_target="French")
    b = case("b", "Danielle Darrieux", "The tongue of {} is", "Dutch", old_target="French")
    c = case("c", "Danielle Darrieux", "The tongue of {} is", "English", old_target="French")
    assert apart([a, b]) == {("a", 0): CONTRADICTED, ("b", 0): CONTRADICTED}
    assert apart([a, c]) == {}, "they agree"


def test_a_case_that_edits_one_fact_twice_is_its_own_business() -> None:
    first = structured("Ann", "{} lives in", "Rome", id="a-0")
    then = structured("Ann", "{} lives in", "Oslo", id="a-1")
    probe = Probe("accuracy", "prompt", "Ann lives in", ("Oslo",), ("Rome",))
    assert apart([Case("a", (first, then), (probe,))]) == {}
