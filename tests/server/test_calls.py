"""What memedit does with one call: speculation, options, refusals, usage, explanations."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.edits import structured
from memedit.server.surfaces import SURFACES
from tests.server.front import Front
from tests.server.scripted import Answer, Scripted
from tests.server.tap import waited_for
from tests.server.upstream import Upstream

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
QUESTION = "What is the capital of France?"
ASK = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
OTHER = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
STATEMENT = "The capital of France is Lyon."
USAGE = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
WORDS = ["<s>", "The", " capital", " of", " France", " is", " rain"]


def answering(path: str, body: Any) -> Answer:
    """As vLLM does, as far as these tests go."""
    if path == "/tokenize":
        if "messages" in body:
            return 200, {"count": 20, "tokens": []}
        return 200, {"count": 7, "tokens": [len(body["prompt"]), 1, 2]}
    if path == "/detokenize":
        return 200, {"prompt": "".join(WORDS[token] for token in body["tokens"])}
    if path == "/v1/messages/count_tokens":
        return 200, {"input_tokens": 20}
    if path == "/v1/messages":
        usage = {"input_tokens": 30, "cache_read_input_tokens": 5, "output_tokens": 1}
        return 200, {"type": "message", "content": [], "usage": usage}
    if path == "/v1/responses":
        return 200, {"id": "resp", "output": [], "usage": {"input_tokens": 44, "output_tokens": 1}}
    if body and body.get("stream"):
        return (
            b'data: {"id": "1", "choices": [{"delta": {"content": "a"}}], "usage": null}\n\n'
            b": a comment\n\n"
            b'data: {"id": "1", "choices": [], "usage": %b}\n\n'
            b"data: [DONE]\n\n" % json.dumps(USAGE).encode()
        )
    return 200, {"id": "1", "choices": [], "usage": USAGE}


@pytest.fixture
def upstream() -> Scripted:
    return Scripted(answering)


@pytest.fixture
def make(tmp_path: Path, upstream: Scripted) -> Iterator[Callable[..., Front]]:
    with ExitStack() as stack:
        server = stack.enter_context(Upstream(app=upstream))

        def making(**options: Any) -> Front:
            front = Front(server.url, tmp_path, **options)
            front.memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
            return stack.enter_context(front)

        yield making


def post(front: Front, body: Any = ASK, path: str = CHAT, **headers: str) -> httpx.Response:
    return httpx.post(f"{front.url}{path}", json=body, headers=headers, timeout=30)


# speculation


def test_in_scope_the_speculative_call_is_cancelled(
    make: Callable[..., Front], upstream: Scripted
) -> None:
    front = make(count_evidence=False)
    upstream.delay = 0.5
    front.encoder.seconds = 0.2
    got = post(front)
    assert got.headers["x-memedit-edits"] == "capital"
    first, second = upstream.bodies(CHAT)
    assert first == ASK
    assert STATEMENT in json.dumps(second)
    waited_for(lambda: upstream.cancelled == 1)
    assert front.metric("memedit_speculations_total", outcome="cancelled") == 1
    assert front.metric("memedit_speculations_total", outcome="kept") == 0
    front.settled()


def test_not_a_byte_of_a_speculative_answer_goes_out(
    make: Callable[..., Front], upstream: Scripted
) -> None:
    front = make(count_evidence=False)
    front.encoder.seconds = 0.4  # the upstream has long answered by then
    got = post(front, {**ASK, "stream": True})
    assert got.headers["x-memedit-edits"] == "capital"
    assert got.content.count(b"[DONE]") == 1
    assert len(upstream.bodies(CHAT)) == 2
    front.settled()


def test_out_of_scope_the_speculative_call_is_the_only_one(
    make: Callable[..., Front], upstream: Scripted
) -> None:
    front = make()
    upstream.delay = front.encoder.seconds = 0.4
    started = time.monotonic()
    got = post(front, OTHER)
    # Both at the same time, not one after the other.
    assert time.monotonic() - started < 0.75
    assert got.headers["x-memedit-route"] == "passthrough"
    assert upstream.bodies(CHAT) == [OTHER]
    assert front.metric("memedit_speculations_total", outcome="kept") == 1
    # What is known already needs no speculation.
    post(front, OTHER)
    assert front.metric("memedit_speculations_total", outcome="kept") == 1
    assert front.metric("memedit_decision_cache_total", result="hit") == 1
    front.settled()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**ASK, "store": True}),
        ("/v1/responses", {"model": "m", "input": QUESTION}),
        ("/v1/responses", {"model": "m", "input": QUESTION, "store": False, "background": True}),
    ],
)
def test_what_leaves_something_behind_is_not_sent_ahead(
    make: Callable[..., Front], upstream: Scripted, path: str, body: Any
) -> None:
    front = make()
    front.encoder.seconds = 0.1
    assert post(front, body, path).headers["x-memedit-edits"] == "capital"
    assert len(upstream.bodies(path)) == 1


def test_no_speculation_where_the_operator_says_so(
    make: Callable[..., Front], upstream: Scripted
) -> None:
    front = make(speculate=False)
    front.encoder.seconds = 0.1
    post(front)
    post(front, OTHER)
    assert len(upstream.bodies(CHAT)) == 2
    assert front.metric("memedit_speculations_total", outcome="kept") == 0


def test_a_bad_namespace_reaches_nobody(make: Callable[..., Front], upstream: Scripted) -> None:
    front = make()
    got = post(front, **{"x-memedit-namespace": "two words"})
    assert got.status_code == 400
    assert "two words" in got.json()["error"]["message"]
    assert upstream.asked == []


# decisions that are remembered


def test_a_change_shows_with_the_next_request(make: Callable[..., Front]) -> None:
    front = make(speculate=False)
    for _ in range(3):
        assert post(front).headers["x-memedit-edits"] == "capital"
    assert front.metric("memedit_decision_cache_total", result="hit") >= 1
    front.memory.revert("capital")
    assert "x-memedit-edits" not in post(front).headers
    front.memory.restore("capital")
    assert post(front).headers["x-memedit-edits"] == "capital"
    nice = structured("France", "The capital of {} is", "Nice", id="nice")
    front.memory.add(nice, expires_at=time.time() + 1.5)
    assert post(front).headers["x-memedit-edits"] == "nice"
    assert post(front).headers["x-memedit-edits"] == "nice"
    time.sleep(1.6)
    assert post(front).headers["x-memedit-edits"] == "capital"


# options


@pytest.mark.parametrize(
    ("member", "edits"),
    [
        ({}, "capital"),
        ({"route": "auto"}, "capital"),
        ({"route": "ike"}, "capital"),
        ({"route": "passthrough"}, ""),
        ({"namespace": "default"}, "capital"),
        ({"namespace": "elsewhere"}, ""),
    ],
)
def test_the_member_chooses(
    make: Callable[..., Front], upstream: Scripted, member: Any, edits: str
) -> None:
    got = post(make(), {**ASK, "memedit": member})
    assert got.headers.get("x-memedit-edits", "") == edits
    assert all("memedit" not in body for body in upstream.bodies(CHAT))


WRONG_MEMBERS: list[tuple[Any, str]] = [
    (1, "memedit is a number"),
    ([], "must be an object"),
    ({"namespce": "x"}, "no member 'namespce'"),
    ({"route": "mello"}, "auto, passthrough, ike"),
    ({"route": {}}, "must be one of"),
    ({"namespace": 5}, "must be a string"),
    ({"namespace": "a b"}, "A-Z a-z 0-9"),
    ({"explain": "yes"}, "true or false"),
]


@pytest.mark.parametrize("path", SURFACES)
def test_a_member_that_is_wrong(make: Callable[..., Front], upstream: Scripted, path: str) -> None:
    front = make()
    for member, told in WRONG_MEMBERS:
        got = post(front, {**ASK, "memedit": member}, path)
        assert got.status_code == 400
        assert told in got.json()["error"]["message"]
        assert got.json().get("type") == ("error" if path == "/v1/messages" else None)
    assert upstream.asked == []


# refusals


TOO_LONG = "This model's maximum context length is 10 tokens. However, you requested 12 tokens"


def test_a_refusal_for_its_length_walks_the_ladder(tmp_path: Path) -> None:
    upstream = Scripted(lambda path, body: (400, {"error": {"message": TOO_LONG}}))
    with Upstream(app=upstream) as server, Front(server.url, tmp_path, speculate=False) as front:
        front.memory.add(structured("France", "The capital of {} is", "Lyon"))
        got = post(front, {"prompt": "The capital of France is"}, TEXT)
        lengths = [len(body["prompt"]) for body in upstream.bodies(TEXT)]
    # With the edit in three wordings, with its copy, with the fact alone, as it came.
    assert len(lengths) == 4
    assert lengths == sorted(lengths, reverse=True)
    assert got.status_code == 400
    assert got.headers["x-memedit-reason"] == "the request leaves no room for the evidence"


def test_any_other_refusal_is_asked_for_once_more(tmp_path: Path) -> None:
    refused = {"error": {"message": "temperature must be non-negative"}}
    upstream = Scripted(lambda path, body: (400, refused))
    with Upstream(app=upstream) as server, Front(server.url, tmp_path, speculate=False) as front:
        front.memory.add(structured("France", "The capital of {} is", "Lyon"))
        body = {"prompt": "The capital of France is", "temperature": -3}
        got = post(front, body, TEXT)
        assert upstream.bodies(TEXT)[1:] == [body]
    assert got.status_code == 400
    assert got.json() == refused
    assert "x-memedit-edits" not in got.headers


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("speculate", [True, False])
def test_a_caller_whom_the_upstream_refuses_learns_nothing(
    tmp_path: Path, status: int, speculate: bool
) -> None:
    upstream = Scripted(lambda path, body: (status, {"error": {"message": "no key"}}))
    with (
        Upstream(app=upstream) as server,
        Front(server.url, tmp_path, speculate=speculate) as front,
    ):
        front.memory.add(structured("France", "The capital of {} is", "Lyon"))
        for body in (ASK, OTHER, {**ASK, "memedit": {"explain": True}}):
            got = post(front, body)
            assert got.status_code == status
            assert got.json() == {"error": {"message": "no key"}}
            assert not [name for name in got.headers if name.startswith("x-memedit")]


# usage and explanations


def test_usage_tells_evidence_apart(make: Callable[..., Front], upstream: Scripted) -> None:
    front = make()
    got = post(front, authorization="Bearer sk-1")
    assert got.json()["usage"] == {"memedit_evidence_tokens": 30, **USAGE}
    assert int(got.headers["content-length"]) == len(got.content)
    assert upstream.bodies("/tokenize") == [ASK]
    assert (b"authorization", b"Bearer sk-1") in upstream.headers
    assert front.metric("memedit_evidence_tokens_total") == 30
    # What no edit took part in stays as it is, and nobody is asked to count.
    assert post(front, OTHER).json()["usage"] == USAGE
    assert upstream.bodies("/tokenize") == [ASK]


def test_usage_of_a_stream(make: Callable[..., Front]) -> None:
    got = post(make(), {**ASK, "stream": True})
    events = got.text.split("\n\n")
    assert events[0].endswith('"usage": null}')
    assert events[1] == ": a comment"
    usage = json.loads(events[2].removeprefix("data: "))["usage"]
    assert usage == {"memedit_evidence_tokens": 30, **USAGE}
    assert events[3] == "data: [DONE]"


@pytest.mark.parametrize(
    ("path", "body", "evidence"),
    [
        ("/v1/messages", {**ASK, "max_tokens": 5}, 15),
        ("/v1/responses", {"model": "m", "input": QUESTION, "instructions": "Be brief."}, 24),
        (TEXT, {"model": "m", "prompt": ["The capital of France is", "Rain is"]}, 36),
        (TEXT, {"model": "m", "prompt": [1, 2, 3, 4, 5]}, 45),
    ],
)
def test_usage_on_other_paths(
    make: Callable[..., Front], path: str, body: Any, evidence: int
) -> None:
    got = post(make(), body, path)
    assert got.headers["x-memedit-edits"] == "capital"
    assert got.json()["usage"]["memedit_evidence_tokens"] == evidence


def test_usage_where_nobody_counts(tmp_path: Path) -> None:
    def other(path: str, body: Any) -> Answer:
        return (404, {}) if path == "/tokenize" else answering(path, body)

    upstream = Scripted(other)
    with Upstream(app=upstream) as server, Front(server.url, tmp_path) as front:
        front.memory.add(structured("France", "The capital of {} is", "Lyon"))
        for _ in range(3):
            assert post(front).json()["usage"] == USAGE
    assert len(upstream.bodies("/tokenize")) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [ASK, OTHER])
def test_explanations(make: Callable[..., Front], body: Any, stream: bool) -> None:
    front = make()
    plain = post(front, {**body, "stream": stream})
    got = post(front, {**body, "stream": stream, "memedit": {"explain": True}})
    first = got.text.split("\n\n")[0].removeprefix("data: ")
    told = json.loads(first)["memedit"]
    assert told["edits"] == (["capital"] if body is ASK else [])
    (decision,) = told["decisions"]
    assert decision["reasons"]
    best = STATEMENT if body is ASK else front.rule
    assert decision["considered"][0]["statement"] == best
    # All the rest is as it was.
    assert got.text.replace(f'"memedit": {json.dumps(told)}, ', "") == plain.text


def test_explanations_are_for_who_may_read(make: Callable[..., Front]) -> None:
    front = make()
    asked = {**ASK, "memedit": {"explain": True}}
    for name in ("x-forwarded-for", "forwarded", "x-real-ip"):
        got = post(front, asked, **{name: "203.0.113.9"})
        assert got.status_code == 403
        assert "role read" in got.json()["error"]["message"]


def test_headers_stay_short(tmp_path: Path, upstream: Scripted) -> None:
    with Upstream(app=upstream) as server, Front(server.url, tmp_path) as front:
        places = [f"Land{number}" for number in range(120)]
        for place in places:
            edit = structured(place, "The capital of {} is", "Lyon", id=f"capital-of-{place}")
            front.memory.add(edit)
        prompts = [f"The capital of {place} is" for place in places]
        got = post(front, {"model": "m", "prompt": prompts}, TEXT)
        named = got.headers["x-memedit-edits"].split(",")
        assert len(named) + int(got.headers["x-memedit-edits-omitted"]) == 120
        added = {k: v for k, v in got.headers.items() if k.startswith("x-memedit")}
        assert sum(len(k) + len(v) for k, v in added.items()) <= 1_024
        # More than that many are not decided on.
        got = post(front, {"model": "m", "prompt": prompts * 3}, TEXT)
        assert got.headers["x-memedit-reason"] == "the request has more than 256 prompts"


# shapes


def sent(make: Callable[..., Front], upstream: Scripted, path: str, body: Any) -> Any:
    """The body that reached the upstream at last, for a request that the edit is about."""
    got = post(make(), body, path)
    assert got.headers["x-memedit-edits"] == "capital", got.headers
    last = upstream.bodies(path)[-1]
    assert {k: v for k, v in last.items() if k not in ("prompt", "input", "messages")} == {
        k: v for k, v in body.items() if k not in ("prompt", "input", "messages")
    }
    return last


def test_responses_of_a_text(make: Callable[..., Front], upstream: Scripted) -> None:
    got = sent(make, upstream, "/v1/responses", {"model": "m", "input": QUESTION})["input"]
    assert isinstance(got, str)
    assert STATEMENT in got
    assert got.endswith(QUESTION)


def test_responses_of_items(make: Callable[..., Front], upstream: Scripted) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    said = {"type": "output_text", "text": "Hi."}
    items = [
        {"role": "user", "content": "Hello."},
        {"type": "message", "role": "assistant", "content": [said]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
        {"role": "user", "content": [image, {"type": "input_text", "text": QUESTION}]},
    ]
    got = sent(make, upstream, "/v1/responses", {"model": "m", "input": items})["input"]
    assert got[:4] == items[:4]
    assert got[4]["content"][0] == image
    assert STATEMENT in got[4]["content"][1]["text"]


@pytest.mark.parametrize(
    "option", [{"enable_response_messages": True}, {"echo": True}, {"prompt_logprobs": 0}]
)
def test_responses_that_show_their_input(
    make: Callable[..., Front], upstream: Scripted, option: Any
) -> None:
    body = {"model": "m", "input": QUESTION, **option}
    got = post(make(), body, "/v1/responses")
    assert "the answer would show the evidence" in got.headers["x-memedit-reason"]
    assert upstream.bodies("/v1/responses") == [body]


def test_anthropic_messages(make: Callable[..., Front], upstream: Scripted) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "rain"}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {"model": "m", "max_tokens": 5, "system": "Be brief.", "messages": messages}
    got = sent(make, upstream, "/v1/messages", body)["messages"]
    assert got[1:] == messages[1:]
    assert STATEMENT in got[0]["content"][0]["text"]


def test_a_batch_of_chats(make: Callable[..., Front], upstream: Scripted) -> None:
    chats = [OTHER["messages"], ASK["messages"], OTHER["messages"]]
    path = "/v1/chat/completions/batch"
    got = sent(make, upstream, path, {"model": "m", "messages": chats})["messages"]
    assert [got[0], got[2]] == [chats[0], chats[2]]
    assert STATEMENT in json.dumps(got[1])


def test_token_ids(make: Callable[..., Front], upstream: Scripted) -> None:
    about, other = [0, 1, 2, 3, 4, 5], [0, 6, 5]
    got = sent(make, upstream, TEXT, {"model": "m", "prompt": [other, about]})["prompt"]
    assert got[0] == other
    assert got[1][1:] == [1, 2]  # as the server's own tokenizer has it
    asked = upstream.bodies("/tokenize")
    assert all(body["add_special_tokens"] is False for body in asked)
    assert STATEMENT in asked[0]["prompt"]
    assert asked[0]["prompt"].endswith("The capital of France is")
    assert asked[0]["prompt"].startswith("<s>")


def test_token_ids_that_nobody_reads(tmp_path: Path) -> None:
    def other(path: str, body: Any) -> Answer:
        return (404, {}) if "tokenize" in path else answering(path, body)

    upstream = Scripted(other)
    with Upstream(app=upstream) as server, Front(server.url, tmp_path) as front:
        front.memory.add(structured("France", "The capital of {} is", "Lyon"))
        body = {"model": "m", "prompt": [1, 2, 3, 4, 5]}
        got = post(front, body, TEXT)
        assert got.headers["x-memedit-reason"] == "the server does not say what token ids mean"
        assert upstream.bodies(TEXT) == [body]


UNREADABLE: list[dict[str, Any]] = [
    {"prompt": [1, "a"]},
    {"prompt": [[1], "a"]},
    {"prompt": [[], [1]]},
    {"prompt": [True]},
    {"prompt": {}},
    {"input": 5},
    {"input": [1]},
    {"messages": "x"},
    {"messages": [[], 1]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result"}, 5]}]},
    {},
]


@pytest.mark.parametrize("path", SURFACES)
def test_shapes_that_cannot_be_read_pass(
    make: Callable[..., Front], upstream: Scripted, path: str
) -> None:
    front = make()
    for body in UNREADABLE:
        assert post(front, body, path).headers["x-memedit-route"] == "passthrough"
    assert upstream.bodies(path) == UNREADABLE
