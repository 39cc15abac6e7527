"""Whom a text names: known names first, then variants with their likeness."""

from __future__ import annotations

import pytest

from memedit.names import ANSWERS, Names
from memedit.variants import FEATURES

NAMES = {
    1: ["Shirley Z. Johnson"],
    2: ["Danielle Darrieux"],
    3: ["Porsche Carrera"],
    4: ["France", "the Hexagon"],
    5: ["1912 United States presidential election in New York"],
    6: ["Popi Giamarelou"],
    7: ["Martín Solares"],
}


@pytest.fixture
def names() -> Names:
    made = Names()
    for position, known in NAMES.items():
        made.add(position, known)
    return made


def features(names: Names, text: str, position: int) -> dict[str, float] | None:
    for found in names.find(text):
        if found.position == position:
            assert found.likeness is not None
            return dict(zip(FEATURES, found.likeness, strict=True))
    return None


def test_a_known_name_has_no_likeness(names: Names) -> None:
    (found,) = names.find("What is the capital of France?")
    assert (found.position, found.start, found.end, found.likeness) == (4, 23, 29, None)
    (alias,) = names.find("Who governs the Hexagon?")
    assert (alias.position, alias.likeness) == (4, None)


@pytest.mark.parametrize(
    ("text", "position", "window"),
    [
        ("What is the job of Shirley Johnson?", 1, "Shirley Johnson"),
        ("Who is Miss Darrieux?", 2, "Darrieux"),
        ("The gender of Popi Giamarellou is", 6, "Popi Giamarellou"),
        ("The gender of Martin Solares is", 7, "Martin Solares"),
        ("Who makes the Porsche Carrera GT?", 3, "Porsche Carrera GT"),
        ("the job of johnson, shirley is", 1, "johnson, shirley"),
    ],
)
def test_a_variant_and_where_it_stands(names: Names, text: str, position: int, window: str) -> None:
    found = {one.position: one for one in names.find(text)}[position]
    assert found.likeness is not None
    assert text[found.start : found.end].removeprefix("Miss ") == window


def test_what_tells_a_variant_from_another_name(names: Names) -> None:
    same = features(names, "The job of Shirley Johnson is", 1)
    assert same is not None
    assert same["covered"] > 0.9
    assert same["strangers"] == same["initials_clash"] == same["numbers_clash"] == 0
    other = features(names, "Who was Danielle Steel married to?", 2)
    assert other is not None
    assert other["covered"] < 0.6
    assert other["strangers"] == 1
    longer = features(names, "Who makes the Porsche Carrera GT?", 3)
    assert longer is not None
    assert longer["whole"] == longer["strangers"] == 1
    year = features(names, "The 1916 United States presidential election in New York was", 5)
    assert year is not None
    assert year["numbers_clash"] == 1
    initial = features(names, "The job of Shirley Q. Johnson is", 1)
    assert initial is not None
    assert initial["initials_clash"] == 1


def test_texts_without_a_name_find_nothing(names: Names) -> None:
    for text in ("", "what does the letters in sos stand for", "🙂" * 50, "\x00", "the is of"):
        assert names.find(text) == []


def test_removed_names_are_gone_and_others_stay(names: Names) -> None:
    names.add(8, ["Shirley Y. Johnson"])
    text = "What is the job of Shirley Johnson?"
    assert {found.position for found in names.find(text)} == {1, 8}
    names.remove(1)
    assert {found.position for found in names.find(text)} == {8}
    names.remove(8)
    names.remove(8)
    assert names.find(text) == []


def test_variants_made_late_equal_those_made_at_once(names: Names) -> None:
    late = Names(names.lexicon)
    for text in ("Is Shirley Johnson here?", "Who is Miss Darrieux?", "Who is Danielle Steel?"):
        assert late.find(text) == names.find(text)


def test_a_common_word_is_no_name_by_itself() -> None:
    made = Names()
    for i in range(400):
        made.add(i, [f"John Number{i:03d}x"])
    assert made.find("Where does John live?") == []
    (found, *_) = made.find("Where does John Q. Number017x live?")
    assert found.position == 17


def test_an_article_hides_no_name() -> None:
    made = Names()
    made.add(1, ["The Walking Dead"])
    made.add(2, ["Walking Dead"])
    made.add(3, ["Dead"])
    text = "Who wrote The Walking Dead?"
    assert {f.position: text[f.start : f.end] for f in made.find(text) if f.likeness is None} == {
        1: "The Walking Dead",
        2: "Walking Dead",
    }


def test_names_that_differ_in_spelling_or_short_form() -> None:
    made = Names()
    known = ["Jürg Stöcklin", "James Barton", "William Feilding, 3rd Earl of Denbigh",
             "RFC 2887: The Reliable Multicast Design Space", "Øystein Sørensen"]  # fmt: skip
    for i, name in enumerate(known):
        made.add(i, [name])
    for i, text in enumerate(
        ["Juerg Stoecklin", "Jim Barton", "William Feilding", "RFC2887", "Oystein Sorensen"]
    ):
        first = made.find(f"What is known of {text} today?")[0]
        assert (first.position, first.likeness is None) == (i, False)


