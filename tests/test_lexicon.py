"""The subject lexicon against a plain reference, and the cases that a reference cannot judge."""

from __future__ import annotations

import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memedit.lexicon import Mention, SubjectLexicon, _read_name, _Tokens, mentions


def lexicon_of(*names: str) -> SubjectLexicon:
    lexicon = SubjectLexicon()
    for position, name in enumerate(names):
        lexicon.add(position, [name])
    return lexicon


def found(text: str, *names: str) -> list[str]:
    return [text[m.start : m.end] for m in lexicon_of(*names).find(text)]


def reference(text: str, names: list[str]) -> list[tuple[int, int, tuple[int, ...]]]:
    """By regular expression: every name at every place; then those inside a longer one go."""
    spans: dict[tuple[int, int], set[int]] = {}
    for position, name in enumerate(names):
        pattern = r"\s+".join(map(re.escape, name.split()))
        for match in re.finditer(rf"(?<!\w)(?={pattern}(?!\w))", text, re.IGNORECASE):
            whole = re.compile(pattern, re.IGNORECASE).match(text, match.start())
            assert whole is not None
            spans.setdefault(whole.span(), set()).add(position)
    return sorted(
        (start, end, tuple(sorted(held)))
        for (start, end), held in spans.items()
        if not any((s, e) != (start, end) and s <= start and end <= e for s, e in spans)
    )


WORDS = st.sampled_from(["new", "york", "times", "square", "Paris", "GT", "élan", "müller", "x11"])
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join).filter(lambda name: len(name) > 2)
GAPS = st.sampled_from([" ", "  ", "\n", ", ", "; ", "! ", " (", ") "])
TEXTS = st.lists(
    st.tuples(st.one_of(WORDS, WORDS.map(str.upper), st.sampled_from(["is", "yorker"])), GAPS),
    max_size=14,
).map(lambda parts: "".join(word + gap for word, gap in parts))


@given(TEXTS, st.lists(NAMES, max_size=8))
def test_agrees_with_the_regular_expression(text: str, names: list[str]) -> None:
    got = [(m.start, m.end, m.positions) for m in lexicon_of(*names).find(text)]
    assert got == reference(text, names)


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=12), max_size=5))
def test_any_text_and_any_names(text: str, names: list[str]) -> None:
    lexicon = lexicon_of(*names)
    last = 0
    for mention in lexicon.find(text):
        assert 0 <= mention.start < mention.end <= len(text)
        assert mention.end > last
        last = mention.end
        assert mention.positions == tuple(sorted(set(mention.positions)))
    for position in range(len(names)):
        lexicon.remove(position)
    assert len(lexicon) == 0
    assert lexicon.find(text) == []


@given(st.text(min_size=1, max_size=20).filter(lambda name: name.strip() != ""))
def test_a_name_alone_is_a_mention_of_itself(name: str) -> None:
    assert any(name[m.start : m.end].strip() == name.strip() for m in lexicon_of(name).find(name))


@given(st.lists(st.tuples(st.integers(0, 5), NAMES, st.booleans()), max_size=20), TEXTS)
def test_adding_and_removing_equals_building_anew(
    steps: list[tuple[int, str, bool]], text: str
) -> None:
    lexicon = SubjectLexicon()
    state: dict[int, list[str]] = {}
    for position, name, is_removal in steps:
        if is_removal:
            lexicon.remove(position)
            state.pop(position, None)
        else:
            lexicon.add(position, [name])
            state.setdefault(position, []).append(name)
    fresh = SubjectLexicon()
    for position, names in state.items():
        fresh.add(position, names)
    assert lexicon.find(text) == fresh.find(text)
    assert len(lexicon) == len(fresh)


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("What is France's capital?", ["France"], ["France"]),
        ("What is France’s capital?", ["France"], ["France"]),
        (
            "the new  york times and new\nyork",
            ["New York", "New York Times"],
            ["new  york times", "new\nyork"],
        ),
        ("STRASSE und straße", ["Straße"], ["STRASSE", "straße"]),
        ("şehir İSTANBUL nerede", ["İstanbul"], ["İSTANBUL"]),
        ("who is Beyonce\u0301?", ["Beyoncé"], ["Beyonce\u0301"]),
        ("法国的首都是哪里", ["法国"], ["法国"]),
        ("l'Italie et d’Italie", ["Italie"], ["Italie", "Italie"]),
        ("I can't, but Can can", ["Can"], ["Can"]),
        ("O’Brien's hat", ["O'Brien", "Brien"], ["O’Brien"]),
        ("Python 3.11 or Python 3.", ["Python 3"], ["Python 3"]),
        ("It is it", ["It"], ["It"]),
        ("tell us about the US", ["US"], ["US"]),
        ("_Paris_ and get_paris_now", ["Paris"], ["Paris"]),
        ("Frances and UnFrance", ["France"], []),
        ("what did AC/DC and C++ do", ["AC/DC", "C++"], ["AC/DC", "C++"]),
        ("Who founded Yahoo!?", ["Yahoo!"], ["Yahoo!"]),
    ],
)
def test_mentions(text: str, names: list[str], expected: list[str]) -> None:
    assert found(text, *names) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Porsche Carrera GT is made by", True),
        ("Porsche Carrera GT, by", True),
        ("who makes the new Porsche Carrera-GT?", True),
        ("who makes the Super Porsche Carrera now?", True),
        ("Who makes the Porsche Carrera?", False),
        ("Does Porsche Carrera sell well?", False),
        ("See here. Cheap Porsche Carrera parts", False),
        ("The Best Porsche Carrera Ever Made", False),
        ("WHO MAKES THE PORSCHE CARRERA TODAY", False),
        ("who makes the porsche carrera gt", False),
        ("what does Porsche Carrera Is mean", False),
        ("we asked Mr. Porsche Carrera about President Porsche Carrera", False),
    ],
)
def test_longer_name(text: str, expected: bool) -> None:
    first = lexicon_of("Porsche Carrera").find(text)[0]
    assert first.within_longer_name is expected


