"""``memedit memory``: look after the memory file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memedit.assemble import make_encoder, open_memory
from memedit.cli.options import ConfigOption, JsonOption, MemoryOption, configuration
from memedit.cli.output import print_json, print_table, say
from memedit.memory import EditMemory

app = typer.Typer(help="Check, rebuild, compact, measure and back up the memory file.")


@app.command()
def check(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Compare every record with its checksum, and the index with the journal."""
    with open_memory(configuration(memory, None, config)) as opened:
        problems = opened.check()
    if as_json:
        print_json({"sound": not problems, "problems": problems})
    else:
        for problem in problems:
            say(problem)
        say(
            "put the file back from a backup; where only vectors are damaged, memedit memory "
            "rebuild makes them again"
            if problems
            else "sound"
        )
    if problems:
        raise typer.Exit(1)


@app.command()
def rebuild(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Make missing or damaged vectors again, also after a change of the encoder."""
    configured = configuration(memory, None, config)
    with EditMemory(
        configured.memory.path,
        make_encoder(configured),
        index=configured.memory.index,
        reencode=True,
    ) as opened:
        active = len(opened)
    if as_json:
        print_json({"active": active})
        return
    say(f"every edit has its vector; {active} are active")


@app.command()
def compact(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Give space back; the history of every edit stays."""
    with open_memory(configuration(memory, None, config)) as opened:
        sizes = opened.compact()
    if as_json:
        print_json(sizes)
        return
    say(f"{sizes['before']:,} bytes before, {sizes['after']:,} bytes now")


@app.command()
def stats(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show how much the memory holds."""
    with open_memory(configuration(memory, None, config)) as opened:
        found = opened.stats()
    if as_json:
        print_json(found)
        return
    rows = [
        (namespace, state, f"{count:,}")
        for namespace, states in sorted(found["edits"].items())
        for state, count in sorted(states.items())
    ]
    print_table(found["file"], ("namespace", "state", "edits"), rows)
    say(f"{found['events']:,} events, {found['vectors']:,} vectors, {found['bytes']:,} bytes")
    say(f"encoders: {', '.join(found['encoders']) or 'none'}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy; there must be no such file yet.")],
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the memory file, also while a server uses it."""
    with open_memory(configuration(memory, None, config)) as opened:
        opened.backup(file)
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size})
        return
    say(f"copied to {file}")
