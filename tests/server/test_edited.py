"""A request that an edit is about: rewritten, answered with the fact, and said so; nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from memedit.edits import Edit, structured
from memedit.server.body import JsonBody
from tests.server.served import JSON, MAX_LEN, MODEL, Add, Served, new_tap_id
from tests.server.tap import Exchange, waited_for
from tests.server.wire import RawClient, request

pytestmark = pytest.mark.vllm

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EVIDENCE = re.compile(rb'"memedit_evidence_tokens": \d+, ')
ASK = "What is the capital of France?"
OTHER = "Write one sentence about rain."
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 16}


def capital() -> Edit:
    return structured("France", "The capital of {} is", "Lyon")


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def tapped() -> tuple[str, dict[str, str]]:
    """A fresh tap id, and the headers that carry it."""
    tap_id = new_tap_id()
    return tap_id, {"x-tap-id": tap_id}


def assert_edited(client: Exchange, engine: Exchange, member: str, *edits: Edit) -> None:
    """The engine got the body with one member rewritten, and the client was told."""
    assert client.header("x-memedit-route") == "ike", client.response_headers
    assert set((client.header("x-memedit-edits") or "").split(",")) == {e.id for e in edits}
    assert 0.0 < float(client.header("x-memedit-scope") or 0) <= 1.0
    rewritten = engine.json[member]
    text = json.dumps(rewritten, ensure_ascii=False)
    for edit in edits:
        assert edit.statement in text
    sent = JsonBody(client.body).without("memedit")
    assert engine.body == sent.replaced({member: rewritten})
    assert rewritten != sent.data[member]
    dropped = {b"content-length", b"content-encoding", b"transfer-encoding", b"host"}
    if client.headers[0] != engine.headers[0]:  # not the same connection: a proxy is in between
        dropped |= {b"connection"}
    kept = [[p for p in side.headers if p[0] not in dropped] for side in (client, engine)]
    assert kept[0] == kept[1]
    assert EVIDENCE.sub(b"", client.response_body) == engine.response_body
    assert client.status == engine.status


def assert_passed(client: Exchange, engine: Exchange, reason: str | None = None) -> None:
    assert client.header("x-memedit-route") == "passthrough"
    assert client.header("x-memedit-edits") is None
    assert reason in (None, client.header("x-memedit-reason"))
    assert engine.body == client.body


def test_chat_live_at_once_and_gone_after_revert(
    served: Served, client: openai.OpenAI, add_edit: Add
) -> None:
    def ask() -> tuple[str, Exchange, Exchange]:
        tap_id, headers = tapped()
        got = client.chat.completions.with_raw_response.create(
            messages=user(ASK), extra_headers=headers, **GREEDY
        )
        asked, engine = served.seen(tap_id)
        assert got.headers["x-memedit-route"] == asked.header("x-memedit-route")
        return got.parse().choices[0].message.content or "", asked, engine[-1]

    before, asked, engine = ask()
    assert_passed(asked, engine)
    assert "Paris" in before
    record = add_edit(capital())
    answer, asked, engine = ask()
    assert_edited(asked, engine, "messages", record.edit)
    assert "Lyon" in answer
    served.memory.revert(record.edit.id)
    after, asked, engine = ask()
    assert_passed(asked, engine)
    assert after == before


def test_streamed_chat(served: Served, client: openai.OpenAI, add_edit: Add) -> None:
    record = add_edit(capital())
    tap_id, headers = tapped()
    with client.chat.completions.with_streaming_response.create(
        messages=user(ASK), stream=True, extra_headers=headers, **GREEDY
    ) as got:
        assert got.headers["x-memedit-route"] == "ike"
        assert got.headers["x-memedit-edits"] == record.edit.id
        pieces = [piece.choices[0].delta.content or "" for piece in got.parse() if piece.choices]
    assert "Lyon" in "".join(pieces)
    asked, engine = served.seen(tap_id)
    assert_edited(asked, engine[-1], "messages", record.edit)
    assert [c for c in asked.chunks if c] == [c for c in engine[-1].chunks if c]


def test_completions(served: Served, client: openai.OpenAI, add_edit: Add) -> None:
    record = add_edit(capital())
    for stream in (False, True):
        tap_id, headers = tapped()
        got = client.completions.create(
            prompt="The capital of France is", stream=stream, extra_headers=headers, **GREEDY
        )
        text = (
            "".join(piece.choices[0].text for piece in got)
            if isinstance(got, openai.Stream)
            else got.choices[0].text
        )
        asked, engine = served.seen(tap_id)
        assert_edited(asked, engine[-1], "prompt", record.edit)
        assert engine[-1].json["prompt"].endswith("The capital of France is")
        assert "Lyon" in text


def evidence(exchange: Exchange) -> int:
    """The evidence tokens of a response, which are fewer than its prompt tokens."""
    usage = json.loads(exchange.response_body)["usage"]
    tokens = usage["memedit_evidence_tokens"]
    assert 0 < tokens < usage.get("prompt_tokens", usage.get("input_tokens"))
    return int(tokens)


def test_usage_tells_evidence_apart(served: Served, add_edit: Add) -> None:
    bare = {
        target: json.loads(served.send(target, body)[0].response_body)["usage"]
        for target, body in (
            (CHAT, {**GREEDY, "messages": user(ASK)}),
            (TEXT, {**GREEDY, "prompt": "The capital of France is"}),
            ("/v1/messages", {**GREEDY, "messages": user(ASK)}),
        )
    }
    add_edit(capital())
    for target, body in (
        (CHAT, {**GREEDY, "messages": user(ASK)}),
        (TEXT, {**GREEDY, "prompt": "The capital of France is"}),
        ("/v1/messages", {**GREEDY, "messages": user(ASK)}),
    ):
        asked, _ = served.send(target, body)
        assert asked.header("x-memedit-route") == "ike"
        usage = json.loads(asked.response_body)["usage"]
        for name in ("prompt_tokens", "input_tokens"):
            if name in usage:
                assert usage[name] - evidence(asked) == bare[target][name]
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    asked, engine = served.send(CHAT, {**GREEDY, "messages": user(ASK), **streamed})
    assert len(EVIDENCE.findall(asked.response_body)) == 1
    assert EVIDENCE.sub(b"", asked.response_body) == engine[-1].response_body


def test_anthropic_messages(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    asked, engine = served.send("/v1/messages", {**GREEDY, "messages": user(ASK)})
    assert_edited(asked, engine[-1], "messages", record.edit)
    assert "Lyon" in json.loads(asked.response_body)["content"][0]["text"]
    asked, engine = served.send("/v1/messages", {**GREEDY, "messages": user(ASK), "stream": True})
    assert_edited(asked, engine[-1], "messages", record.edit)
    assert b"message_stop" in asked.response_body


@pytest.mark.parametrize("asking", [ASK, user(ASK), "The capital of France is"])
def test_responses(served: Served, add_edit: Add, asking: Any) -> None:
    record = add_edit(capital())
    body = {"model": MODEL, "temperature": 0, "max_output_tokens": 16, "input": asking}
    asked, engine = served.send("/v1/responses", body)
    assert_edited(asked, engine[-1], "input", record.edit)
    assert asked.status == 200
    assert "Lyon" in json.loads(asked.response_body)["output"][0]["content"][0]["text"]
    assert evidence(asked)
    asked, engine = served.send("/v1/responses", {**body, "stream": True})
    assert_edited(asked, engine[-1], "input", record.edit)
    assert b"response.completed" in asked.response_body


def test_token_ids(served: Served, add_edit: Add) -> None:
    texts = ["The capital of France is", "Rain is"]
    ids = [
        json.loads(served.send("/tokenize", {"model": MODEL, "prompt": text})[0].response_body)
        for text in texts
    ]
    prompts = [told["tokens"] for told in ids]
    record = add_edit(capital())
    asked, engine = served.send(TEXT, {**GREEDY, "prompt": prompts})
    assert asked.header("x-memedit-edits") == record.edit.id
    about, other = engine[-1].json["prompt"]
    assert other == prompts[1]
    assert about[-4:] == prompts[0][-4:]  # a space stands before the first of five
    choices = json.loads(asked.response_body)["choices"]
    assert "Lyon" in choices[0]["text"]
    assert evidence(asked) == len(about) - len(prompts[0])


def test_an_explanation(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    body = {**GREEDY, "messages": user(ASK), "memedit": {"explain": True}}
    asked, engine = served.send(CHAT, body)
    assert "memedit" not in engine[-1].json
    told = json.loads(asked.response_body)["memedit"]
    assert told["edits"] == [record.edit.id]
    assert told["decisions"][0]["considered"][0]["statement"] == record.edit.statement


def test_async_client_and_concurrent_requests(served: Served, add_edit: Add) -> None:
    edits = {
        place: add_edit(structured(place, "The capital of {} is", target)).edit
        for place, target in (("France", "Lyon"), ("Japan", "Osaka"), ("Italy", "Milan"))
    }
    asks = [(f"What is the capital of {place}?", [edits[place].id]) for place in edits]
    asks += [(OTHER, []), ("What is the capital of Peru?", []), ("Count to three.", [])]

    async def run() -> None:
        url = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def ask(number: int) -> None:
                text, wanted = asks[number % len(asks)]
                tap_id, headers = tapped()
                got = await client.chat.completions.with_raw_response.create(
                    messages=user(text), extra_headers=headers, **{**GREEDY, "max_tokens": 4}
                )
                seen = got.headers.get("x-memedit-edits", "")
                assert [name for name in seen.split(",") if name] == wanted
                _, engine = await asyncio.to_thread(served.seen, tap_id)
                statements = [e.statement for e in edits.values() if e.statement in str(engine)]
                assert statements == [e.statement for e in edits.values() if e.id in wanted]

            await asyncio.gather(*(ask(number) for number in range(18)))

    asyncio.run(run())


def test_what_no_edit_is_about_stays_equal(served: Served, add_edit: Add) -> None:
    asks = [
        OTHER,
        "What is the capital of Germany?",
        "What is the population of France?",
        "Tell me a joke.",
    ]
    before = [served.chat(ask)[2]["choices"] for ask in asks]
    add_edit(capital())
    for ask, choices in zip(asks, before, strict=True):
        asked, engine, answer = served.chat(ask)
        assert_passed(asked, engine)
        assert answer["choices"] == choices


def test_the_rest_of_a_conversation_survives(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    call = {"name": "look", "arguments": "{}"}
    before = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": "Hello, grüß Gott!"},
        {
            "role": "assistant",
            "content": "Hm.",
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
        {"role": "assistant", "content": "Ask me."},
    ]
    after = [{"role": "assistant", "content": "I think"}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asked, engine = served.send(
        CHAT,
        {
            **GREEDY,
            "messages": [*before, {"role": "user", "content": ASK, "name": "Ann"}, *after],
            "tools": [tool],
            "tool_choice": "none",
            "metadata": {"a": "1"},
            "logprobs": True,
        },
    )
    assert_edited(asked, engine[-1], "messages", record.edit)
    messages = engine[-1].json["messages"]
    assert messages[: len(before)] == before
    assert messages[-1:] == after
    assert messages[-2]["name"] == "Ann"
    assert messages[-2]["content"].endswith(ASK)
    assert asked.status == 200


def test_content_parts_survive(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "I have one question.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": ASK, "x": 1},
    ]
    body = {**GREEDY, "messages": [{"role": "user", "content": parts}]}
    asked, engine = served.send(CHAT, body)
    assert_edited(asked, engine[-1], "messages", record.edit)
    got = engine[-1].json["messages"][-1]["content"]
    assert got[0] == parts[0]
    assert len(got) == 2
    assert got[1]["text"].endswith(ASK)
    assert {**got[1], "text": ""} == {**parts[1], "text": ""}


def test_several_answers_with_logprobs(served: Served, add_edit: Add) -> None:
    add_edit(capital())
    asked, _, answer = served.chat(ASK, n=2, logprobs=True, top_logprobs=2, temperature=0.2)
    assert asked.header("x-memedit-route") == "ike"
    assert len(answer["choices"]) == 2
    assert "France" not in json.dumps(answer["choices"][0]["logprobs"]["content"][:1])


def test_a_list_of_prompts(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    prompts = ["Rain is", "The capital of France is", "Snow ü is"]
    asked, engine = served.send(TEXT, {**GREEDY, "prompt": prompts, "n": 1})
    assert_edited(asked, engine[-1], "prompt", record.edit)
    got = engine[-1].json["prompt"]
    assert got[0] == prompts[0]
    assert got[2] == prompts[2]
    assert got[1].endswith(prompts[1])
    assert len(json.loads(asked.response_body)["choices"]) == 3


@pytest.mark.parametrize(
    ("target", "option"),
    [
        (TEXT, {"echo": True}),
        (TEXT, {"prompt_logprobs": 1}),
        (TEXT, {"return_token_ids": True}),
        (CHAT, {"echo": True}),
        (CHAT, {"prompt_logprobs": 0}),
        (CHAT, {"return_token_ids": True}),
        (CHAT, {"return_prompt_text": True}),
    ],
)
def test_evidence_stays_out_of_answers_that_show_the_prompt(
    served: Served, add_edit: Add, target: str, option: dict[str, Any]
) -> None:
    add_edit(capital())
    asking = {"prompt": "The capital of France is"} if target == TEXT else {"messages": user(ASK)}
    asked, engine = served.send(target, {**GREEDY, **asking, **option})
    (name,) = option
    assert_passed(asked, engine[-1], f"{name} is set, and the answer would show the evidence")
    assert asked.status == 200
    assert "Lyon" not in asked.response_body.decode()


def test_an_answer_that_is_continued_keeps_its_prompt(served: Served, add_edit: Add) -> None:
    add_edit(capital())
    messages = [*user(ASK), {"role": "assistant", "content": "The capital of France is"}]
    options = {"continue_final_message": True, "add_generation_prompt": False}
    asked, engine = served.send(CHAT, {**GREEDY, "messages": messages, **options})
    assert asked.status == 200
    if asked.header("x-memedit-route") == "passthrough":
        assert_passed(asked, engine[-1])
        assert "continue_final_message" in (asked.header("x-memedit-reason") or "")


@pytest.mark.parametrize("target", [CHAT, TEXT])
@pytest.mark.parametrize("ask", [ASK, "The capital of France is"])
def test_evidence_never_makes_a_prompt_too_long(
    served: Served, add_edit: Add, target: str, ask: str
) -> None:
    def body(filling: int, limit: int = 4) -> dict[str, Any]:
        filler = " rain" * filling
        if target == TEXT:
            return {**GREEDY, "max_tokens": limit, "prompt": f"{filler}.\n\n{ask}"}
        first = [*user(f"Say{filler}"), {"role": "assistant", "content": "rain"}]
        return {**GREEDY, "max_tokens": limit, "messages": [*first, *user(ask)]}

    def tokens(exchange: Exchange) -> int:
        count: int = json.loads(exchange.response_body)["usage"]["prompt_tokens"]
        return count

    bare, _ = served.send(target, body(100))
    most = MAX_LEN - (tokens(bare) - 100) - 3
    while served.send(target, body(most + 1))[0].status == 200:
        most += 1
    assert served.send(target, body(most))[0].status == 200
    unedited = json.loads(served.send(target, body(most))[0].response_body)["choices"]

    record = add_edit(capital())
    member = "messages" if target == CHAT else "prompt"
    routes = []
    for room in (0, 2, 8, 16, 24, 32, 48, 64, 200):
        asked, engine = served.send(target, body(most - room))
        assert asked.status == 200
        assert [attempt.status for attempt in engine] == [400] * (len(engine) - 1) + [200]
        lengths = [len(attempt.body) for attempt in engine]
        assert lengths == sorted(lengths, reverse=True)
        route = asked.header("x-memedit-route") or ""
        if route == "passthrough":
            assert_passed(asked, engine[-1], "the request leaves no room for the evidence")
            assert len(engine) > 1
        else:
            assert_edited(asked, engine[-1], member, record.edit)
        if room == 0:
            assert route == "passthrough"
            assert json.loads(asked.response_body)["choices"] == unedited
        routes.append((route, len(engine)))
    # No room, then room for the bare statement, then (where there is a richer form) for all.
    assert routes[-1] == ("ike", 1)
    assert [route for route, _ in routes] == sorted((r for r, _ in routes), reverse=True)
    # What is too long by itself is the server's to refuse, in its own words.
    asked, engine = served.send(target, body(most + 1))
    assert asked.status == 400
    assert_passed(asked, engine[-1])


def test_what_the_server_refuses_is_refused_in_its_words(served: Served, add_edit: Add) -> None:
    body = {**GREEDY, "messages": user(ASK), "temperature": -3}
    without = served.send(CHAT, body)[0]
    add_edit(capital())
    asked, engine = served.send(CHAT, body)
    assert asked.status == without.status == 400
    assert asked.response_body == without.response_body
    assert_passed(asked, engine[-1])


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_bypass(served: Served, add_edit: Add, value: str) -> None:
    before = served.chat(ASK)[2]["choices"]
    add_edit(capital())
    asked, engine, answer = served.chat(ASK, {"x-memedit-bypass": value})
    assert_passed(asked, engine, "bypassed")
    assert answer["choices"] == before


@pytest.mark.parametrize("value", ["0", "false", ""])
def test_bypass_that_is_none(served: Served, add_edit: Add, value: str) -> None:
    record = add_edit(capital())
    asked, engine, _ = served.chat(ASK, {"x-memedit-bypass": value})
    assert_edited(asked, engine, "messages", record.edit)


def test_namespaces(served: Served, client: openai.OpenAI, add_edit: Add) -> None:
    record = add_edit(capital(), namespace="team-1.x_y")
    asked, engine, _ = served.chat(ASK)
    assert_passed(asked, engine)
    asked, engine, answer = served.chat(ASK, {"x-memedit-namespace": "team-1.x_y"})
    assert_edited(asked, engine, "messages", record.edit)
    assert "Lyon" in answer["choices"][0]["message"]["content"]
    asked, engine, _ = served.chat(ASK, {"x-memedit-namespace": "nobody"})
    assert_passed(asked, engine)


@pytest.mark.parametrize("name", ["two words", "", "a/b", "x" * 65])
def test_a_bad_namespace_is_the_clients_error(
    served: Served, client: openai.OpenAI, name: str
) -> None:
    tap_id, headers = tapped()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            messages=user(ASK),
            extra_headers={**headers, "x-memedit-namespace": name},
            **GREEDY,
        )
    assert "namespace" in caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert served.seen(tap_id)[1] == []


def test_a_namespace_that_is_no_ascii(served: Served) -> None:
    body = {**GREEDY, "messages": user(ASK)}
    asked, engine = served.send(CHAT, body, [JSON, (b"x-memedit-namespace", b"\xff")])
    assert asked.status == 400
    assert json.loads(asked.response_body)["error"]["type"] == "invalid_request_error"
    assert engine == []


def test_a_compressed_request(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    raw = gzip.compress(json.dumps({**GREEDY, "messages": user(ASK)}).encode())
    asked, (engine,) = served.send(CHAT, raw, [JSON, (b"content-encoding", b"gzip")])
    assert asked.status == 200
    assert asked.header("x-memedit-edits") == record.edit.id
    assert record.edit.statement in str(engine.json["messages"])
    assert not any(name == b"content-encoding" for name, _ in engine.headers)


def test_a_chunked_request_with_a_member_of_ours(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    body = {"memedit": {"route": "auto"}, **GREEDY, "messages": user(ASK)}
    asked, engine = served.send(CHAT, body, pieces=4)
    assert_edited(asked, engine[-1], "messages", record.edit)
    assert "memedit" not in engine[-1].json
    asked, engine = served.send(CHAT, {**body, "echo": True}, pieces=4)
    assert engine[-1].json == {**GREEDY, "messages": user(ASK), "echo": True}


def test_several_edits_on_one_subject(served: Served, add_edit: Add) -> None:
    first = add_edit(capital())
    add_edit(structured("France", "The currency of {} is", "the crown"))
    asked, engine, _ = served.chat(ASK)
    assert_edited(asked, engine, "messages", first.edit)
    second = add_edit(structured("France", "The capital of {} is", "Nice"))
    asked, engine, _ = served.chat(ASK)
    assert_edited(asked, engine, "messages", second.edit)
    served.memory.revert(second.edit.id)
    asked, engine, _ = served.chat(ASK)
    assert_edited(asked, engine, "messages", first.edit)


def test_an_edit_with_unusual_text(served: Served, add_edit: Add) -> None:
    edit = structured("Österreich", "The motto of {} is", "je {t'aime} \\n {{x}} {facts} %s 😀\"")
    record = add_edit(edit)
    asked, engine, _ = served.chat("What is the motto of Österreich?")
    # Its quotes are escaped in JSON, so the statement is looked for in the decoded message.
    assert asked.header("x-memedit-edits") == record.edit.id
    assert record.edit.statement in engine.json["messages"][-1]["content"]


def test_a_client_that_leaves_in_mid_stream_breaks_nothing(served: Served, add_edit: Add) -> None:
    record = add_edit(capital())
    tap_id = new_tap_id()
    body = {**GREEDY, "messages": user(ASK), "stream": True, "max_tokens": 1500, "ignore_eos": True}
    raw = json.dumps(body).encode()
    with RawClient(served.url) as leaving:
        headers = [JSON, (b"x-tap-id", tap_id.encode())]
        leaving.send(request("POST", CHAT, headers, raw, host=served.url.removeprefix("http://")))
        got = leaving.until(lambda exchange: len(exchange.chunks) > 2)
        assert got.header("x-memedit-edits") == record.edit.id
    asked, engine, answer = served.chat(ASK)
    assert_edited(asked, engine, "messages", record.edit)
    assert "Lyon" in answer["choices"][0]["message"]["content"]
    asked, engine, _ = served.chat(OTHER)
    assert_passed(asked, engine)
    if served.form == "middleware":
        # And the engine has stopped writing for nobody.
        gone, _ = waited_for(lambda: served.seen(tap_id))
        assert not gone.complete or len(gone.chunks) < 1500