def test_positions_share_a_name_and_lose_it_one_by_one() -> None:
    lexicon = SubjectLexicon()
    lexicon.add(7, ["France", "French Republic", "france"])
    lexicon.add(3, ["France"])
    assert lexicon.find("France") == [Mention(0, 6, (3, 7), False)]
    lexicon.remove(7)
    lexicon.remove(7)
    assert lexicon.find("France and the French Republic") == [Mention(0, 6, (3,), False)]
    assert 3 in lexicon
    assert 7 not in lexicon
    assert mentions("Paris, paris", ["Paris"]) == [(0, 5), (7, 12)]


def test_time_is_linear_in_the_text() -> None:
    lexicon = lexicon_of(*(" ".join(["word"] * n) for n in range(1, 40)), "needle in it")
    text = "word " * 5_000 + "needle in it"
    started = time.perf_counter()
    assert lexicon.find(text)[-1].positions == (39,)
    assert time.perf_counter() - started < 5


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_way_through_ascii_reads_what_the_general_way_reads(text: str) -> None:
    quick, general = _Tokens(text), _Tokens("")
    general._read(text)
    assert quick.words == general.words
    assert (quick.starts, quick.ends) == (general.starts, general.ends)
    count = len(quick.words)
    for start in range(count):
        for stop in range(start + 1, count + 1):
            assert quick.slice(start, stop) == general.slice(start, stop)
    if count:
        key = general.slice(0, count)
        read = _read_name(text)
        assert read is not None
        assert read[1:] == (general.words[0], general.words[-1], count)
        assert read[0] in (key, "\n" + text.strip())
    else:
        assert _read_name(text) is None


def test_a_subject_of_many_edits_costs_no_more_to_add_to_or_to_leave() -> None:
    lexicon, count = SubjectLexicon(), 200_000
    started = time.perf_counter()
    for position in range(count):
        lexicon.add(position, ["France"])
    assert lexicon.find("France")[0].positions == tuple(range(count))
    for position in range(count - 5):
        lexicon.remove(position)
    assert time.perf_counter() - started < 10
    assert lexicon.find("France")[0].positions == tuple(range(count - 5, count))


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60))
def test_shared_names_agree_with_a_set(steps: list[tuple[int, bool]]) -> None:
    lexicon, held = SubjectLexicon(), set[int]()
    for position, is_removal in steps:
        if is_removal:
            lexicon.remove(position)
            held.discard(position)
        else:
            lexicon.add(position, ["France"])
            held.add(position)
        positions = tuple(p for m in lexicon.find("In France.") for p in m.positions)
        assert positions == tuple(sorted(held))


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.text(max_size=8) | NAMES | st.just("IT")), max_size=40
    ),
    TEXTS,
)
def test_it_comes_back_from_bytes_as_it_was(given: list[tuple[int, str]], text: str) -> None:
    lexicon = SubjectLexicon()
    for position, name in given:
        lexicon.add(position, [name, "everyone's"] if position < 11 else [name])
    again = SubjectLexicon.from_bytes(lexicon.to_bytes())
    text += " everyone's IT"
    assert again.find(text) == lexicon.find(text)
    assert len(again) == len(lexicon)
    assert sorted(again.positions()) == sorted(lexicon.positions())
    for one in (lexicon, again):
        one.remove(3)
        one.add(20, ["York", "new york"])
    assert again.find(text) == lexicon.find(text)
    for position in range(21):
        again.remove(position)
    assert len(again) == 0
    assert again.positions() == []


def test_bytes_of_something_else_are_refused() -> None:
    data = lexicon_of("France", "New York").to_bytes()
    for bad in (b"", data[:-1], data[:20], data + b"x", b"\0" + data[1:]):
        with pytest.raises(ValueError, match="lexicon"):
            SubjectLexicon.from_bytes(bad)


def test_import_is_light() -> None:
    assert "numpy" not in vars(sys.modules["memedit.lexicon"])
