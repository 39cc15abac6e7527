"""Whatever goes wrong around it, memedit answers, lets go of what it held, and loses no edit.

Every test counts tasks and connections before and after.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.edits import structured
from memedit.server.process import ServerProcess, free_port
from tests.server.faulty import Faulty
from tests.server.front import Front
from tests.server.served import JSON
from tests.server.tap import waited_for
from tests.server.upstream import Upstream
from tests.server.wire import RawClient, request

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
OTHER = {"messages": [{"role": "user", "content": "Write one sentence about rain."}]}
STATEMENT = "The capital of France is Lyon."


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with Faulty() as running:
        yield running


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Makes a front with one edit; when the test ends, nothing may be left over in it."""
    made: list[Front] = []

    def making(upstream: str, **options: Any) -> Front:
        front = Front(upstream, tmp_path, **options)
        front.memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
        made.append(front.__enter__())
        return front

    yield making
    for front in made:
        front.settled()
        assert [record.edit.id for record in front.memory.records()] == ["rule", "capital"]
        front.stop()


def post(front: Front, body: Any = ASK, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{front.url}{CHAT}", content=content, timeout=30, **options)


def is_bad_gateway(got: httpx.Response, status: int) -> bool:
    error = got.json()["error"]
    return got.status_code == status and error["type"] == "upstream_error"


# the upstream


@pytest.mark.parametrize("body", [ASK, OTHER])
def test_an_upstream_that_refuses(make: Callable[..., Front], body: Any) -> None:
    front = make(f"http://127.0.0.1:{free_port()}", count_evidence=False, speculate=False)
    assert is_bad_gateway(post(front, body), 502)
    assert front.metric("memedit_upstream_failures_total", kind="connect") == 1


@pytest.mark.parametrize(
    ("mode", "status", "kind"),
    [
        ("hang", 504, "timeout"),
        ("close", 502, "reset"),
        ("garbage", 502, "garbage"),
        ("bomb", 502, "garbage"),
    ],
)
def test_an_upstream_that_gives_no_answer(
    make: Callable[..., Front], faulty: Faulty, mode: str, status: int, kind: str
) -> None:
    faulty.mode = mode
    front = make(faulty.url, answer_timeout=0.5, count_evidence=False, speculate=False)
    for _ in range(3):
        assert is_bad_gateway(post(front), status)
    assert front.metric("memedit_upstream_failures_total", kind=kind) == 3
    waited_for(lambda: faulty.open == 0)
    # And it is used again as soon as it is well.
    faulty.mode = "200"
    assert post(front).status_code == 200


@pytest.mark.parametrize("mode", ["429", "500", "503"])
def test_errors_are_in_the_upstreams_words(
    make: Callable[..., Front], faulty: Faulty, mode: str
) -> None:
    faulty.mode = mode
    front = make(faulty.url, count_evidence=False, speculate=False)
    before = faulty.requests
    for body in (ASK, OTHER):
        got = post(front, body)
        assert got.status_code == int(mode)
        assert got.headers["retry-after"] == "7"
        assert got.content == b'{"error": {"message": "in my own words"}}'
    assert faulty.requests == before + 2  # nothing is tried again


@pytest.mark.parametrize("body", [ASK, OTHER])
@pytest.mark.parametrize("speculate", [True, False])
def test_an_upstream_that_breaks_off_in_mid_stream(
    make: Callable[..., Front], faulty: Faulty, body: Any, speculate: bool
) -> None:
    faulty.mode = "reset"
    front = make(faulty.url, count_evidence=False, speculate=speculate)
    with pytest.raises(httpx.RemoteProtocolError):
        post(front, body)
    assert front.metric("memedit_upstream_failures_total", kind="reset") >= 1
    faulty.mode = "200"
    assert post(front, body).status_code == 200


def test_an_upstream_that_falls_silent(make: Callable[..., Front], faulty: Faulty) -> None:
    faulty.mode = "stream"
    front = make(faulty.url, idle_timeout=0.5, count_evidence=False, speculate=False)
    with pytest.raises(httpx.RemoteProtocolError):
        post(front)
    assert front.metric("memedit_upstream_failures_total", kind="timeout") == 1
    waited_for(lambda: faulty.open == 0)


# the client


@pytest.mark.parametrize("mode", ["stream", "hang"])
@pytest.mark.parametrize("body", [ASK, OTHER])
def test_a_client_that_vanishes(
    make: Callable[..., Front], faulty: Faulty, body: Any, mode: str
) -> None:
    faulty.mode = mode
    front = make(faulty.url, count_evidence=False)
    with RawClient(front.url) as client:
        raw = json.dumps(body).encode()
        client.send(request("POST", CHAT, [JSON], raw, host="x"))
        if mode == "stream":
            client.until(lambda exchange: bool(exchange.chunks))
        else:
            waited_for(lambda: faulty.requests)
            time.sleep(0.3)
        waited_for(lambda: faulty.open == 1)  # a speculative call's has been closed
    waited_for(lambda: faulty.open == 0)
    assert faulty.left >= 1


def test_a_reader_that_is_slow(make: Callable[..., Front], faulty: Faulty) -> None:
    faulty.mode = "flood"
    front = make(faulty.url, count_evidence=False)
    with socket.create_connection(("127.0.0.1", int(front.url.rpartition(":")[2]))) as client:
        client.sendall(request("POST", CHAT, [JSON], json.dumps(OTHER).encode(), host="x"))
        before = 0
        while faulty.sent == 0 or faulty.sent != before:
            before = faulty.sent
            time.sleep(0.5)
        # What the sockets and two bounded buffers hold; the upstream waits for the reader.
        assert faulty.sent < 32 * 2**20
        client.settimeout(5)
        taken = 0
        while taken < 2 * before:
            taken += len(client.recv(2**20))
        assert faulty.sent > before
    waited_for(lambda: faulty.open == 0)


def test_a_body_of_50_mb(make: Callable[..., Front], faulty: Faulty) -> None:
    faulty.mode = "echo"
    front = make(faulty.url)
    body = b'{"messages": "' + b"x" * 50 * 2**20 + b'"}'
    got = post(front, body)
    assert got.content == b"%d" % len(body)
    assert got.headers["x-memedit-reason"] == "the body is longer than 16777216 bytes"


def test_a_body_of_50_mb_takes_no_50_mb(faulty: Faulty, tmp_path: Path) -> None:
    faulty.mode = "echo"
    arguments = ["--upstream", faulty.url, "--memory", str(tmp_path / "memory.sqlite3")]
    with ServerProcess(
        arguments, log=tmp_path / "log", environ={"MEMEDIT_SERVER_MAX_BODY": "1000000"}
    ) as server:

        def peak() -> int:
            status = Path(f"/proc/{server.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0])

        before = peak()
        body = b"x" * 50 * 2**20
        for path in (CHAT, "/v1/audio/transcriptions"):
            got = httpx.post(f"{server.url}{path}", content=body, timeout=60)
            assert got.content == b"%d" % len(body)
        assert peak() - before < 25 * 2**10


def test_a_body_that_the_upstream_takes_slowly(make: Callable[..., Front], faulty: Faulty) -> None:
    faulty.mode = "slow"
    front = make(faulty.url, max_body=2**20)
    most = 2 * _socket_buffers() + 8 * 2**20
    body = b"x" * (most + 32 * 2**20)
    with socket.create_connection(("127.0.0.1", int(front.url.rpartition(":")[2]))) as client:
        client.setblocking(False)
        head = request("POST", CHAT, [JSON], b"", host="x", length=False)[:-2]
        todo = memoryview(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        sent = 0
        until = time.monotonic() + 3
        while sent < len(todo) and time.monotonic() < until:
            try:
                sent += client.send(todo[sent:])
            except BlockingIOError:
                time.sleep(0.01)
        # The client is held back; what is on its way fits into the sockets of four ends.
        assert sent - faulty.read < most
    waited_for(lambda: faulty.open == 0)


def _socket_buffers() -> int:
    """The most bytes that the kernel keeps between two ends of a connection."""
    try:
        tables = [Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text() for way in "rw"]
    except OSError:
        return 16 * 2**20
    return sum(int(table.split()[-1]) for table in tables)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_refused(make: Callable[..., Front], faulty: Faulty, chunked: bool) -> None:
    faulty.mode = "echo"
    front = make(faulty.url, refuse_body=1_000)
    body = b"x" * 5_000
    content = iter([body[:2_500], body[2_500:]]) if chunked else body
    for path in (CHAT, "/v1/embeddings"):
        content = iter([body[:2_500], body[2_500:]]) if chunked else body
        got = httpx.post(f"{front.url}{path}", content=content, timeout=20)
        assert got.status_code == 413
        assert "server.refuse_body" in got.json()["error"]["message"]
    assert post(front, b"x" * 999).content == b"999"


@pytest.mark.parametrize(
    "bomb",
    [
        [(b"x-many", b"b" * 100)] * 1_000,
        [(b"x-long", b"b" * 100_000)],
        [(b"x-endless", b"b" * 3_000_000)],
    ],
)
def test_a_header_bomb(make: Callable[..., Front], faulty: Faulty, bomb: Any) -> None:
    front = make(faulty.url)
    with RawClient(front.url) as client:
        try:
            client.send(request("GET", "/v1/models", bomb, host="x"))
        except OSError:
            pass  # it hangs up before it has read all of that
        else:
            assert client.response().status in (431, 0)
    assert faulty.requests == 0
    assert post(front, OTHER).status_code == 200


def test_a_head_that_never_ends(make: Callable[..., Front], faulty: Faulty) -> None:
    front = make(faulty.url, header_timeout=0.5)
    with socket.create_connection(("127.0.0.1", int(front.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nx-slow: ")
        client.settimeout(5)
        assert client.recv(100) == b""
    assert faulty.requests == 0


def test_2000_connections(make: Callable[..., Front]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 10_000:
        pytest.skip("this process may not open 10,000 files: raise ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Upstream() as upstream:
        front = make(upstream.url, speculate=False, count_evidence=False)
        host, port = "127.0.0.1", int(front.url.rpartition(":")[2])
        raw = json.dumps(OTHER).encode()
        data = request("POST", "/v1/echo", [JSON], raw, host="x")
        gate = asyncio.Event()

        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(host, port)
            await gate.wait()
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(len(raw))
            assert body == raw
            writer.close()
            return head.split(b"\r\n")[0]

        async def all_of_them() -> list[bytes]:
            tasks = [asyncio.ensure_future(one()) for _ in range(2_000)]
            await asyncio.sleep(1)
            gate.set()
            return await asyncio.wait_for(asyncio.gather(*tasks), 60)

        statuses = asyncio.run(all_of_them())
        assert set(statuses) == {b"HTTP/1.1 200 OK"}
        assert len(statuses) == 2_000
        front.settled()
        # Those that were opened for the crowd are not kept for ever.
        waited_for(lambda: front.app.upstream.open == 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# the parts


def test_a_memory_that_is_locked(make: Callable[..., Front]) -> None:
    with Upstream() as upstream:
        front = make(upstream.url, count_evidence=False)
        assert post(front).headers["x-memedit-edits"] == "capital"
        other = sqlite3.connect(front.path, isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            # Whoever writes keeps nobody from reading.
            asked = {"messages": [{"role": "user", "content": "Tell me France's capital."}]}
            assert post(front, asked).headers["x-memedit-edits"] == "capital"
            other.execute("ROLLBACK")
        finally:
            other.close()


@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
def test_a_memory_that_is_gone(make: Callable[..., Front], policy: str) -> None:
    with Upstream() as upstream:
        front = make(upstream.url, on_failure=policy, count_evidence=False)
        path = front.path
        aside = path.with_name("aside")
        path.rename(aside)
        before = len(upstream.answers.bodies)
        got = post(front)
        if policy == "fail_open":
            assert got.status_code == 200
            assert got.headers["x-memedit-reason"] == "no decision could be made"
            assert json.loads(upstream.answers.bodies[-1]) == ASK
        else:
            assert got.status_code == 503
            assert "server.on_failure" in got.json()["error"]["message"]
            assert "x-memedit-edits" not in got.headers
            assert [json.loads(b) for b in upstream.answers.bodies[before:]] in ([], [ASK])
        failures = {"policy": policy, "reason": "MemoryFileError"}
        assert front.metric("memedit_decision_failures_total", **failures) == 1
        ready = httpx.get(f"{front.url}/health/ready", timeout=20)
        assert ready.status_code == 503
        assert ready.json()["checks"]["memory"] == "not ready"
        aside.rename(path)
        assert post(front).headers["x-memedit-edits"] == "capital"


@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
@pytest.mark.parametrize("hangs", [True, False])
def test_an_encoder_that_fails(make: Callable[..., Front], policy: str, hangs: bool) -> None:
    with Upstream() as upstream:
        front = make(upstream.url, on_failure=policy, decision_timeout=0.5, count_evidence=False)
        if hangs:
            front.encoder.gate.clear()
        else:
            front.encoder.error = RuntimeError("out of memory")
        for body in (ASK, OTHER):
            got = post(front, body)
            assert got.status_code == (200 if policy == "fail_open" else 503)
        reason = "TimeoutError" if hangs else "RuntimeError"
        failures = {"policy": policy, "reason": reason}
        assert front.metric("memedit_decision_failures_total", **failures) == 2
        front.encoder.gate.set()
        front.encoder.error = None
        assert post(front).headers["x-memedit-edits"] == "capital"
        assert STATEMENT in upstream.answers.bodies[-1].decode()


def test_many_faults_at_once(make: Callable[..., Front], faulty: Faulty) -> None:
    front = make(faulty.url, answer_timeout=0.3, idle_timeout=0.3, count_evidence=False)
    stop = threading.Event()

    def changing() -> None:
        modes = ["hang", "close", "garbage", "reset", "500", "200", "stream"]
        for number in range(10**6):
            faulty.mode = modes[number % len(modes)]
            front.encoder.error = ValueError("now and then") if number % 3 == 0 else None
            if stop.wait(0.02):
                return

    async def asking() -> list[int]:
        async with httpx.AsyncClient(timeout=20) as client:

            async def one(number: int) -> int:
                body = (
                    ASK if number % 2 else {"messages": [{"role": "user", "content": str(number)}]}
                )
                try:
                    return (await client.post(f"{front.url}{CHAT}", json=body)).status_code
                except httpx.RemoteProtocolError:
                    return 0

            return await asyncio.gather(*(one(number) for number in range(300)))

    changer = threading.Thread(target=changing)
    changer.start()
    try:
        statuses = asyncio.run(asking())
    finally:
        stop.set()
        changer.join()
    assert len(statuses) == 300
    assert set(statuses) <= {0, 200, 500, 502, 504}
    faulty.mode = "200"
    front.encoder.error = None
    waited_for(lambda: faulty.open == front.app.upstream.open)
    assert post(front).headers["x-memedit-edits"] == "capital"
