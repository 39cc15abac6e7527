"""``memedit datasets``: the public datasets that memedit reads, and where their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memedit.cli.options import JsonOption
from memedit.cli.output import print_json, print_table, say
from memedit.errors import InvalidInput

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The data folder; else MEMEDIT_DATA, else ./data.",
        show_default=False,
    ),
]


def datasets(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the datasets: publisher, licence, splits, and where each file was looked for."""
    from memedit.evaluation.datasets import DATASETS, data_root

    rows = [_mapping(name, data) for name in DATASETS]
    if as_json:
        print_json({"data": str(data_root(data)), "datasets": rows})
        return
    print_table(
        "datasets",
        ("name", "what", "publisher", "licence", "splits"),
        [
            (row["name"], row["summary"], row["source"], row["licence"], " ".join(row["splits"]))
            for row in rows
        ],
    )
    print_table(
        f"files in {data_root(data)}",
        ("name", "part", "path", "size", "records"),
        [
            (
                row["name"],
                file["part"],
                file["path"],
                _size(file["bytes"]) if file["found"] else "not there",
                "" if file["records"] is None else f"{file['records']:,}",
            )
            for row in rows
            for file in row["files"]
        ],
    )
    if not all(file["found"] for row in rows for file in row["files"]):
        say("name the folder with --data or MEMEDIT_DATA; the files are at their publishers'")


def _mapping(name: str, data: Path | None) -> dict[str, Any]:
    """One dataset as JSON types."""
    from memedit.evaluation.datasets import DATASETS, locate

    dataset = DATASETS[name]
    return {
        "name": name,
        "title": dataset.title,
        "summary": dataset.summary,
        "source": dataset.source,
        "licence": dataset.licence,
        "paper": dataset.paper,
        "formats": dataset.formats,
        "splits": list(dataset.splits),
        "files": [
            {
                "part": one.split,
                "path": str(one.path),
                "found": one.found,
                "bytes": one.bytes,
                "records": _count(one.path) if one.found else None,
            }
            for one in locate(name, data)
        ],
    }


def _count(path: Path) -> int | None:
    """Records in a file, or ``None`` where it is no list of records."""
    from memedit.evaluation.datasets.records import records_of

    try:
        return len(records_of(path))
    except InvalidInput:
        return None


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
