"""Any server with OpenAI's API as an engine.

Its answers are greedy and still not deterministic: which requests share a batch depends on when
they arrive. What a server adds of its own (a repetition penalty in the model's
``generation_config.json``, with vLLM) is the server's; ``body`` can say otherwise.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx

from memedit.adapters import _tokens
from memedit.adapters._described import Described
from memedit.errors import ConfigError, InvalidInput, UpstreamError
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Capability, Feed, Generation, Request, Scored

Value = TypeVar("Value")

_LONGEST_PAUSE = 30.0
_TOO_LONG = re.compile(
    r"context.?(length|size|window)|max_model_len|maximum (input|sequence|model) length"
    r"|(prompt|input) is too long|longer than the maximum",
    re.IGNORECASE,
)


class OpenAIHTTP(Described):
    """A language model behind ``/v1/chat/completions`` and ``/v1/completions``.

    Making one asks the server for its models, where none is named, and puts two small requests to
    it that tell whether it takes chats and whether it rates a text (``echo`` and ``logprobs``
    with token ids, as vLLM does; texts only).

    A server may count ``max_tokens`` to the prompt when it judges its length; vLLM's does.

    Args:
        base_url: the server, with or without ``/v1``; no name or password in it.
        model: what the server calls it; the server's first by default.
        api_key_env: the environment variable that holds the key; no key is sent where it is not
            set.
        concurrency: how many requests are under way at once.
        timeout: seconds that one request may take.
        retries: how often a request is put again after 429, 5xx or a broken connection.
        headers: go with every request.
        body: more fields of every request, such as ``{"repetition_penalty": 1.0}``.

    Raises:
        ConfigError: the key or the URL cannot be used.
        UpstreamError: the server cannot be reached or refuses.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout: float = 300.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}; expected at least 1")
        self._concurrency = concurrency
        self._body = dict(body or {})
        self._wire = _Wire(
            base_url, api_key_env, dict(headers or {}), concurrency, timeout, retries
        )
        try:
            self._model = model or _field(self._wire.get("/v1/models"), "data", 0, "id")
            self._capabilities = self._probed()
            version = self._wire.optional("/version").get("version")
        except BaseException:
            self._wire.close()
            raise
        self._name = _tokens.short_name(self._model)
        own = {k.lower(): v for k, v in (headers or {}).items()}
        self._description = {
            "engine": "openai",
            "model": self._name,
            "versions": {
                **_tokens.versions("httpx"),
                **({"server": str(version)} if version else {}),
            },
            "dtype": None,
            "deterministic": False,
            "concurrency": concurrency,
            # Values of other headers may be secrets.
            "headers": {k: v if k.startswith("x-memedit-") else "set" for k, v in own.items()},
            "body": dict(self._body),
        }

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[Generation]:
        """Greedy answers; see :class:`memedit.protocols.Engine`."""
        _tokens.check_budget(max_tokens)
        requests = [Request(prompt, max_tokens) for prompt in prompts]
        return self._each(self._answer, requests)

    def flow(self, feed: Feed) -> None:
        """As many requests under way as ``concurrency``; see :class:`memedit.protocols.Engine`."""
        under_way: dict[Future[Generation], int] = {}
        with ThreadPoolExecutor(self._concurrency) as pool:

            def put(asked: Sequence[tuple[int, Request]]) -> None:
                for number, request in asked:
                    _tokens.check_budget(request.max_tokens)
                    under_way[pool.submit(self._answer, number, request)] = number

            try:
                put(feed(()))
                while under_way:
                    finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    put(feed([(under_way.pop(one), one.result()) for one in finished]))
            finally:
                for future in under_way:
                    future.cancel()

    def score(self, prompts: Sequence[Any], continuations: Sequence[str]) -> list[Scored]:
        """Each continuation after its text; see :class:`memedit.protocols.Engine`."""
        _tokens.check_pairs(prompts, continuations)
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, TextPrompt):
                raise InvalidInput(
                    f"prompt {i} is a {type(prompt).__name__}; a server rates a TextPrompt only"
                )

        def rate(i: int, pair: tuple[TextPrompt, str]) -> Scored:
            end = _tokens.SEAM + pair[1]
            return _scored(i, self._complete(i, pair[0].text + end, _RATES), end)

        return self._each(rate, zip(prompts, continuations, strict=True))

    def close(self) -> None:
        """Closes the connections."""
        self._wire.close()

    def _probed(self) -> frozenset[Capability]:
        """What the server does, found out with two requests of a few tokens."""
        found: set[Capability] = {"generate"}
        if self._answers(lambda: self._chat(0, [{"role": "user", "content": "Hi"}], _SHORT)):
            found.add("chat")
        if self._answers(
            lambda: _scored(0, self._complete(0, "The sky is blue", _RATES), " is blue")
        ):
            found.add("score")
        return frozenset(found)

    @staticmethod
    def _answers(ask: Callable[[], object]) -> bool:
        try:
            ask()
        except _Refused as error:
            if error.status in (401, 403, 429):
                raise
            return False
        except _Unreadable:
            return False
        return True

    def _answer(self, i: int, request: Request) -> Generation:
        asked: dict[str, Any] = {"max_tokens": request.max_tokens}
        if request.stop:
            asked["stop"] = list(request.stop)
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt):
            answered = self._chat(i, [dict(m) for m in prompt.messages], asked)
            text = _field(answered, "choices", 0, "message", "content") or ""
        elif isinstance(prompt, TextPrompt):
            answered = self._complete(i, prompt.text, asked)
            text = _field(answered, "choices", 0, "text")
        else:
            raise _tokens.wrong_kind(i, prompt)
        return Generation(
            text,
            _field(answered, "usage", "prompt_tokens"),
            _field(answered, "usage", "completion_tokens"),
        )

    def _chat(self, i: int, messages: list[dict[str, Any]], asked: Mapping[str, Any]) -> Any:
        return self._ask(i, "/v1/chat/completions", {"messages": messages, **asked})

    def _complete(self, i: int, text: str, asked: Mapping[str, Any]) -> Any:
        return self._ask(i, "/v1/completions", {"prompt": text, **asked})

    def _ask(self, i: int, path: str, asked: Mapping[str, Any]) -> Any:
        body = {"temperature": 0, **self._body, **asked, "model": self._model}
        try:
            return self._wire.post(path, body)
        except _Refused as error:
            if error.status in (400, 413, 422) and _TOO_LONG.search(error.said):
                raise InvalidInput(
                    f"prompt {i} is longer than the model takes; shorten it. "
                    f"The server says: {error.said}"
                ) from error
            raise

    def _each(self, call: Callable[[int, Any], Value], items: Iterable[Any]) -> list[Value]:
        """The calls' results, in order; the first error ends what has not begun."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = [pool.submit(call, i, item) for i, item in enumerate(items)]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()


_SHORT: Mapping[str, Any] = {"max_tokens": 1}
_RATES: Mapping[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 1, "return_token_ids": True}


class _Refused(UpstreamError):
    """The server answered with an error status."""

    def __init__(self, url: str, status: int, said: str) -> None:
        super().__init__(f"{url} answered {status}: {said}")
        self.status = status
        self.said = said


class _Unreadable(UpstreamError):
    """The server answered something else than what its API describes."""


class _Wire:
    """Requests with a key, put again where that may help. The key is in no message."""

    def __init__(
        self,
        base_url: str,
        api_key_env: str,
        headers: dict[str, str],
        concurrency: int,
        timeout: float,
        retries: int,
    ) -> None:
        self._key = os.environ.get(api_key_env, "")
        if not re.fullmatch(r"[!-~]*", self._key):
            raise ConfigError(
                f"the key in {api_key_env} holds a space, a line break or a character that no HTTP "
                "header takes; set it again"
            )
        if self._key:
            headers = {"authorization": f"Bearer {self._key}", **headers}
        try:
            url = httpx.URL(base_url.rstrip("/").removesuffix("/v1"))
        except httpx.InvalidURL as error:
            raise ConfigError(f"base_url cannot be read as a URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError("base_url is no address of a server; expected http://HOST:PORT")
        if url.userinfo:
            raise ConfigError(
                "base_url holds a name or a password; put the key in an environment "
                "variable and name that with api_key_env"
            )
        self._url = str(url)
        self._retries = retries
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    def get(self, path: str) -> Any:
        return self._json(self._answered("GET", path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._json(self._answered("POST", path, json=body))

    def optional(self, path: str) -> Mapping[str, Any]:
        """What the server says there, or nothing."""
        try:
            said = self.get(path)
        except (_Refused, _Unreadable):
            return {}
        return said if isinstance(said, Mapping) else {}

    def close(self) -> None:
        self._http.close()

    def _answered(self, method: str, path: str, **request: Any) -> httpx.Response:
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            pause = min(0.5 * 2**attempt, _LONGEST_PAUSE)
            try:
                response = self._http.request(method, path, **request)
            except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout) as error:
                if last:
                    raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            else:
                if response.is_success:
                    return response
                if last or (response.status_code != 429 and response.status_code < 500):
                    said = self._hidden(response.text[:500])
                    raise _Refused(self._url, response.status_code, said)
                pause = _asked_pause(response, pause)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: Exception) -> UpstreamError:
        said = self._hidden(str(error)) or type(error).__name__
        return UpstreamError(
            f"no server answers at {self._url}: {said}; "
            "start one with `memedit serve MODEL`, or check base_url"
        )

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise _Unreadable(
                f"{self._url} answered something that is not JSON; is it an OpenAI-compatible "
                "server?"
            ) from error

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _asked_pause(response: httpx.Response, otherwise: float) -> float:
    """The seconds that ``Retry-After`` asks for, where it names some."""
    try:
        asked = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return otherwise
    return min(max(asked, 0.0), _LONGEST_PAUSE)


def _field(answer: Any, *path: str | int) -> Any:
    """A field of an answer, by keys and positions."""
    found = answer
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError) as error:
            where = ".".join(map(str, path))
            raise _Unreadable(
                f"the server's answer has no {where}; is it an OpenAI-compatible server?"
            ) from error
    return found


def _scored(i: int, answer: Any, end: str) -> Scored:
    """The last tokens of an echoed text, those that reach into ``end``.

    vLLM gives each token's text so that together they spell what was sent; a token that holds
    only a part of a character is empty and the one that completes it is not.
    """
    ids = _field(answer, "choices", 0, "prompt_token_ids")
    rated = _field(answer, "choices", 0, "prompt_logprobs")
    try:
        places = [
            {
                int(token): (float(at["logprob"]), str(at["decoded_token"]))
                for token, at in row.items()
            }
            for row in rated[1:]
        ]
        given = [place[token] for place, token in zip(places, ids[1:], strict=True)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _Unreadable("the server's answer rates no prompt by token ids") from error
    start, missing = len(given), len(end)
    while start and (missing > 0 or not given[start - 1][1]):
        start -= 1
        missing -= len(given[start][1])
    spelt = "".join(text for _, text in given[start:])
    if missing > 0:
        raise _tokens.nothing_before(i)
    if not spelt.endswith(end):
        raise _Unreadable("the server's tokens do not spell out what it was sent")
    return Scored(
        logprobs=tuple(logprob for logprob, _ in given[start:]),
        tokens=tuple(int(token) for token in ids[1 + start :]),
        # Of two that are level, greedy search takes the smaller id.
        predicted=tuple(min(at, key=lambda t: (-at[t][0], t)) for at in places[start:]),
    )
