"""The options that commands share, and the configuration they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memedit.config import Config, load

MemoryOption = Annotated[
    Path | None,
    typer.Option("--memory", metavar="FILE", help="The memory file.", show_default=False),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="The namespace of edits.", show_default=False),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML configuration file.", show_default=False),
]
WANTS_JSON = "memedit.json"
"""Under this key a command's context knows whether errors, too, are to be JSON."""


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[WANTS_JSON] = value
    return value


JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON.", callback=_remember, is_eager=True)
]


def configuration(
    memory: Path | None = None, namespace: str | None = None, config: Path | None = None
) -> Config:
    """The configuration with these flags on top."""
    return load({"memory": {"path": memory, "namespace": namespace}}, file=config)
