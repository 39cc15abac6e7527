"""``memedit keys``: admin keys for the edits API."""

from __future__ import annotations

from typing import Annotated

import typer

from memedit.arguments import check_namespace
from memedit.cli.options import ConfigOption, JsonOption, MemoryOption, configuration
from memedit.cli.output import print_json, print_table, say, when
from memedit.server.audit import Audit
from memedit.server.keys import Key, Keys, Role

app = typer.Typer(help="Make, list and revoke admin keys of the edits API.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it: whose it is, or what for.")],
    role: Annotated[
        Role, typer.Option(help="What it may do; each includes those before it.")
    ] = "read",
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Where; may be given several times."),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", help="In every namespace.")
    ] = False,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and show it this once; it is good in the configured namespace by default."""
    configured = configuration(memory, None, config).memory
    names = tuple(dict.fromkeys(namespace or [configured.namespace]))
    if all_namespaces:
        names = ()
    for one in names:
        check_namespace(one)
    audit = Audit(configured.path)
    audit.write("keys.add", "begun")
    key, secret = Keys(configured.path).add(name, role, names)
    audit.write("keys.add", "done", made=key.id)
    if as_json:
        print_json({**_mapping(key), "key": secret})
        return
    print(secret)  # never broken at the edge of a terminal
    say(f"This is key {key.id}, {role} in {_where(key)}. It is not shown again.")


@app.command("list")
def list_(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List all keys, also revoked ones, without their secrets."""
    keys = Keys(configuration(memory, None, config).memory.path).all()
    if as_json:
        print_json([_mapping(key) for key in keys])
        return
    rows = [
        (
            *(key.id, key.name, key.role, _where(key), when(key.created_at)),
            "" if key.revoked_at is None else when(key.revoked_at),
        )
        for key in keys
    ]
    print_table("admin keys", ("id", "name", "role", "namespaces", "made", "revoked"), rows)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key useless for good; running servers refuse it from the next request on."""
    path = configuration(memory, None, config).memory.path
    audit = Audit(path)
    audit.write("keys.revoke", "begun", revoked=key_id)
    key = Keys(path).revoke(key_id)
    audit.write("keys.revoke", "done", revoked=key_id)
    if as_json:
        print_json(_mapping(key))
        return
    say(f"revoked {key_id} ({key.name})")


def _where(key: Key) -> str:
    return ", ".join(key.namespaces) or "every namespace"


def _mapping(key: Key) -> dict[str, object]:
    """A key as JSON types, without its hash."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "namespaces": list(key.namespaces),
        "created_at": when(key.created_at),
        "revoked_at": None if key.revoked_at is None else when(key.revoked_at),
    }
