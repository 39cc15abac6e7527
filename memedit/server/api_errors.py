"""How the edits API says no: OpenAI's error object, a status, and a code that programs can test.

.. code-block:: json

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": "..."}}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from memedit.errors import (
    AccessFileError,
    EditChanged,
    EditConflict,
    EditNotFound,
    InvalidEdit,
    InvalidInput,
    KeyReused,
    MemoryFileError,
    WrongState,
)

logger = logging.getLogger("memedit.server")

CODES: Mapping[str, tuple[int, str]] = {
    "invalid_request": (400, "a parameter, a header or the body is not as the schema says"),
    "invalid_edit": (400, "an edit lacks a field, or holds text that is refused"),
    "invalid_cursor": (400, "the cursor is of another list; begin without one"),
    "invalid_api_key": (401, "no admin key came, or none that is good"),
    "not_permitted": (403, "the key's role or its namespaces do not allow this"),
    "edit_not_found": (404, "the namespace has no edit of this id"),
    "not_found": (404, "there is no such path"),
    "method_not_allowed": (405, "the path does not take this method; `Allow` names those it does"),
    "edit_conflict": (409, "another edit answers the fact otherwise, and the policy is `reject`"),
    "wrong_state": (409, "the edit's state does not allow this; `GET` it and look"),
    "edit_changed": (412, "the edit is not as `If-Match` says; `GET` it again and decide anew"),
    "body_too_large": (413, "the body is longer than `[server] max_body`; send it in parts"),
    "unsupported_media_type": (415, "an import is `application/jsonl` or `text/csv`"),
    "idempotency_key_reused": (422, "the key came before with other edits; use a new one"),
    "internal_error": (500, "a defect; the server's log has it under the request's id"),
    "memory_unavailable": (503, "the memory's files cannot be used; the server's log says why"),
}
"""Every code with its status and what it means: docs/api.md is checked against it."""

UNION_TAGS = ("one", "many")
"""Parts of a place in a body that are not in the body: which of two forms it was taken for."""

_TYPES = {401: "authentication_error", 403: "permission_error"}


class ApiError(HTTPException):
    """An answer that is a refusal.

    Args:
        code: one of :data:`CODES`, which gives the status.
        message: what was wrong, what was expected and what to do.
        param: the parameter or member at fault.
        headers: of the response.
        more: further members of the error object, as JSON types.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(CODES[code][0], message, dict(headers or {}))
        self.code = code
        self.param = param
        self.more = more or {}

    def response(self) -> Response:
        """The answer."""
        status = self.status_code
        error = {
            "message": str(self.detail),
            "type": _TYPES.get(
                status, "server_error" if status >= 500 else "invalid_request_error"
            ),
            "param": self.param,
            "code": self.code,
            **self.more,
        }
        # In ASCII: a message may quote what is no valid Unicode.
        body = json.dumps({"error": error})
        return Response(body, status, self.headers, media_type="application/json")


def translated(error: Exception) -> ApiError:
    """The refusal that an error of memedit's becomes."""
    code = next((code for kind, code in _KINDS if isinstance(error, kind)), "internal_error")
    if code in ("internal_error", "memory_unavailable"):
        # What these say names files of this machine.
        logger.error("the edits API failed", exc_info=error)
        later = {"retry-after": "5"} if code == "memory_unavailable" else {}
        return ApiError(code, _capital(CODES[code][1]), headers=later)
    return ApiError(code, str(error))


_KINDS: Sequence[tuple[type[Exception], str]] = (
    (KeyReused, "idempotency_key_reused"),
    (EditConflict, "edit_conflict"),
    (WrongState, "wrong_state"),
    (InvalidEdit, "invalid_edit"),
    (InvalidInput, "invalid_request"),
    (EditNotFound, "edit_not_found"),
    (EditChanged, "edit_changed"),
    (MemoryFileError, "memory_unavailable"),
    (AccessFileError, "memory_unavailable"),
)


def answer_errors(app: FastAPI) -> None:
    """Has an application answer whatever goes wrong in OpenAI's form."""

    async def failed(request: Request, error: Exception) -> Response:
        return translated(error).response()

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _of_validation(error).response()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException | _STARLETTE)
        return _of_http(request, error).response()

    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(_STARLETTE, refused)
    for kind, _ in _KINDS:
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(Exception, failed)


_STARLETTE = HTTPException.__mro__[1]
"""Starlette's own exception, of which FastAPI's is one."""


def _of_http(request: Request, error: Any) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if error.status_code == 405:
        taken = {
            method
            for route in request.app.routes
            if route.path_regex.match(request.url.path)
            for method in route.methods
        }
        allow = ", ".join(sorted(taken))
        return ApiError("method_not_allowed", f"this path takes {allow}", headers={"allow": allow})
    if error.status_code == 404:
        return ApiError("not_found", "there is no such path; GET /v1/edits/openapi.json lists all")
    return ApiError("invalid_request", "the body cannot be read; send JSON in UTF-8")


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong, without quoting what was sent."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return ApiError("invalid_request", "the body is not JSON; send a JSON object")
    if place == ["body"] or first["type"] == "model_attributes_type":
        return ApiError("invalid_request", "this takes a JSON object, as application/json")
    where = ".".join(part for part in place[1:] if part not in UNION_TAGS)
    kind = {"query": "query parameter", "header": "header"}.get(place[0], "body")
    message = f"{kind} {where}: {first['msg']}" if where else f"{kind}: {first['msg']}"
    return ApiError(
        "invalid_request",
        f"{message}; GET /v1/edits/openapi.json says what is taken",
        param=where or None,
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
