"""Where a server's own log lines go. Called when a server starts, never on import."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal

from memedit.errors import ConfigError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""What ``MEMEDIT_LOG_LEVEL`` may say, the most talkative first."""


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and what the record is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "memedit", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(form: Literal["text", "json"] = "text") -> None:
    """Gives memedit's loggers a handler, unless the process has given them one.

    ``MEMEDIT_LOG_LEVEL`` sets the level, INFO by default: one line a request, without its text.

    Args:
        form: how a record is written: as text, or as one JSON object a line.

    Raises:
        ConfigError: ``MEMEDIT_LOG_LEVEL`` names no level.
    """
    package = logging.getLogger("memedit")
    level = os.environ.get("MEMEDIT_LOG_LEVEL", "INFO").strip().upper()
    if level not in LEVELS:
        raise ConfigError(f"MEMEDIT_LOG_LEVEL is {level[:64]!r}; it is one of {', '.join(LEVELS)}")
    package.setLevel(level)
    if not package.hasHandlers():
        handler = logging.StreamHandler()
        text = logging.Formatter("%(levelname)s:     memedit: %(message)s")
        handler.setFormatter(JsonLines() if form == "json" else text)
        package.addHandler(handler)
