"""Editors: from a model and edits to changes of its weights. They leave the model as it is.

    rome.py       ROME, R-ROME     one fact, one layer, a change of rank one
    memit.py      MEMIT, PMET      many facts over several layers, by least squares
    emmet.py      EMMET            many facts in one layer, each exactly
    alphaedit.py  AlphaEdit        MEMIT in the null space of what is to stay
    finetune.py   FT-L             fine-tuning that may not go far, on the text or the target
    rect.py       RECT             another editor's change, its largest relative parts alone
    lora.py       LoRA             fine-tuning of low-rank factors, through PEFT

Those of the first four share their contexts, keys and values (locating.py, values.py, texts.py,
covariance.py) and the passes through the model that these take (passes.py, rows.py). What a
model's parts are called is in architectures.toml; ``deltas.py`` lays changes on a model and takes
them off; tracing.py finds the layers that carry facts.

A new editor is a file here and a line in :data:`EDITORS`; a published variant that differs by a
term is a line alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

from memedit.errors import InvalidInput
from memedit.protocols import Editor

EDITORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ft-l": ("memedit.editors.finetune:FineTuning", {}),
    "ft-target": ("memedit.editors.finetune:FineTuning", {"loss_on": "target", "bound": 1e-2}),
    "rect": ("memedit.editors.rect:RECT", {}),
    "lora": ("memedit.editors.lora:LoRA", {}),
    "rome": ("memedit.editors.rome:ROME", {"each": False}),
    "r-rome": ("memedit.editors.rome:ROME", {"one_key": True}),
    "memit": ("memedit.editors.memit:MEMIT", {}),
    "pmet": ("memedit.editors.memit:MEMIT", {"attention": True, "spread": "root", "aim": "mlp"}),
    "emmet": ("memedit.editors.emmet:EMMET", {}),
    "alphaedit": ("memedit.editors.alphaedit:AlphaEdit", {}),
}
"""Editors by name: the class, imported when first asked for, and what of it is set."""


def make_editor(name: str, **options: Any) -> Editor:
    """An editor.

    Args:
        name: a key of :data:`EDITORS`.
        options: fields of its class, or of the settings that it holds (``steps`` of
            :class:`~memedit.editors.values.Search`, ``corpus`` of
            :class:`~memedit.editors.covariance.Statistics`).

    Raises:
        InvalidInput: there is no such editor, or it has no such option.
    """
    if name not in EDITORS:
        raise InvalidInput(f"there is no editor {name!r}; there are {', '.join(EDITORS)}")
    place, preset = EDITORS[name]
    module, _, attribute = place.partition(":")
    kind: Any = getattr(import_module(module), attribute)
    made = kind(name=name)
    for option, value in {**preset, **options}.items():
        made = _with(made, option, value)
    editor: Editor = made
    return editor


def _with(made: Any, option: str, value: Any) -> Any:
    """The same with one option set, its own or that of settings which it holds."""
    names = [field.name for field in fields(made)]
    if option in names and option != "name":
        return replace(made, **{option: value})
    held = [n for n in names if is_dataclass(getattr(made, n))]
    for inner in held:
        if option in inspect.signature(type(getattr(made, inner))).parameters:
            return replace(made, **{inner: _with(getattr(made, inner), option, value)})
    known = [n for n in names if n != "name" and n not in held]
    known += [f.name for inner in held for f in fields(getattr(made, inner))]
    raise InvalidInput(
        f"the editor {made.name} has no option {option!r}; it has {', '.join(known)}"
    )
