"""Clients cannot tell memedit from the server behind it, but for answers that an edit is about.

The raw bytes of both sides are compared in ``tests/server/test_passthrough.py``; here it is what
real clients make of them: vLLM's answer to a call is compared with memedit's answer to the same
call, in both forms, without what is new in every answer (ids, times).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from memedit.edits import structured
from tests.compat.calls import ABOUT, CALLS, Call
from tests.compat.clients import AnthropicClient, Client, LiteLLMClient, OpenAIClient
from tests.conftest import VllmServer
from tests.server.served import MODEL, Add, Served

pytestmark = pytest.mark.vllm

FRESH = {
    *("id", "item_id", "response_id", "call_id", "tool_call_id", "request_id"),
    *("created", "created_at", "completed_at", "sequence_number"),
}
"""Members that are new in every answer."""

WRITTEN = {"content", "text", "delta", "arguments", "partial_json"}
"""Members of a stream's events that hold pieces of a text, cut where the server was just then."""


@pytest.fixture(scope="session")
def openai_client() -> OpenAIClient:
    return OpenAIClient()


@pytest.fixture(scope="session")
def anthropic_client() -> AnthropicClient:
    return AnthropicClient()


@pytest.fixture(scope="session")
def litellm_client() -> Iterator[LiteLLMClient]:
    folder = LiteLLMClient.folder()
    if folder is None:
        pytest.skip(
            "LiteLLM, which is no part of memedit's environment, is not there as a client: "
            f"uv venv {LiteLLMClient.home()} && "
            f"uv pip install --python {LiteLLMClient.home()} 'litellm[proxy]'"
        )
    with LiteLLMClient(folder) as client:
        yield client


@pytest.fixture(scope="session")
def bare_answers() -> dict[tuple[str, str], Any]:
    """What vLLM alone has answered already, by client and call."""
    return {}


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.getfixturevalue(f"{request.param}_client")
    return found


SHORT = {
    *("chat", "chat stream with usage", "chat with a JSON schema", "chat with a forced tool"),
    *("chat of another model", "chat too long", "text of token ids", "text stream", "responses"),
    *("messages", "embeddings", "models", "tokenize"),
}
"""Calls that ``make test`` makes, too."""


def cases(calls: dict[str, Call]) -> list[Any]:
    """Every call with every client that has its method; but for the first of them, slow ones."""
    kinds = {"openai": OpenAIClient, "anthropic": AnthropicClient, "litellm": LiteLLMClient}
    return [
        pytest.param(
            name,
            client,
            id=f"{client} {name}",
            marks=() if name in SHORT and client != "litellm" else pytest.mark.slow,
        )
        for client, kind in kinds.items()
        for name, call in calls.items()
        if call.api in kind.apis
    ]


@pytest.mark.parametrize(("name", "client"), cases(CALLS), indirect=["client"])
def test_what_no_edit_is_about_is_answered_as_by_the_server_alone(
    vllm_server: VllmServer,
    served: Served,
    add_edit: Add,
    client: Client,
    name: str,
    bare_answers: dict[tuple[str, str], Any],
) -> None:
    call = CALLS[name]
    add_edit(structured("France", "The capital of {} is", "Lyon"))
    key = (type(client).__name__, name)
    if key not in bare_answers:
        bare_answers[key] = plain(client.ask(vllm_server.plain, call))
    wanted, got = bare_answers[key], plain(client.ask(served.url, call))
    assert refusal(wanted) == call.status, wanted
    assert_same(got, wanted)


@pytest.mark.parametrize(("name", "client"), cases(ABOUT), indirect=["client"])
def test_what_an_edit_is_about_is_answered_by_it(
    vllm_server: VllmServer, served: Served, add_edit: Add, client: Client, name: str
) -> None:
    call = ABOUT[name]
    before = client.ask(vllm_server.plain, call)
    assert "Lyon" not in written(before)
    add_edit(structured("France", "The capital of {} is", "Lyon"))
    got = client.ask(served.url, call)
    assert "Lyon" in written(got)
    assert kinds_of(got) == kinds_of(before)


def refusal(answer: Any) -> int:
    return int(answer.get("refused", 0)) if isinstance(answer, dict) else 0


def plain(answer: Any) -> Any:
    """An answer without what is new in every one; a stream's texts not cut into pieces."""
    answer = without(answer)
    if not isinstance(answer, list):
        return answer
    found: list[Any] = []
    for event in answer:
        if found and blanked(found[-1]) == blanked(event) and pieces(event):
            found[-1] = joined(found[-1], event)
        else:
            found.append(event)
    return found


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in FRESH or v == MODEL}
    return [without(v) for v in value] if isinstance(value, list) else value


def blanked(event: Any, name: str = "") -> Any:
    """An event without the pieces of text in it."""
    if isinstance(event, dict):
        return {key: blanked(value, key) for key, value in event.items()}
    if isinstance(event, list):
        return [blanked(value) for value in event]
    return "" if name in WRITTEN and isinstance(event, str) else event


def pieces(event: Any, name: str = "") -> str:
    """The pieces of text in an event."""
    if isinstance(event, dict):
        return "".join(pieces(value, key) for key, value in event.items())
    if isinstance(event, list):
        return "".join(pieces(value) for value in event)
    return event if name in WRITTEN and isinstance(event, str) else ""


def joined(one: Any, other: Any, name: str = "") -> Any:
    """Two events that differ in their pieces of text only, as one."""
    if isinstance(one, dict):
        return {key: joined(value, other[key], key) for key, value in one.items()}
    if isinstance(one, list):
        return [joined(a, b) for a, b in zip(one, other, strict=True)]
    return one + other if name in WRITTEN and isinstance(one, str) else one


def written(answer: Any) -> str:
    """All that an answer says."""
    return pieces(plain(answer))


def kinds_of(answer: Any) -> Any:
    """The members of an answer, or the kinds of a stream's events, edited or not."""
    if isinstance(answer, dict):
        return set(answer)
    return {event.get("type") or event.get("object") for event in answer}


def assert_same(got: Any, wanted: Any, at: str = "answer") -> None:
    """Equal in everything, where numbers that a processor computes may differ by their rounding."""
    assert type(got) is type(wanted), f"{at}: {got} and {wanted}"
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), at
        for key, value in wanted.items():
            assert_same(got[key], value, f"{at}.{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), f"{at}: {json.dumps(got)}\n{json.dumps(wanted)}"
        for number, value in enumerate(wanted):
            assert_same(got[number], value, f"{at}[{number}]")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, abs=0.05), at
    else:
        assert got == wanted, at
