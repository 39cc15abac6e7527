"""The life of an edit: proposed, active, consolidated, superseded, reverted, expired."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memedit.edits import Edit, sentence, structured
from memedit.encoders import HashEncoder
from memedit.errors import EditConflict, EditNotFound, InvalidEdit, InvalidInput
from memedit.journal import SCHEMA_VERSION, Journal
from memedit.memory import EditMemory
from memedit.protocols import IN_FORCE

SCHEMA_1 = Path(__file__).parent / "files" / "schema1.memory"


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def memory(path: Path, clock: Clock) -> Iterator[EditMemory]:
    with EditMemory(path, HashEncoder(), index="exact", clock=clock) as opened:
        yield opened


def capital(target: str, country: str = "France", **rest: object) -> Edit:
    return structured(country, "The capital of {} is", target, **rest)


def live(memory: EditMemory) -> list[str]:
    """The edits in force, which are the ones that are found."""
    ids = [record.edit.id for record in memory.records(states=IN_FORCE)]
    assert sorted(r.edit.id for r, _ in memory.search("The capital of France is", 99)) == sorted(
        ids
    )
    assert len(memory) == len(ids)
    return ids


# time


def test_an_edit_of_the_future_begins_by_the_clock(memory: EditMemory, clock: Clock) -> None:
    memory.add(capital("Lyon", id="now"))
    (record,) = memory.add(capital("Nice", id="later"), valid_from=2_000)
    assert (record.state, record.valid_from, record.supersedes) == ("proposed", 2_000, ("now",))
    assert live(memory) == ["now"]
    clock.now = 1_999.9
    assert live(memory) == ["now"]
    clock.now = 2_000
    assert live(memory) == ["later"]
    assert memory.get("now").superseded_by == "later"


def test_an_edit_expires_by_the_clock_and_sets_free_what_it_replaced(
    memory: EditMemory, clock: Clock
) -> None:
    memory.add(capital("Lyon", id="always"))
    memory.add(capital("Nice", id="while"), expires_at=2_000)
    assert live(memory) == ["while"]
    clock.now = 2_000
    assert live(memory) == ["always"]
    assert memory.get("while").state == "expired"
    memory.revert("while")
    assert memory.get("while").state == "reverted"
    memory.restore("while")
    assert memory.get("while").state == "expired"


def test_of_the_edits_in_force_the_one_that_began_last_answers(
    memory: EditMemory, clock: Clock
) -> None:
    memory.add(capital("Lyon", id="a"))
    memory.add(capital("Nice", id="planned"), valid_from=2_000, expires_at=3_000)
    clock.now = 1_500
    memory.add(capital("Metz", id="b"))
    assert live(memory) == ["b"]
    clock.now = 2_500
    assert live(memory) == ["planned"]
    assert memory.get("b").superseded_by == "planned"
    clock.now = 3_500
    assert live(memory) == ["b"]
    assert memory.get("a").superseded_by == "b"


def test_a_begin_in_the_past_is_now(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"))
    memory.add(capital("Nice", id="b"), valid_from=10)
    assert live(memory) == ["b"]


def test_a_clock_that_goes_back_changes_nothing(memory: EditMemory, clock: Clock) -> None:
    memory.add(capital("Nice", id="a"), expires_at=2_000)
    clock.now = 2_500
    assert live(memory) == []
    clock.now = 500
    assert live(memory) == []
    (record,) = memory.add(capital("Lyon"))
    assert record.created_at == 1_000  # never before the event in front of it


def test_a_slow_clock_sees_what_another_process_adds(path: Path) -> None:
    with (
        EditMemory(path, HashEncoder(), index="exact", clock=Clock(5_000)) as fast,
        EditMemory(path, HashEncoder(), index="exact", clock=Clock(1_000)) as slow,
    ):
        fast.add(capital("Lyon", id="a"))
        assert live(slow) == ["a"]


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ({"expires_at": 999}, "is not after now"),
        ({"valid_from": 3_000, "expires_at": 2_000}, "is not after valid_from"),
        ({"valid_from": "soon"}, "is no time"),
        ({"expires_at": float("nan")}, "is no time"),
        ({"expires_at": float("inf")}, "is no time"),
        ({"valid_from": True}, "is no time"),
    ],
)
def test_times_that_make_no_sense_are_refused(
    memory: EditMemory, times: dict[str, float], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        memory.add(capital("Lyon"), **times)  # type: ignore[arg-type]
    assert len(memory) == 0


def test_times_are_taken_in_three_forms(memory: EditMemory) -> None:
    seconds = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    for moment in (seconds, datetime(2026, 3, 1), "2026-03-01", "2026-03-01T01:00+01:00"):  # noqa: DTZ001
        (record,) = memory.add(capital("Lyon", f"Land {moment}"), valid_from=moment)
        assert record.valid_from == seconds


def test_the_same_again_is_not_added_and_with_other_times_it_is(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"), expires_at=2_000)
    assert memory.add(capital("Lyon", id="b"), expires_at=2_000)[0].edit.id == "a"
    assert memory.add(capital("Lyon", id="c"), expires_at=3_000)[0].supersedes == ("a",)
    memory.add(capital("Nice", id="d"), valid_from=2_500)
    assert memory.add(capital("Nice"), valid_from=2_500)[0].edit.id == "d"


# looking back


def test_the_memory_as_of_a_moment(memory: EditMemory, clock: Clock) -> None:
    memory.add(capital("Lyon", id="a"))
    clock.now = 2_000
    memory.add(capital("Nice", id="b"), expires_at=5_000)
    clock.now = 3_000
    memory.revert("b")
    clock.now = 4_000
    memory.restore("b")

    def then(moment: float) -> list[str]:
        ids = [record.edit.id for record in memory.records(as_of=moment)]
        assert [
            r.edit.id for r, _ in memory.search("The capital of France is", as_of=moment)
        ] == ids
        return ids

    assert [then(t) for t in (999, 1_000, 2_500, 3_500, 4_500, 5_500)] == [
        [],
        ["a"],
        ["b"],
        ["a"],
        ["b"],
        ["a"],
    ]
    assert memory.get("b", as_of=3_500).state == "reverted"
    assert memory.get("a", as_of=2_500).superseded_by == "b"
    assert live(memory) == ["b"]
    with pytest.raises(EditNotFound, match="there was no edit 'b'"):
        memory.get("b", as_of=1_500)


# reverting and restoring


def test_a_restore_undoes_a_revert(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"))
    memory.add(capital("Nice", id="b"))
    memory.revert("b")
    assert memory.restore("b", author="ann", reason="after all").state == "active"
    assert live(memory) == ["b"]
    assert [e.kind for e in memory.history("b")] == ["add", "revert", "restore"]
    with pytest.raises(InvalidInput, match="is active, not reverted"):
        memory.restore("b")
    memory.revert("b")
    with pytest.raises(InvalidInput, match="restore it"):
        memory.revert("b")


def test_a_restored_edit_is_back_in_its_place_in_the_line(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"))
    memory.add(capital("Nice", id="b"))
    memory.revert("b")
    memory.add(capital("Metz", id="c"))
    restored = memory.restore("b")
    assert (restored.state, restored.superseded_by) == ("superseded", "c")
    assert live(memory) == ["c"]
    memory.revert("c")
    assert live(memory) == ["b"]


# consolidating


def test_a_consolidated_edit_keeps_its_fact_and_is_retrieved(memory: EditMemory) -> None:
    memory.add([capital("Lyon", id="a"), capital("Rome", "Spain", id="s")])
    records = memory.consolidate(["a", "s"], "v1", author="ann")
    assert [(r.state, r.version) for r in records] == [("consolidated", "v1")] * 2
    assert live(memory) == ["a", "s"]
    assert [c.edit.id for c in memory.candidates(["Is it Spain?"])[0]] == ["s"]
    assert len(list(memory.export_jsonl())) == 2
    assert memory.add(capital("Lyon"))[0].edit.id == "a"
    (new,) = memory.add(capital("Nice", id="b"))
    assert new.supersedes == ("a",)
    assert memory.get("a").state == "superseded"
    memory.revert("b")
    assert memory.get("a").state == "consolidated"
    memory.consolidate(["a"], "")
    assert memory.get("a").state == "active"
    assert live(memory) == ["a", "s"]
    with pytest.raises(InvalidInput, match="is reverted; only"):
        memory.consolidate(["s", "b"], "v2")
    assert memory.get("s").version == "v1"


# keys


def test_a_key_gives_the_first_result_again(path: Path, memory: EditMemory) -> None:
    (first,) = memory.add(sentence("The capital of France is Lyon."), idempotency_key="k")
    memory.revert(first.edit.id)
    (again,) = memory.add(sentence("The capital of France is Lyon."), idempotency_key="k")
    assert (again.edit.id, again.state) == (first.edit.id, "reverted")
    with EditMemory(path, HashEncoder(), index="exact") as later:
        (third,) = later.add(sentence("The capital of France is Lyon."), idempotency_key="k")
        assert third.edit.id == first.edit.id
        with pytest.raises(InvalidInput, match="'k' was used in default for other edits"):
            later.add(capital("Nice"), idempotency_key="k")
        assert later.add(capital("Nice"), namespace="b", idempotency_key="k")[0].state == "active"
    assert len(memory) == 1


def test_a_call_that_fails_leaves_its_key_free(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"))
    with pytest.raises(InvalidEdit):
        memory.add(capital("Nice", id="a"), idempotency_key="k")
    assert memory.add(capital("Nice"), idempotency_key="k")[0].state == "active"


# policies


def test_a_conflict_may_be_refused_or_kept(memory: EditMemory) -> None:
    memory.add(capital("Lyon", id="a"))
    with pytest.raises(EditConflict, match=r"otherwise than a, which says 'Lyon' \(the same words"):
        memory.add([capital("Rome", "Spain"), capital("Nice")], on_conflict="reject")
    assert live(memory) == ["a"]
    assert memory.add(capital("Lyon"), on_conflict="reject")[0].edit.id == "a"
    (beside,) = memory.add(capital("Nice", id="b"), on_conflict="keep-both")
    assert beside.warnings == ("stands beside a, which says 'Lyon'",)
    assert live(memory) == ["a", "b"]
    (both,) = memory.add(capital("Metz", id="c"))
    assert sorted(both.supersedes) == ["a", "b"]
    assert live(memory) == ["c"]
    memory.revert("c")
    assert live(memory) == ["a", "b"]
    with pytest.raises(InvalidInput, match="is none of supersede"):
        memory.add(capital("Nice"), on_conflict="ignore")  # type: ignore[arg-type]


def test_a_relation_of_many_objects_retires_nothing(memory: EditMemory) -> None:
    texts = ("Ann knows Bo.", "Ann knows Cy.", "Ann has met Bo.", "One of Ann's friends is Di.")
    for text in texts:
        assert memory.add(sentence(text))[0].supersedes == ()
    assert len(memory) == 4
    assert memory.add(sentence("Ann knows Bo."))[0].position == 1
    assert len(memory) == 4


# several writers


def test_calls_that_come_at_once_share_transactions(memory: EditMemory, path: Path) -> None:
    barrier = threading.Barrier(8)
    results: dict[int, str] = {}

    def write(number: int) -> None:
        barrier.wait()
        for i in range(5):
            edit_id = "taken" if number == 7 and i else f"{number}-{i}"
            try:
                memory.add(capital(f"City {number}-{i}", f"Land {number % 4}", id=edit_id))
                results[number, i] = "added"
            except InvalidEdit:
                results[number, i] = "refused"

    memory.add(capital("Lyon", id="taken"))
    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result == "refused" for result in results.values()) == 4
    assert len(memory) == 5
    journal = Journal(path)
    events = journal.read_since(0)
    journal.close()
    assert [event.position for event in events] == list(range(1, 38))
    with EditMemory(path, HashEncoder(), index="exact") as again:
        states = ("active", "superseded")
        assert again.records(states=states) == memory.records(states=states)


# files of an older memedit


def test_a_file_of_schema_1_is_migrated(path: Path) -> None:
    shutil.copy(SCHEMA_1, path)
    with EditMemory(path, HashEncoder(32), index="exact") as memory:
        assert [r.edit.id for r in memory.records()] == ["nice", "zurich", "emile", "oslo"]
        states = {r.edit.id: r.state for r in memory.records(states=("superseded", "reverted"))}
        assert states == {"lyon": "superseded", "metz": "reverted", "rome": "reverted"}
        assert memory.get("metz").supersedes == ("nice",)
        memory.restore("metz")
        assert memory.get("nice").superseded_by == "metz"
        assert memory.restore("rome").superseded_by == "oslo"
        memory.add(capital("Brest", id="brest"), idempotency_key="k")
        assert memory.get("metz").superseded_by == "brest"
    journal = Journal(path)
    assert journal._reader.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    journal.close()
