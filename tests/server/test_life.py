"""The life of a server: restarts, company on one memory file, an upstream that goes and comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.server.process import ServerProcess, free_port
from tests.server.served import MODEL
from tests.server.upstream import Upstream

ASK = {"model": "any", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
STATEMENT = "The capital of France is Lyon."


@pytest.fixture
def memory(tmp_path: Path, encoder: Encoder) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.sqlite3", encoder) as opened:
        yield opened


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def proxy(upstream: str, folder: Path, name: str = "proxy") -> ServerProcess:
    """A proxy on the memory file in this folder."""
    path = folder / "memory.sqlite3"
    return ServerProcess(
        ["--upstream", upstream, "--memory", str(path)], log=folder / f"{name}.log"
    )


def edits_of(url: str, **headers: str) -> str:
    """The edits that take part in the answer about France's capital."""
    got = httpx.post(f"{url}/v1/chat/completions", json=ASK, headers=headers, timeout=60)
    assert got.status_code == 200
    return str(got.headers.get("x-memedit-edits", ""))


def test_restarts_and_company(tmp_path: Path, memory: EditMemory, upstream: Upstream) -> None:
    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            both = [proxy(upstream.url, tmp_path, name) for name in ("one", "two")]
            one, two = pool.map(stack.enter_context, both)
        # An edit that a third process adds is live in both with the next request.
        assert edits_of(one.url) == edits_of(two.url) == ""
        (record,) = memory.add(structured("France", "The capital of {} is", "Lyon"))
        assert edits_of(one.url) == record.edit.id
        assert edits_of(two.url) == record.edit.id
        assert STATEMENT in upstream.answers.bodies[-1].decode()
        # A server that ends does not take the edit along, however it ends.
        one.kill()
        assert edits_of(two.url) == record.edit.id
        two.stop()
        again = stack.enter_context(proxy(upstream.url, tmp_path, "again"))
        assert edits_of(again.url) == record.edit.id
        memory.revert(record.edit.id)
        assert edits_of(again.url) == ""
        assert json.loads(upstream.answers.bodies[-1]) == ASK


@pytest.mark.vllm
def test_vllm_and_a_proxy_on_one_memory(vllm_server: Any, encoder: Encoder, tmp_path: Path) -> None:
    arguments = ["--upstream", vllm_server.plain, "--memory", str(vllm_server.path)]
    with (
        ServerProcess(arguments, log=tmp_path / "proxy.log") as beside,
        EditMemory(vllm_server.path, encoder) as memory,
    ):
        urls = (vllm_server.url, beside.url)
        ask = {**ASK, "model": MODEL, "max_tokens": 8, "temperature": 0}

        def answers() -> list[tuple[str, str]]:
            got = [httpx.post(f"{url}/v1/chat/completions", json=ask, timeout=60) for url in urls]
            return [
                (
                    response.headers.get("x-memedit-edits", ""),
                    response.json()["choices"][0]["message"]["content"],
                )
                for response in got
            ]

        before = answers()
        assert [edits for edits, _ in before] == ["", ""]
        (record,) = memory.add(structured("France", "The capital of {} is", "Lyon"))
        try:
            for edits, answer in answers():
                assert edits == record.edit.id
                assert "Lyon" in answer
        finally:
            memory.revert(record.edit.id)
        assert answers() == before


def test_an_upstream_that_goes_and_comes(tmp_path: Path, memory: EditMemory) -> None:
    memory.add(structured("France", "The capital of {} is", "Lyon"))
    port = free_port()
    with ExitStack() as stack:
        with Upstream(port) as first:
            server = stack.enter_context(proxy(first.url, tmp_path))
            assert edits_of(server.url)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for messages in (ASK["messages"], [{"role": "user", "content": "Hello!"}]):
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="any", messages=messages)  # type: ignore[arg-type]
            assert caught.value.status_code == 502
            assert caught.value.type == "upstream_error"
            assert f"127.0.0.1:{port}" in caught.value.message
        assert httpx.get(f"{server.url}/v1/models").status_code == 502
        with Upstream(port) as second:
            assert edits_of(server.url)
            assert STATEMENT in second.answers.bodies[-1].decode()
            assert httpx.get(f"{server.url}/v1/teapot").status_code == 418


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``memedit`` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "memedit", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve"], "serve needs either a MODEL for vLLM or --upstream URL"),
        (["serve", "model", "--upstream", "http://127.0.0.1:9"], "serve needs either"),
        (["serve", "--upstream", "not a url"], "is not a URL"),
        (["serve", "--upstream", "127.0.0.1:8000"], "is not a URL"),
        (["serve", "--upstream", "ftp://host"], "is not a URL"),
        (["serve", "--upstream", "http://127.0.0.1:9", "--bogus", "1"], "--bogus"),
        (["serve", "--max-model-len", "2048"], "MODEL"),
        (["serve", "smollm2-135m"], "smollm2-135m-instruct"),
        (["serve", "./no/such/folder"], "./no/such/folder"),
        (["serve", "--upstream", "http://127.0.0.1:9", "--port", "x"], "port"),
        (
            ["serve", "--upstream", "http://127.0.0.1:9", "--config", "/no/such.toml"],
            "no/such.toml",
        ),
        (["serve", "--upstream", "http://127.0.0.1:9", "-n", "bad name"], "bad name"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    got = run(*arguments, MEMEDIT_MEMORY_PATH=str(tmp_path / "memory.sqlite3"))
    assert got.returncode == 2, got.stderr
    # Rich breaks lines where it likes.
    assert told in " ".join(got.stderr.replace("│", " ").split())
    assert "Traceback" not in got.stderr


def test_a_memory_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    path.write_bytes(b"this is no journal at all" * 100)
    got = run("serve", "--upstream", "http://127.0.0.1:9", "--memory", str(path))
    assert got.returncode == 1
    assert str(path) in " ".join(got.stderr.split())
    assert "Traceback" not in got.stderr
