"""A request that no edit is about arrives byte for byte, and so does its response.

Within one exchange, what the engine got and sent is compared with what the client sent and got.
What may differ is little: through the proxy, the headers that RFC 9110 gives to one connection
only, ``Host`` and ``Expect`` (the proxy answers that itself), the framing of a body (a length or
chunks) and the case of header names; in both forms ``x-memedit-*`` is added to the response.
Edits are live all the while, so that every request here is really decided.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from memedit.edits import structured
from memedit.server.process import ServerProcess
from tests.server.served import JSON, MODEL, Add, Served
from tests.server.tap import Exchange, Pairs, waited_for
from tests.server.upstream import PIECES, ZIPPED, Upstream
from tests.server.wire import RawClient, Wire, chunked, request

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
ONE_CONNECTION = HOP_BY_HOP | {b"host", b"expect"}
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
ASK = [{"role": "user", "content": "Write one sentence about rain, grüß Gott."}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 8, "seed": 1}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 10}},
            "required": ["place"],
        },
    },
}


@pytest.fixture(autouse=True)
def live_edits(request: pytest.FixtureRequest) -> None:
    """Edits that none of these requests is about."""
    if "served" in request.fixturenames:
        add: Add = request.getfixturevalue("add_edit")
        add(structured("France", "The capital of {} is", "Lyon"))
        add(structured("Danielle Darrieux", "The mother tongue of {} is", "English"))


def assert_untouched(
    client: Exchange, engine: Exchange, *, proxied: bool, tagged: bool | None = None
) -> None:
    """Both sides saw the same, but for what may differ."""
    assert engine.method == client.method
    assert engine.target == client.target
    assert engine.body == client.body
    assert engine.status == client.status
    assert engine.response_body == client.response_body
    sent, got = client.headers, engine.headers
    answered, returned = engine.response_headers, client.response_headers
    added = [pair for pair in returned[len(answered) :] if pair[0].startswith(b"x-memedit-")]
    if proxied:
        framing = {b"content-length"} if _chunked(sent) or not client.body else set()
        sent, got = (_without(side, ONE_CONNECTION | framing) for side in (sent, got))
        assert not {name for name, _ in got} & HOP_BY_HOP
        answered, returned = (_without(side, HOP_BY_HOP) for side in (answered, returned))
        added = [pair for pair in returned[len(answered) :] if pair[0].startswith(b"x-memedit-")]
    else:
        assert engine.chunks == client.chunks
    assert got == sent
    assert returned == [*answered, *added]
    if tagged is not None:
        assert bool(added) == tagged
    if tagged:
        assert client.header("x-memedit-route") == "passthrough"
        assert client.header("x-memedit-edits") is None


def check(
    served: Served,
    target: str,
    body: Any = b"",
    headers: Pairs | None = None,
    *,
    tagged: bool | None = None,
    **how: Any,
) -> Exchange:
    """Sends a request; it and its response must be untouched. Returns the client's side."""
    client, (engine,) = served.send(target, body, headers, **how)
    assert_untouched(client, engine, proxied=served.form == "proxy", tagged=tagged)
    return client


def _chunked(headers: Pairs) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers)


def _without(headers: Pairs, names: set[bytes]) -> Pairs:
    return [pair for pair in headers if pair[0] not in names]


