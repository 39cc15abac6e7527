"""Versions of the weights in a running vLLM: adapters, loaded in process as the memory says.

What is published stands in the memory: its edits are consolidated into a version. With the first
request after a change the adapters of the versions that are named there are loaded and compared
with the base model: where an adapter's names match nothing, vLLM serves the base model without a
word. Until a version is there, and where it is refused, the memory answers its edits as before. A
version that no edit names is let go.

A hash of a version's files is part of its name here: made anew or repaired, it is another version,
also to vLLM's prefix cache.

A request names its adapter by its model. The name of a version there is a secret of this process's,
which vLLM finds and lists nowhere; the name in its answers and metrics is another, by which nobody
can ask for it.

Written against vLLM 0.32, whose server keeps its adapters in ``openai_serving_models``.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.consolidation.versions import ADAPTER_FILES, Stored, published, stored
from memedit.edits import Edit
from memedit.errors import InvalidInput, MemeditError, Unsupported
from memedit.evaluation.matching import stated
from memedit.memory import EditMemory
from memedit.server.asgi import Scope
from memedit.server.freshness import Stamp
from memedit.server.middleware import Serving

logger = logging.getLogger("memedit.server")

PREFIX = "memedit-"
"""The names of versions in vLLM's answers and metrics begin so."""

AT_ONCE = 2
"""Versions that an engine holds at once: one more than it needs, for the time of a change."""

_PROBES = 4
_TOKENS = 8
# So many edits of a version are asked, for so many tokens, before it is trusted.
_SHARE = 0.5
# At least this share of them must be answered as the gates found.
_GRACE = 30.0
# Seconds for which a version that nobody names any more is kept: requests may be on their way.


_ROUNDING = 0.01
# What a log-probability may differ by between two batches, in nats, with room to spare.

_Said = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A version that answers.

    Attributes:
        model: the name that requests are given for it; a secret.
        request: vLLM's ``LoRARequest``.
        forms: of prompts that it answers.
        edits: the content of each of its edits, by id.
    """

    model: str
    request: Any
    forms: frozenset[str]
    edits: Mapping[str, Mapping[str, Any]]


class _Adapters(dict[str, Any]):
    """The adapters that vLLM lists, by name, and ``secret`` ones, which are found alone."""

    def __init__(self, listed: Mapping[str, Any]) -> None:
        super().__init__(listed)
        self.secret: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.secret or super().__contains__(name)

    def __missing__(self, name: str) -> Any:
        return self.secret[name]


class ServedVersions:
    """The versions in the engine of the server that this process is; see the module.

    Belongs to one event loop.

    Args:
        folder: where versions lie.
        memory: says which of them are published.
    """

    def __init__(self, folder: Path, memory: EditMemory) -> None:
        self._folder = folder
        self._memory = memory
        # By a name with a hash of the files, as those below.
        self._loaded: dict[str, _Loaded] = {}
        self._refused: set[str] = set()
        self._unnamed: dict[str, float] = {}
        self._seen: object = None
        self._task: asyncio.Task[None] | None = None

    def follow(self, scope: Scope, stamp: Stamp | None) -> None:
        """See :class:`memedit.server.middleware.Versions`."""
        if self._task is not None and not self._task.done():
            return
        now = time.monotonic()
        # Without a version of the memory's file, a look a second has to do.
        version = int(now) if stamp is None else stamp.version
        if version != self._seen or any(until <= now for until in self._unnamed.values()):
            self._seen = version
            self._task = asyncio.create_task(self._taken_up(scope["app"].state))

    async def serving(
        self, scope: Scope, body: Mapping[str, Any], edits: Sequence[Edit], *, chat: bool
    ) -> Serving | None:
        """See :class:`memedit.server.middleware.Versions`."""
        models = scope["app"].state.openai_serving_models
        model = body.get("model")
        if not self._loaded or (model and not models.is_base_model(model)):
            return None
        # On a thread: the memory may be busy, and the event loop must not wait for it.
        name = await asyncio.to_thread(self._holding, edits)
        loaded = None if name is None else self._loaded.get(name)
        if loaded is None or ("chat" if chat else "text") not in loaded.forms:
            return None
        if any(loaded.edits.get(edit.id) != edit.to_mapping() for edit in edits):
            return None
        return Serving(loaded.model, loaded.request.lora_name, models.model_name())

    def _holding(self, edits: Sequence[Edit]) -> str | None:
        """The version, as it lies on disk, into which all of these edits are consolidated."""
        records = [self._memory.find(edit.id) for edit in edits]
        if any(record is None or record.state != "consolidated" for record in records):
            return None
        versions = {record.version for record in records if record is not None}
        return self._name(versions.pop()) if len(versions) == 1 else None

    def _name(self, version: str) -> str:
        return f"{version}-{_hash(self._folder / version)}"

    async def _taken_up(self, state: Any) -> None:
        """Brings the engine to what the memory says."""
        try:
            named = await asyncio.to_thread(self._named)
        except MemeditError:
            logger.exception("the published versions cannot be read; they stay as they are")
            return
        self._refused &= named.keys()
        for name in list(self._loaded.keys() - named.keys()):
            await self._let_go(state, name)
        for name, version in named.items():
            self._unnamed.pop(name, None)
            if name in self._loaded or name in self._refused:
                continue
            if len(self._loaded) == AT_ONCE:
                logger.warning(
                    "the version %s finds no room; the memory answers its edits", version
                )
                continue
            await self._load(state, name, version)

    def _named(self) -> dict[str, str]:
        """The versions that the memory names, by their names with a hash."""
        return {self._name(version): version for version in published(self._memory)}

    async def _load(self, state: Any, name: str, of: str) -> None:
        started = time.monotonic()
        try:
            version = await asyncio.to_thread(stored, self._folder, of)
            self._loaded[name] = await self._checked(state, name, version)
        except Exception as error:
            # vLLM raises whatever its workers raise.
            self._refused.add(name)
            known = isinstance(error, MemeditError)
            logger.error(
                "the version %s is refused, and the memory answers its edits: %s",
                *(of, error),
                exc_info=None if known else error,
            )
            return
        spent = time.monotonic() - started
        logger.info("the version %s answers %d edits (%.1f s)", of, len(version.held), spent)

    async def _checked(self, state: Any, name: str, version: Stored) -> _Loaded:
        """A version in the engine, whose answers are not the base model's.

        Raises:
            Unsupported: the engine takes no such adapter.
            InvalidInput: the version is no adapter, or its answers are not what they should be.
        """
        from vllm.lora.request import LoRARequest

        engine = state.engine_client
        if version.kind != "adapter":
            raise InvalidInput("it is a checkpoint, which is served as a model of its own")
        if (config := engine.vllm_config.lora_config) is None:
            raise Unsupported("this vLLM takes no adapters; set consolidation.max_rank")
        if (rank := version.manifest["rank"]) > config.max_lora_rank:
            raise Unsupported(
                f"its rank is {rank}, and this vLLM takes {config.max_lora_rank}; set "
                "consolidation.max_rank"
            )
        path = str(version.folder.absolute())
        request = LoRARequest(f"{PREFIX}{name}", _number(name), path)
        await engine.add_lora(request)
        try:
            await _compare(engine, version, request)
        except BaseException:
            await engine.remove_lora(request.lora_int_id)
            raise
        model = secrets.token_hex(16)
        _adapters(state).secret[model] = request
        edits = {edit.id: edit.to_mapping() for edit in version.held}
        return _Loaded(model, request, version.forms, edits)

    async def _let_go(self, state: Any, name: str) -> None:
        """Takes a version out of the engine, some time after the last edit named it."""
        until = self._unnamed.setdefault(name, time.monotonic() + _GRACE)
        if until > time.monotonic():
            return
        del self._unnamed[name]
        loaded = self._loaded.pop(name)
        del _adapters(state).secret[loaded.model]
        await state.engine_client.remove_lora(loaded.request.lora_int_id)
        logger.info("the version %s is let go", name)


def _adapters(state: Any) -> _Adapters:
    """The adapters of this server, which from the first call on may be secret ones."""
    models = state.openai_serving_models
    if not isinstance(models.lora_requests, _Adapters):
        models.lora_requests = _Adapters(models.lora_requests)
    return models.lora_requests


def _number(name: str) -> int:
    """An adapter's number for vLLM: the same in all of a server's processes."""
    return 2**30 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big")


def _hash(folder: Path) -> str:
    """Of a version's files, 16 hexadecimal digits; ``unreadable`` where they are."""
    try:
        files = [folder / name for name in ADAPTER_FILES]
        stats = [file.stat() for file in files]
        seen = tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
        return _hash_of(tuple(files), seen)
    except (OSError, ValueError):
        return "unreadable"


