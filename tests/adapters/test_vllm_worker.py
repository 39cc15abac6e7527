"""The workers' lookup against the codebook's own, and as an operator under torch's compiler."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from memedit.adapters import vllm_worker
from memedit.adapters.vllm_grace import EngineCodebooks
from memedit.adapters.vllm_worker import Site, Table, _Held, _operator, _Row
from memedit.errors import Unsupported
from memedit.grace.codebook import Codebook, Lesson
from memedit.grace.metric import Metric, fitted

DIM = 16


def lesson(rng: np.random.Generator, edit: str, keys: int) -> Lesson:
    return Lesson(
        *(edit, f"label {rng.integers(3)}"),
        keys=rng.standard_normal((keys, DIM), dtype=np.float32),
        radii=rng.uniform(1, 4, keys).astype(np.float32),
        values=rng.standard_normal((keys, DIM), dtype=np.float32),
        spans=rng.integers(0, 4, keys),
    )


class Workers:
    """The workers' side of a call, without a model: one table."""

    def __init__(self) -> None:
        self.table: Any = None
        self.calls: list[str] = []

    def __call__(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        from safetensors.torch import load

        self.calls.append(method)
        if method == "memedit_grace_install":
            return [(0, ""), (DIM, "")]
        if method == "memedit_grace_space":
            self.table = Table(args[1], DIM, torch.zeros(1), load(args[2]))
            return [self.table.bytes]
        _, dropped, rows, edits, blob = args
        self.table.drop(dropped)
        if rows:
            self.table.write(rows, load(blob), edits)
        return [None]


def metric(rng: np.random.Generator) -> Metric:
    return fitted([rng.standard_normal((3, DIM), dtype=np.float32) for _ in range(20)])


@pytest.mark.parametrize("seed", range(6))
def test_the_workers_fire_what_the_codebook_fires_after_any_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    workers, book = Workers(), Codebook(DIM, metric=metric(rng) if seed % 2 else None)
    reach = 0.3 if seed % 2 else 1.0  # by a metric nothing is farther than 2
    books = EngineCodebooks(workers, 0, capacity=40)
    salts = [books.mark("default").cache_salt]
    for step in range(25):
        held, calls = book.edit_ids, len(workers.calls)
        if held and rng.random() < 0.4:
            book.remove(str(rng.choice(held)))
        elif len(book) < 36:
            one = lesson(rng, f"edit {step}", int(rng.integers(1, 5)))
            book.add(replace(one, radii=reach * one.radii))
        entries = book.entries()
        books.put("default", entries)
        # Another salt after every change, and one that was never used before.
        salt = books.mark("default").cache_salt
        assert (salt == salts[-1]) if len(workers.calls) == calls else (salt not in salts)
        salts.append(salt)
        near = [one.keys + np.float32(0.01) for one in book.lessons()][:3]
        queries = np.concatenate([*near, rng.standard_normal((9, DIM), dtype=np.float32)])
        for named in (None, [list(rng.choice([*held, "none"], 2)) for _ in queries]):
            about = [None if named is None else frozenset(one) for one in named or queries]
            found = workers.table.lookup(torch.from_numpy(queries), about)
            expected = entries.lookup(queries, named)
            for row, place in zip(found, expected, strict=True):
                assert (row < 0) == (place < 0)
                if row >= 0:
                    assert workers.table.edits[row] == entries.edit_ids[place]
                    assert np.array_equal(workers.table.values[row].numpy(), entries.values[place])
                    assert workers.table.spans[row] == entries.spans[place]


def test_a_codebook_of_another_metric_takes_the_place_of_the_first() -> None:
    rng = np.random.default_rng(0)
    workers, one = Workers(), lesson(rng, "a", 2)
    books = EngineCodebooks(workers, 0, capacity=8)
    found = []
    for measure in (None, metric(rng)):
        book = Codebook(DIM, metric=measure)
        book.add(replace(one, radii=np.full(2, 1e-3, dtype=np.float32)))
        books.put("default", book.entries())
        found.append(workers.table.lookup(torch.from_numpy(one.keys), [None, None]))
        assert books.bytes == workers.table.bytes
    assert found[0] == found[1] != [-1, -1]
    assert not np.allclose(workers.table.keys[:2].numpy(), one.keys)


def test_an_engine_that_cannot_is_refused() -> None:
    with pytest.raises(Unsupported, match="use enforce_eager"):
        EngineCodebooks(lambda method, args: [(0, "it is compiled; use enforce_eager")], 0)


def test_nothing_is_sent_where_nothing_changed() -> None:
    workers, book = Workers(), Codebook(DIM)
    books = EngineCodebooks(workers, 0, capacity=8)
    book.add(lesson(np.random.default_rng(0), "a", 2))
    books.put("default", book.entries())
    workers.calls.clear()
    books.put("default", book.entries())
    assert workers.calls == []


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(SimpleNamespace(requests={}), None, 0)
    table = made.tables["default"] = Table(4, DIM, torch.zeros(1))
    table.write(
        [0],
        {
            "keys": torch.ones(1, DIM),
            "values": torch.full((1, DIM), 7.0),
            "radii": torch.tensor([0.5]),
            "spans": torch.tensor([2]),
            "born": torch.tensor([0]),
        },
        ["edit"],
    )
    monkeypatch.setattr(vllm_worker, "_SITES", [made])
    return made


def step(site: Site, x: torch.Tensor, *rows: _Row) -> list[bool]:
    """Which tokens of a step are replaced."""
    out = torch.zeros_like(x)
    site._plan = list(rows)
    site.replace(x, out)
    assert set(out.unique().tolist()) <= {0.0, 7.0}
    return (out[:, 0] == 7).tolist()


def test_values_are_in_force_from_the_last_prompt_token_for_their_span(site: Site) -> None:
    ones, row = torch.ones(3, DIM), ("r", 0, 3, -2, "default", None)
    assert step(site, ones, _Row(*row)) == [False, False, True]
    # Its next tokens do not look up again: neither do they have to fall into the ball.
    assert step(site, 5 * ones[:1], _Row("r", 0, 1, 1, "default", None)) == [True]
    assert step(site, ones[:1], _Row("r", 0, 1, 2, "default", None)) == [False]


def test_a_chunk_in_front_of_the_last_prompt_token_is_left_alone(site: Site) -> None:
    assert step(site, torch.ones(3, DIM), _Row("r", 0, 3, -3, "default", None)) == [False] * 3


def test_a_request_that_is_computed_again_is_replaced_in_the_same_places(site: Site) -> None:
    row = _Row("r", 1, 6, -1, "default", None)
    assert step(site, torch.ones(6, DIM), row) == [False, False, True, True, False, False]


def test_requests_keep_apart(site: Site) -> None:
    x = torch.ones(4, DIM)
    x[3] = 9
    rows = [_Row("a", 0, 2, -1, "default", None), _Row("b", 2, 4, -1, "default", None)]
    assert step(site, x, *rows) == [False, True, False, False]


def test_a_request_keeps_what_it_began_with(site: Site) -> None:
    step(site, torch.ones(1, DIM), _Row("r", 0, 1, 0, "default", None))
    table = site.tables["default"]
    table.drop([0])
    table.write(
        [0],
        {
            "keys": torch.ones(1, DIM),
            "values": torch.full((1, DIM), 8.0),
            "radii": torch.tensor([0.5]),
            "spans": torch.tensor([2]),
            "born": torch.tensor([1]),
        },
        ["another"],
    )
    assert step(site, torch.ones(1, DIM), _Row("r", 0, 1, 1, "default", None)) == [True]
    assert isinstance(site._held["r"], _Held)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("all", None)),
        ({}, ("all", None)),
        ({"memedit_grace": "hr"}, ("hr", None)),
        ({"memedit_grace": "hr", "memedit_grace_edits": ["a", 7]}, ("hr", {"a", "7"})),
        ({"memedit_grace": "hr", "memedit_grace_edits": []}, ("hr", set())),
        ({"memedit_grace": ["hr"]}, (None, None)),
        ({"memedit_grace": "hr", "memedit_grace_edits": 7}, (None, None)),
        ({"memedit_grace": "hr", "memedit_grace_edits": "a"}, (None, None)),
    ],
)
def test_marks_of_requests(site: Site, given: Any, expected: tuple[Any, Any]) -> None:
    site.always = "all"
    assert site._marks(SimpleNamespace(extra_args=given)) == expected


