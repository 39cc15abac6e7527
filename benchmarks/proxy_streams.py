"""What memedit costs streams of a real vLLM: output tokens a second, and time to the first token.

    python benchmarks/proxy_streams.py [--model DIR] [--edits N] [--rounds N] [--streams N]
        writes "streams" into benchmarks/results/proxy.json

One vLLM server with memedit as its middleware, and memedit's proxy beside it. Three ways lead to
the same engine: around the middleware (``direct``: the name in ``Host`` chooses), through it
(``middleware``), and through the proxy, whose upstream is the way around the middleware
(``proxy``). Both memories hold N live edits with ready-made vectors, none of which a prompt is
about, so that every request passes through unedited.

A block is a number of chat requests over so many connections, each of which sends its next request
when its stream has ended; every stream is told to be of one length. A round measures a block of
each way, with the same prompts and in an order that changes from round to round; no prompt is in
two rounds, and vLLM keeps no prefixes. What counts is the ratio, or the difference, of two blocks
of one round. Time to the first token is from sending a request to the first piece of text.

A run that was broken off goes on behind its last round when it is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop
from proxy import CHAT, RESULTS, distinct, median, memedit_proxy, memory_of
from setting import ROOT, commit, head

from memedit.adapters import vllm_server as adapter
from memedit.config import Config, MemoryConfig, cache_folder
from memedit.models import PACKAGED, packaged
from memedit.server.asgi import ASGIApp, Receive, Scope, Send, header
from memedit.server.process import ServerProcess

MODEL = next(iter(PACKAGED))
WAYS = ("direct", "proxy", "middleware")
AROUND = "localhost"
"""The host name under which vLLM answers without memedit."""

_TEXT = re.compile(rb'"content":\s?"[^"]')
_TOKENS = re.compile(rb'"completion_tokens":\s?(\d+)')


class Switched:
    """What ``--middleware`` names: memedit's middleware, and a way around it."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._edited = adapter.Middleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        host = (header(scope["headers"], b"host") or b"") if scope["type"] == "http" else b""
        way = self._plain if host.startswith(AROUND.encode()) else self._edited
        await way(scope, receive, send)


