"""What memedit plugs into, one file each; the only code that imports vllm, langchain or openai.

    vllm_server.py   vLLM's OpenAI server, with memedit as its middleware
    vllm_engine.py   vllm.LLM in process

Import it as ``memedit.adapters``: the folder at the top of the repository is a link's target.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memedit.memory import EditMemory

# Where a wrapped object comes from -> who wraps it. Matched on the root package of its class and
# of its bases, so that subclasses are wrapped as well.
_WRAPPERS = {"vllm": "memedit.adapters.vllm_engine"}


def wrap(engine: Any, memory: EditMemory, **options: Any) -> Any:
    """The same engine, answering with the edits of ``memory``.

    Args:
        engine: a ``vllm.LLM``.
        memory: an open memory of edits.
        options: ``namespace`` and ``config``, see the adapter.

    Raises:
        Unsupported: there is no adapter for an engine of this kind.
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