@functools.lru_cache(maxsize=4 * AT_ONCE)
def _hash_of(files: tuple[Path, ...], seen: tuple[tuple[int, ...], ...]) -> str:
    """Files as they were ``seen`` to be are read once."""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


async def _compare(engine: Any, version: Stored, request: Any) -> None:
    """Raises InvalidInput where a version's answers are the base model's, or not its targets."""
    tokenizer = engine.get_tokenizer()
    form = "chat" if "chat" in version.forms else "text"
    probes = version.held[:_PROBES]
    same = right = 0
    for edit in probes:
        ids = _ids(tokenizer, edit.key, form)
        with_version, without = await asyncio.gather(
            *(_said(engine, ids, lora) for lora in (request, None))
        )
        same += _alike(with_version, without)
        right += stated(with_version[0], [edit.target or ""]).accepted
    if same == len(probes):
        raise InvalidInput(
            "its answers are the base model's: the adapter's names match nothing in the model "
            "that is served, or the version holds no edit"
        )
    if right < _SHARE * len(probes):
        raise InvalidInput(
            f"it answers {right} of {len(probes)} edits right, where its gates found all to be; "
            "was it made for the model that is served?"
        )


def _alike(one: _Said, other: _Said) -> bool:
    """Whether one model may have given both answers."""
    apart = (abs(a - b) for a, b in zip(one[1], other[1], strict=False))
    return one[0] == other[0] and max(apart, default=0.0) < _ROUNDING


def _ids(tokenizer: Any, text: str, form: str) -> list[int]:
    if form == "text":
        return list(tokenizer(text).input_ids)
    turn = [{"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(whole, add_special_tokens=False).input_ids)


async def _said(engine: Any, ids: list[int], lora: Any) -> _Said:
    """The greedy answer, and the log-probability of each of its tokens."""
    from vllm import SamplingParams

    asked = SamplingParams(temperature=0.0, max_tokens=_TOKENS, logprobs=0)
    number, last = f"memedit-{uuid.uuid4().hex}", None
    async for output in engine.generate(
        {"prompt_token_ids": ids}, asked, number, lora_request=lora
    ):
        last = output
    assert last is not None
    (answer,) = last.outputs
    each = zip(answer.token_ids, answer.logprobs, strict=True)
    return answer.text, tuple(seen[token].logprob for token, seen in each)
