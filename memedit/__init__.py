"""memedit: edit what a served language model knows.

>>> from memedit import EditMemory, wrap
>>> memory = EditMemory.open("memory.sqlite3")
>>> memory.add(sentence("The capital of France is Lyon."))
>>> llm = wrap(vllm.LLM("my-model"), memory)

Names are imported when they are first used: ``import memedit`` alone loads no model, no vector
library and no server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memedit.adapters import wrap
    from memedit.edits import Edit, question, sentence, structured
    from memedit.memory import EditMemory
    from memedit.protocols import Decision, EditRecord

__version__ = "0.1.0"

_HOMES = {
    "Decision": "memedit.protocols",
    "Edit": "memedit.edits",
    "EditMemory": "memedit.memory",
    "EditRecord": "memedit.protocols",
    "question": "memedit.edits",
    "sentence": "memedit.edits",
    "structured": "memedit.edits",
    "wrap": "memedit.adapters",
}

__all__ = [
    "Decision",
    "Edit",
    "EditMemory",
    "EditRecord",
    "question",
    "sentence",
    "structured",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'memedit' has no attribute {name!r}")
