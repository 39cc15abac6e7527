"""What share of a vLLM worker's step does a codebook take?

    python benchmarks/grace_step.py --model DIR --split dev --limit 1000 --work FOLDER --out FILE

``--work`` is what ``benchmarks/grace.py learn`` has written. People's questions run all at once,
with the codebook of all edits in the engine: unmarked, marked, and with all requests taking part.
Measured is the processor time of the worker's main thread, which other processes on the machine do
not add to: of the runner's whole step, and of what the codebook adds to it, which is the plan of
the step and the wrapped MLP less the MLP itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grace import PACKAGES, SPACE, book_of, chats, setting
from setting import arguments, head

from memedit.adapters import _tokens
from memedit.adapters.vllm_grace import EngineCodebooks, Mark
from memedit.adapters.vllm_worker import GraceWorker, _decoder_layers

TOKENS = 48


class Timed(GraceWorker):
    """The worker's methods, and clocks around what they do."""

    def memedit_grace_time_mlp(self, layer: int) -> None:
        """Times the MLP; before it is wrapped."""
        self.spent = dict.fromkeys(("step", "plan", "mlp", "wrapped"), 0.0)
        self.steps = 0
        mlp = _decoder_layers(self.model_runner.get_model())[layer].mlp
        mlp.forward = self._timed("mlp", mlp.forward)

    def memedit_grace_time_rest(self) -> None:
        """Times the wrapped MLP, the plan and the whole step."""
        site, runner = self._memedit_site(), self.model_runner
        assert site is not None
        site.mlp.forward = self._timed("wrapped", site.mlp.forward)
        site.plan = self._timed("plan", site.plan)  # type: ignore[method-assign]
        runner.execute_model = self._timed("step", runner.execute_model)

    def memedit_grace_spent(self) -> dict[str, float]:
        """Seconds since the last call, and steps."""
        found = {**self.spent, "steps": float(self.steps)}
        self.spent, self.steps = dict.fromkeys(self.spent, 0.0), 0
        return found

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[name] += time.thread_time() - started
                self.steps += name == "plan"

        return run


def measured(given: argparse.Namespace) -> dict[str, Any]:
    import vllm

    made = setting(given.data, given.split, given.limit, given.seed)
    book, _ = book_of(given.work, given.share, [edit.id for edit in made.edits])
    entries = book.entries()
    llm = vllm.LLM(
        str(given.model),
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.2,
        max_model_len=1024,
        max_num_seqs=64,
        enable_prefix_caching=False,
        worker_extension_cls=f"{Path(__file__).stem}.{Timed.__name__}",
    )
    llm.collective_rpc("memedit_grace_time_mlp", args=(given.layer,))
    books = EngineCodebooks(
        lambda method, args: llm.collective_rpc(method, args=args), given.layer, given.capacity
    )
    books.put(SPACE, entries)
    llm.collective_rpc("memedit_grace_time_rest")
    asked = _tokens.prompt_ids(chats(made.questions[: given.requests]), llm.get_tokenizer())

    def spent(mark: Mark | None) -> dict[str, float]:
        params = vllm.SamplingParams(
            temperature=0,
            max_tokens=TOKENS,
            ignore_eos=True,
            extra_args=mark.extra_args if mark else None,
        )
        llm.generate([{"prompt_token_ids": ids} for ids in asked], params, use_tqdm=False)
        (found,) = llm.collective_rpc("memedit_grace_spent")
        return dict(found)

    spent(None)  # warms up
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        rows.setdefault("unmarked", []).append(spent(None))
        rows.setdefault("marked", []).append(spent(books.mark(SPACE)))
        books.always(SPACE)
        rows.setdefault("always looking up", []).append(spent(None))
        books.always(None)
    fired = sum(books.fired().values())
    llm.llm_engine.engine_core.shutdown()
    return {
        "entries": len(entries),
        "requests": len(asked),
        "tokens each": TOKENS,
        "fired": fired,
        **{name: told(each) for name, each in rows.items()},
    }


def told(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Milliseconds a step, and what the codebook adds to the rest of it, in percent."""
    steps = sum(one["steps"] for one in rounds)
    total = {name: sum(one[name] for one in rounds) for name in rounds[0]}

    def more(one: dict[str, float]) -> float:
        mine = one["plan"] + one["wrapped"] - one["mlp"]
        return round(100 * mine / (one["step"] - mine), 2)

    added = total["plan"] + total["wrapped"] - total["mlp"]
    return {
        "steps": int(steps),
        "ms a step": round(1e3 * total["step"] / steps, 3),
        "of it the codebook": round(1e3 * added / steps, 4),
        "% more, each round": [more(one) for one in rounds],
        "% more": more(total),
    }


def main() -> None:
    parser = arguments(__doc__, split="dev", limit=1000)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6, help="of the distances: the radii")
    parser.add_argument("--capacity", type=int, default=4096, help="entries of vLLM's buffers")
    parser.add_argument("--requests", type=int, default=16, help="at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "What share of a vLLM worker's step does a codebook take?",
        f"benchmarks/grace_step.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --requests {given.requests} --rounds {given.rounds}",
        *PACKAGES,
    )
    rows = measured(given)
    results = {**started, "model": given.model.name, "layer": given.layer, **rows}
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
