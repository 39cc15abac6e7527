"""Where a server's own log lines go. Called when a server starts, never on import."""

from __future__ import annotations

import logging
import os


def log_to_stderr() -> None:
    """Gives memedit's loggers a handler, unless the process has given them one.

    ``MEMEDIT_LOG_LEVEL`` sets the level, INFO by default: one line a request, without its text.
    """
    package = logging.getLogger("memedit")
    package.setLevel(os.environ.get("MEMEDIT_LOG_LEVEL", "INFO").upper())
    if not package.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:     memedit: %(message)s"))
        package.addHandler(handler)
