"""``memedit explain``: the decision for a prompt, before any model is called."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from memedit.assemble import assemble
from memedit.cli.options import (
    ConfigOption,
    JsonOption,
    MemoryOption,
    NamespaceOption,
    configuration,
)
from memedit.cli.output import decision_mapping, print_json, print_table, say
from memedit.prompt import TextPrompt


def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would ask.")],
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which edits a prompt is about, with scores and reasons."""
    configured = configuration(memory, namespace, config)
    parts = assemble(configured)
    try:
        query = TextPrompt(prompt).query
        (decision,) = parts.router.decide([query], configured.memory.namespace)
    finally:
        parts.close()
    if as_json:
        print_json({"query": query, **decision_mapping(decision)})
        return
    say(f"{decision.route}  (scope {decision.scope:.3f})")
    for reason in decision.reasons:
        say(f"  {reason}")
    if decision.considered:
        rows = [
            (
                Text("✓" if row.accepted else ""),
                f"{row.probability:.3f}",
                "" if row.relation is None else f"{row.relation:.3f}",
                row.mention or "",
                row.edit.id,
                row.edit.statement,
            )
            for row in decision.considered
        ]
        columns = ("", "probability", "relation", "mention", "id", "statement")
        print_table("considered", columns, rows)
    timings = "  ".join(f"{name} {ms:.1f}" for name, ms in decision.timings.items())
    say(timings)