@pytest.mark.vllm
class TestVllm:
    """Both forms, with vLLM's server behind them."""

    def test_chat(self, served: Served) -> None:
        got = check(served, CHAT, {**GREEDY, "messages": ASK}, tagged=True)
        assert json.loads(got.response_body)["choices"][0]["message"]["content"]

    def test_odd_spelling_of_the_body(self, served: Served) -> None:
        raw = (
            b'\r\n{ "messages":[{"role":"user", "content":"Say \\u0061 r\\u00e9sum\xc3\xa9 \\/"}],'
            b'"temperature" : 0.00e+0,\t"max_tokens":1,"max_tokens":2,"model":"%b" }\n'
        ) % MODEL.encode()
        got = check(served, CHAT, raw, tagged=True)
        assert json.loads(got.response_body)["usage"]["completion_tokens"] == 2

    def test_streamed_chat(self, served: Served) -> None:
        got = check(served, CHAT, {**GREEDY, "messages": ASK, "stream": True}, tagged=True)
        assert got.response_body.endswith(b"data: [DONE]\n\n")

    def test_streamed_chunks_keep_their_boundaries(self, served: Served) -> None:
        body = {**GREEDY, "messages": ASK, "stream": True, "max_tokens": 24}
        client, (engine,) = served.send(CHAT, body)
        # A connection may hand the pieces over in other portions; each event stays whole.
        assert [c for c in client.chunks if c] == [c for c in engine.chunks if c]
        assert len(client.chunks) > 8

    def test_completions(self, served: Served) -> None:
        body = {**GREEDY, "prompt": "Rain is", "stop": ["\n"]}
        assert check(served, TEXT, body, tagged=True).status == 200

    def test_streamed_completions(self, served: Served) -> None:
        body = {**GREEDY, "prompt": ["Rain is", "Snow is"], "stream": True, "n": 2}
        body |= {"temperature": 0.5, "stream_options": {"include_usage": True}}
        assert check(served, TEXT, body, tagged=True).status == 200

    def test_token_ids(self, served: Served) -> None:
        assert (
            check(served, TEXT, {**GREEDY, "prompt": [504, 3575, 282]}, tagged=True).status == 200
        )

    def test_tool_calls(self, served: Served) -> None:
        choice = {"type": "function", "function": {"name": "weather"}}
        body = {**GREEDY, "messages": ASK, "tools": [TOOL], "tool_choice": choice}
        got = check(served, CHAT, {**body, "max_tokens": 60}, tagged=True)
        (call,) = json.loads(got.response_body)["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"

    def test_a_conversation_with_tool_calls(self, served: Served) -> None:
        call = {"name": "weather", "arguments": '{"place": "Bergen"}'}
        messages = [
            {"role": "system", "content": "Be brief."},
            *ASK,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call-1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call-1", "content": "rain"},
            {"role": "user", "content": [{"type": "text", "text": "Thank you."}]},
        ]
        body = {**GREEDY, "messages": messages, "tools": [TOOL]}
        assert check(served, CHAT, body, tagged=True).status == 200

    def test_several_answers(self, served: Served) -> None:
        body = {**GREEDY, "messages": ASK, "n": 2, "temperature": 0.7}
        got = check(served, CHAT, body, tagged=True)
        assert len(json.loads(got.response_body)["choices"]) == 2

    def test_logprobs(self, served: Served) -> None:
        body = {**GREEDY, "messages": ASK, "logprobs": True, "top_logprobs": 3}
        got = check(served, CHAT, body, tagged=True)
        content = json.loads(got.response_body)["choices"][0]["logprobs"]["content"]
        assert len(content[0]["top_logprobs"]) == 3
        body = {**GREEDY, "prompt": "Rain is", "logprobs": 2, "echo": True, "prompt_logprobs": 1}
        assert check(served, TEXT, body, tagged=True).status == 200

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"not json",
            b'{"messages": [',
            b"[]",
            b"null",
            b'{"messages": "\xff\xfe"}',
            b'{"messages": "a string", "model": 7}',
            b'{"messages": [1, "two", null]}',
            b'{"messages": [{"role": "user", "content": {"a": 1}}]}',
            b'{"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}',
            b'{"messages": [{"content": "no role"}], "model": "nobody"}',
            b'{"messages": []}',
            b'{"prompt": {"a": 1}}',
            b'{"a": ' * 3000,
        ],
    )
    @pytest.mark.parametrize("target", [CHAT, TEXT])
    def test_wrong_bodies(self, served: Served, target: str, raw: bytes) -> None:
        # vLLM answers some of these with a 500 of its own, and that is passed on as well.
        assert check(served, target, raw, tagged=True).status >= 400

    def test_lone_surrogates(self, served: Served) -> None:
        raw = b'{"model": "%b", "max_tokens": 1, "messages": ' % MODEL.encode()
        raw += b'[{"role": "user", "content": "The capital \\ud800 of France?"}]}'
        client, engine = served.send(CHAT, raw)
        assert engine[-1].status == client.status
        # The next request is not any worse for it.
        assert check(served, CHAT, {**GREEDY, "messages": ASK}, tagged=True).status == 200

    def test_a_wrong_content_type(self, served: Served) -> None:
        body = json.dumps({**GREEDY, "messages": ASK}).encode()
        check(served, CHAT, body, [(b"content-type", b"text/plain")])
        check(served, CHAT, body, [])

    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [
            ("GET", "/v1/models", 200),
            ("GET", "/v1/models?", 200),
            ("GET", "/health", 200),
            ("GET", "/version", 200),
            ("GET", "/nowhere", 404),
            ("POST", "/v1/nowhere/at/all", 404),
            ("HEAD", "/v1/models", 405),
            ("OPTIONS", "/v1/models", 405),
            ("DELETE", "/v1/chat/completions", 405),
            ("PATCH", "/v1/completions", 405),
            ("GET", "/v1/chat/completions", 405),
            ("GET", "/v1/models?a=%2F&b=+&c=&&d&e=%zz&f=%C3%A9&a=2", 200),
            ("GET", "/v1/models/a%2Fb%20c/;p=1", 404),
            ("GET", "//v1//models", 404),
            ("GET", "/v1/../health", 404),
        ],
    )
    def test_other_routes(self, served: Served, method: str, target: str, status: int) -> None:
        client, (engine,) = served.send(target, b"", [], method=method)
        # An application cannot tell "?" with nothing behind it from no "?" at all.
        client.target = client.target.removesuffix(b"?")
        engine.target = engine.target.removesuffix(b"?")
        assert_untouched(client, engine, proxied=served.form == "proxy", tagged=False)
        assert client.status == status

    def test_tokenize(self, served: Served) -> None:
        body = {"model": MODEL, "prompt": "The capital of France is"}
        got = check(served, "/tokenize", body, tagged=False)
        assert json.loads(got.response_body)["count"] == 5

    def test_queries_on_a_route_that_is_read(self, served: Served) -> None:
        body = {**GREEDY, "messages": ASK}
        assert check(served, f"{CHAT}?x=%2F+&y=", body, tagged=True).status == 200

    def test_odd_headers(self, served: Served) -> None:
        headers: Pairs = [
            JSON,
            (b"x-twice", b"one"),
            (b"accept", b"*/*"),
            (b"x-twice", b"two"),
            (b"cookie", b'a=1; b="2"'),
            (b"cookie", b"c=3"),
            (b"x-utf8", "grüß Gott 😀".encode()),
            (b"x-empty", b""),
            (b"accept-encoding", b"gzip, br;q=0.1"),
            (b"user-agent", b"me/1.0"),
            (b"authorization", b"Bearer sk-\xc3\xa4"),
            (b"x-request-id", b"7"),
        ]
        got = check(served, CHAT, {**GREEDY, "messages": ASK}, headers, tagged=True)
        assert got.status == 200

    def test_hop_by_hop_headers_stay_behind(self, served: Served) -> None:
        headers: Pairs = [
            JSON,
            (b"connection", b"keep-alive, x-private"),
            (b"x-private", b"mine"),
            (b"te", b"trailers"),
            (b"x-public", b"yours"),
        ]
        client, (engine,) = served.send(CHAT, {**GREEDY, "messages": ASK}, headers)
        names = [name for name, _ in engine.headers]
        assert b"x-public" in names
        assert (b"x-private" in names) == (served.form == "middleware")
        assert client.status == 200

    def test_a_compressed_request_body(self, served: Served) -> None:
        raw = gzip.compress(json.dumps({**GREEDY, "messages": ASK}).encode(), mtime=0)
        # vLLM reads no compressed bodies; what matters is that it gets this one as it was.
        check(served, CHAT, raw, [JSON, (b"content-encoding", b"gzip")], tagged=True)

    @pytest.mark.parametrize("pieces", [1, 3, 50])
    def test_a_chunked_request_body(self, served: Served, pieces: int) -> None:
        got = check(served, CHAT, {**GREEDY, "messages": ASK}, pieces=pieces, tagged=True)
        assert got.status == 200

    def test_a_long_body(self, served: Served) -> None:
        body = {**GREEDY, "messages": [{"role": "user", "content": "rain " * 200_000}]}
        assert check(served, CHAT, body, tagged=True).status == 400

    def test_an_expected_continue(self, served: Served) -> None:
        raw = json.dumps({**GREEDY, "messages": ASK}).encode()
        headers: Pairs = [JSON, (b"expect", b"100-continue")]
        assert check(served, CHAT, raw, headers, tagged=True).status == 200

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b'{"memedit": {"explain": false}, %b}', b"{%b}"),
            (b'{%b, "memedit": {"namespace": "n"}}', b"{%b}"),
            (b'{%b,"memedit":{},"user":"me"}', b'{%b,"user":"me"}'),
            (b'{"mem\\u0065dit": {}, %b, "memedit": null}', b"{%b}"),
            (b'{%b, "metadata": {"memedit": "1"}}', b'{%b, "metadata": {"memedit": "1"}}'),
        ],
    )
    def test_the_memedit_member_stays_behind(
        self, served: Served, before: bytes, after: bytes
    ) -> None:
        members = json.dumps({**GREEDY, "messages": ASK}).encode()[1:-1]
        client, (engine,) = served.send(CHAT, before % members)
        assert client.body == before % members
        assert engine.body == after % members
        assert client.status == 200
        lengths = [value for name, value in engine.headers if name == b"content-length"]
        assert lengths == [b"%d" % len(engine.body)]
        assert client.response_body == engine.response_body
        assert client.header("x-memedit-route") == "passthrough"

    def test_nothing_but_the_memedit_member(self, served: Served) -> None:
        client, (engine,) = served.send(CHAT, b'{"memedit": {}}')
        assert engine.body == b"{}"
        assert client.status == engine.status == 400

    def test_the_memedit_member_of_a_compressed_body(self, served: Served) -> None:
        raw = gzip.compress(json.dumps({"memedit": {}, **GREEDY, "messages": ASK}).encode())
        client, (engine,) = served.send(CHAT, raw, [JSON, (b"content-encoding", b"gzip")])
        # To cut the member out the body is unpacked, and then says so.
        assert engine.json == {**GREEDY, "messages": ASK}
        assert not any(name == b"content-encoding" for name, _ in engine.headers)
        assert client.status == 200

    def test_requests_on_one_connection(self, served: Served) -> None:
        raw = json.dumps({**GREEDY, "messages": ASK, "max_tokens": 2}).encode()
        host = served.url.removeprefix("http://")
        with RawClient(served.url) as client:
            for _ in range(3):
                client.send(request("POST", CHAT, [JSON], raw, host=host))
                assert client.response().status == 200


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def small(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Wire, Wire]]:
    """A proxy in front of the small upstream, and the wires before and behind it."""
    folder = tmp_path_factory.mktemp("small")
    with (
        Wire(upstream.url) as back,
        ServerProcess(
            ["--upstream", f"{back.url}/v1/", "--memory", str(folder / "memory.sqlite3")],
            log=folder / "proxy.log",
        ) as server,
        Wire(server.url) as front,
    ):
        yield front, back


