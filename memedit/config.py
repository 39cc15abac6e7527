"""What can be set, one frozen dataclass per component.

A value comes from, in this order: a flag, an environment variable (``MEMEDIT_<SECTION>_<FIELD>``,
as in ``MEMEDIT_MEMORY_PATH``), the configuration file (TOML, named by ``--config`` or
``MEMEDIT_CONFIG``), the default.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from memedit.errors import ConfigError

PREFIX = "MEMEDIT_"
NAMESPACE = "[A-Za-z0-9._-]{1,64}"
"""What a namespace looks like, as a regular expression."""

_STRICT = ConfigDict(extra="forbid")


def data_folder() -> Path:
    """Where memories live unless told otherwise: ``$XDG_DATA_HOME/memedit``."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "memedit"


def cache_folder() -> Path:
    """Where things live that can be made again: ``$XDG_CACHE_HOME/memedit``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memedit"


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """The memory of edits.

    Attributes:
        path: the journal, one SQLite file.
        namespace: the namespace of requests that name none.
        index: which vector index caches it (see ``memedit.indexes``).
    """

    path: Path = field(default_factory=lambda: data_folder() / "memory.sqlite3")
    namespace: Annotated[str, Field(pattern=f"^{NAMESPACE}$")] = "default"
    index: str = "auto"


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The sentence encoder.

    Attributes:
        model: a sentence-transformers folder or hub name; empty for the packaged MiniLM.
        device: a torch device; empty for the best at hand.
        threads: torch threads while encoding; one leaves the other cores to the engine. 0 is
            torch's own choice.
        precision: ``float32``, or ``bfloat16``, which is faster where the processor multiplies in
            it and moves cosines by thousandths.
        cache: how many encoded texts are kept.
    """

    model: str = ""
    device: str = ""
    threads: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    cache: int = 65_536


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class ScopeConfig:
    """The decision whether a query is about an edit.

    Attributes:
        threshold: the probability from which an edit is accepted; 0 takes the classifier's own.
        thresholds: other ones for some namespaces, as in ``legal=0.9, hr=0.7``.
        candidates: how many nearest edits are looked at, besides those whose subject is named.
        edits: at most this many edits answer one query.
        languages: of prompts; ``any`` takes a multilingual encoder.
    """

    threshold: float = 0.0
    thresholds: str = ""
    candidates: int = 8
    edits: int = 3
    languages: Literal["en", "any"] = "en"

    @property
    def by_namespace(self) -> dict[str, float]:
        """:attr:`thresholds` by namespace.

        Raises:
            ConfigError: an entry is not ``namespace=probability``.
        """
        found = {}
        for entry in filter(None, map(str.strip, self.thresholds.split(","))):
            name, _, value = map(str.strip, entry.partition("="))
            try:
                found[name] = float(value)
                if not (re.fullmatch(NAMESPACE, name) and 0.0 < found[name] <= 1.0):
                    raise ValueError
            except ValueError:
                raise ConfigError(
                    f"configuration: scope.thresholds: {entry!r} is not a namespace and a "
                    "probability above 0 and up to 1, as in 'legal=0.9, hr=0.7'"
                ) from None
        return found


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class IKEConfig:
    """In-context demonstrations, for prompts that break off and are to be completed.

    Attributes:
        chat_demonstrations: how many a chat request carries, besides the edit's own.
        text_demonstrations: how many a completion request carries, besides the edit's own.
        file: a JSON Lines file of demonstrations; empty for the packaged ones.
    """

    chat_demonstrations: int = 0
    text_demonstrations: int = 0
    file: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class GraceConfig:
    """Codebooks in the engine; for ``memedit serve MODEL``, whose engine they are in.

    Attributes:
        file: what ``memedit grace learn`` has written; empty for none. A newer one in its place is
            taken up with the next request that one of its edits is about.
        learn: whether the server has edits learned into the file whose ``route`` is ``grace``, in a
            process of its own; they answer in context until they are there.
    """

    file: str = ""
    learn: bool = False


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class ConsolidationConfig:
    """Versions of the weights that hold what was moved there from the memory.

    Attributes:
        folder: where versions lie; empty for ``MEMORY.versions`` beside the memory's file.
        max_rank: the highest rank of a version that ``memedit serve MODEL`` takes, which is what
            its vLLM makes room for; 0 for none. A rank is as many edits, for editors of the family
            of ROME and MEMIT.
    """

    folder: str = ""
    max_rank: Annotated[int, Field(ge=0, le=512)] = 0


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class MultiHopConfig:
    """Questions of several hops.

    Attributes:
        enabled: whether a server takes them hop by hop. Each hop that no edit answers is a short
            request of memedit's own to the model.
        timeout: seconds that a question's hops may take together; then it goes on as it came.
    """

    enabled: bool = False
    timeout: Annotated[float, Field(gt=0)] = 30.0


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The HTTP surface. Bytes and seconds; a time of 0 is no limit, nor is a ``refuse_body`` of 0.

    Attributes:
        host, port: where the proxy listens (vLLM has options of its own).
        max_body: longest request body that is read for its query; longer ones pass.
        refuse_body: longer request bodies are refused with 413.
        max_prompts: most prompts of one request that are decided on; more pass.
        max_headers: longest head of a request or of the upstream's response.
        header_timeout: for a client to send the head of a request.
        connect_timeout: to reach the upstream.
        answer_timeout: for the head of the upstream's response.
        idle_timeout: between two pieces of a body.
        drain_timeout: for what is under way to end when the server is asked to.
        decision_timeout: for the decision on a request.
        on_failure: what becomes of a request on which no decision can be made: ``fail_open``
            passes it on, ``fail_closed`` refuses it with 503.
        speculate: whether the proxy sends a request on while its decision is being made.
        decisions: how many decisions are remembered; 0 for none.
        count_evidence: whether the server's tokenizer is asked how many prompt tokens are evidence.
        edits_in_metrics: how many edits have a counter of their own.
        recent_prompts: how many recent prompts of each namespace are kept, in main memory alone,
            for dry runs to say which of them an edit would change; 0 for none.
        log_format: ``text``, or ``json`` for one object a line.
        spans: an OTLP endpoint that gets a span a request, such as
            ``http://127.0.0.1:4318/v1/traces``; empty for none. Needs the extra ``otel``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body: int = 16 * 2**20
    refuse_body: int = 0
    max_prompts: int = 256
    max_headers: int = 2**16
    header_timeout: float = 30.0
    connect_timeout: float = 10.0
    answer_timeout: float = 600.0
    idle_timeout: float = 300.0
    drain_timeout: float = 30.0
    decision_timeout: float = 5.0
    on_failure: Literal["fail_open", "fail_closed"] = "fail_open"
    speculate: bool = True
    decisions: int = 8_192
    count_evidence: bool = True
    edits_in_metrics: int = 1_000
    recent_prompts: Annotated[int, Field(ge=0)] = 0
    log_format: Literal["text", "json"] = "text"
    spans: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    memory: MemoryConfig = field(default_factory=MemoryConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    scope: ScopeConfig = field(default_factory=ScopeConfig)
    ike: IKEConfig = field(default_factory=IKEConfig)
    grace: GraceConfig = field(default_factory=GraceConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)
    multihop: MultiHopConfig = field(default_factory=MultiHopConfig)
    server: ServerConfig = field(default_factory=ServerConfig)

    def to_environment(self) -> dict[str, str]:
        """The variables under which :func:`load` finds these values again, in another process."""
        return {
            variable(section.name, option.name): str(
                getattr(getattr(self, section.name), option.name)
            )
            for section in fields(self)
            for option in fields(getattr(self, section.name))
        }

    def to_toml(self) -> str:
        """These values as a configuration file that :func:`load` reads."""
        lines: list[str] = []
        for section in fields(self):
            values = getattr(self, section.name)
            lines += [f"[{section.name}]"]
            lines += [f"{o.name} = {_toml(getattr(values, o.name))}" for o in fields(values)]
            lines += [""]
        return "\n".join(lines[:-1])


def _toml(value: object) -> str:
    """A value in TOML, whose basic strings are JSON's."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def variable(section: str, option: str) -> str:
    """The environment variable of an option: ``MEMEDIT_MEMORY_PATH``."""
    return f"{PREFIX}{section}_{option}".upper()


def load(
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration from flags, environment, file and defaults.

    Args:
        flags: ``{section: {option: value}}``; ``None`` values were not given.
        file: a TOML file; without one, the one that ``MEMEDIT_CONFIG`` names, if any.
        environ: the environment; the process's own by default.

    Raises:
        ConfigError: a section or option is unknown, a value is wrong, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    merged = _from_file(file or environ.get(f"{PREFIX}CONFIG"))
    for section in fields(Config):
        values = merged.setdefault(section.name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"[{section.name}] must be a table of options")
        for option in _options(section.name):
            if (text := environ.get(variable(section.name, option))) not in (None, ""):
                values[option] = text
        for option, value in ((flags or {}).get(section.name) or {}).items():
            if value is not None:
                values[option] = value
    try:
        config: Config = TypeAdapter(Config).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"configuration: {place}: {first['msg']} (got {first.get('input')!r})"
        ) from error
    _ = config.scope.by_namespace
    return config


def _options(section: str) -> list[str]:
    default = getattr(Config(), section)
    assert is_dataclass(default)
    return [option.name for option in fields(default)]


def _from_file(file: str | Path | None) -> dict[str, Any]:
    if not file:
        return {}
    try:
        with Path(file).open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(
            f"the configuration file {file} cannot be read: {error.strerror}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file {file} is not TOML: {error}") from error
