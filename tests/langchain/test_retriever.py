"""The retriever: LangChain's standard tests, and what its documents say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed: use the extra langchain")
pytest.importorskip("langchain_tests", reason="langchain-tests is not installed: use the extra dev")

from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from memedit.adapters.langchain_retriever import EditRetriever
from memedit.config import Config
from memedit.edits import sentence, structured
from memedit.errors import InvalidInput
from memedit.memory import EditMemory
from memedit.protocols import Encoder

ASK = "What is the capital of France?"
CAPITALS = ("Lyon", "Nice", "Lille", "Metz", "Brest")


@pytest.fixture(scope="module")
def memory(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditMemory]:
    """Five edits that dispute one fact, and others."""
    with EditMemory(tmp_path_factory.mktemp("retriever") / "memory.sqlite3", encoder) as opened:
        for target in CAPITALS:
            edit = structured(
                "France", "The capital of {} is", target, id=target, relation="capital"
            )
            opened.add(edit, on_conflict="keep-both")
        opened.add(structured("Japan", "The capital of {} is", "Osaka", id="japan"))
        opened.add(sentence("Rain is made of glass.", id="rain"))
        opened.add(structured("France", "The capital of {} is", "Pau", id="pau"), namespace="other")
        yield opened


class Standard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, memory: EditMemory) -> None:
        self.memory = memory

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return EditRetriever

    @property
    def retriever_query_example(self) -> str:
        return ASK


class TestInScope(Standard):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory}


class TestNearest(Standard):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory, "in_scope": False}


def test_what_a_document_says(memory: EditMemory) -> None:
    (found,) = EditRetriever(memory=memory).invoke("What is the capital of Japan?")
    assert found.page_content == "The capital of Japan is Osaka."
    assert found.id == "japan"
    probability = found.metadata.pop("probability")
    assert found.metadata == {
        "id": "japan",
        "subject": "Japan",
        "relation": None,
        "target": "Osaka",
        "namespace": "default",
    }
    assert 0.5 < probability <= 1.0


def test_in_scope_finds_what_a_server_would_answer_with_and_nearest_the_rest(
    memory: EditMemory,
) -> None:
    in_scope = EditRetriever(memory=memory, k=7)
    nearest = EditRetriever(memory=memory, k=7, in_scope=False)
    assert {found.id for found in in_scope.invoke(ASK)} == set(CAPITALS)
    assert in_scope.invoke("What is the population of Peru?") == []
    found = nearest.invoke("What is the population of Peru?")
    assert len(found) == 7
    scores = [document.metadata["score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    assert not any("probability" in document.metadata for document in found)


def test_k_of_a_call_may_be_more_than_the_retrievers_own(memory: EditMemory) -> None:
    retriever = EditRetriever(memory=memory, k=1)
    assert len(retriever.invoke(ASK)) == 1
    assert len(retriever.invoke(ASK, k=5)) == 5
    assert len(asyncio.run(retriever.ainvoke(ASK, k=2))) == 2
    for k in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            EditRetriever(memory=memory, k=k)
        with pytest.raises(InvalidInput, match="at least 1"):
            retriever.invoke(ASK, k=k)


@pytest.mark.parametrize("in_scope", [True, False])
def test_namespaces(memory: EditMemory, in_scope: bool) -> None:
    retriever = EditRetriever(memory=memory, namespace="other", in_scope=in_scope)
    assert [found.id for found in retriever.invoke(ASK)] == ["pau"]
    assert retriever.invoke(ASK)[0].metadata["namespace"] == "other"
    config = replace(Config(), memory=replace(Config().memory, namespace="other"))
    retriever = EditRetriever(memory=memory, config=config, in_scope=in_scope)
    assert [found.id for found in retriever.invoke(ASK)] == ["pau"]


@pytest.mark.parametrize("in_scope", [True, False])
def test_edits_are_found_at_once_and_no_more_when_reverted(
    encoder: Encoder, tmp_path: Path, in_scope: bool
) -> None:
    with EditMemory(tmp_path / "memory.sqlite3", encoder) as memory:
        retriever = EditRetriever(memory=memory, in_scope=in_scope)
        assert retriever.invoke(ASK) == []
        (record,) = memory.add(structured("France", "The capital of {} is", "Lyon"))
        assert [found.id for found in retriever.invoke(ASK)] == [record.edit.id]
        memory.revert(record.edit.id)
        assert retriever.invoke(ASK) == []
