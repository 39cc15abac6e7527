"""What a vLLM is started with to take versions of the weights, and what it takes up."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memedit.adapters import vllm_server as adapter
from memedit.adapters.vllm_versions import AT_ONCE, ServedVersions
from memedit.config import Config, ConsolidationConfig
from memedit.consolidation.versions import MANIFEST, publish, stored, unpublish
from memedit.editors.architectures import down_projections
from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.server.asgi import Scope
from memedit.server.freshness import Stamp
from memedit.server.middleware import Serving

FRANCE = structured("France", "The capital of {} is", "Lyon", id="france")
ADAPTER = "adapter_model.safetensors"


def test_there_is_room_for_the_rank_and_one_place_stays_empty() -> None:
    config = Config(consolidation=ConsolidationConfig(max_rank=50))
    argv = adapter.command("m", ["--seed", "1"], cpu=False, config=config)
    at = argv.index("--enable-lora")
    assert argv[at : at + 5] == [
        *("--enable-lora", "--max-lora-rank", "64", "--max-loras"),
        str(AT_ONCE + 1),
    ]
    assert argv[at + 5 :] == ["--lora-target-modules", *down_projections(), "--seed", "1"]
    own = ["--enable-lora", "--max-loras", "9"]  # adapters of the caller's may be of any module
    argv = adapter.command("m", own, cpu=False, config=config)
    assert argv[-5:] == ["--max-lora-rank", "64", *own]
    assert "--lora-target-modules" not in argv
    assert "--enable-lora" not in adapter.command("m", [], cpu=False, config=Config())


class Engine:
    """Answers with what an adapter's file says, and without one with ``Paris``.

    Attributes:
        loaded: the adapters that it was given, by number.
    """

    def __init__(self) -> None:
        self.vllm_config = SimpleNamespace(lora_config=SimpleNamespace(max_lora_rank=64))
        self.model_config = SimpleNamespace(max_model_len=512)
        self.renderer = self.input_processor = None
        self.loaded: dict[int, Any] = {}

    def get_tokenizer(self) -> Any:
        return lambda text: SimpleNamespace(input_ids=list(text.encode()))

    async def add_lora(self, request: Any) -> None:
        said = (Path(request.lora_path) / ADAPTER).read_text()
        self.loaded.setdefault(request.lora_int_id, (request, said))

    async def remove_lora(self, number: int) -> None:
        del self.loaded[number]

    async def generate(
        self, prompt: Any, params: Any, number: str, *, lora_request: Any
    ) -> AsyncIterator[Any]:
        said = "Paris" if lora_request is None else self.loaded[lora_request.lora_int_id][1]
        logprobs = [{1: SimpleNamespace(logprob=-1.0)}]
        answer = SimpleNamespace(text=said, token_ids=[1], logprobs=logprobs)
        yield SimpleNamespace(outputs=[answer])


class Served:
    """Versions beside a memory in a server of vLLM's, whose engine is no model."""

    def __init__(self, folder: Path, memory: EditMemory) -> None:
        models = pytest.importorskip("vllm.entrypoints.openai.models.serving")
        protocol = pytest.importorskip("vllm.entrypoints.openai.models.protocol")
        self.folder, self.memory, self.engine = folder, memory, Engine()
        paths = [protocol.BaseModelPath(name="base", model_path="base")]
        self.models = models.OpenAIServingModels(self.engine, paths)
        state = SimpleNamespace(engine_client=self.engine, openai_serving_models=self.models)
        self.scope: Scope = {"type": "http", "app": SimpleNamespace(state=state)}
        self.versions = ServedVersions(folder, memory)

    def write(self, said: str, name: str = "v1") -> None:
        """A version whose weights answer with this."""
        (self.folder / name).mkdir(parents=True)
        (self.folder / name / ADAPTER).write_text(said)
        gates = {"passed": True, "held": ["france"], "forms": ["text"]}
        edits = [FRANCE.to_mapping()]
        said_of = {"version": name, "kind": "adapter", "rank": 8, "edits": edits, "gates": gates}
        (self.folder / name / "adapter_config.json").write_text("{}")
        (self.folder / name / MANIFEST).write_text(json.dumps(said_of))

    def publish(self, name: str = "v1") -> None:
        publish(self.memory, stored(self.folder, name), "default")

    async def looked(self) -> None:
        """Has the versions look at the memory, and waits until they have."""
        self.versions.follow(self.scope, Stamp(object(), 0.0, 0.0))
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    async def asked(self, **body: Any) -> Serving | None:
        return await self.versions.serving(self.scope, body, [FRANCE], chat=False)

    async def answer(self) -> str:
        """By whom the edit is answered: what the version's adapter says, or the memory."""
        serving = await self.asked()
        if serving is None:
            return "the memory"
        request = self.models.lora_requests[serving.model]
        assert request.lora_name == serving.name
        return str(self.engine.loaded[request.lora_int_id][1])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with EditMemory(tmp_path / "memory.sqlite3", HashEncoder(), index="exact") as memory:
        memory.add(FRANCE)
        yield Served(tmp_path / "versions", memory)


