"""Questions of several hops, streamed as normal chats, with a real vLLM that answers the hops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.multihop.route import NAME
from memedit.protocols import Encoder
from memedit.server.process import ServerProcess
from tests.conftest import VllmServer
from tests.server.served import MODEL

pytestmark = pytest.mark.vllm

CITIZEN = structured("Mira Solberg", "{} is a citizen of", "Italy", id="citizen")
ASK = "What is the capital of the country that Mira Solberg is a citizen of?"
NO_EDIT = "What is the capital of the country that Angela Merkel is a citizen of?"
CHAT: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 24, "logprobs": True}


@pytest.fixture(scope="module")
def url(
    vllm_server: VllmServer, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The proxy with ``[multihop] enabled``, the one edit and forty others, before plain vLLM."""
    folder = tmp_path_factory.mktemp("hops")
    path = folder / "memory.sqlite3"
    with EditMemory(path, encoder) as memory:
        others = [structured(f"Firm {n}", "{} is based in", f"Town {n}") for n in range(40)]
        memory.add([CITIZEN, *others])
    with ServerProcess(
        ["--upstream", vllm_server.plain, "--memory", str(path)],
        log=folder / "proxy.log",
        # Requests one by one: what else is in its batch moves vLLM's rounding.
        environ={"MEMEDIT_MULTIHOP_ENABLED": "1", "MEMEDIT_SERVER_SPECULATE": "0"},
    ) as server:
        yield f"{server.url}/v1"


def asked(base: str, text: str) -> dict[str, Any]:
    """The first choice of a chat's answer."""
    body = {**CHAT, "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{base}/chat/completions", json=body, timeout=120).json()
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def test_the_chain_is_followed_through_the_models_own_answer(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": ASK}],
            temperature=0,
            max_tokens=24,
            stream=True,
            extra_body={"memedit": {"explain": True}},
        )
        chunks = list(raw.parse())
    assert raw.headers["x-memedit-route"] == NAME
    assert raw.headers["x-memedit-edits"] == CITIZEN.id
    decisions = [c.model_extra["memedit"] for c in chunks if "memedit" in (c.model_extra or {})]
    assert decisions[0]["decisions"][0]["reasons"][:2] == [
        "What is the country of citizenship of Mira Solberg? Italy (citizen)",
        "What is the capital of Italy? Rome (the model)",
    ]
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Rome" in said


@pytest.mark.parametrize("text", [NO_EDIT, "What is the capital of Norway?"])
def test_without_an_edited_hop_the_answer_is_vllms_own(
    url: str, vllm_server: VllmServer, text: str
) -> None:
    through, plain = asked(url, text), asked(f"{vllm_server.plain}/v1", text)
    assert through["message"] == plain["message"]
    pairs = zip(through["logprobs"]["content"], plain["logprobs"]["content"], strict=True)
    for one, other in pairs:
        assert one["token"] == other["token"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
