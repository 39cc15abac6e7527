"""LangChain's standard tests, over ``ChatOpenAI`` as it is and with memedit around it.

Both run the same tests against the same server, with the same abilities declared and the same
tests expected to fail; an expected failure that passes is a failure, too. So each test comes out
for the one as it does for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

pytest.importorskip("langchain_openai", reason="LangChain is not installed: use the extra dev")
pytest.importorskip("langchain_tests", reason="langchain-tests is not installed: use the extra dev")

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memedit.adapters.langchain_chat import WrappedChatModel
from memedit.assemble import Parts, assemble
from memedit.config import Config
from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from tests.conftest import VllmServer
from tests.server.served import MODEL


@pytest.fixture(scope="module")
def parts(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A memory with an edit that none of the standard tests is about."""
    with EditMemory(tmp_path_factory.mktemp("standard") / "memory.sqlite3", encoder) as memory:
        memory.add(structured("France", "The capital of {} is", "Lyon"))
        yield assemble(Config(), memory)


ARGUMENTS = "vLLM makes the model call a tool, and the arguments it writes are no object"
UNASKED = "the model calls no tool by itself"
ENDLESS = "the model comes to no end with its JSON"

LACKING = {
    "test_tool_calling": ARGUMENTS,
    "test_tool_calling_async": ARGUMENTS,
    "test_tool_calling_with_no_arguments": ARGUMENTS,
    "test_tool_choice": ARGUMENTS,
    "test_bind_runnables_as_tools": ARGUMENTS,
    "test_structured_few_shot_examples": ARGUMENTS,
    "test_structured_output_pydantic_2_v1": ARGUMENTS,
    "test_unicode_tool_call_integration": ARGUMENTS,
    "test_structured_output_optional_param": ENDLESS,
    "test_json_mode": ENDLESS,
    "test_agent_loop": UNASKED,
}
"""Standard tests that need more than SmolLM2-135M can do, as seen with ``ChatOpenAI`` alone."""


class Bare(ChatOpenAI):
    """``ChatOpenAI``, which here cannot be serialized either: memedit holds an open file."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False


class Given:
    """What is declared for both: text only, tools, JSON. What fails of it is in ``LACKING``."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return Bare

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL


class Wrapped(WrappedChatModel):
    """The same, made as the tests make a model, with memedit around it."""

    given: ClassVar[Parts]

    def __init__(self, **options: Any) -> None:
        super().__init__(wrapped=Bare(**options), parts=self.given, namespace="default")


class Edited(Given):
    @pytest.fixture(autouse=True)
    def _parts(self, parts: Parts) -> None:
        Wrapped.given = parts

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return Wrapped


class Unit(Given):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": "http://127.0.0.1:9/v1", "api_key": "none"}


class TestBareUnit(Unit, ChatModelUnitTests):
    pass


class TestEditedUnit(Edited, Unit, ChatModelUnitTests):
    pass


class Integration(Given):
    @pytest.fixture(autouse=True)
    def _server(self, vllm_server: VllmServer, request: pytest.FixtureRequest) -> None:
        self.url = f"{vllm_server.plain}/v1"
        if reason := LACKING.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": self.url,
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 64,
            "stream_usage": True,
            # Each test has an event loop of its own, and LangChain's client is all models' one.
            "http_async_client": httpx.AsyncClient(),
        }


@pytest.mark.vllm
@pytest.mark.slow
class TestBareIntegration(Integration, ChatModelIntegrationTests):
    pass


@pytest.mark.vllm
@pytest.mark.slow
class TestEditedIntegration(Edited, Integration, ChatModelIntegrationTests):
    pass
