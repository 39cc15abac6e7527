"""The examples of docs/langchain.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import VllmServer
from tests.shell import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "langchain.md"


@pytest.mark.vllm
def test_the_examples_do_what_they_say(vllm_server: VllmServer, tmp_path: Path) -> None:
    pytest.importorskip("langchain_openai", reason="LangChain is not installed: use the extra dev")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 3
    ends = 'print("=== end")\n'
    (tmp_path / "example.py").write_text("".join(f"{block}{ends}" for block in blocks))
    environ = {"OPENAI_BASE_URL": f"{vllm_server.plain}/v1", "OPENAI_API_KEY": "none"}
    output = run("python example.py", tmp_path, environ, seconds=300)
    chat, chain, retriever, _ = output.split("=== end\n")
    about, other = chat.strip().split("\n")[-2:]
    assert "Lyon" in about
    assert "'edits': ['capital']" in about
    assert "Berlin" in other
    *_, streamed, structured = chain.strip().split("\n")
    assert "Lyon" in streamed
    assert structured.startswith("{'name': ")
    found, none = retriever.strip().split("\n")[-2:]
    assert found.startswith("The capital of France is Lyon. {'id': 'capital'")
    assert none == "[]"
