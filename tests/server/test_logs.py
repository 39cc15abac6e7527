"""Where a server's own log lines go."""

import logging

import pytest

from memedit.errors import ConfigError
from memedit.server.logs import log_to_stderr


@pytest.fixture
def package():
    """memedit's logger, as it was before afterwards."""
    logger = logging.getLogger("memedit")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.parametrize("said", ["debug", "DEBUG", " Debug "])
def test_level_is_taken_from_the_environment_in_any_case(monkeypatch, package, said):
    monkeypatch.setenv("MEMEDIT_LOG_LEVEL", said)
    log_to_stderr()
    assert package.level == logging.DEBUG


@pytest.mark.parametrize("said", ["loud", "", "20", "NOTSET"])
def test_a_level_that_there_is_not_is_refused_with_those_there_are(monkeypatch, package, said):
    before = package.level
    monkeypatch.setenv("MEMEDIT_LOG_LEVEL", said)
    with pytest.raises(ConfigError, match=r"MEMEDIT_LOG_LEVEL is .* DEBUG, INFO, WARNING"):
        log_to_stderr()
    assert package.level == before
