"""Codebooks in a real vLLM: what fires, what does not, and what the prefix cache may keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memedit.adapters.transformers_grace import Exercise, GraceLocal
from memedit.adapters.transformers_local import TransformersLocal
from memedit.adapters.vllm_grace import EngineCodebooks
from memedit.errors import InvalidInput, Unsupported
from memedit.grace.codebook import Codebook, Lesson
from memedit.prompt import TextPrompt

LAYER = 24
RADIUS = 0.5
CHUNK = 64
BLOCK = 32
FRANCE = "The capital of France is"
ITALY = "The capital of Italy is"
OTHER = ["The sun rises in the", "Water boils at", "My favourite colour is"]

pytestmark = pytest.mark.vllm


@dataclass(frozen=True)
class Taught:
    """Two edits and their offline reference."""

    lessons: dict[str, Lesson]
    said: dict[str, str]

    def book(self, *edits: str) -> Codebook:
        made = Codebook(self.lessons["france"].keys.shape[1])
        for edit in edits:
            made.add(self.lessons[edit])
        return made


@pytest.fixture(scope="module")
def taught(model_folder: Path) -> Taught:
    with TransformersLocal(str(model_folder), dtype="float32") as engine:
        grace = GraceLocal(engine, LAYER)
        asked = {"france": (FRANCE, "Lyon"), "italy": (ITALY, "Oslo")}
        learned = grace.learn(
            [Exercise([TextPrompt(prompt)], answer) for prompt, answer in asked.values()]
        )
        assert all(one.held for one in learned)
        keys = grace.states([TextPrompt(prompt) for prompt, _ in asked.values()])
        lessons = {
            edit: Lesson(
                *(edit, asked[edit][1], keys[i : i + 1], np.float32([RADIUS])),
                *(one.value[None], np.array([one.span])),
            )
            for i, (edit, one) in enumerate(zip(asked, learned, strict=True))
        }
        made = Taught(lessons, {})
        prompts = [FRANCE, ITALY, *OTHER]
        answers = grace.answers(
            [TextPrompt(prompt) for prompt in prompts], 8, made.book(*lessons).entries()
        )
        assert [fired for _, fired in answers] == [0, 1, -1, -1, -1]
        made.said.update(
            {prompt: said.text for prompt, (said, _) in zip(prompts, answers, strict=True)}
        )
    assert "Lyon" in made.said[FRANCE]
    assert "Oslo" in made.said[ITALY]
    return made


@dataclass(frozen=True)
class Engine:
    """One engine, and what it said before anything was wrapped."""

    llm: Any
    books: EngineCodebooks
    before: dict[str, Any]

    def say(self, *prompts: str | list[int], mark: Any = None, tokens: int = 8) -> list[Any]:
        from vllm import SamplingParams

        salt = {} if mark is None else {"cache_salt": mark.cache_salt}
        params = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            logprobs=2,
            extra_args=None if mark is None else mark.extra_args,
        )
        names = ["prompt" if isinstance(one, str) else "prompt_token_ids" for one in prompts]
        asked = [{name: one, **salt} for name, one in zip(names, prompts, strict=True)]
        return [one.outputs[0] for one in self.llm.generate(asked, params, use_tqdm=False)]

    def alone(self, prompt: str | list[int], mark: Any = None, tokens: int = 8) -> tuple[Any, ...]:
        """Token ids and logprobs of a prompt that runs by itself."""
        return outcome(self.say(prompt, mark=mark, tokens=tokens)[0])


def outcome(said: Any) -> tuple[Any, ...]:
    """What must be the same bit for bit."""
    each = [{token: at.logprob for token, at in place.items()} for place in said.logprobs]
    return tuple(said.token_ids), each


@pytest.fixture(scope="module")
def engine(model_folder: Path, installed: Path) -> Iterator[Engine]:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    # Else the first request with logprobs waits a minute for a compiler.
    patch.setenv("TORCH_COMPILE_DISABLE", "1")
    # The workers have their methods from the plug-in, as where memedit is installed.
    patch.setenv("VLLM_PLUGINS", "memedit")
    patch.syspath_prepend(str(installed))
    llm = vllm.LLM(
        str(model_folder),
        dtype="float32",
        max_model_len=512,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=16,
        gpu_memory_utilization=0.2,
        enforce_eager=True,
        enable_prefix_caching=True,
        block_size=BLOCK,
    )
    bare = Engine(llm, None, {})  # type: ignore[arg-type]
    before = {prompt: bare.alone(prompt) for prompt in (FRANCE, ITALY, *OTHER)}
    books = EngineCodebooks(lambda method, args: llm.collective_rpc(method, args=args), LAYER, 8)
    yield Engine(llm, books, before)
    llm.llm_engine.engine_core.shutdown()
    patch.undo()


@pytest.fixture(autouse=True)
def clean(engine: Engine, taught: Taught) -> Iterator[None]:
    yield
    engine.books.put("default", taught.book().entries())
    engine.books.always(None)
    assert engine.llm.reset_prefix_cache()


def test_answers_are_those_of_the_offline_reference(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france", "italy").entries())
    prompts = [FRANCE, *OTHER, ITALY]
    said = engine.say(*prompts, mark=engine.books.mark("default"))
    assert [one.text for one in said] == [taught.said[prompt] for prompt in prompts]
    assert engine.books.fired() == {"france": 1, "italy": 1}


def test_where_no_key_fires_nothing_is_touched(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france").entries())
    engine.books.always("default")
    for prompt in (ITALY, *OTHER):
        assert engine.alone(prompt) == engine.before[prompt]
    assert engine.alone(FRANCE) != engine.before[FRANCE]


def test_only_marked_requests_use_it(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france").entries())
    assert engine.alone(FRANCE) == engine.before[FRANCE]
    assert engine.alone(FRANCE, engine.books.mark("elsewhere")) == engine.before[FRANCE]
    assert engine.alone(FRANCE, engine.books.mark("default")) != engine.before[FRANCE]


def test_after_removal_answers_are_the_old_ones(engine: Engine, taught: Taught) -> None:
    book = taught.book("france", "italy")
    engine.books.put("default", book.entries())
    taught_italy = engine.alone(ITALY, engine.books.mark("default"))
    assert "Lyon" in engine.say(FRANCE, mark=engine.books.mark("default"))[0].text
    book.remove("france")
    engine.books.put("default", book.entries())
    assert engine.alone(FRANCE, engine.books.mark("default")) == engine.before[FRANCE]
    assert engine.alone(ITALY, engine.books.mark("default")) == taught_italy


def test_an_edit_is_replaced(engine: Engine, taught: Taught) -> None:
    book = taught.book("france")
    engine.books.put("default", book.entries())
    old, new = taught.lessons["france"], taught.lessons["italy"]
    book.replace(Lesson("france", "Oslo", old.keys, old.radii, new.values, new.spans))
    engine.books.put("default", book.entries())
    text = engine.say(FRANCE, mark=engine.books.mark("default"))[0].text
    assert "Oslo" in text
    assert "Lyon" not in text


def test_edits_that_are_named_count_whatever_their_radius(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france", "italy").entries())
    asked = "France is a country in Europe, and its capital city is"
    far = engine.say(asked, mark=engine.books.mark("default"))[0].text
    named = engine.say(asked, mark=engine.books.mark("default", ["france"]))[0].text
    assert "Lyon" not in far
    assert "Lyon" in named
    # Nearest is its own key, and that edit is not the one named.
    assert "Oslo" in engine.say(FRANCE, mark=engine.books.mark("default", ["italy"]))[0].text
    assert engine.alone(FRANCE, engine.books.mark("default", [])) == engine.before[FRANCE]


def test_a_prompt_that_comes_in_chunks(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france").entries())
    filler = "One two three four five six seven eight nine ten. " * 12
    mark = engine.books.mark("default", ["france"])
    assert len(engine.llm.get_tokenizer()(filler).input_ids) > 2 * CHUNK
    assert "Lyon" in engine.say(filler + FRANCE, mark=mark)[0].text


def test_many_at_once_are_each_their_own(engine: Engine, taught: Taught) -> None:
    engine.books.put("default", taught.book("france", "italy").entries())
    prompts = [FRANCE, ITALY, *OTHER] * 6
    said = engine.say(*prompts, mark=engine.books.mark("default"))
    assert [one.text for one in said] == [taught.said[prompt] for prompt in prompts]


def test_the_prefix_cache_serves_no_state_of_another_codebook(
    engine: Engine, taught: Taught
) -> None:
    """An answer that an edit changed is read back as a part of the next prompt."""
    france = taught.lessons["france"]
    lasting = Lesson(*("france", "Lyon", france.keys, france.radii, france.values, np.array([0])))
    book = taught.book()
    book.add(lasting)
    engine.books.put("default", book.entries())
    mark = engine.books.mark("default")
    answer = engine.say(FRANCE, mark=mark, tokens=3 * BLOCK)[0]
    book.remove("france")
    engine.books.put("default", book.entries())
    ids = engine.llm.get_tokenizer()
    longer = [
        *ids(FRANCE).input_ids,
        *answer.token_ids,
        *ids(" And the capital of Italy is").input_ids,
    ]
    # With the salt of before, the blocks of the edited answer are found again.
    stale = engine.alone(longer, mark)
    salted = engine.alone(longer, engine.books.mark("default"))
    assert engine.llm.reset_prefix_cache()
    never_edited = engine.alone(longer)
    assert salted == never_edited
    assert stale != never_edited


def test_another_layer_is_refused(engine: Engine) -> None:
    def call(method: str, args: tuple[Any, ...]) -> list[Any]:
        found: list[Any] = engine.llm.collective_rpc(method, args=args)
        return found

    with pytest.raises(Unsupported, match="layer 24 is wrapped"):
        EngineCodebooks(call, LAYER + 1)
    assert EngineCodebooks(call, LAYER, 8).dim == engine.books.dim


def test_what_does_not_fit_is_refused(engine: Engine, taught: Taught) -> None:
    france = taught.lessons["france"]
    nine = [
        np.repeat(part, 9, axis=0)
        for part in (france.keys, france.radii, france.values, france.spans)
    ]
    nine[0] = nine[0] + 10 * np.arange(9, dtype=np.float32)[:, None]
    book = taught.book()
    book.add(Lesson("nine", "Lyon", *nine))
    with pytest.raises(InvalidInput, match="takes 8"):
        engine.books.put("default", book.entries())
    with pytest.raises(InvalidInput, match="of length 3"):
        engine.books.put("default", Codebook(3).entries())
