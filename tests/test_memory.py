"""The memory: what is added is live, durable and shared; what is reverted is gone."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memedit.edits import Edit, question, sentence, structured
from memedit.encoders import HashEncoder, SentenceEncoder
from memedit.errors import (
    ConfigError,
    EditNotFound,
    InvalidEdit,
    InvalidInput,
    MemoryFileDamaged,
    MemoryFileError,
    MemoryFileVersion,
)
from memedit.indexes import KINDS
from memedit.memory import MAX_MENTIONED, EditMemory
from memedit.protocols import Vectors


class CountingEncoder(HashEncoder):
    """Remembers what it was asked for."""

    def __init__(self, dim: int = 256) -> None:
        super().__init__(dim)
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return super().encode(texts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def memory(path: Path, encoder: CountingEncoder) -> Iterator[EditMemory]:
    with EditMemory(path, encoder) as opened:
        yield opened


def capital(target: str, country: str = "France", **rest: object) -> Edit:
    return structured(country, "The capital of {} is", target, **rest)


def ids(memory: EditMemory, namespace: str | None = None) -> list[str]:
    return [record.edit.id for record in memory.records(namespace)]


def found(memory: EditMemory, query: str, namespace: str = "default", k: int = 8) -> list[str]:
    return [c.edit.id for c in memory.candidates([query], namespace, k)[0]]


def assert_equals_a_rebuild(memory: EditMemory, path: Path, encoder: HashEncoder) -> None:
    """Records, candidates and counts are those of a memory that has just read the journal."""
    queries = [record.edit.key for record in memory.records()][:50]
    with EditMemory(path, encoder, index="exact") as rebuilt:
        states = ("active", "superseded", "reverted")
        assert memory.records(states=states) == rebuilt.records(states=states)
        assert len(memory) == len(rebuilt)
        assert memory.namespaces() == rebuilt.namespaces()
        for namespace in memory.namespaces():
            for mine, its in zip(
                memory.candidates(queries, namespace),
                rebuilt.candidates(queries, namespace),
                strict=True,
            ):
                assert {c.edit.id: (c.mention, c.likeness) for c in mine} == {
                    c.edit.id: (c.mention, c.likeness) for c in its
                }


# adding


def test_an_added_edit_is_live_and_described(memory: EditMemory) -> None:
    edit = capital("Lyon")
    (record,) = memory.add(edit, author="ann", reason="a test")
    assert record.edit == edit
    assert (record.state, record.namespace, record.position) == ("active", "default", 1)
    assert (record.author, record.reason) == ("ann", "a test")
    assert memory.get(edit.id) == record
    assert memory.records() == [record]
    assert len(memory) == memory.count() == 1
    (candidate,) = memory.candidates(["What is the capital of France?"])[0]
    assert candidate.edit == edit
    assert candidate.mention == (23, 29)
    assert candidate.likeness is None
    assert candidate.cosine is None
    ((nearest, cosine),) = memory.search("The capital of France is")
    assert nearest == record
    assert cosine == pytest.approx(1, abs=1e-5)


def test_it_is_still_there_after_opening_again_and_nothing_is_encoded(
    memory: EditMemory, path: Path
) -> None:
    edits = [capital("Lyon"), sentence("Zürich liegt in 日本."), question("Who runs it?", "Bo")]
    records = memory.add(edits)
    memory.close()
    encoder = CountingEncoder()
    with EditMemory(path, encoder) as again:
        assert again.records() == records
        assert [record.edit for record in again.records()] == edits
        assert encoder.calls == []


def test_the_same_fact_again_supersedes(memory: EditMemory) -> None:
    (old,) = memory.add(capital("Lyon"))
    (new,) = memory.add(question("What is the capital of France?", "Nice"))
    (other,) = memory.add(structured("France", "The president of {} is", "Bo"))
    assert new.supersedes == (old.edit.id,)
    assert other.supersedes == ()
    old = memory.get(old.edit.id)
    assert (old.state, old.superseded_by) == ("superseded", new.edit.id)
    assert ids(memory) == [new.edit.id, other.edit.id]
    assert old.edit.id not in found(memory, "The capital of France is")
    assert memory.records(states=["superseded"]) == [old]


def test_one_call_may_state_a_fact_twice(memory: EditMemory) -> None:
    first, second = memory.add([capital("Lyon"), capital("Nice")])
    assert (first.state, first.superseded_by) == ("superseded", second.edit.id)
    assert second.supersedes == (first.edit.id,)
    assert len(memory) == 1


def test_the_same_with_another_route_takes_its_place(memory: EditMemory) -> None:
    (first,) = memory.add(capital("Lyon"))
    (asking,) = memory.add(capital("Lyon", route="grace"))
    assert (asking.edit.route, asking.supersedes) == ("grace", (first.edit.id,))
    # What says nothing of a route says nothing new.
    assert memory.add(capital("Lyon"))[0].edit.id == asking.edit.id


def test_the_very_same_again_is_not_added(memory: EditMemory) -> None:
    (record,) = memory.add(capital("Lyon", aliases=["Gaul"]))
    assert memory.add(capital("Lyon", source="elsewhere")) == [record]
    assert memory.add([capital("Lyon"), capital("Lyon")]) == [record, record]
    assert memory.add(sentence("The capital of France is Lyon.")) == [record]
    twice = memory.add([capital("Rome", "Spain"), capital("Rome", "Spain")])
    assert twice[0] == twice[1]
    assert len(memory) == 2


def test_the_same_with_more_names_replaces(memory: EditMemory) -> None:
    memory.add(capital("Lyon"))
    (record,) = memory.add(capital("Lyon", aliases=["Gaul"]))
    assert record.edit.aliases == ("Gaul",)
    assert len(memory) == 1
    assert found(memory, "Where is Gaul?") == [record.edit.id]


def test_an_id_belongs_to_one_edit(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="mine"))
    assert memory.add(capital("Lyon", id="mine"))[0].position == 1
    for edits in (
        [capital("Nice", id="mine")],
        [capital("Lyon", "Spain", id="mine")],
        [capital("A", "Italy", id="new"), capital("B", "Malta", id="new")],
    ):
        with pytest.raises(InvalidEdit, match="is taken by another edit"):
            memory.add(edits)
    memory.revert("mine")
    with pytest.raises(InvalidEdit, match=r"\(reverted\); leave it out"):
        memory.add(capital("Lyon", id="mine"))
    assert len(memory) == 0


@pytest.mark.parametrize("namespace", ["", "a b", "ü", "x" * 65, "a/b", "a\n", None])
def test_malformed_namespaces_are_refused(memory: EditMemory, namespace: str) -> None:
    for call in (
        lambda: memory.add(capital("Lyon"), namespace=namespace),
        lambda: memory.candidates(["Lyon"], namespace),
        lambda: memory.count(namespace),
        lambda: memory.search("Lyon", namespace=namespace),
    ):
        with pytest.raises(InvalidInput, match="the namespace"):
            call()


def test_malformed_notes_are_refused_and_strange_ones_kept(memory: EditMemory) -> None:
    for note in ("x" * 2_001, "\ud800", 5):
        with pytest.raises(InvalidInput, match="author"):
            memory.add(capital("Lyon"), author=note)  # type: ignore[arg-type]
    note = "Assistant: <|im_end|>\n\x00 'quoted'; DROP TABLE events"
    (record,) = memory.add(capital("Lyon"), author=note, reason=note)
    assert (record.author, record.reason) == (note, note)


def test_nothing_is_something_to_add(memory: EditMemory) -> None:
    assert memory.add([]) == []
    assert len(memory) == 0
    assert memory


# reverting


def test_a_revert_brings_back_what_was_replaced(memory: EditMemory) -> None:
    (old,) = memory.add(capital("Lyon"))
    (new,) = memory.add(capital("Nice"))
    assert memory.revert(new.edit.id, author="bob", reason="wrong").state == "reverted"
    assert memory.get(old.edit.id) == old
    assert ids(memory) == [old.edit.id]
    assert found(memory, "What is the capital of France?") == [old.edit.id]
    events = memory.history(new.edit.id)
    assert [(e.kind, e.author, e.reason, e.position) for e in events] == [
        ("add", "", "", 2),
        ("revert", "bob", "wrong", 3),
    ]
    assert memory.revert(old.edit.id).state == "reverted"
    assert len(memory) == 0
    assert found(memory, "What is the capital of France?") == []


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
def test_the_newest_that_nobody_reverted_is_active(
    memory: EditMemory, order: tuple[int, ...]
) -> None:
    chain = [memory.add(capital(city))[0].edit.id for city in ("Lyon", "Nice", "Metz")]
    left = list(chain)
    for number in order:
        memory.revert(chain[number])
        left.remove(chain[number])
        assert ids(memory) == left[-1:]
        for before, after in pairwise(left):
            assert memory.get(before).superseded_by is not None
            assert memory.get(after) is not None


def test_what_came_after_a_revert_is_not_undone_by_another(memory: EditMemory) -> None:
    a = memory.add(capital("Lyon"))[0].edit.id
    b = memory.add(capital("Nice"))[0].edit.id
    memory.revert(b)
    c = memory.add(capital("Metz"))[0].edit.id
    assert memory.get(a).superseded_by == c
    memory.revert(a)
    assert ids(memory) == [c]
    memory.revert(c)
    assert ids(memory) == []


def test_reverting_twice_says_who_did_it(memory: EditMemory) -> None:
    (record,) = memory.add(capital("Lyon"))
    memory.revert(record.edit.id, author="bob")
    with pytest.raises(
        InvalidInput, match=r"was reverted already, at \d{4}-.* UTC by bob; to have"
    ):
        memory.revert(record.edit.id)
    assert [event.kind for event in memory.history(record.edit.id)] == ["add", "revert"]


def test_an_unknown_id_names_close_ones(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="ed-0123456789abcdef"))
    for wrong in ("ed-0123456789abcdee", "ed-0123"):
        with pytest.raises(EditNotFound, match="did you mean ed-0123456789abcdef"):
            memory.revert(wrong)
    for call in (memory.get, memory.history, memory.revert):
        with pytest.raises(EditNotFound, match="there is no edit 'zzz'"):
            call("zzz")


# finding


def test_namespaces_do_not_see_each_other(memory: EditMemory) -> None:
    (a,) = memory.add(capital("Lyon"), namespace="a")
    (b,) = memory.add(capital("Nice"), namespace="b")
    assert (a.state, b.supersedes) == ("active", ())
    assert found(memory, "The capital of France is", "a") == [a.edit.id]
    assert found(memory, "The capital of France is", "b") == [b.edit.id]
    assert found(memory, "The capital of France is") == []
    assert memory.namespaces() == ["a", "b"]
    assert (memory.count("a"), memory.count(), len(memory)) == (1, 0, 2)
    assert memory.records("b") == [b]


def test_a_small_namespace_in_a_large_memory_keeps_its_recall(memory: EditMemory) -> None:
    memory.add([capital("X", f"Country {i}") for i in range(500)], namespace="large")
    small = memory.add([capital("Y", f"Land {i}") for i in range(8)], namespace="small")
    nearest = memory.search("The capital of Country 7 is", 8, "small")
    assert sorted(record.edit.id for record, _ in nearest) == sorted(
        record.edit.id for record in small
    )


def test_without_active_edits_nothing_is_encoded(
    memory: EditMemory, encoder: CountingEncoder
) -> None:
    assert memory.candidates(["one", "two"]) == [[], []]
    assert memory.search("one") == []
    (record,) = memory.add(capital("Lyon"), namespace="other")
    memory.revert(record.edit.id)
    encoder.calls.clear()
    assert memory.candidates(["one"], "other") == memory.candidates(["one"]) == [[]]
    assert memory.candidates([], "other") == []
    assert encoder.calls == []


def test_queries_are_encoded_where_names_do_not_tell_and_then_in_one_call(
    memory: EditMemory, encoder: CountingEncoder
) -> None:
    memory.add(capital("Lyon"))
    encoder.calls.clear()
    queries = ["Who is in France?", "The capital of Peru"]
    first, second = memory.candidates(queries)
    assert encoder.calls == []
    assert first[0].mention == (10, 16)
    assert second == []
    memory.add(Edit("rule", "nobody parks in front of the gate"))
    encoder.calls.clear()
    memory.candidates(queries)
    assert encoder.calls == [queries]


def test_edits_without_a_subject_come_by_cosine(memory: EditMemory) -> None:
    memory.add([Edit(f"e{i}", f"the {i}th rule of this house holds") for i in range(20)])
    memory.add(structured("France", "The capital of {} is", "Lyon"))
    query = "what is the 3rd rule of this house, and the capital of France?"
    candidates = memory.candidates([query], k=5)[0]
    assert [c.edit.subject for c in candidates] == ["France", *(None,) * 5]
    cosines = [c.cosine for c in candidates[1:]]
    assert cosines == sorted(cosines, reverse=True)
    nearest = [r.edit.id for r, _ in memory.search(query, 20) if r.edit.subject is None]
    assert [c.edit.id for c in candidates[1:]] == nearest[:5]


def test_a_named_subject_is_a_candidate_whatever_its_cosine(memory: EditMemory) -> None:
    memory.add([capital("X", f"Country {i}") for i in range(30)])
    (record,) = memory.add(structured("Bo", "The shoe size of {} in Europe is", "44"))
    query = "The capital of Country 3 is loved by Bo"
    assert record.edit.id not in [r.edit.id for r, _ in memory.search(query, 4)]
    candidates = memory.candidates([query], k=4)[0]
    mentioned = [c for c in candidates if c.edit.id == record.edit.id]
    assert [c.mention for c in mentioned] == [(len(query) - 2, len(query))]


def test_a_variant_of_a_name_is_a_candidate_with_its_likeness(memory: EditMemory) -> None:
    memory.add(structured("Shirley Z. Johnson", "The occupation of {} is", "pilot"))
    memory.add(structured("Danielle Darrieux", "The mother tongue of {} is", "English"))
    (candidate,) = memory.candidates(["What is the job of Shirley Johnson?"])[0]
    assert candidate.edit.subject == "Shirley Z. Johnson"
    assert candidate.mention == (19, 34)
    assert candidate.likeness is not None
    assert memory.candidates(["What is the job of somebody else?"]) == [[]]


def test_names_that_go_are_not_found_again(memory: EditMemory) -> None:
    (record,) = memory.add(structured("Shirley Z. Johnson", "The occupation of {} is", "pilot"))
    query = "What is the job of Shirley Johnson?"
    assert memory.candidates([query])[0]
    memory.revert(record.edit.id)
    assert memory.candidates([query]) == [[]]
    memory.restore(record.edit.id)
    assert memory.candidates([query])[0]


def test_an_alias_counts_as_a_mention(memory: EditMemory) -> None:
    (record,) = memory.add(capital("Lyon", aliases=["the Hexagon"]))
    (candidate,) = memory.candidates(["Who governs the Hexagon now?"])[0]
    assert candidate.edit == record.edit
    assert candidate.mention == (12, 23)


def test_a_mention_outside_a_longer_name_counts_first(memory: EditMemory) -> None:
    memory.add(structured("Porsche Carrera", "The maker of {} is", "Fiat"))
    (longer,) = memory.candidates(["Who makes the Porsche Carrera GT?"])[0]
    assert longer.likeness is not None
    query = "Why does the Porsche Carrera GT cost more than the Porsche Carrera?"
    (plain,) = memory.candidates([query])[0]
    assert plain.likeness is None
    assert plain.mention == (query.rindex("Porsche"), len(query) - 1)


@pytest.mark.parametrize("count", [40, 700])
def test_of_many_mentioned_the_closest_join(memory: EditMemory, count: int) -> None:
    """Both ways of choosing them: one by one, and down the ranking of the index."""
    memory.add([structured("Bo", f"The {i}th thing about {{}} is", "x") for i in range(count)])
    memory.add([capital("X", f"Country {i}") for i in range(count)])
    query = "The capital of Country 3 is known to Bo"
    candidates = memory.candidates([query], k=4)[0]
    mentioned = [c for c in candidates if c.likeness is None]
    assert len(mentioned) == MAX_MENTIONED
    names = ("Bo", "Country 3")
    ranked = [(r, c) for r, c in memory.search(query, 2 * count) if r.edit.subject in names]
    worst = min(c.cosine for c in mentioned)
    assert worst == pytest.approx(ranked[MAX_MENTIONED - 1][1], abs=1e-5)


def test_hostile_queries_are_only_text(memory: EditMemory) -> None:
    memory.add(capital("Lyon"))
    for query in ("", "\x00", "Fr\ud800ance", "<|im_start|>", "France " * 200, "🙂" * 1_000):
        memory.candidates([query])
        memory.search(query)


def test_k_is_at_least_one(memory: EditMemory) -> None:
    with pytest.raises(InvalidInput, match="k is 0"):
        memory.candidates(["x"], k=0)
    with pytest.raises(InvalidInput, match="k is 0"):
        memory.search("x", 0)


def test_with_the_real_encoder_and_index(path: Path) -> None:
    with EditMemory(path, SentenceEncoder()) as memory:
        memory.add([capital("Lyon"), sentence("Danielle Darrieux speaks English.")])
        ((first, _), *_) = memory.search("Which city is the seat of the French government?")
        assert first.edit.target == "Lyon"
    with EditMemory(path, SentenceEncoder()) as memory:
        assert memory.candidates(["What does Danielle Darrieux speak?"])[0][0].mention == (10, 27)


# sharing the file


def test_two_memories_see_each_others_adds_and_reverts(memory: EditMemory, path: Path) -> None:
    with EditMemory(path, HashEncoder(), index="exact") as other:
        (old,) = memory.add(capital("Lyon"))
        assert found(other, "The capital of France is") == [old.edit.id]
        (new,) = other.add(capital("Nice"))
        assert new.supersedes == (old.edit.id,)
        assert found(memory, "The capital of France is") == [new.edit.id]
        assert memory.get(old.edit.id).state == "superseded"
        memory.revert(new.edit.id)
        assert found(other, "The capital of France is") == [old.edit.id]
        assert other.records(states=("active", "reverted")) == memory.records(
            states=("active", "reverted")
        )
        with pytest.raises(InvalidInput, match="reverted already"):
            other.revert(new.edit.id)
        assert not other.refresh()
        memory.add(capital("Metz"))
        assert other.refresh()
        assert not other.refresh()


def test_two_writers_at_once_agree_on_conflicts(path: Path) -> None:
    """Threads with a memory of their own each, as processes have; one subject, many targets."""

    def write(number: int) -> None:
        with EditMemory(path, HashEncoder()) as mine:
            for i in range(25):
                mine.add(capital(f"City {number}-{i}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with EditMemory(path, HashEncoder()) as memory:
        assert len(memory) == 1
        every = memory.records(states=("active", "superseded"))
        assert len(every) == 75
        # One line of succession: each replaced exactly the one before it.
        for before, after in pairwise(every):
            assert after.supersedes == (before.edit.id,)
            assert before.superseded_by == after.edit.id


def test_threads_share_one_memory(memory: EditMemory, path: Path) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                (record,) = memory.add(capital(f"City {i}", f"Country {number}"))
                assert record.edit.id in found(memory, f"The capital of Country {number} is")
                if i % 3 == 0:
                    memory.revert(record.edit.id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(memory) == 6
    assert_equals_a_rebuild(memory, path, HashEncoder())


def test_a_deleted_file_is_an_error_at_the_next_look(memory: EditMemory, path: Path) -> None:
    memory.add(capital("Lyon"))
    path.unlink()
    for call in (memory.refresh, memory.records, lambda: memory.add(capital("Nice"))):
        with pytest.raises(MemoryFileError, match="was deleted"):
            call()


def test_damage_shows_at_every_look_and_not_only_the_first(memory: EditMemory, path: Path) -> None:
    memory.add(capital("Lyon"))
    with EditMemory(path, HashEncoder()) as other:
        other.add(capital("Rome", "Spain"))
        connection = sqlite3.connect(path)
        connection.execute("UPDATE events SET body = replace(body, 'Rome', 'Oslo')")
        connection.commit()
        connection.close()
    for _ in range(2):
        with pytest.raises(MemoryFileDamaged, match="event 2 fails its checksum"):
            memory.candidates(["Spain"])


def test_a_closed_memory_says_so(path: Path) -> None:
    memory = EditMemory(path, HashEncoder())
    memory.close()
    memory.close()
    with pytest.raises(MemoryFileError, match="is closed"):
        memory.records()


# encoders and indexes


def test_another_encoder_is_refused_until_told(path: Path) -> None:
    with EditMemory(path, HashEncoder(64)) as memory:
        (old,) = memory.add(capital("Lyon"))
        (new,) = memory.add(capital("Nice"))
        active = memory.add(sentence("Bo is tall."))
    with pytest.raises(MemoryFileVersion, match=r"'hash-1-32'.*'hash-1-64'.*reencode=True"):
        EditMemory(path, HashEncoder(32))
    encoder = CountingEncoder(32)
    with EditMemory(path, encoder, reencode=True) as memory:
        assert encoder.calls == [[old.edit.key, new.edit.key, active[0].edit.key]]
        memory.revert(new.edit.id)
        assert found(memory, "The capital of France is")[0] == old.edit.id
    for dim in (32, 64):
        encoder = CountingEncoder(dim)
        with EditMemory(path, encoder, reencode=dim == 32) as memory:
            assert encoder.calls == []
            assert len(memory) == 2


def test_an_edit_of_another_encoder_is_live_in_a_running_memory(path: Path) -> None:
    with EditMemory(path, HashEncoder(64)) as mine, EditMemory(path, HashEncoder(32)) as other:
        (record,) = other.add(capital("Lyon"))
        assert found(mine, "The capital of France is") == [record.edit.id]
    with pytest.raises(MemoryFileVersion, match="hash-1-64"):
        EditMemory(path, HashEncoder(64))


def test_damaged_vectors_are_made_again_on_request(memory: EditMemory, path: Path) -> None:
    memory.add([capital("Lyon"), capital("Rome", "Spain")])
    memory.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE vectors SET vector = zeroblob(1024) WHERE position = 2")
    connection.commit()
    connection.close()
    with pytest.raises(MemoryFileDamaged, match="reencode=True"):
        EditMemory(path, HashEncoder())
    encoder = CountingEncoder()
    with EditMemory(path, encoder, reencode=True) as again:
        assert encoder.calls == [["The capital of Spain is"]]
        assert len(again) == 2
    EditMemory(path, HashEncoder()).close()


def test_an_unknown_index_is_refused_before_a_file_is_made(path: Path) -> None:
    with pytest.raises(ConfigError, match="the kinds are"):
        EditMemory(path, HashEncoder(), index="hnws")
    assert not path.exists()


# JSON Lines


def test_exported_lines_import_equal(memory: EditMemory, tmp_path: Path) -> None:
    memory.add(
        [
            capital("Lyon", aliases=["Gaul"], relation="P36", old_target="Paris"),
            question("Who wrote Émile?", "Bo"),
            sentence("Zürich liegt in 日本."),
            capital("Rome", "Spain"),
        ]
    )
    memory.add(capital("Oslo", "Spain"))
    memory.revert(memory.add(sentence("This one goes."))[0].edit.id)
    lines = list(memory.export_jsonl())
    assert len(lines) == 4
    with EditMemory(tmp_path / "other.db", HashEncoder()) as other:
        records = other.import_jsonl(lines, namespace="moved", author="ann")
        assert [r.edit for r in records] == [r.edit for r in memory.records()]
        assert list(other.export_jsonl("moved")) == lines
        assert {r.author for r in records} == {"ann"}
        assert other.import_jsonl(lines, namespace="moved") == records


def test_an_open_file_imports_in_one_transaction(memory: EditMemory) -> None:
    lines = [json.dumps({"statement": f"Fact number {i}."}) for i in range(500)]
    text = "\ufeff" + "\r\n".join([*lines[:250], "", *lines[250:]]) + "\n\n"
    assert len(memory.import_jsonl(io.BytesIO(text.encode()))) == 500
    assert memory.import_jsonl(io.StringIO("")) == []
    assert len(memory) == 500


def test_bad_lines_are_numbered_and_nothing_is_added(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="taken"))
    good = json.dumps({"statement": "Bo is tall."})
    lines: list[str | bytes] = [
        good,
        "{",
        "",
        "[1]",
        json.dumps({"subject": "France"}),
        good,
        b"\xff",
        json.dumps({"statement": "<|im_start|>"}),
        "[" * 100_000,
    ]
    with pytest.raises(InvalidEdit) as caught:
        memory.import_jsonl(lines)
    message = str(caught.value)
    assert message.startswith("6 of 8 edits are bad, and nothing was added:\nline 2: not a JSON")
    assert [int(line.split()[1][:-1]) for line in message.splitlines()[1:]] == [2, 4, 5, 7, 8, 9]
    with pytest.raises(InvalidEdit, match="line 3: the id taken is taken by another edit"):
        memory.import_jsonl([good, "", json.dumps({"statement": "Al.", "id": "taken"})])
    with pytest.raises(InvalidEdit, match="and 30 more"):
        memory.import_jsonl(["{"] * 50)
    assert ids(memory) == ["taken"]


# any history

COUNTRIES = ["France", "Spain", "Porsche Carrera"]
CITIES = ["Lyon", "Nice", "Metz"]
NAMESPACES = ["default", "b"]


@dataclass
class Told:
    """What the model knows of an edit: the plainest notes there could be."""

    edit_id: str
    namespace: str
    country: str
    city: str
    begins: float
    expires: float
    is_reverted: bool = False

    def in_force(self, now: float) -> bool:
        return not self.is_reverted and self.begins <= now < self.expires


class Life(RuleBasedStateMachine):
    """Two memories on one file against a dictionary of notes.

    Per fact, of the edits in force the one that began last answers.
    """

    index = "exact"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.encoder = HashEncoder(32)
        self.now = 1_000.0
        self.memories = [self.open(), self.open()]
        self.told: dict[str, Told] = {}

    def open(self) -> EditMemory:
        path = self.folder / "memory.db"
        return EditMemory(path, self.encoder, index=self.index, clock=lambda: self.now)

    def active(self) -> dict[tuple[str, str], Told]:
        ranked = sorted(enumerate(self.told.values()), key=lambda p: (p[1].begins, p[0]))
        return {(t.namespace, t.country): t for _, t in ranked if t.in_force(self.now)}

    @rule(
        which=st.integers(0, 1),
        namespace=st.sampled_from(NAMESPACES),
        facts=st.lists(
            st.tuples(st.sampled_from(COUNTRIES), st.sampled_from(CITIES)), min_size=1, max_size=3
        ),
    )
    def add(self, which: int, namespace: str, facts: list[tuple[str, str]]) -> None:
        edits = [capital(city, country) for country, city in facts]
        records = self.memories[which].add(edits, namespace=namespace)
        for record, edit, (country, city) in zip(records, edits, facts, strict=True):
            known = self.active().get((namespace, country))
            is_same = known is not None and (known.city, known.expires) == (city, math.inf)
            if known is not None and is_same:
                assert record.edit.id == known.edit_id
            else:
                assert record.edit == edit
                self.told[edit.id] = Told(edit.id, namespace, country, city, self.now, math.inf)

    @rule(
        which=st.integers(0, 1),
        namespace=st.sampled_from(NAMESPACES),
        country=st.sampled_from(COUNTRIES),
        waits=st.integers(0, 50),
        lasts=st.integers(1, 50),
    )
    def add_for_a_while(
        self, which: int, namespace: str, country: str, waits: int, lasts: int
    ) -> None:
        # A city of its own, so that it is never there already.
        edit = capital(f"City {len(self.told)}", country)
        begins = self.now + waits
        self.memories[which].add(
            edit, namespace=namespace, valid_from=begins, expires_at=begins + lasts
        )
        self.told[edit.id] = Told(
            edit.id, namespace, country, edit.target or "", begins, begins + lasts
        )

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 1), pick=st.integers(0, 1_000))
    def revert_or_restore(self, which: int, pick: int) -> None:
        told = list(self.told.values())[pick % len(self.told)]
        memory = self.memories[which]
        if told.is_reverted:
            with pytest.raises(InvalidInput, match="already"):
                memory.revert(told.edit_id)
            assert memory.restore(told.edit_id).state != "reverted"
        else:
            with pytest.raises(InvalidInput, match="not reverted"):
                memory.restore(told.edit_id)
            assert memory.revert(told.edit_id).state == "reverted"
        told.is_reverted = not told.is_reverted

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.memories[which].close()
        self.memories[which] = self.open()

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        self.memories[which].compact()

    @invariant()
    def both_hold_what_the_notes_say(self) -> None:
        active = self.active()
        for memory in self.memories:
            assert len(memory) == len(active)
            for told in self.told.values():
                record = memory.get(told.edit_id)
                answers = active.get((told.namespace, told.country)) is told
                assert (record.state == "active") == answers
                assert (record.state == "reverted") == told.is_reverted
                if not told.is_reverted:
                    assert (record.state == "proposed") == (told.begins > self.now)
                    assert (record.state == "expired") == (told.expires <= self.now)
            for namespace in NAMESPACES:
                mine = {c: t.edit_id for (space, c), t in active.items() if space == namespace}
                assert memory.count(namespace) == len(mine)
                assert {r.edit.id for r in memory.records(namespace)} == set(mine.values())
                found = memory.search("The capital", 9, namespace)
                assert {r.edit.id for r, _ in found} == set(mine.values())
                for country in COUNTRIES:
                    candidates = memory.candidates([f"Is it in {country}?"], namespace)[0]
                    assert [c.edit.id for c in candidates] == [
                        mine[c] for c in [country] if c in mine
                    ]

    def teardown(self) -> None:
        assert self.memories[0].check() == []
        for memory in self.memories:
            memory.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("index", KINDS)
def test_any_history_agrees_with_a_dictionary(index: str) -> None:
    run_state_machine_as_test(
        type("Life", (Life,), {"index": index}),
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_large_history_equals_its_rebuild(memory: EditMemory, path: Path) -> None:
    rng = random.Random(0)
    for _ in range(60):
        if rng.random() < 0.3 and len(memory):
            memory.revert(rng.choice(ids(memory)))
        else:
            some = [f"Country {rng.randrange(40)}" for _ in range(rng.randrange(1, 12))]
            memory.add(
                [capital(f"City {rng.randrange(5)}", name) for name in some],
                namespace=rng.choice(NAMESPACES),
            )
    assert_equals_a_rebuild(memory, path, HashEncoder())
    everything = np.array([cosine for _, cosine in memory.search("The capital", 100)])
    assert (np.diff(everything) <= 0).all()
