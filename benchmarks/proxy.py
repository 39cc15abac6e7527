"""How many requests a second memedit's proxy passes on, and how long one takes.

    python benchmarks/proxy.py [--edits N] [--seconds S] [--rounds N] [--litellm VERSION]
        writes benchmarks/results/proxy.json (but for "streams": proxy_streams.py)

In front of a minimal upstream that answers at once: the upstream itself (``direct``), memedit with
prompts that come again and again (``repeated``), memedit with prompts that never come twice
(``distinct``), and LiteLLM's proxy, at 1, 8 and 64 connections, each of which sends its next
request when it has its answer. Every round measures all of them, one after the other, so that what
else the machine does falls on all alike. The memory holds N live edits with ready-made vectors,
none of which a prompt is about. Memories and LiteLLM, which gets an environment of its own with uv,
stay in memedit's cache folder for the next run; ``--litellm none`` leaves it out.

What is measured is one process of each on one machine that also runs the client and the upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import uvloop
from memory import Filler, edits
from setting import ROOT, head

from memedit.config import cache_folder
from memedit.encoders import SentenceEncoder
from memedit.memory import EditMemory
from memedit.server.process import ServerProcess, free_port

RESULTS = ROOT / "benchmarks" / "results" / "proxy.json"
LITELLM = "1.106.2"
REPEATED = 16
CHAT = b"/v1/chat/completions"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A short answer."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24},
    }
).encode()


class _Http(asyncio.Protocol):
    """As much of HTTP/1.1 as it takes to tell where a message with a length ends."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._seen) < whole:
                return
            self._seen = self._seen[whole:]
            self.message(head)

    def message(self, head: bytes) -> None:
        """A message has come whole."""
        raise NotImplementedError


class _Upstream(_Http):
    """Answers every request at once, with the same."""

    BYTES = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(ANSWER),
        ANSWER,
    )

    def message(self, head: bytes) -> None:
        self.transport.write(self.BYTES)


class _Client(_Http):
    """Sends a request, waits for its answer, sends the next."""

    def __init__(self, requests: Iterator[bytes], took: list[float]) -> None:
        super().__init__()
        self._requests = requests
        self._took = took

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._next()

    def message(self, head: bytes) -> None:
        assert head.startswith(b"http/1.1 200"), head
        self._took.append(time.perf_counter() - self._sent)
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(next(self._requests))


def requests(prompts: Iterator[str]) -> Iterator[bytes]:
    """The bytes of a chat request for each prompt, with the headers that an SDK sends."""
    for prompt in prompts:
        chat = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 16}
        body = json.dumps(chat).encode()
        yield (
            b"POST %b HTTP/1.1\r\nhost: bench\r\naccept: application/json\r\n"
            b"content-type: application/json\r\nuser-agent: OpenAI/Python 2.0\r\n"
            b"x-stainless-lang: python\r\nauthorization: Bearer none\r\n"
            b"content-length: %d\r\n\r\n%b" % (CHAT, len(body), body)
        )


def distinct(seed: int) -> Iterator[str]:
    """Questions of which none comes twice."""
    rng = random.Random(seed)
    asked = ("How do I", "What is the best way to", "Why would anybody", "When should one")
    done = ("repair", "paint", "clean", "move", "sell", "build", "describe", "replace")
    things = ("a roof", "an old bicycle", "a garden wall", "a boat", "a kitchen", "a violin")
    for number in itertools.count():
        parts = (rng.choice(asked), rng.choice(done), rng.choice(things))
        yield f"{' '.join(parts)} number {number} in {rng.randrange(10**6)} days?"


def repeated(seed: int) -> Iterator[str]:
    """The same few questions over and over."""
    return itertools.cycle(list(itertools.islice(distinct(seed), REPEATED)))


