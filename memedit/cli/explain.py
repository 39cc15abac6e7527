"""``memedit explain``: the decision for a prompt, before any model is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from memedit.config import Config
from memedit.grace.file import BookFile
from memedit.multihop.chain import Look, Outcome
from memedit.multihop.decompose import may_be_nested, nested, shipped
from memedit.multihop.guided import guided
from memedit.prompt import TextPrompt
from memedit.protocols import Decision, Generation, Request
from memedit.router import Router


def _hops(query: str, router: Router, namespace: str) -> list[str]:
    """The hops of a question of several, as far as edits alone answer them."""
    readings = nested(shipped().read([query])[0]) if may_be_nested(query) else ()
    if not readings:
        return []
    asked: list[str] = []
    steps = guided(readings)
    value: Any = None
    while True:
        try:
            step = steps.send(value)
        except StopIteration as end:
            outcome: Outcome = end.value
            break
        if isinstance(step, Look):
            value = router.decide(step.queries, namespace)
        elif isinstance(step, Request):
            asked.append(step.prompt.query)
            value = Generation("", 0, 0)
    reading = outcome.reading or readings[0]
    lines = [f"{reading.start} → {' → '.join(reading.relations)}: {reading.probability:.3f}"]
    lines += [hop.told() for hop in outcome.hops if hop.answer is not None]
    return [*lines, f"{asked[0]} the model is asked" if asked else outcome.reason]


def _codebook(config: Config, decision: Decision) -> list[str]:
    """What the codebook does for a chat's edits, or why it does not answer them."""
    if not config.grace.file or not decision.edits:
        return []
    if any(edit.route == "ike" for edit in decision.edits):
        return ["not asked: an edit is to be answered in context"]
    path = Path(config.grace.file)
    if not path.is_file():
        return [f"{path} is not there: answered in context"]
    book = BookFile.read(path)
    if not book.has(config.memory.namespace, decision.edits):
        return [f"{path} has no entry for some of them: answered in context"]
    return list(map(book.told, decision.edits))


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
        hops = _hops(query, parts.router, configured.memory.namespace)
        codebook = _codebook(configured, decision)
    finally:
        parts.close()
    if as_json:
        print_json(
            {"query": query, **decision_mapping(decision), "hops": hops, "codebook": codebook}
        )
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
    if hops:
        say("read as a question of several hops; where those are taken (multihop.enabled):")
        for line in hops:
            say(f"  {line}")
    if codebook:
        say("in a chat, by the engine's codebook:")
        for line in codebook:
            say(f"  {line}")
    timings = "  ".join(f"{name} {ms:.1f}" for name, ms in decision.timings.items())
    say(timings)
