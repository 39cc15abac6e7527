"""The application: its commands, its version, and how an error ends a command."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import memedit
from memedit.cli import (
    ask,
    audit,
    compare,
    consolidate,
    datasets,
    demo,
    edits,
    evaluate,
    explain,
    grace,
    keys,
    memory,
    multihop,
    scope,
    serve,
    trace,
)
from memedit.cli.options import WANTS_JSON
from memedit.errors import InvalidInput, MemeditError


class _Commands(TyperGroup):
    """Turns memedit's errors into one line and an exit code: 2 for bad input, 1 for others."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MemeditError as error:
            if ctx.meta.get(WANTS_JSON):
                kind = type(error).__name__
                print(json.dumps({"error": {"type": kind, "message": str(error)}}))
            else:
                typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from error


app = typer.Typer(
    name="memedit",
    cls=_Commands,
    help="Edit what a served language model knows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"memedit {memedit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


serve.register(app)
app.add_typer(edits.app, name="edits")
app.add_typer(memory.app, name="memory", no_args_is_help=True)
app.add_typer(keys.app, name="keys")
app.command("audit")(audit.audit)
app.command("explain")(explain.explain)
app.command("ask")(ask.ask)
app.command("evaluate")(evaluate.evaluate)
app.command("trace")(trace.trace)
app.command("compare")(compare.compare)
app.add_typer(scope.app, name="scope", no_args_is_help=True)
app.add_typer(grace.app, name="grace", no_args_is_help=True)
app.add_typer(consolidate.app, name="consolidate", no_args_is_help=True)
app.add_typer(multihop.app, name="multihop", no_args_is_help=True)
app.command("datasets")(datasets.datasets)
app.command("demo")(demo.demo)
