"""``memedit audit``: who changed what over the edits API."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import typer

from memedit.cli.options import (
    ConfigOption,
    JsonOption,
    MemoryOption,
    NamespaceOption,
    configuration,
)
from memedit.cli.output import print_json, print_table
from memedit.server.audit import Audit

_SHOWN_IDS = 3


def audit(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest.")] = 100,
    namespace: NamespaceOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed edits over HTTP, and who made and revoked keys, the oldest first."""
    path = configuration(memory, None, config).memory.path
    lines = deque(Audit(path).lines(namespace), maxlen=limit)
    if as_json:
        print_json(list(lines))
        return
    rows = []
    for line in lines:
        ids = line["edits"]
        more = f" and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
        who = "this machine" if line["key"] is None else f"{line['name']} ({line['key']})"
        what = (line["action"], line["outcome"], line["namespace"])
        rows.append((line["at"][:19], who, *what, " ".join(ids[:_SHOWN_IDS]) + more))
    print_table("changes", ("when", "who", "what", "outcome", "namespace", "edits"), rows)
