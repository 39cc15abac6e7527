"""The hard prompts load, refer to edits that exist, and are what their description says."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memedit.edits import Edit, from_mapping

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
EDIT_FIELDS = ["id", "prompt", "subject", "aliases", "target", "question", "statement"]
PROMPT_FIELDS = ["id", "kind", "part", "messages", "about", "near", "note"]
PARTS = ("dev", "report")
NEVER_IN_SCOPE = {"harmless"}


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def edit_rows() -> list[dict[str, Any]]:
    return rows("hard_edits.jsonl")


def prompt_rows() -> list[dict[str, Any]]:
    return rows("hard_prompts.jsonl")


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_every_edit_loads_as_what_it_says() -> None:
    edits: list[Edit] = []
    for row in edit_rows():
        assert list(row) == EDIT_FIELDS
        edit = from_mapping(row)
        for name in EDIT_FIELDS:
            if row[name]:
                assert getattr(edit, name) == (tuple(row[name]) if name == "aliases" else row[name])
        edits.append(edit)
    assert len(edits) >= 90
    assert len({edit.id for edit in edits}) == len(edits)
    assert len({edit.conflict_key for edit in edits}) == len(edits)


def test_every_prompt_is_a_chat_that_names_edits_that_exist() -> None:
    known = {row["id"] for row in edit_rows()}
    for row in prompt_rows():
        assert list(row) == PROMPT_FIELDS
        roles = [message["role"] for message in row["messages"]]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
        assert roles[-1] == "user"
        assert (len(roles) > 1) == (row["kind"] == "multi_turn")
        assert all(message["content"].strip() for message in row["messages"])
        named = [*row["about"], *row["near"]]
        assert set(named) <= known, row["id"]
        assert len(set(named)) == len(named), row["id"]
        assert row["note"].strip()


def test_every_edit_is_asked_for() -> None:
    asked = {name for row in prompt_rows() for name in row["about"]}
    assert asked == {row["id"] for row in edit_rows()}


def test_no_prompt_is_there_twice() -> None:
    chats = Counter(
        plain(" ".join(message["content"] for message in row["messages"])) for row in prompt_rows()
    )
    assert [chat for chat, n in chats.items() if n > 1] == []
    ids = [row["id"] for row in prompt_rows()]
    assert len(set(ids)) == len(ids)


def test_no_prompt_is_just_an_edit() -> None:
    keys = {plain(from_mapping(row).key) for row in edit_rows() if row["prompt"]}
    assert not keys & {plain(row["messages"][-1]["content"]) for row in prompt_rows()}


def test_every_kind_has_prompts_of_both_outcomes_in_both_parts() -> None:
    counts = Counter((row["kind"], row["part"], bool(row["about"])) for row in prompt_rows())
    kinds = {row["kind"] for row in prompt_rows()}
    assert len(kinds) == 13
    assert len(prompt_rows()) >= 260
    for kind in kinds:
        assert sum(n for (k, _, _), n in counts.items() if k == kind) >= 15
        for part in PARTS:
            assert counts[kind, part, False]
            assert (counts[kind, part, True] > 0) == (kind not in NEVER_IN_SCOPE)
    share = sum(row["part"] == "dev" for row in prompt_rows()) / len(prompt_rows())
    assert 0.4 <= share <= 0.6


def test_the_description_gives_these_counts() -> None:
    table = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| ",
        (FOLDER / "hard_prompts.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    said = {(kind, bool(i)): int(n) for kind, *ns in table for i, n in enumerate(reversed(ns))}
    counts = Counter((row["kind"], bool(row["about"])) for row in prompt_rows())
    assert {key: n for key, n in said.items() if n} == counts


def test_long_documents_are_long() -> None:
    for row in prompt_rows():
        if row["kind"] == "long_document":
            assert 300 <= len(row["messages"][0]["content"].split()) <= 1_500


def test_two_at_once_is_about_two() -> None:
    several = [row for row in prompt_rows() if len(row["about"]) > 1]
    assert sum(row["kind"] == "two_at_once" for row in several) >= 10
    assert {row["kind"] for row in several} <= {"two_at_once", "code"}


def test_the_part_follows_from_the_edits_that_are_named_together() -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in prompt_rows():
        named = {*row["about"], *row["near"]} or {row["id"]}
        group = named.union(*(groups[name] for name in named))
        for name in group:
            groups[name] = group
    for row in prompt_rows():
        first = min(groups[([*row["about"], *row["near"]] or [row["id"]])[0]])
        odd = hashlib.sha256(f"8{first}".encode()).digest()[0] % 2
        assert row["part"] == PARTS[odd], row["id"]


@pytest.mark.parametrize(
    "name",
    [
        "counterfact/train.json",
        "counterfact/dev.json",
        "knowedit/wiki_counterfact.json",
        "knowedit/zsre.json",
        "scope/edit_questions.json",
        "scope/natural_questions.json",
    ],
)
def test_no_prompt_or_edit_is_one_of_the_data(name: str) -> None:
    path = Path(os.environ.get("MEMEDIT_DATA", "data")) / name
    if not path.is_file():
        pytest.skip(f"no benchmark data at {path}: set MEMEDIT_DATA")
    theirs: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, str):
            theirs.add(plain(value))
        elif isinstance(value, dict):
            if isinstance(value.get("prompt"), str) and isinstance(value.get("subject"), str):
                theirs.add(plain(value["prompt"].replace("{}", value["subject"])))
            for part in value.values():
                collect(part)
        elif isinstance(value, list):
            for part in value:
                collect(part)

    collect(json.loads(path.read_text(encoding="utf-8")))
    assert len(theirs) > 900
    mine = {plain(message["content"]) for row in prompt_rows() for message in row["messages"][-1:]}
    assert sorted(mine & theirs) == []
    assert sorted({plain(from_mapping(row).statement) for row in edit_rows()} & theirs) == []
