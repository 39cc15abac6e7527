"""What an operator sees: health, metrics, logs, the configuration, a server that ends."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.config import ServerConfig
from memedit.edits import structured
from memedit.server.metrics import OTHER, Metrics
from memedit.server.process import ServerProcess
from tests.server.front import Front
from tests.server.served import JSON
from tests.server.tap import waited_for
from tests.server.upstream import PIECES, Upstream
from tests.server.wire import RawClient, request

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def front(upstream: Upstream, tmp_path: Path) -> Iterator[Front]:
    with Front(upstream.url, tmp_path) as running:
        running.memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
        yield running


def ready(front: Front) -> tuple[int, Any]:
    got = httpx.get(f"{front.url}/health/ready", timeout=20)
    return got.status_code, got.json()


def test_health(front: Front, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    assert httpx.get(f"{front.url}/health/live").json() == {"status": "live"}
    ok = {"upstream": "ok", "memory": "ok", "encoder": "ok"}
    assert ready(front) == (200, {"status": "ready", "checks": ok})
    front.encoder.error = RuntimeError("no memory left")

    def wrong() -> Any:
        status, told = ready(front)
        return told["checks"] if status == 503 else None

    # An answer counts for a second.
    assert waited_for(wrong) == {**ok, "encoder": "not ready"}
    front.encoder.error = None
    upstream.__exit__()
    checks = waited_for(lambda: (found := wrong()) and found["encoder"] == "ok" and found)
    assert checks == {**ok, "upstream": "not ready"}
    assert [record.getMessage() for record in caplog.records if "ready" in record.msg] == [
        "the encoder is not ready: RuntimeError: no memory left",
        "the upstream is not ready: ConnectionError: /health answers 502",
        "the encoder is ready again",
    ]
    # Whoever restarts servers that are not alive must leave this one alone.
    assert httpx.get(f"{front.url}/health/live").status_code == 200


def test_whoever_asks_for_health_learns_no_paths(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    front.path.rename(front.path.with_name("aside"))
    for _ in range(2):
        got = httpx.get(f"{front.url}/health/ready", timeout=20)
        assert got.status_code == 503
        assert got.json()["checks"]["memory"] == "not ready"
        assert str(front.path.parent) not in got.text
        time.sleep(1.1)
    # The log has it, once.
    told = [record.getMessage() for record in caplog.records if "not ready" in record.msg]
    assert len(told) == 1
    assert str(front.path) in told[0]


def test_the_upstreams_own_health_and_metrics_pass_through(front: Front) -> None:
    assert httpx.get(f"{front.url}/health").content == b""
    assert httpx.get(f"{front.url}/metrics").content == b"ok"


def test_metrics(front: Front) -> None:
    for _ in range(3):
        httpx.post(f"{front.url}{CHAT}", json=ASK)
    httpx.post(f"{front.url}{CHAT}", json={"messages": [{"role": "user", "content": "Hello."}]})
    got = httpx.get(f"{front.url}/memedit/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = got.text.splitlines()
    for line in (
        'memedit_decisions_total{route="ike"} 3.0',
        'memedit_decisions_total{route="passthrough"} 1.0',
        'memedit_edit_fires_total{edit="capital"} 3.0',
        'memedit_decision_cache_total{result="hit"} 2.0',
        "memedit_scope_score_count 4.0",
        "memedit_live_edits 2.0",
        "memedit_requests_in_flight 0.0",
        'memedit_stage_seconds_count{stage="total"} 4.0',
    ):
        assert line in lines, (line, got.text)
    assert len([line for line in lines if line.startswith("memedit_stage_seconds_count")]) >= 5


def test_fires_do_not_become_a_million_series() -> None:
    from memedit.protocols import Decision

    metrics = Metrics(edits=3)
    edits = [structured(f"Land{n}", "The capital of {} is", "X", id=f"e{n}") for n in range(10)]
    for edit in [*edits, *edits[:2]]:
        metrics.decided([Decision("ike", (edit,), 1.0)], known=False)
    value = metrics.registry.get_sample_value
    assert value("memedit_edit_fires_total", {"edit": "e0"}) == 2
    assert value("memedit_edit_fires_total", {"edit": OTHER}) == 7
    assert metrics.text().count(b"memedit_edit_fires_total{") == 4


def test_every_metric_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = [*Metrics().names(), "memedit_live_edits", "memedit_upstream_connections"]
    assert [name for name in names if name not in text] == []
    told = set(re.findall(r"`(memedit_[a-z_]+)`", text)) - {"memedit_evidence_tokens"}
    assert told - {f"{name}_total" for name in names} - set(names) == set()


def test_every_setting_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [f.name for f in fields(ServerConfig) if f"`{f.name}`" not in text] == []


def test_show_config(tmp_path: Path) -> None:
    file = tmp_path / "memedit.toml"
    file.write_text('[server]\nport = 9\non_failure = "fail_closed"\n[memory]\npath = "a \\" b"\n')
    argv = [sys.executable, "-m", "memedit", "serve", "--show-config", "--config", str(file)]
    environ = {**os.environ, "MEMEDIT_SERVER_PORT": "10", "MEMEDIT_SERVER_SPECULATE": "0"}
    shown = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    told = tomllib.loads(shown)
    assert told["server"]["port"] == 10
    assert told["server"]["on_failure"] == "fail_closed"
    assert told["server"]["speculate"] is False
    assert told["memory"]["path"] == 'a " b'
    # What is shown can be read again, and is all there is.
    file.write_text(shown)
    again = subprocess.run(argv, env=os.environ, capture_output=True, text=True, check=True)
    assert again.stdout == shown


def test_logs_as_json(upstream: Upstream, tmp_path: Path) -> None:
    log = tmp_path / "proxy.log"
    arguments = ["--upstream", upstream.url, "--memory", str(tmp_path / "memory.sqlite3")]
    with ServerProcess(arguments, log=log, environ={"MEMEDIT_SERVER_LOG_FORMAT": "json"}) as server:
        got = [
            httpx.post(f"{server.url}{CHAT}", json=ASK, headers=headers)
            for headers in ({"x-request-id": "mine-7"}, {"x-request-id": "no good"}, {})
        ]
    ids = [response.headers["x-memedit-request-id"] for response in got]
    assert ids[0] == "mine-7"
    assert len(set(ids)) == 3
    records = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    requests = [record for record in records if record.get("path") == CHAT]
    assert [record["id"] for record in requests] == ids
    assert {"time", "level", "route", "scope", "total_ms", "speculation"} <= set(requests[0])
    assert "capital" not in log.read_text()


def test_spans(upstream: Upstream, tmp_path: Path) -> None:
    collector = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="OpenTelemetry is not installed: use the extra otel",
    )
    trace = "0af7651916cd43dd8448eb211c80319c"
    with Upstream() as sink:
        with Front(upstream.url, tmp_path, spans=f"{sink.url}/echo") as front:
            front.memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
            headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            httpx.post(f"{front.url}{CHAT}", json=ASK, headers=headers)
        # What waits is sent when the server ends.
        (raw,) = sink.answers.bodies
    told = collector.ExportTraceServiceRequest.FromString(
        gzip.decompress(raw) if raw[0] == 31 else raw
    )
    (span,) = told.resource_spans[0].scope_spans[0].spans
    assert span.name == "memedit.request"
    assert span.trace_id.hex() == trace
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.end_time_unix_nano > span.start_time_unix_nano
    found = {item.key: item.value.string_value for item in span.attributes}
    assert found["memedit.route"] == "ike"
    assert found["memedit.edits"] == "capital"
    assert "capital of France" not in str(told)


def test_a_server_that_ends_lets_streams_end(upstream: Upstream, tmp_path: Path) -> None:
    log = tmp_path / "proxy.log"
    arguments = ["--upstream", upstream.url, "--memory", str(tmp_path / "memory.sqlite3")]
    upstream.answers.gate.clear()
    try:
        with ServerProcess(arguments, log=log) as server, RawClient(server.url) as client:
            raw = json.dumps(ASK).encode()
            client.send(request("POST", CHAT, [JSON], raw, host="x"))
            client.until(lambda exchange: len(exchange.chunks) == PIECES - 1)
            os.kill(server.pid, signal.SIGTERM)
            threading.Timer(0.5, upstream.answers.gate.set).start()
            got = client.response()
            assert got.complete
            assert got.response_body.endswith(b"data: 3\n\n")
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/health/live")
    finally:
        upstream.answers.gate.set()
    text = log.read_text()
    assert "Application shutdown complete" in text
    assert "Traceback" not in text


def test_a_server_that_ends_does_not_wait_for_ever(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answers.gate.clear()
    try:
        front = Front(upstream.url, tmp_path, drain_timeout=1)
        with front, RawClient(front.url) as client:
            client.send(request("POST", CHAT, [JSON], json.dumps(ASK).encode(), host="x"))
            client.until(lambda exchange: bool(exchange.chunks))
            assert ready(front)[0] == 200
            front.stop()
            assert not client.response().complete
    finally:
        upstream.answers.gate.set()