NUMBERS = iter(range(10_000))


def through(
    small: tuple[Wire, Wire],
    method: str,
    target: str,
    headers: Pairs = [],  # noqa: B006
    body: bytes = b"",
) -> Exchange:
    """A request through the proxy; it and its response must be untouched."""
    front, back = small
    tap_id = f"small-{next(NUMBERS)}-"
    sent = [(b"x-tap-id", tap_id.encode()), *headers]
    length = not _chunked(headers) and (bool(body) or method == "POST")
    data = request(method, target, sent, body, host=front.url[7:], length=length)
    with RawClient(front.url) as client:
        client.send(data)
        assert client.response().complete
    (client_side,), (engine_side,) = front.exchanges(tap_id), back.exchanges(tap_id)
    assert_untouched(client_side, engine_side, proxied=True, tagged=False)
    return client_side


class TestUpstream:
    """The proxy, with an upstream that answers as vLLM's server never does."""

    def test_duplicate_and_odd_response_headers(self, small: tuple[Wire, Wire]) -> None:
        got = through(small, "GET", "/v1/cookies")
        kept = [pair for pair in got.response_headers if pair[0].startswith((b"set-", b"x-"))]
        assert kept == [
            (b"set-cookie", b"a=1; Path=/"),
            (b"x-kind", b"one"),
            (b"set-cookie", b"b=2; Path=/"),
            (b"x-kind", b"two"),
            (b"x-latin", b"caf\xe9"),
            (b"x-utf8", "café".encode()),
        ]

    def test_a_compressed_response(self, small: tuple[Wire, Wire]) -> None:
        got = through(small, "GET", "/v1/gzip", [(b"accept-encoding", b"gzip")])
        assert got.response_body == ZIPPED
        assert got.header("content-encoding") == "gzip"
        # Nor is it unpacked for a client that did not ask for it.
        assert through(small, "GET", "/v1/gzip").response_body == ZIPPED

    @pytest.mark.parametrize("status", [204, 304])
    def test_a_response_without_a_body(self, small: tuple[Wire, Wire], status: int) -> None:
        got = through(small, "GET", f"/v1/{status}")
        assert got.status == status
        assert got.chunks == []

    def test_a_redirect_is_the_clients_affair(self, small: tuple[Wire, Wire]) -> None:
        got = through(small, "GET", "/v1/redirect")
        assert got.status == 307
        assert got.header("location") == "/v1/elsewhere?a=%2F"

    def test_an_odd_status(self, small: tuple[Wire, Wire]) -> None:
        got = through(small, "PUT", "/v1/teapot", body=b"tea?")
        assert (got.status, got.response_body) == (418, b"short and stout")

    def test_head_keeps_the_length(self, small: tuple[Wire, Wire]) -> None:
        got = through(small, "HEAD", "/v1/gzip")
        assert got.header("content-length") == str(len(ZIPPED))
        assert got.chunks == []

    def test_a_header_value_that_is_no_utf8(self, small: tuple[Wire, Wire]) -> None:
        through(small, "GET", "/v1/teapot", [(b"x-latin", b"caf\xe9")])

    def test_hop_by_hop_response_headers(self, small: tuple[Wire, Wire]) -> None:
        front, back = small
        with RawClient(front.url) as client:
            client.send(request("GET", "/v1/hop", [(b"x-tap-id", b"hop-")], host="x", length=False))
            got = client.response()
        names = [name for name, _ in got.response_headers]
        assert b"x-public" in names
        assert b"x-private" not in names
        assert b"keep-alive" not in names
        assert back.exchanges("hop-")

    @pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
    def test_bodies_both_ways(self, small: tuple[Wire, Wire], size: int) -> None:
        body = bytes(range(256)) * (size // 256 + 1)
        got = through(small, "POST", "/v1/echo", [], body[:size])
        assert got.response_body == body[:size]

    def test_a_chunked_body(self, small: tuple[Wire, Wire]) -> None:
        front, back = small
        headers: Pairs = [(b"x-tap-id", b"chunks-"), (b"transfer-encoding", b"chunked")]
        with RawClient(front.url) as client:
            client.send(request("POST", "/v1/echo", headers, host="x", length=False))
            for piece in (b"5\r\nrain,\r\n", b"6\r\n snow \r\n", b"0\r\n\r\n"):
                time.sleep(0.05)
                client.send(piece)
            got = client.response()
        assert got.response_body == b"rain, snow "
        (engine,) = back.exchanges("chunks-")
        assert engine.body == b"rain, snow "

    def test_half_a_request_is_no_request(
        self, small: tuple[Wire, Wire], upstream: Upstream
    ) -> None:
        front, _ = small
        before = len(upstream.answers.bodies)
        with RawClient(front.url) as client:
            headers: Pairs = [(b"transfer-encoding", b"chunked")]
            start = request("POST", "/v1/echo", headers, host="x", length=False)
            client.send(start + chunked(b"half of it")[:-5])
            time.sleep(0.3)
        time.sleep(0.5)
        assert upstream.answers.bodies[before:] == []
        through(small, "POST", "/v1/echo", [], b"whole")
        assert upstream.answers.bodies[before:] == [b"whole"]

    @pytest.mark.parametrize("target", ["/v1/stream", "/v1/chat/completions"])
    def test_pieces_come_one_by_one(
        self, small: tuple[Wire, Wire], upstream: Upstream, target: str
    ) -> None:
        front, _ = small
        upstream.answers.gate.clear()
        try:
            with RawClient(front.url) as client:
                body = json.dumps({"messages": ASK}).encode()
                client.send(request("POST", target, [JSON], body, host="x"))
                seen = client.until(lambda exchange: len(exchange.chunks) == PIECES - 1)
                assert len(seen.chunks) == PIECES - 1
                # The last piece is not even sent, and all others are here.
                assert len(upstream.answers.sent[-1]) == PIECES - 1
                upstream.answers.gate.set()
                whole = client.response()
        finally:
            upstream.answers.gate.set()
        assert [chunk for chunk in whole.chunks if chunk] == [
            b"data: %d\n\n" % number for number in range(PIECES)
        ]

    def test_a_client_that_leaves_lets_the_upstream_know(
        self, small: tuple[Wire, Wire], upstream: Upstream
    ) -> None:
        front, _ = small
        before = upstream.answers.aborted
        upstream.answers.gate.clear()
        try:
            with RawClient(front.url) as client:
                client.send(request("GET", "/v1/stream", [], host="x", length=False))
                client.until(lambda exchange: bool(exchange.chunks))
            waited_for(lambda: upstream.answers.aborted == before + 1)
        finally:
            upstream.answers.gate.set()

    def test_an_upstream_that_breaks_off(self, small: tuple[Wire, Wire]) -> None:
        front, _ = small
        with RawClient(front.url) as client:
            client.send(request("GET", "/v1/broken", [], host="x", length=False))
            got = client.response()
        # Not a short answer that looks like a whole one.
        assert got.status == 200
        assert not got.complete
        assert through(small, "GET", "/v1/teapot").status == 418
