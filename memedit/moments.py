"""Moments, however they are written, in seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime

from memedit.errors import InvalidInput

Moment = float | datetime | str
"""Seconds since the epoch, a datetime (UTC where it names no zone), or such a time in ISO 8601."""


def span(
    valid_from: Moment | None, expires_at: Moment | None, now: float
) -> tuple[float | None, float | None]:
    """Both moments in seconds since the epoch, with something between them.

    Raises:
        InvalidInput: one is no moment, or the edit would never answer.
    """
    begins = None if valid_from in (None, "") else seconds(valid_from, "valid_from")
    ends = None if expires_at in (None, "") else seconds(expires_at, "expires_at")
    if ends is not None and ends <= max(now, begins or 0.0):
        of = "valid_from" if (begins or 0.0) > now else "now"
        raise InvalidInput(
            f"expires_at ({utc(ends)}) is not after {of} ({utc(max(now, begins or 0.0))}); an "
            "edit that never answers is not added"
        )
    return begins, ends


def seconds(moment: object, name: str) -> float:
    """A moment that the argument ``name`` gives.

    Raises:
        InvalidInput: it is no moment.
    """
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment.strip())
        if isinstance(moment, datetime):
            zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return zoned.timestamp()
        if isinstance(moment, int | float) and not isinstance(moment, bool):
            datetime.fromtimestamp(moment, UTC)
            return float(moment)
    except (ValueError, OverflowError, OSError):
        pass
    raise InvalidInput(
        f"{name} {moment!r} is no time; write it like 2026-03-01 or 2026-03-01T12:00:00Z, or as "
        "seconds since the epoch"
    )


def utc(moment: float) -> str:
    """A moment as a person reads it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