async def test_a_version_is_known_to_memedit_alone(served: Served) -> None:
    serving = pytest.importorskip("vllm.entrypoints.serve.engine.serving")
    own = SimpleNamespace(lora_name="own", path="p", base_model_name=None)
    served.models.lora_requests["own"] = own
    served.write("Lyon")
    served.publish()
    assert await served.asked() is None
    await served.looked()
    found = await served.asked(model="base")
    assert found is not None
    assert (found.own, found.name.startswith("memedit-v1")) == ("base", True)
    assert await served.asked(model="own") is None

    server = serving.BaseServing(served.models, served.engine.model_config)
    request = SimpleNamespace(model=found.model)
    assert await server._check_model(request) is None
    assert server._maybe_get_adapters(request).lora_name == found.name
    assert server._maybe_get_adapters(SimpleNamespace(model="own")) is own
    listed = await served.models.show_available_models()
    assert [model.id for model in listed.data] == ["base", "own"]
    for name in (found.name, "memedit-v1", "v1"):
        refused = await server._check_model(SimpleNamespace(model=name))
        assert refused.error.code == 404
        assert found.model not in refused.model_dump_json()
        # vLLM also looks for an adapter that is called like a kind of content.
        message = {"role": "user", "content": [{"type": name}]}
        asked = SimpleNamespace(model="base", messages=[message])
        assert server._maybe_get_adapters(asked, supports_default_mm_loras=True) is None


async def test_a_version_made_anew_under_its_name_is_another(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.write("Lyon")
    served.publish()
    await served.looked()
    assert await served.answer() == "Lyon"
    first = await served.asked()

    unpublish(served.memory, "v1", "default")
    shutil.rmtree(served.folder / "v1")
    served.write("Lyon, of course")
    served.publish()
    assert await served.answer() == "the memory"  # until it is there
    await served.looked()
    assert await served.answer() == "Lyon, of course"
    second = await served.asked()
    assert first is not None
    assert second is not None
    assert (first.name, first.model) != (second.name, second.model)
    assert len(served.engine.loaded) == 2  # requests may be on their way to the first

    monkeypatch.setattr("memedit.adapters.vllm_versions._GRACE", -1.0)
    served.versions._unnamed.clear()
    await served.looked()
    assert [said for _, said in served.engine.loaded.values()] == ["Lyon, of course"]
    assert first.model not in served.models.lora_requests


async def test_a_refused_version_is_looked_at_again_when_it_has_changed(served: Served) -> None:
    served.write("Paris")
    served.publish()
    await served.looked()
    assert (await served.answer(), served.engine.loaded) == ("the memory", {})
    (served.folder / "v1" / ADAPTER).write_text("Lyon")
    await served.looked()
    assert await served.answer() == "Lyon"


async def test_a_version_whose_folder_is_gone_answers_no_more(served: Served) -> None:
    served.write("Lyon")
    served.publish()
    await served.looked()
    shutil.rmtree(served.folder / "v1")
    assert await served.answer() == "the memory"