def test_a_scan_finds_what_the_look_up_finds_and_more(names: Names) -> None:
    for text in ("Is it true that Ms. Shirley Johnson flies?", "Who built the Carrera?"):
        looked_up = names.variants.find(text)
        assert looked_up
        scanned = {one.position: one for one in names.variants.scan(text, NAMES)}
        assert all(scanned[one.position].start == one.start for one in looked_up)
    # Another letter among the first five, by which words are looked up.
    text = "Where does Gianarelou live?"
    assert names.variants.find(text) == []
    assert [one.position for one in names.variants.scan(text, NAMES)] == [6]
    start = text.index("Gianarelou")
    assert names.variants.scan(text, NAMES, [(start, start + 10)]) == []


def test_initials_stand_for_names() -> None:
    made = Names()
    for i, name in enumerate(["Ronaldo Fumio Hashimoto", "Olga N. Savostikova", "Adonye Banigo"]):
        made.add(i, [name])
    for i, text in enumerate(["RF Hashimoto", "Savostikova ON", "A Banigo"]):
        likeness = features(made, f"The employer of {text} is", i)
        assert likeness is not None
        assert likeness["initials"] > 0
        assert likeness["strangers"] == likeness["initials_clash"] == 0
    other = features(made, "The employer of J Banigo is", 2)
    assert other is not None
    assert other["initials_clash"] == 1


def test_a_name_that_begins_with_an_initial_of_the_other_is_spelt_otherwise() -> None:
    made = Names()
    made.add(1, ["Chrēstos S. Solomōnidēs"])
    likeness = features(made, "The country of Christos Solomonidis is", 1)
    assert likeness is not None
    assert likeness["last"] == likeness["misspelt"] == 1


@pytest.mark.parametrize(
    ("name", "text", "marks"),
    [
        ("Nissan Skyline", "Nissan Skyline GT-R is produced by", {"longer": 1, "behind": 1}),
        ("Toyota Corolla Verso", "Toyota Corolla Spacio is made by", {"replaced": 1, "longer": 0}),
        ("Fiat 4 HP", "Fiat 8 HP is made by", {"other_numbers": 1}),
        ("Gregory XV", "Gregory XIV was born in", {"other_numbers": 1, "misspelt": 0}),
        ("Gregory XV", "Gregory X was born in", {"initials": 0}),
        ("Aden", "Big Ben Aden is located in", {"single": 1}),
        ("Lorna Graham", "The child of Lorna May Graham is", {"last": 1}),
    ],
)
def test_what_tells_another_thing_by_its_name(
    name: str, text: str, marks: dict[str, float]
) -> None:
    made = Names()
    made.add(1, [name])
    likeness = features(made, text, 1)
    assert likeness is not None
    assert {mark: likeness[mark] for mark in marks} == marks


def test_a_name_that_fits_others_as_well_says_so() -> None:
    made = Names()
    for i, name in enumerate(["Maria C. Keller", "Maria B. Keller", "Jonas Weber"]):
        made.add(i, [name])
    for i in (0, 1):
        likeness = features(made, "Where was Maria Keller born?", i)
        assert likeness is not None
        assert likeness["rivals"] == likeness["others"] == 1
    likeness = features(made, "Where was Jonas P. Weber born?", 2)
    assert likeness is not None
    assert likeness["rivals"] == likeness["others"] == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Christina I of Sweden speaks the language", False),
        ("Charles XIV John of Sweden was born in", False),
        ("In Sweden, the language spoken is", True),
        ("The king of Sweden is", True),
        ("After World War II the language of Sweden was", True),
    ],
)
def test_the_land_in_the_name_of_its_ruler_is_not_named(text: str, named: bool) -> None:
    made = Names()
    made.add(1, ["Sweden"])
    assert bool(made.find(text)) is named


def test_an_edit_is_found_by_its_target() -> None:
    made = Names()
    made.add(1, ["Acme"], "Maria Keller")
    made.add(2, ["France"], "Lyon")
    (found,) = made.find("Which company does Maria Keller run?")
    assert (found.position, found.start, found.end) == (1, 19, 31)
    assert found.answer
    # Where the subject is named, that is what is asked about.
    assert [(f.position, f.answer) for f in made.find("Is Maria Keller the CEO of Acme?")] == [
        (1, False)
    ]
    assert made.find("Who is Maria Keller Jones?") == []
    made.remove(1)
    assert made.find("Which company does Maria Keller run?") == []


def test_a_target_that_many_edits_share_finds_none() -> None:
    made = Names()
    for position in range(ANSWERS + 1):
        made.add(position, [f"Town{position:02d}x"], "Lyon")
    assert made.find("What is in Lyon?") == []
    made.remove(0)
    assert len(made.find("What is in Lyon?")) == ANSWERS
