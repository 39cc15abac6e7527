"""What a run is going to do follows from its cases and its seed."""

import pytest

from memedit.edits import structured
from memedit.errors import InvalidInput
from memedit.evaluation.cases import Case, Probe
from memedit.evaluation.plan import Settings, make_plan

CASES = [
    Case(
        f"c{i}",
        (structured(f"Subject{i}", "The king of {} is", f"King{i}", id=f"e{i}"),),
        (Probe("accuracy", "prompt", f"The king of Subject{i} is", (f"King{i}",)),),
    )
    for i in range(20)
]


def test_every_case_is_asked_once_in_every_pool_and_pools_are_full() -> None:
    plan = make_plan(CASES, Settings(limit=10, pools=(1, 4, "all", 15)))
    assert len(plan.cases) == 10
    for pool, live in zip(plan.pools, (1, 4, 10, 15), strict=True):
        asked = [case.id for group in pool.groups for case in group.asked]
        assert asked == [case.id for case in plan.cases]
        assert {len(group.edits) for group in pool.groups} == {live}
        for group in pool.groups:
            assert {e.id for case in group.asked for e in case.edits} <= {e.id for e in group.edits}
            assert len({edit.id for edit in group.edits}) == live
    assert [len(pool.groups) for pool in plan.pools] == [10, 3, 1, 1]


def test_the_seed_draws_the_cases() -> None:
    one, same, other = (make_plan(CASES, Settings(limit=10, seed=s)) for s in (1, 1, 2))
    assert one == same
    assert [case.id for case in one.cases] != [case.id for case in other.cases]


@pytest.mark.parametrize(
    ("limit", "steps", "expected"),
    [(10, 5, (1, 2, 4, 6, 8, 10)), (3, 5, (1, 2, 3)), (1, 5, ()), (10, 0, ()), (10, 1, (1, 10))],
)
def test_the_sequence_is_looked_at_first_and_last(
    limit: int, steps: int, expected: tuple[int, ...]
) -> None:
    assert make_plan(CASES, Settings(limit=limit, steps=steps)).steps == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(limit=21), "21"),
        (Settings(limit=5, pools=(21,)), "20"),
        (Settings(pools=(0,)), "from 1 up"),
        (Settings(pools=("some",)), "some"),
    ],
)
def test_what_cannot_be_done_is_said(settings: Settings, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_plan(CASES, settings)


def test_no_cases_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="nothing to do"):
        make_plan([], Settings())
