"""A dataset of this project's own, in CounterFact's flat form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TOWNS = "Rosby Eldmark Tarn Vessel Quill Marrow Osten Pyre Lund Hollow Crest Amber".split()
_RULERS = "Ines Bodo Clara Dario Edda Falk Greta Hugo Ilse Jonas Karla Lenz".split()


def records(n: int) -> list[dict[str, Any]]:
    """``n`` invented facts, each with a rephrase and a neighbour."""
    made = []
    for i in range(n):
        town = f"{_TOWNS[i % 12]}{'' if i < 12 else i}"
        made.append(
            {
                "case_id": i,
                "prompt": f"The mayor of {town} is",
                "target_new": f"{_RULERS[(i + 5) % 12]} Orlow",
                "subject": town,
                "ground_truth": f"{_RULERS[i % 12]} Brandt",
                "rephrase_prompt": f"It rained all day. {town} is governed by",
                "locality_prompt": f"The mayor of New {town} is",
                "locality_ground_truth": f"{_RULERS[i % 12]} Brandt",
            }
        )
    return made


def write(folder: Path, n: int) -> Path:
    """The file that ``--path`` takes."""
    file = folder / "flat.json"
    file.write_text(json.dumps(records(n)), encoding="utf-8")
    return file
