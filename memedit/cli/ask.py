"""``memedit ask``: one question to a running server, and what memedit did with it."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import httpx
import typer

from memedit.cli.options import ConfigOption, JsonOption
from memedit.cli.output import print_json, say
from memedit.config import load
from memedit.errors import UpstreamError

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The server, with or without /v1; the configured host and port by default.",
        show_default=False,
    ),
]


def ask(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    url: UrlOption = None,
    model: Annotated[
        str | None, typer.Option(help="The model; the server's first by default.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The namespace of edits.")
    ] = None,
    bypass: Annotated[
        bool, typer.Option("--bypass", help="Ask as if there were no edits.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the server.")] = 0.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running server; its key, if it needs one, is read from OPENAI_API_KEY."""
    server = load(file=config).server
    answer = Asker(url or f"http://{server.host}:{server.port}", model, wait=wait).ask(
        prompt, namespace=namespace, bypass=bypass, max_tokens=max_tokens
    )
    if as_json:
        print_json(answer)
        return
    say(answer["answer"])
    edits = f", edits {answer['edits']}" if answer["edits"] else ""
    say(f"[{answer['route']}, scope {answer['scope']}{edits}]")


class Asker:
    """Asks one server short questions, greedily, one at a time.

    Args:
        url: the server, with or without ``/v1``.
        model: the model; the server's first by default.
        wait: seconds to wait for a server that does not answer yet.

    Raises:
        UpstreamError: the server cannot be reached or says no.
    """

    def __init__(self, url: str, model: str | None = None, *, wait: float = 0.0) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=base, headers=key_header(), timeout=300.0)
        models = self._first_answer(wait).json()
        self._model = model or models["data"][0]["id"]

    def ask(
        self,
        prompt: str,
        *,
        namespace: str | None = None,
        bypass: bool = False,
        max_tokens: int = 64,
        text: bool = False,
    ) -> dict[str, Any]:
        """The answer, and the route, edits and scope that the response headers name.

        Args:
            prompt: what is asked.
            namespace: whose edits; the server's own where ``None``.
            bypass: whether to ask as if there were no edits.
            max_tokens: longest answer.
            text: whether the prompt is a text to be continued, and not the turn of a chat.
        """
        headers = {}
        if namespace:
            headers["x-memedit-namespace"] = namespace
        if bypass:
            headers["x-memedit-bypass"] = "1"
        response = self._call(
            "POST",
            "/v1/completions" if text else "/v1/chat/completions",
            headers=headers,
            json={
                "model": self._model,
                **({"prompt": prompt} if text else {"messages": [_user(prompt)]}),
                "temperature": 0,
                "max_tokens": max_tokens,
            },
        )
        choice = response.json()["choices"][0]
        return {
            "answer": choice["text"] if text else choice["message"]["content"],
            "finish_reason": choice["finish_reason"],
            "route": response.headers.get("x-memedit-route", "none: no memedit in this server"),
            "edits": response.headers.get("x-memedit-edits", ""),
            "scope": response.headers.get("x-memedit-scope", ""),
        }

    def _first_answer(self, wait: float) -> httpx.Response:
        """The server's models, asked for until it answers or the time is up."""
        until = time.monotonic() + wait
        while True:
            try:
                return self._call("GET", "/v1/models")
            except UpstreamError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise UpstreamError(
                f"no server answers at {self._http.base_url}: {error}; "
                "start one with `memedit serve MODEL`, or name it with --url"
            ) from error
        if response.is_error:
            raise UpstreamError(
                f"{self._http.base_url} answered {response.status_code}: {response.text[:500]}"
            )
        return response


def key_header() -> dict[str, str]:
    """The header with the key in OPENAI_API_KEY; none where that is not set."""
    key = os.environ.get("OPENAI_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
