"""``wrap(vllm.LLM(...), memory)``: the engine's own signatures and results, with edits live."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import memedit
from memedit.edits import structured
from memedit.errors import Unsupported
from memedit.memory import EditMemory
from memedit.models import packaged

pytestmark = pytest.mark.vllm

LIMIT = 256
QUESTION = "What is the capital of France?"
OTHER = "Write one sentence about rain."


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = vllm.LLM(
        str(packaged("smollm2-135m-instruct")),
        max_model_len=LIMIT,
        gpu_memory_utilization=0.2,
        enforce_eager=True,
    )
    yield engine
    engine.llm_engine.engine_core.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditMemory]:
    with EditMemory.open(tmp_path_factory.mktemp("wrap") / "memory.sqlite3") as opened:
        opened.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
        yield opened


@pytest.fixture(scope="module")
def wrapped(llm: Any, memory: EditMemory) -> Any:
    return memedit.wrap(llm, memory)


@pytest.fixture(scope="module")
def greedy(llm: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=12)


def same(one: Any, other: Any) -> bool:
    """Whether two results agree in everything that is not an id or a time."""
    return (
        type(one) is type(other)
        and one.prompt == other.prompt
        and list(one.prompt_token_ids) == list(other.prompt_token_ids)
        and [o.text for o in one.outputs] == [o.text for o in other.outputs]
        and [list(o.token_ids) for o in one.outputs] == [list(o.token_ids) for o in other.outputs]
    )


def test_signatures_are_the_engines_own(llm: Any, wrapped: Any) -> None:
    assert inspect.signature(wrapped.generate) == inspect.signature(llm.generate)
    assert inspect.signature(wrapped.chat) == inspect.signature(llm.chat)
    assert wrapped.llm_engine is llm.llm_engine
    with pytest.raises(TypeError):
        wrapped.generate("x", nonsense=1)


def test_prompts_that_no_edit_is_about_give_the_engines_own_results(
    llm: Any, wrapped: Any, greedy: Any
) -> None:
    ids = llm.get_tokenizer().encode(OTHER)
    for prompts in (OTHER, [OTHER], {"prompt": OTHER}, {"prompt_token_ids": ids}, [ids, ids]):
        bare = llm.generate(prompts, greedy, use_tqdm=False)
        mine = wrapped.generate(prompts, greedy, use_tqdm=False)
        assert len(bare) == len(mine)
        assert all(map(same, bare, mine))
        assert {output.memedit.route for output in mine} == {"passthrough"}
    chat = [{"role": "user", "content": OTHER}]
    for chats in (chat, [chat, chat]):
        bare = llm.chat(chats, greedy, use_tqdm=False)
        mine = wrapped.chat(chats, greedy, use_tqdm=False)
        assert all(map(same, bare, mine))
        assert {output.memedit.route for output in mine} == {"passthrough"}


def test_an_edited_chat_answers_with_the_edit_and_carries_the_callers_prompt(
    llm: Any, wrapped: Any, greedy: Any
) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    (bare,) = llm.chat(chat, greedy, use_tqdm=False)
    (mine,) = wrapped.chat(chat, greedy, use_tqdm=False)
    assert (mine.memedit.route, [e.id for e in mine.memedit.edits]) == ("ike", ["capital"])
    assert "Lyon" in mine.outputs[0].text
    assert "Lyon" not in bare.outputs[0].text
    assert type(mine) is type(bare)
    assert mine.prompt == bare.prompt
    assert list(mine.prompt_token_ids) == list(bare.prompt_token_ids)
    assert chat[1]["content"] == QUESTION


def test_a_batch_edits_only_what_it_should(llm: Any, wrapped: Any, greedy: Any) -> None:
    text = "The capital of France is"
    ids = llm.get_tokenizer().encode(text)
    prompts = [OTHER, text, {"prompt": text}, {"prompt_token_ids": ids}, ids]
    bare = llm.generate(prompts, greedy, use_tqdm=False)
    mine = wrapped.generate(prompts, greedy, use_tqdm=False)
    assert [output.memedit.route for output in mine] == ["passthrough", *["ike"] * 4]
    for one, other in zip(mine, bare, strict=True):
        assert one.prompt == other.prompt
        assert list(one.prompt_token_ids) == list(other.prompt_token_ids)
    assert same(mine[0], bare[0])
    for output in mine[1:]:
        assert "Lyon" in output.outputs[0].text
    assert prompts == [OTHER, text, {"prompt": text}, {"prompt_token_ids": ids}, ids]


def test_a_chat_rendered_by_the_caller_is_edited_in_its_last_user_turn(
    llm: Any, wrapped: Any, greedy: Any
) -> None:
    tokenizer = llm.get_tokenizer()
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    for output in wrapped.generate([text, ids], greedy, use_tqdm=False):
        assert output.memedit.route == "ike"
        assert "Lyon" in output.outputs[0].text
        assert list(output.prompt_token_ids) == ids


def test_prompt_logprobs_keep_evidence_out(llm: Any, wrapped: Any) -> None:
    from vllm import SamplingParams

    shows = SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=0)
    (bare,) = llm.generate("The capital of France is", shows, use_tqdm=False)
    (mine,) = wrapped.generate("The capital of France is", shows, use_tqdm=False)
    assert mine.memedit.route == "passthrough"
    assert "prompt_logprobs" in mine.memedit.reasons[-1]
    assert len(mine.prompt_logprobs) == len(bare.prompt_logprobs)


def test_a_prompt_that_fits_without_evidence_never_fails_because_of_it(
    llm: Any, wrapped: Any, greedy: Any
) -> None:
    filling = "word " * 400
    tokenizer = llm.get_tokenizer()
    room = LIMIT - greedy.max_tokens
    ids = tokenizer.encode(f"{filling}\n\nThe capital of France is")[-room:]
    (bare,) = llm.generate([ids], greedy, use_tqdm=False)
    (mine,) = wrapped.generate([ids], greedy, use_tqdm=False)
    assert mine.memedit.route == "passthrough"
    assert "no room" in mine.memedit.reasons[-1]
    assert same(bare, mine)
    (shorter,) = wrapped.generate([ids[60:]], greedy, use_tqdm=False)
    assert shorter.memedit.route == "ike"


def test_a_reverted_edit_is_out_at_the_next_call(
    llm: Any, wrapped: Any, memory: EditMemory, greedy: Any
) -> None:
    prompt = "The author of Hamlet is"
    (before,) = llm.generate(prompt, greedy, use_tqdm=False)
    memory.add(structured("Hamlet", "The author of {} is", "Ann Li", id="author"))
    (edited,) = wrapped.generate(prompt, greedy, use_tqdm=False)
    memory.revert("author")
    (after,) = wrapped.generate(prompt, greedy, use_tqdm=False)
    assert edited.memedit.route == "ike"
    assert "Ann Li" in edited.outputs[0].text
    assert same(before, after)


def test_what_cannot_be_wrapped_says_what_can(memory: EditMemory) -> None:
    with pytest.raises(Unsupported, match="serve --upstream"):
        memedit.wrap(object(), memory)
