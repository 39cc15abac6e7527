"""The versions of the weights on disk, and which of them is published.

A version is a folder that :mod:`memedit.consolidation.export` has written. That it is published
stands in the memory's journal alone: its edits are ``consolidated`` into it. So publishing is one
transaction, and whoever serves finds out by looking at an edit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memedit.config import Config
from memedit.edits import Edit, from_mapping
from memedit.errors import InvalidInput
from memedit.memory import EditMemory

Form = Literal["text", "chat"]
"""How a prompt reaches the model: as it stands, or as the user's turn of a chat."""

MANIFEST = "manifest.json"

ADAPTER_FILES = (MANIFEST, "adapter_config.json", "adapter_model.safetensors")
"""What is in the folder of a version that is an adapter."""

MAX_RANK = 512
"""The highest rank of an adapter that vLLM takes."""

RANKS = (8, 16, 32, 64, 128, 256, 320, MAX_RANK)
"""The ranks that vLLM makes room for; an adapter is filled up to one of them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Stored:
    """A version on disk.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The version's name, which is its folder's."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """``adapter`` or ``checkpoint``."""
        return str(self.manifest["kind"])

    @property
    def forms(self) -> frozenset[str]:
        """The forms of prompts in which its edits were checked."""
        return frozenset(self.manifest["gates"].get("forms", ()))

    @property
    def held(self) -> list[Edit]:
        """The edits that its weights answer right, as far as its gates found."""
        held = set(self.manifest["gates"].get("held", ()))
        return [edit for edit in map(from_mapping, self.manifest["edits"]) if edit.id in held]


def versions_folder(config: Config) -> Path:
    """Where versions lie: where the configuration says, else beside the memory's file."""
    if config.consolidation.folder:
        return Path(config.consolidation.folder)
    path = config.memory.path
    return path.with_name(f"{path.name}.versions")


def check_name(name: str) -> None:
    """Raises InvalidInput for what cannot be a version's name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name for a version: up to 64 letters, digits, '.', '_' and '-', the "
            "first a letter or a digit"
        )


def stored(folder: Path, name: str) -> Stored:
    """A version by its name.

    Raises:
        InvalidInput: there is none, or its manifest cannot be read.
    """
    check_name(name)
    file = folder / name / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest["gates"], dict) or manifest["version"] != name:
            raise ValueError(f"it is not of a version {name}")
    except FileNotFoundError:
        known = ", ".join(one.name for one in listed(folder)) or "none"
        raise InvalidInput(f"there is no version {name!r} in {folder}; there is {known}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the manifest {file} cannot be read: {error}") from error
    return Stored(folder / name, manifest)


def listed(folder: Path) -> list[Stored]:
    """The versions of a folder, by name; drafts and other folders are left out."""
    names = sorted(file.parent.name for file in folder.glob(f"*/{MANIFEST}"))
    return [stored(folder, name) for name in names if _NAME.fullmatch(name)]


def published(memory: EditMemory, namespace: str | None = None) -> dict[str, list[str]]:
    """The versions that are published, each with the ids of the edits in force that it answers."""
    found: dict[str, list[str]] = {}
    for record in memory.records(namespace, ("consolidated",)):
        found.setdefault(record.version, []).append(record.edit.id)
    return found


def publish(memory: EditMemory, version: Stored, namespace: str, *, author: str = "") -> list[str]:
    """Has a version answer its edits from now on, those that are still in force as they were.

    One transaction. What another version answered and this one holds as well goes over to it.

    Returns:
        The ids of these edits.

    Raises:
        InvalidInput: the version is a checkpoint, its gates were not passed, or none of its edits
            is in force.
        MemoryFileError: the file cannot be written; nothing was changed.
    """
    if version.kind != "adapter":
        raise InvalidInput(
            f"the version {version.name} is a checkpoint; serve it as a model of its own, or make "
            "an adapter, which is published beside the unedited model"
        )
    if not version.manifest["gates"].get("passed"):
        raise InvalidInput(
            f"the version {version.name} has not passed its gates; `memedit consolidate list` says "
            "which"
        )
    now = {
        record.edit.id: record.edit.to_mapping()
        for record in memory.records(namespace, ("active", "consolidated"))
    }
    ids = [edit.id for edit in version.held if now.get(edit.id) == edit.to_mapping()]
    if not ids:
        raise InvalidInput(
            f"no edit of the version {version.name} is in force in the namespace {namespace!r}"
        )
    memory.consolidate(ids, version.name, author=author, reason="published")
    return ids


def unpublish(memory: EditMemory, name: str, namespace: str, *, author: str = "") -> list[str]:
    """Has the memory answer again what this version answered; gives the ids of these edits.

    Raises:
        InvalidInput: the version answers nothing.
        MemoryFileError: the file cannot be written; nothing was changed.
    """
    ids = published(memory, namespace).get(name, [])
    if not ids:
        raise InvalidInput(f"the version {name!r} is not published in the namespace {namespace!r}")
    memory.consolidate(ids, "", author=author, reason="unpublished")
    return ids
