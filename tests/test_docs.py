"""What there is to set is written down, and what is written down is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from memedit.adapters import ENGINES
from memedit.cli.app import app
from memedit.evaluation.datasets import DATASETS
from memedit.evaluation.methods import METHODS
from memedit.evaluation.verdicts import ERRORS

DOCS = Path(__file__).parents[1] / "docs"


def commands(command: object, name: str = "memedit") -> Iterator[tuple[str, list[str]]]:
    """Every command with its options' names."""
    if inner := getattr(command, "commands", None):
        for part, child in inner.items():
            yield from commands(child, f"{name} {part}")
        return
    params = command.params  # type: ignore[attr-defined]
    yield name, [flag for param in params for flag in param.opts if flag.startswith("--")]


def sections() -> dict[str, str]:
    """docs/cli.md by command."""
    found: dict[str, str] = {}
    name = ""
    for line in (DOCS / "cli.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            name = line.strip("#` ")
        found[name] = found.get(name, "") + line + "\n"
    return found


@pytest.mark.parametrize(("name", "flags"), list(commands(get_command(app))))
def test_every_option_is_documented(name: str, flags: list[str]) -> None:
    section = sections().get(name)
    assert section is not None, f"{name} is not in docs/cli.md: run make docs"
    for flag in flags:
        assert flag in section, f"{name} {flag} is not in docs/cli.md: run make docs"


def test_no_documented_command_is_gone() -> None:
    there = {name for name, _ in commands(get_command(app))}
    groups = {name.rpartition(" ")[0] for name in there}
    assert set(sections()) <= there | groups


@pytest.mark.parametrize("name", [*METHODS, *DATASETS, *ENGINES])
def test_every_method_dataset_and_engine_is_in_the_docs(name: str) -> None:
    assert f"`{name}`" in (DOCS / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", ERRORS)
def test_every_kind_of_error_is_in_the_docs(error: str) -> None:
    assert error in (DOCS / "evaluation.md").read_text(encoding="utf-8")