async def load(
    url: str, prompts: Iterator[str], connections: int, seconds: float
) -> dict[str, Any]:
    """Requests a second and their times, after a quarter as long for nothing."""
    host, _, port = url.removeprefix("http://").partition(":")
    took: list[float] = []
    source = requests(prompts)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Client(source, took), host, int(port))
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds / 4)
    took.clear()
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    spent, found = time.perf_counter() - started, sorted(took)
    for transport, _ in made:
        transport.abort()
    if not found:
        return {"n": 0, "per_s": 0.0, "p50_ms": None, "p99_ms": None}
    return {
        "n": len(found),
        "per_s": round(len(found) / spent, 1),
        "p50_ms": round(found[len(found) // 2] * 1e3, 3),
        "p99_ms": round(found[len(found) * 99 // 100] * 1e3, 3),
    }


def memory_of(count: int, seed: int) -> Path:
    """A memory file with so many edits, made where there is none yet."""
    encoder = SentenceEncoder()
    mark = encoder.name.partition("@")[2]
    folder = cache_folder() / "benchmarks" / f"memory-{count}-{seed}-{mark}"
    if not folder.exists():
        # The file and the snapshot of its index, which lies beside it, appear together.
        making = folder.with_name(folder.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        rng = random.Random(seed)
        filler = Filler(encoder.name, encoder.dim, seed)
        with EditMemory(making / "memory.sqlite3", filler) as memory:
            for start in range(0, count, 10_000):
                memory.add(edits(f"Old {start}", min(10_000, count - start), rng))
        making.rename(folder)
    return folder / "memory.sqlite3"


def litellm_command(release: str) -> Path:
    """LiteLLM's proxy in an environment of its own."""
    folder = cache_folder() / "benchmarks" / f"litellm-{release}"
    command = folder / "bin" / "litellm"
    if not command.exists():
        uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--clear", "--python", sys.executable, folder], check=True)
        wanted = f"litellm[proxy]=={release}"
        python = folder / "bin" / "python"
        subprocess.run([uv, "pip", "install", "--python", python, wanted], check=True)
    return command


@contextmanager
def minimal_upstream() -> Iterator[str]:
    """The minimal upstream in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "--as-upstream", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(url)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def memedit_proxy(upstream: str, path: Path, folder: Path) -> ServerProcess:
    """Memedit as an operator starts it; only its memory is said."""
    arguments = ["--upstream", upstream, "--memory", str(path)]
    ready = "/health/ready"
    return ServerProcess(arguments, log=folder / "memedit.log", health=ready, timeout=900)


def litellm_proxy(upstream: str, release: str, folder: Path) -> ServerProcess:
    """LiteLLM's proxy with one model and nothing else set."""
    parameters = {"model": "openai/m", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.json"  # JSON is YAML
    config.write_text(
        json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]})
    )
    return ServerProcess(
        ["--config", str(config), "--telemetry", "False"],
        log=folder / "litellm.log",
        environ={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # No keys to check: memedit has none to check in this run either.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
        health="/health/liveliness",
        program=[str(litellm_command(release))],
    )


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each of what is measured and each number of connections."""
    seeds = itertools.count(args.seed + 1)
    with ExitStack() as stack:
        upstream = stack.enter_context(minimal_upstream())
        proxy = stack.enter_context(
            memedit_proxy(upstream, memory_of(args.edits, args.seed), folder)
        )
        # Each with the prompts of a measurement; those of "distinct" are new every time.
        targets: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
            "direct": (upstream, lambda: repeated(args.seed)),
            "repeated": (proxy.url, lambda: repeated(args.seed)),
            "distinct": (proxy.url, lambda: distinct(next(seeds))),
        }
        if args.litellm != "none":
            lite = stack.enter_context(litellm_proxy(upstream, args.litellm, folder))
            targets["litellm"] = (lite.url, lambda: repeated(args.seed))
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for url, prompts in targets.values():  # what is done only once is done now
            uvloop.run(load(url, prompts(), 8, args.seconds))
        for number in range(args.rounds):
            for connections in args.connections:
                for name, (url, prompts) in targets.items():
                    row = uvloop.run(load(url, prompts(), connections, args.seconds))
                    row["load average"] = round(os.getloadavg()[0], 2)
                    found.setdefault((name, connections), []).append(row)
                    print(f"round {number + 1} {name:9} {connections:3} {row}", flush=True)
    return [
        {
            "target": name,
            "connections": connections,
            **{key: median(row[key] for row in rows) for key in ("per_s", "p50_ms", "p99_ms")},
            "rounds": rows,
        }
        for (name, connections), rows in found.items()
    ]


def median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def targets_met(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, beside LiteLLM in the same run."""
    value = {(row["target"], row["connections"]): row for row in rows}
    found = []
    for name, connections, times in (
        ("repeated", 1, 15),
        ("repeated", 8, 20),
        ("repeated", 64, 20),
        ("distinct", 1, 3),
        ("distinct", 8, 3),
        ("distinct", 64, 3),
    ):
        ours, theirs = value.get((name, connections)), value.get(("litellm", connections))
        if ours and theirs and theirs["per_s"]:
            ratio = round(ours["per_s"] / theirs["per_s"], 2)
            what = f"{name}, {connections} connections: requests/s by LiteLLM's"
            found.append({"what": what, "is": ratio, "at least": times, "met": ratio >= times})
    for name in ("repeated", "distinct"):
        ours, theirs = value.get((name, 1)), value.get(("litellm", 1))
        if ours and theirs and theirs["p50_ms"] and ours["p50_ms"]:
            share = round(ours["p50_ms"] / theirs["p50_ms"], 3)
            what = f"{name}, one connection: p50 by LiteLLM's"
            found.append({"what": what, "is": share, "at most": 0.25, "met": share <= 0.25})
    return found


async def serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--litellm", default=LITELLM, metavar="VERSION")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--as-upstream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_upstream:
        uvloop.run(serve_upstream(args.as_upstream))
        return
    folder = cache_folder() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(args, folder)
    said = head(
        "How many requests a second pass through the proxy, and how long do they take?",
        f"python benchmarks/proxy.py {' '.join(sys.argv[1:])}".strip(),
        *("uvicorn", "uvloop", "httptools", "sentence-transformers", "torch", "faiss-cpu"),
    )
    report = {
        **said,
        "seed": args.seed,
        "litellm": args.litellm,
        "edits": args.edits,
        "settings": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("MEMEDIT_ENCODER_", "MEMEDIT_SERVER_"))
        },
        "seconds": args.seconds,
        "targets": targets_met(rows),
        "results": rows,
    }
    kept = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    if "streams" in kept:
        report["streams"] = kept["streams"]
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for target in report["targets"]:
        print(target)


if __name__ == "__main__":
    main()
