"""Flag over environment over file over default."""

from pathlib import Path

import pytest

from memedit.config import Config, load, variable
from memedit.errors import ConfigError


def test_each_source_wins_over_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "memedit.toml"
    file.write_text('[memory]\npath = "file.db"\nnamespace = "file"\n[scope]\nthreshold = 0.5\n')
    environ = {"MEMEDIT_MEMORY_NAMESPACE": "env", "MEMEDIT_SCOPE_THRESHOLD": "0.6"}
    config = load(
        {"scope": {"threshold": 0.7}, "memory": {"path": None}}, file=file, environ=environ
    )
    assert config.scope.threshold == 0.7
    assert config.memory.namespace == "env"
    assert config.memory.path == Path("file.db")
    assert config.server.port == Config().server.port


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "memedit.toml"
    file.write_text("[server]\nport = 9\n")
    assert load(environ={"MEMEDIT_CONFIG": str(file)}).server.port == 9


def test_a_configuration_survives_the_way_through_an_environment(tmp_path: Path) -> None:
    config = load(
        {"memory": {"path": tmp_path / "m.db"}, "ike": {"chat_demonstrations": 5}}, environ={}
    )
    assert load(environ=config.to_environment()) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[scope]\nthreshold = 'high'\n", "scope.threshold"),
        ("[scope]\ntreshold = 0.5\n", "scope.treshold"),
        ("[skope]\n", "skope"),
        ("scope = 5\n", "scope"),
        ("not toml", "not TOML"),
    ],
)
def test_a_wrong_file_names_the_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "memedit.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(file=file, environ={})


def test_a_missing_file_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file=tmp_path / "none.toml", environ={})


def test_variables_are_named_after_section_and_option() -> None:
    assert variable("memory", "path") == "MEMEDIT_MEMORY_PATH"


def test_thresholds_of_namespaces(tmp_path: Path) -> None:
    environ = {"MEMEDIT_SCOPE_THRESHOLDS": "legal=0.9, hr = 0.7"}
    config = load(environ=environ)
    assert config.scope.by_namespace == {"legal": 0.9, "hr": 0.7}
    assert load(environ=config.to_environment()) == config
    for wrong in ("legal", "legal=", "legal=2", "a b=0.5", "legal=0", "=0.5"):
        with pytest.raises(ConfigError, match=r"scope\.thresholds"):
            load(environ={"MEMEDIT_SCOPE_THRESHOLDS": wrong})