def test_as_a_plug_in_it_gives_workers_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    base = pytest.importorskip("vllm.v1.worker.worker_base", reason="vLLM is not installed")
    monkeypatch.setattr(base.WorkerBase, "__getattr__", None, raising=False)
    vllm_worker.register()
    vllm_worker.register()

    class Worker(base.WorkerBase):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model_runner = SimpleNamespace()

    assert Worker().memedit_grace_fired() == {}
    with pytest.raises(AttributeError, match="'Worker' has no attribute 'memedit'"):
        Worker().memedit  # noqa: B018
    # What vLLM asks before it adds an extension to a worker's class.
    names = [name for name in dir(vllm_worker.GraceWorker) if not name.startswith("__")]
    assert names
    assert not any(hasattr(Worker, name) for name in names)


def test_the_operator_survives_the_compiler(site: Site) -> None:
    torch.manual_seed(0)
    first, last, operator = torch.nn.Linear(DIM, DIM), torch.nn.Linear(DIM, 3), _operator()

    def run(x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(first(x))
        operator(x, out, 0)
        return last(out * 2)

    compiled = torch.compile(run, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for tokens in (1, 3, 8):
            x = torch.ones(tokens, DIM)
            site._plan = []
            bare = run(x)
            assert torch.allclose(compiled(x), bare, atol=1e-6)
            site._plan = [_Row("r", 0, tokens, 1 - tokens, "default", None)]
            changed = run(x)
            assert torch.allclose(compiled(x), changed, atol=1e-6)
            assert not torch.allclose(changed[-1], bare[-1])
            assert torch.equal(changed[:-1], bare[:-1])
