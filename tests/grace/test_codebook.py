"""The codebook's rules on cases worked out by hand, and against a plain reference."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from memedit.errors import EditNotFound, InvalidInput, MemoryFileDamaged
from memedit.grace.codebook import Codebook, Entries, Lesson, distances


def lesson(edit_id: str, label: str, *points: tuple[float, float], radius: float = 1.0) -> Lesson:
    n = len(points)
    return Lesson(
        edit_id,
        label,
        keys=np.array(points, dtype=np.float32),
        radii=np.full(n, radius, dtype=np.float32),
        values=np.tile(np.float32([len(edit_id), ord(edit_id[0]), 0.5]), (n, 1)),
        spans=np.arange(1, n + 1),
    )


def book(*lessons: Lesson, **options: float) -> Codebook:
    made = Codebook(2, output_dim=3, **options)  # type: ignore[arg-type]
    for one in lessons:
        made.add(one)
    return made


def fired(entries: Entries, *queries: tuple[float, float]) -> list[str | None]:
    found = entries.lookup(np.array(queries, dtype=np.float32))
    return [entries.edit_ids[place] if place >= 0 else None for place in found]


def shape(entries: Entries) -> list[tuple[str, str, float]]:
    return [
        (edit, label, float(radius))
        for edit, label, radius in zip(entries.edit_ids, entries.labels, entries.radii, strict=True)
    ]


def same(one: Entries, other: Entries) -> bool:
    """Bit for bit."""
    return (
        one.labels == other.labels
        and one.edit_ids == other.edit_ids
        and all(
            np.array_equal(getattr(one, name), getattr(other, name))
            for name in ("keys", "radii", "values", "spans")
        )
    )


def test_init_adds_what_overlaps_nothing() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (5, 0))).entries()
    assert shape(made) == [("a", "Rome", 1.0), ("b", "Oslo", 1.0)]
    assert fired(made, (0.9, 0), (1.1, 0), (5, 1), (3, 0)) == ["a", None, "b", None]


def test_expand_widens_the_nearest_entry_of_the_same_label() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Rome", (1.5, 0))).entries()
    assert shape(made) == [("a", "Rome", 1.5)]
    assert fired(made, (1.5, 0), (1.6, 0)) == ["a", None]


def test_expand_never_narrows() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Rome", (0.5, 0))).entries()
    assert shape(made) == [("a", "Rome", 1.0)]


def test_split_halves_the_way_between_labels() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (1.5, 0))).entries()
    assert shape(made) == [("a", "Rome", 0.75), ("b", "Oslo", 0.75)]
    assert fired(made, (0.7, 0), (0.8, 0), (-0.8, 0)) == ["a", "b", None]


def test_split_never_widens() -> None:
    wide = lesson("b", "Oslo", (3, 0), radius=5.0)
    made = book(lesson("a", "Rome", (0, 0)), wide).entries()
    assert shape(made) == [("a", "Rome", 1.0), ("b", "Oslo", 1.5)]


def test_only_the_nearest_entry_is_split() -> None:
    made = book(
        lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (4, 0)), lesson("c", "Kyiv", (1, 0))
    ).entries()
    assert shape(made) == [("a", "Rome", 0.5), ("b", "Oslo", 1.0), ("c", "Kyiv", 0.5)]


def test_the_same_key_with_another_label_is_the_newer_edits() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (0, 0)))
    assert shape(made.entries()) == [("b", "Oslo", 1.0)]
    assert fired(made.entries(), (0, 0), (0.9, 0)) == ["b", "b"]
    made.remove("b")
    assert fired(made.entries(), (0, 0), (0.9, 0)) == ["a", "a"]


def test_keys_within_the_resolution_are_the_same() -> None:
    near = lesson("b", "Oslo", (0.1, 0))
    assert shape(book(lesson("a", "Rome", (0, 0)), near, resolution=0.2).entries()) == [
        ("b", "Oslo", 1.0)
    ]
    assert len(book(lesson("a", "Rome", (0, 0)), near).entries()) == 2


def test_of_two_equally_near_the_newer_answers() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (1, 0))).entries()
    assert fired(made, (0.5, 0)) == ["b"]


def test_removing_the_last_of_four_leaves_the_other_three() -> None:
    """The bug of existing code: the wrong entries went, and split radii stayed split."""
    a, b, c = lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (5, 0)), lesson("c", "Rome", (9, 9))
    made = book(a, b, c)
    before = made.entries()
    # Splits a, widens c and makes an entry of its own.
    made.add(lesson("d", "Rome", (4, 0), (9, 7.5), (-7, 0)))
    assert not same(made.entries(), before)
    assert made.entries().radii[1] == 0.5
    made.remove("d")
    assert made.edit_ids == ("a", "b", "c")
    assert same(made.entries(), before)


@pytest.mark.parametrize("gone", ["a", "b", "c", "d"])
def test_removing_any_leaves_what_the_others_would_have_made(gone: str) -> None:
    four = [
        lesson("a", "Rome", (0, 0)),
        lesson("b", "Rome", (1.5, 0)),
        lesson("c", "Oslo", (2.5, 0)),
        lesson("d", "Kyiv", (0, 0.5)),
    ]
    made = book(*four)
    made.remove(gone)
    assert same(made.entries(), book(*(one for one in four if one.edit_id != gone)).entries())


def test_an_absorbed_key_stands_on_its_own_when_its_entry_goes() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Rome", (1.5, 0)))
    made.remove("a")
    assert shape(made.entries()) == [("b", "Rome", 1.0)]
    assert made.entries().values[0, 1] == ord("b")


def test_replace_is_the_newest() -> None:
    made = book(lesson("a", "Rome", (0, 0)), lesson("b", "Oslo", (0, 0)))
    made.replace(lesson("a", "Kyiv", (0, 0)))
    assert made.edit_ids == ("b", "a")
    assert fired(made.entries(), (0, 0)) == ["a"]


def test_the_bound_holds_and_a_refusal_changes_nothing() -> None:
    made = book(lesson("a", "Rome", (0, 0), (9, 9)), lesson("b", "Oslo", (5, 0)), limit=3)
    before = made.entries()
    with pytest.raises(InvalidInput, match="takes 3 keys"):
        made.add(lesson("c", "Kyiv", (7, 0)))
    with pytest.raises(InvalidInput, match="takes 3 keys"):
        made.replace(lesson("b", "Kyiv", (7, 0), (8, 0)))
    made.replace(lesson("a", "Kyiv", (7, 0), (8, 0)))
    assert made.edit_ids == ("b", "a")
    assert not same(made.entries(), before)


@pytest.mark.parametrize(
    "wrong",
    [
        lesson("a", "Rome", (1, 1)),
        lesson("n", "Rome", (math.nan, 1)),
        lesson("n", "Rome", (1, 1), radius=-1),
        Lesson("n", "x", *(np.ones((1, k), np.float32) for k in (2, 1)), np.ones((1, 3)), [1]),  # type: ignore[arg-type]
        Lesson(
            *("n", "x", np.ones((1, 2), np.float32), np.ones(1, np.float32)),
            *(np.ones((1, 2), np.float32), np.ones(1, np.int64)),
        ),
    ],
    ids=["there already", "not finite", "negative radius", "radii of rows", "short value"],
)
def test_what_cannot_be_added_is_refused(wrong: Lesson) -> None:
    made = book(lesson("a", "Rome", (0, 0)))
    before = made.entries()
    if isinstance(wrong.spans, list):
        wrong = Lesson(
            wrong.edit_id, wrong.label, wrong.keys, wrong.radii, wrong.values, np.ones(1, np.int64)
        )
    with pytest.raises(InvalidInput):
        made.add(wrong)
    assert same(made.entries(), before)


def test_an_edit_that_is_not_there() -> None:
    made = book(lesson("a", "Rome", (0, 0)))
    with pytest.raises(EditNotFound):
        made.remove("b")
    with pytest.raises(EditNotFound):
        made.replace(lesson("b", "Rome", (0, 0)))


def test_an_empty_codebook_fires_nothing() -> None:
    assert fired(book().entries(), (0, 0)) == [None]


def test_a_file_gives_the_same_codebook(tmp_path: Path) -> None:
    made = book(
        lesson("a", "Rome", (0, 0), (9, 9)),
        lesson("b", "Oslo", (1, 0)),
        lesson("c", "Кіото", (1.2, 0)),
        resolution=0.01,
    )
    made.save(tmp_path / "book", {"model": "m"})
    again, notes = Codebook.load(tmp_path / "book")
    assert same(again.entries(), made.entries())
    assert (again.limit, again.resolution, notes) == (made.limit, made.resolution, {"model": "m"})
    made.remove("b")
    again.remove("b")
    assert same(again.entries(), made.entries())
    assert [path.name for path in tmp_path.iterdir()] == ["book"]


def test_an_empty_file_is_loaded(tmp_path: Path) -> None:
    book().save(tmp_path / "book")
    again, _ = Codebook.load(tmp_path / "book")
    assert len(again) == 0
    again.add(lesson("a", "Rome", (0, 0)))


@pytest.mark.parametrize("damage", ["cut", "format", "count", "tensor"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "book"
    book(lesson("a", "Rome", (0, 0), (9, 9))).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        tensors = load_file(path)
        edits = [{"id": "a", "label": "Rome", "keys": 3 if damage == "count" else 2}]
        about = {"limit": 9, "resolution": 0.0, "edits": edits}
        header = {"format": "0" if damage == "format" else "1", "codebook": json.dumps(about)}
        if damage == "tensor":
            del tensors["values"]
        save_file(tensors, path, header)
    with pytest.raises(MemoryFileDamaged):
        Codebook.load(path)


@dataclass
class Plain:
    """The rules as they stand in the docstring, from the start each time."""

    lessons: list[Lesson] = field(default_factory=list)

    def made(self) -> list[tuple[Lesson, int, float]]:
        entries: list[list] = []
        for one in self.lessons:
            for at, (key, radius) in enumerate(zip(one.keys, one.radii, strict=True)):
                best, least = None, math.inf
                for entry in entries:
                    apart = math.dist(key, entry[0].keys[entry[1]])
                    if apart <= least:
                        best, least = entry, apart
                if best is None or least > best[2] + radius:
                    entries.append([one, at, float(radius)])
                elif best[0].label == one.label:
                    best[2] = max(best[2], least)
                elif least == 0:
                    entries = [entry for entry in entries if entry is not best]
                    entries.append([one, at, float(radius)])
                else:
                    best[2] = min(best[2], least / 2)
                    entries.append([one, at, min(float(radius), least / 2)])
        return [(one, at, radius) for one, at, radius in entries]

    def fires(self, query: tuple[float, float]) -> str | None:
        best, least = None, math.inf
        for one, at, radius in self.made():
            apart = math.dist(query, one.keys[at])
            if apart <= least:
                best, least = (one.edit_id, radius), apart
        return best[0] if best and least <= best[1] else None


# On a grid of halves along one axis all distances are exact.
_points = st.tuples(st.integers(-8, 8).map(lambda n: n / 2), st.just(0.0))
_lessons = st.builds(
    lambda name, label, points, radius: lesson(name, label, *points, radius=radius),
    st.sampled_from("abcdefgh"),
    st.sampled_from(["Rome", "Oslo", "Kyiv"]),
    st.lists(_points, min_size=1, max_size=3),
    st.sampled_from([0.5, 1.0, 2.0]),
)
_steps = st.lists(st.tuples(st.sampled_from(["add", "add", "remove", "replace"]), _lessons))


@settings(max_examples=300, deadline=None)
@given(_steps, st.lists(_points, min_size=1, max_size=5))
def test_any_sequence_is_as_the_plain_reference_has_it(
    steps: list[tuple[str, Lesson]], queries: list[tuple[float, float]]
) -> None:
    made, plain = book(), Plain()
    for kind, one in steps:
        there = any(held.edit_id == one.edit_id for held in plain.lessons)
        if kind == "add" and not there:
            made.add(one)
            plain.lessons.append(one)
        elif kind != "add" and there:
            plain.lessons = [held for held in plain.lessons if held.edit_id != one.edit_id]
            if kind == "remove":
                made.remove(one.edit_id)
            else:
                made.replace(one)
                plain.lessons.append(one)
    entries = made.entries()
    expected = plain.made()
    assert shape(entries) == [(one.edit_id, one.label, radius) for one, _, radius in expected]
    for row, (one, at, _) in enumerate(expected):
        assert np.array_equal(entries.keys[row], one.keys[at])
        assert np.array_equal(entries.values[row], one.values[at])
        assert entries.spans[row] == one.spans[at]
    assert fired(entries, *queries) == [plain.fires(query) for query in queries]


@settings(max_examples=100, deadline=None)
@given(st.lists(_lessons, max_size=6, unique_by=lambda one: one.edit_id), _lessons)
def test_adding_and_removing_is_as_if_it_had_never_been(held: list[Lesson], one: Lesson) -> None:
    made = book(*(other for other in held if other.edit_id != one.edit_id))
    before = made.entries()
    made.add(one)
    made.remove(one.edit_id)
    assert same(made.entries(), before)


def test_a_distance_does_not_depend_on_what_else_is_compared() -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((300, 576), dtype=np.float32)
    together = distances(keys[:20], keys)
    for i in range(20):
        assert np.array_equal(together[i], distances(keys[i : i + 1], keys)[0])
        assert together[i, 7 * i] == distances(keys[i : i + 1], keys[7 * i : 7 * i + 1])[0, 0]
