"""What wrapped engines and wrapped chat models say where evidence stays out."""

from __future__ import annotations

from dataclasses import replace

from memedit.protocols import Decision
from memedit.router import PASSTHROUGH

NO_ROOM = "the prompt leaves no room for the evidence"


def passed(decision: Decision, reason: str) -> Decision:
    """The decision on a prompt that an edit is about and that goes on as it came all the same."""
    return replace(
        decision, route=PASSTHROUGH, edits=(), reasons=(*decision.reasons, f"passed: {reason}")
    )
