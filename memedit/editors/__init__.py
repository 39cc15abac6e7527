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

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

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
        InvalidInput: there is no such editor, it has no such option, or not with such a value.
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


def options_of(editor: Any) -> list[str]:
    """What of an editor can be set: its own, then that of settings and editors that it holds."""
    inner = [option for held in _held(editor) for option in options_of(getattr(editor, held))]
    return list(dict.fromkeys([n for n in _own(editor) if n not in _held(editor)] + inner))


def _with(made: Any, option: str, value: Any) -> Any:
    """The same with one option set, its own or that of settings which it holds."""
    if option in _own(made) and (option not in _held(made) or is_dataclass(value)):
        return replace(made, **{option: _checked(made, option, value)})
    for inner in _held(made):
        if option in options_of(getattr(made, inner)):
            return replace(made, **{inner: _with(getattr(made, inner), option, value)})
    raise InvalidInput(
        f"the editor {made.name} has no option {option!r}; it has {', '.join(options_of(made))}"
    )


def _checked(made: Any, option: str, value: Any) -> Any:
    """A value of the option's type; one alone stands for a tuple of one."""
    if option in _held(made):
        return value
    types = get_type_hints(type(made), include_extras=True)
    adapter: TypeAdapter[Any] = TypeAdapter(types[option])
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        with suppress(ValidationError):
            return adapter.validate_python((value,))
        said = error.errors()[0]["msg"]
        raise InvalidInput(f"the option {option} cannot be {value!r}: {said}") from error


def _own(made: Any) -> list[str]:
    return [field.name for field in fields(made) if field.init and field.name != "name"]


def _held(made: Any) -> list[str]:
    return [name for name in _own(made) if is_dataclass(getattr(made, name))]