class _Streams(asyncio.Protocol):
    """Sends a request, reads its stream to the end, sends the next.

    Attributes:
        done: there is no request left.
        seen: a row for each stream: seconds to the first text, and tokens.
        routes: values of memedit's response header; ``None`` where there was none.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seen: list[tuple[float, int]] = []
        self.routes: set[bytes | None] = set()
        self._requests = requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the server closed the connection: {error}")

    # of httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-memedit-route":
            self._route = value

    def on_body(self, body: bytes) -> None:
        self._body += body
        if self._first is None and _TEXT.search(self._body):
            self._first = time.perf_counter() - self._sent

    def on_message_complete(self) -> None:
        tokens = _TOKENS.findall(self._body)
        if self._parser.get_status_code() != 200 or self._first is None or not tokens:
            self._fail(f"{self._parser.get_status_code()}: {bytes(self._body[:2_000])!r}")
            return
        self.routes.add(self._route)
        self.seen.append((self._first, int(tokens[-1])))
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._first: float | None = None
        self._route: bytes | None = None
        self._sent = time.perf_counter()
        self._transport.write(request)

    def _fail(self, what: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(what))


def requests(host: str, model: str, prompts: list[str], tokens: int) -> Iterator[bytes]:
    """The bytes of a streamed chat request for each prompt."""
    for prompt in prompts:
        chat = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = json.dumps(chat).encode()
        yield (
            b"POST %b HTTP/1.1\r\nhost: %b\r\naccept: text/event-stream\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT, host.encode(), len(body), body)
        )


async def block(
    way: str, url: str, model: str, prompts: list[str], streams: int, tokens: int
) -> dict[str, Any]:
    """Streams an answer to each prompt; tokens a second of all, and times to the first text."""
    host, _, port = url.removeprefix("http://").partition(":")
    source = requests(f"{host}:{port}", model, prompts, tokens)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [
        (await loop.create_connection(lambda: _Streams(source), "127.0.0.1", int(port)))[1]
        for _ in range(streams)
    ]
    await asyncio.gather(*(one.done for one in made))
    spent = time.perf_counter() - started
    rows = [row for one in made for row in one.seen]
    routes = set().union(*(one.routes for one in made))
    # Else it is not the way that it says it is.
    assert routes == ({None} if way == "direct" else {b"passthrough"}), (way, routes)
    firsts = sorted(first for first, _ in rows)
    return {
        "streams": len(rows),
        "tokens": sum(count for _, count in rows),
        "tokens_per_s": round(sum(count for _, count in rows) / spent, 2),
        "ttft_p50_ms": round(statistics.median(firsts) * 1e3, 2),
        "ttft_p90_ms": round(firsts[len(firsts) * 9 // 10] * 1e3, 2),
        "load average": round(os.getloadavg()[0], 2),
    }


def vllm(model: Path, memory: Path, folder: Path) -> ServerProcess:
    """A vLLM server with memedit in it, and a way around."""
    on_cpu = adapter.on_cpu()
    options = ["--served-model-name", MODEL, "--max-model-len", "1024"]
    argv = adapter.command(str(model), [*options, "--no-enable-prefix-caching"], cpu=on_cpu)
    argv[argv.index(adapter.MIDDLEWARE)] = f"{Path(__file__).stem}.{Switched.__name__}"
    config = Config(memory=MemoryConfig(path=memory))
    environ = adapter.environment(config, os.environ, cpu=on_cpu)
    paths = (str(ROOT), str(ROOT / "benchmarks"), environ.get("PYTHONPATH", ""))
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    log = folder / "streams-vllm.log"
    return ServerProcess((), log=log, environ=environ, program=argv, timeout=1_800)


def measure(args: argparse.Namespace, folder: Path, part: Path) -> list[dict[str, Any]]:
    """The rounds, those of an earlier run that was broken off first."""
    rounds = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    rounds = rounds[: args.rounds]
    if len(rounds) == args.rounds:
        return rounds
    model = packaged(args.model) if args.model in PACKAGED else Path(args.model)
    memory = memory_of(args.edits, args.seed)
    with ExitStack() as stack:
        server = stack.enter_context(vllm(model, memory, folder))
        around = server.url.replace("127.0.0.1", AROUND)
        proxy = stack.enter_context(memedit_proxy(around, memory, folder))
        urls = {"direct": around, "proxy": proxy.url, "middleware": server.url}

        def run(way: str, prompts: list[str]) -> dict[str, Any]:
            return uvloop.run(block(way, urls[way], MODEL, prompts, args.streams, args.tokens))

        for way in WAYS:  # what is done only once is done now
            run(way, list(itertools.islice(distinct(args.seed), args.streams)))
        for number in range(len(rounds), args.rounds):
            prompts = list(itertools.islice(distinct(args.seed + 1 + number), args.requests))
            order = WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]
            rounds.append({way: run(way, prompts) for way in order})
            with part.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rounds[-1]) + "\n")
            for way, row in rounds[-1].items():
                print(f"round {number + 1} {way:10} {row}", flush=True)
    return rounds


def summed_up(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each way, beside the direct one of the same round."""
    found = []
    for way in WAYS:
        ratios = [one[way]["tokens_per_s"] / one["direct"]["tokens_per_s"] for one in rounds]
        later = [one[way]["ttft_p50_ms"] - one["direct"]["ttft_p50_ms"] for one in rounds]
        found.append(
            {
                "way": way,
                **{
                    key: median(one[way][key] for one in rounds)
                    for key in ("tokens_per_s", "ttft_p50_ms", "ttft_p90_ms")
                },
                "tokens/s by direct's": _spread(ratios),
                "median ttft beyond direct's, ms": _spread(later),
                "rounds": [one[way] for one in rounds],
            }
        )
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def targets_met(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, for unrelated prompts."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["way"] == "direct":
            continue
        ratio = row["tokens/s by direct's"]["median"]
        later = row["median ttft beyond direct's, ms"]["median"]
        what = f"{row['way']}: output tokens/s by direct's"
        found.append({"what": what, "is": ratio, "at least": 0.97, "met": ratio >= 0.97})
        what = f"{row['way']}: median time to the first token beyond direct's, ms"
        found.append({"what": what, "is": later, "at most": 5.0, "met": later <= 5.0})
    return found


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment sets of memedit, vLLM and threads."""
    told = ("MEMEDIT_ENCODER_", "MEMEDIT_SERVER_", "VLLM_CPU_", "OMP_", "GOMP_", "TORCH_COMPILE")
    return {name: value for name, value in sorted(environ.items()) if name.startswith(told)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="a model folder, or a packaged model")
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=16, help="at once")
    parser.add_argument("--requests", type=int, default=48, help="of a block")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = cache_folder() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(os.environ)
    said = {name: getattr(args, name) for name in ("streams", "requests", "tokens", "edits")}
    same = json.dumps([said, args.model, args.seed, settings, commit()]).encode()
    part = folder / f"streams-{blake2b(same, digest_size=8).hexdigest()}.jsonl"
    rows = summed_up(measure(args, folder, part))
    report = {
        **head(
            "What does memedit cost streams of a real vLLM?",
            " ".join(["python benchmarks/proxy_streams.py", *(Path(a).name for a in sys.argv[1:])]),
            *("uvicorn", "uvloop", "httptools", "sentence-transformers", "torch", "faiss-cpu"),
            *("vllm", "vllm-cpu"),
        ),
        "seed": args.seed,
        "settings": settings,
        "model": args.model if args.model in PACKAGED else Path(args.model).name,
        **said,
        "targets": targets_met(rows),
        "results": rows,
    }
    kept = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    kept["streams"] = report
    args.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    part.unlink(missing_ok=True)
    for target in report["targets"]:
        print(target)


if __name__ == "__main__":
    main()
