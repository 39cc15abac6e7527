"""What memedit plugs into, one file each; the only code that imports vllm, langchain or openai.

    vllm_server.py          vLLM's OpenAI server, with memedit as its middleware
    vllm_versions.py        versions of the weights, taken up by that server
    vllm_grace.py           GRACE codebooks inside that server
    vllm_worker.py          the same, in its workers
    vllm_engine.py          vllm.LLM in process, answering with a memory's edits
    langchain_chat.py       any LangChain chat model, answering with a memory's edits
    langchain_retriever.py  a memory's edits as documents of a LangChain retriever
    vllm_local.py           engine: vllm.LLM in process, for batches
    openai_http.py          engine: any server with OpenAI's API
    transformers_grace.py   GRACE codebooks inside a transformers model
    transformers_local.py   engine: a transformers model in process, with its weights
    _described.py           what every engine says of itself
    _tokens.py              what engines that tokenize for themselves share
    _wrapping.py            what is said where evidence stays out

A new engine is a file here, a line in :data:`ENGINES` and the docs' line; what an engine promises
is checked in ``tests/contracts/test_engine.py``.

Import it as ``memedit.adapters``: the folder at the top of the repository is a link's target.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memedit.memory import EditMemory
    from memedit.protocols import Engine

ENGINES: Mapping[str, str] = {
    "vllm": "memedit.adapters.vllm_local:VLLMLocal",
    "openai": "memedit.adapters.openai_http:OpenAIHTTP",
    "transformers": "memedit.adapters.transformers_local:TransformersLocal",
}
"""Engines and the classes that make them, imported when first asked for."""

# Where a wrapped object comes from -> who wraps it. Matched on the root package of its class and
# of its bases, so that subclasses are wrapped as well.
_WRAPPERS = {
    "vllm": "memedit.adapters.vllm_engine",
    "langchain_core": "memedit.adapters.langchain_chat",
}


def wrap(engine: Any, memory: EditMemory, **options: Any) -> Any:
    """The same engine, answering with the edits of ``memory``.

    Args:
        engine: a ``vllm.LLM``, or a LangChain chat model.
        memory: an open memory of edits.
        options: ``namespace`` and ``config``, see the adapter.

    Raises:
        Unsupported: there is no adapter for an engine of this kind.
        MemeditError: a part cannot be made; the message says which and what to do.
    """
    from memedit.errors import Unsupported

    for kind in type(engine).__mro__:
        if module := _WRAPPERS.get(kind.__module__.partition(".")[0]):
            return import_module(module).wrap(engine, memory, **options)
    raise Unsupported(
        f"memedit cannot wrap a {type(engine).__module__}.{type(engine).__qualname__}; "
        f"it wraps engines of {', '.join(_WRAPPERS)}. Any OpenAI-compatible server works "
        "through `memedit serve --upstream URL`"
    )


def make_engine(name: str, **options: Any) -> Engine:
    """An engine to put prompts to.

    Args:
        name: a key of :data:`ENGINES`.
        options: what the engine's class takes.

    Raises:
        Unsupported: there is no such engine.
        InvalidInput: it has no such option, lacks one that it needs, or cannot use what it got.
        MissingDependency: it needs a package that is not installed.
        UpstreamError: its server cannot be reached.
    """
    from memedit.errors import InvalidInput, Unsupported

    if name not in ENGINES:
        raise Unsupported(f"there is no engine {name!r}; the engines are {', '.join(ENGINES)}")
    module, _, kind = ENGINES[name].partition(":")
    make = getattr(import_module(module), kind)
    known = inspect.signature(make).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise InvalidInput(
            f"the engine {name} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )
    needed = [p.name for p in known.values() if p.default is p.empty and p.name not in options]
    if needed:
        raise InvalidInput(f"the engine {name} needs the option {', '.join(needed)}")
    engine: Engine = make(**options)
    return engine
