"""What only the server's tokenizer knows: what token ids say, and how many tokens a prompt has.

Asked of the application behind, by the paths that vLLM has for it and with the caller's own key.
Another server may have none of them; then token ids pass unread, and usage stays as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from memedit.server.asgi import ASGIApp, Headers, Scope, asked
from memedit.server.surfaces import Count

logger = logging.getLogger("memedit.server")

_KEYS = frozenset({b"authorization", b"x-api-key", b"api-key", b"anthropic-version"})
_ABSENT = frozenset({404, 405, 501})


class Tokens:
    """Asks an application's tokenizer.

    Args:
        app: the application behind memedit.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._absent: set[str] = set()

    async def texts(
        self, scope: Scope, model: Any, prompts: Sequence[Sequence[int]]
    ) -> list[str] | None:
        """What the ids of each prompt say; ``None`` where the server does not tell."""
        found = []
        for ids in prompts:
            told = await self._ask(scope, "/detokenize", {**_of(model), "tokens": ids})
            text = (told or {}).get("prompt")
            if not isinstance(text, str):
                return None
            found.append(text)
        return found

    async def ids(self, scope: Scope, model: Any, text: str) -> list[int] | None:
        """A text that already says everything as token ids; ``None`` where nobody tells."""
        said = {**_of(model), "prompt": text, "add_special_tokens": False}
        ids = ((await self._ask(scope, "/tokenize", said)) or {}).get("tokens")
        return ids if isinstance(ids, list) else None

    async def count(self, scope: Scope, counts: Sequence[Count]) -> int | None:
        """The sum of what each of these requests counts; ``None`` where one of them fails."""
        total = 0
        for path, body in counts:
            told = await self._ask(scope, path, body) or {}
            number = told.get("count", told.get("input_tokens"))
            if not isinstance(number, int):
                return None
            total += number
        return total if counts else None

    async def _ask(self, scope: Scope, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path in self._absent:
            return None
        headers: Headers = [pair for pair in scope["headers"] if pair[0].lower() in _KEYS]
        raw = json.dumps(body).encode()
        try:
            status, answer = await asked(self._app, scope, "POST", path, raw, headers)
        except Exception:
            # Counting is no reason for a request to fail; what is wrong shows with the request.
            logger.debug("%s failed", path, exc_info=True)
            return None
        if status in _ABSENT:
            logger.info("the server has no %s: token counts and token ids are not read", path)
            self._absent.add(path)
        if status != 200:
            return None
        try:
            told = json.loads(answer)
        except ValueError:
            return None
        return told if isinstance(told, dict) else None


def _of(model: Any) -> dict[str, Any]:
    return {} if model is None else {"model": model}
