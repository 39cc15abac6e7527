"""Recent prompts: off by default, kept apart, and what a dry run says of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.config import ServerConfig, load
from memedit.edits import structured
from memedit.errors import ConfigError
from memedit.server import recent as module
from memedit.server.keys import Keys
from memedit.server.recent import RecentPrompts
from tests.server.edits_api import EDITS, code
from tests.server.front import Front
from tests.server.scripted import Scripted
from tests.server.upstream import Upstream

CHAT = "/v1/chat/completions"
FRANCE = "What is the capital of France?"
SPAIN = "What is the capital of Spain?"
HELLO = "Good morning, all."
OTHERS = "others"


def test_a_ring_keeps_the_latest_different_prompts_of_each_namespace() -> None:
    recent = RecentPrompts(2)
    recent.saw(["a", "b", "a", " ", "x" * 5_000], "one")
    assert recent.of("one") == [("a", 2), ("b", 1)]
    recent.saw(["c"], "one")
    assert recent.of("one") == [("c", 1), ("a", 2)]
    assert recent.of("two") == []


def test_namespaces_that_callers_name_do_not_fill_the_memory() -> None:
    recent = RecentPrompts(2)
    for number in range(module._NAMESPACES + 1):
        recent.saw(["a"], f"n{number}")
    assert recent.of("n0") == []
    assert recent.of("n1") == [("a", 1)]


def test_it_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServerConfig().recent_prompts == 0
    recent = RecentPrompts(0)
    recent.saw(["a"], "one")
    assert recent.of("one") == []
    assert load({"server": {"recent_prompts": 5}}, environ={}).server.recent_prompts == 5
    with pytest.raises(ConfigError, match="recent_prompts"):
        load({"server": {"recent_prompts": -1}}, environ={})


@pytest.fixture
def upstream() -> Iterator[str]:
    answer = {"id": "1", "choices": []}
    with Upstream(app=Scripted(lambda path, body: (200, answer))) as server:
        yield server.url


def ask(front: Front, prompt: str, **headers: str) -> str:
    body = {"messages": [{"role": "user", "content": prompt}]}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{front.url}{CHAT}", json=body, headers=headers).headers["x-memedit-route"]


def dry_run(front: Front, secret: str, body: Any, **query: Any) -> Any:
    return httpx.post(
        f"{front.url}{EDITS}",
        json=body,
        params={"dry_run": True, **query},
        headers={"x-memedit-key": secret},
        timeout=30,
    )


def capital(country: str, town: str, **more: Any) -> dict[str, Any]:
    return {"subject": country, "prompt": "The capital of {} is", "target": town, **more}


@pytest.mark.parametrize("decisions", [0, 100], ids=["decided anew", "remembered"])
def test_a_dry_run_says_which_recent_prompts_it_would_change(
    upstream: str, tmp_path: Path, decisions: int
) -> None:
    with Front(upstream, tmp_path, recent_prompts=10, decisions=decisions) as front:
        front.memory.add(structured("France", "The capital of {} is", "Lyon", id="old"))
        for prompt in (FRANCE, SPAIN, HELLO, SPAIN):
            ask(front, prompt)
        ask(front, "Never kept: France", x_memedit_bypass="1")
        secret = Keys(front.path).add("ops", "write", ("default",))[1]
        events = front.memory.stats()["events"]

        # A new fact; one in the place of another; and both, of which a later one wins.
        said = dry_run(front, secret, capital("Spain", "Vigo", id="default:spain")).json()
        assert said["recent"] == {
            "tried": 3,
            "changed": [{"prompt": SPAIN, "times": 2, "before": [], "after": ["default:spain"]}],
        }
        said = dry_run(front, secret, capital("France", "Nice", id="default:new")).json()
        assert said["data"][0]["supersedes"] == ["old"]
        (one,) = said["recent"]["changed"]
        assert (one["prompt"], one["before"], one["after"]) == (FRANCE, ["old"], ["default:new"])
        both = [capital("Spain", "Vigo"), capital("Spain", "Jaca"), capital("France", "Nice")]
        said = dry_run(front, secret, {"edits": both}).json()
        ids = [one["id"] for one in said["data"]]
        assert [(one["prompt"], one["after"]) for one in said["recent"]["changed"]] == [
            (SPAIN, [ids[1]]),
            (FRANCE, [ids[2]]),
        ]

        # What would add nothing changes nothing.
        said = dry_run(front, secret, capital("France", "Lyon")).json()
        assert said["data"][0]["outcome"] == "unchanged"
        assert said["recent"] == {"tried": 3, "changed": []}
        said = dry_run(front, secret, capital("France", "Nice", policy="reject")).json()
        assert said["data"][0]["outcome"] == "refuse"
        assert said["recent"]["changed"] == []
        # With keep, both take part.
        said = dry_run(front, secret, capital("France", "Nice", policy="keep")).json()
        assert {"old", said["data"][0]["id"]} == set(said["recent"]["changed"][0]["after"])

        # Nothing was changed by any of these, and what a dry run says comes true.
        assert front.memory.stats()["events"] == events
        assert ask(front, SPAIN) == "passthrough"
        headers = {"x-memedit-key": secret}
        made = httpx.post(f"{front.url}{EDITS}", json=capital("Spain", "Vigo"), headers=headers)
        assert made.status_code == 201
        assert ask(front, SPAIN) == "ike"


def test_prompts_are_told_to_nobody_else(
    upstream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Front(upstream, tmp_path, recent_prompts=10) as front:
        keys = Keys(front.path)
        mine, theirs = keys.add("mine", "write", ("default",)), keys.add("o", "write", (OTHERS,))
        everywhere = keys.add("all", "admin")[1]
        ask(front, SPAIN, x_memedit_namespace=OTHERS, x_memedit_key=theirs[1])
        fact = capital("Spain", "Vigo")
        assert dry_run(front, mine[1], fact).json()["recent"] == {"tried": 0, "changed": []}
        assert SPAIN in dry_run(front, theirs[1], fact).text
        assert SPAIN in dry_run(front, everywhere, fact, namespace=OTHERS).text
        refused = dry_run(front, mine[1], fact, namespace=OTHERS)
        assert code(refused, 403) == "not_permitted"
        assert SPAIN not in refused.text
        reader = keys.add("r", "read", (OTHERS,))[1]
        assert code(dry_run(front, reader, fact), 403) == "not_permitted"
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"Spain" not in file.read_bytes(), file
    assert "Spain" not in caplog.text


def test_a_trial_leaves_nothing_behind(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(scratch))
    with Front(upstream, tmp_path, recent_prompts=10) as front:
        ask(front, SPAIN)
        secret = Keys(front.path).add("ops", "write")[1]
        assert dry_run(front, secret, capital("Spain", "Vigo")).json()["recent"]["changed"]
    assert list(scratch.iterdir()) == []


def test_without_it_a_dry_run_says_nothing_of_prompts(upstream: str, tmp_path: Path) -> None:
    with Front(upstream, tmp_path) as front:
        ask(front, SPAIN)
        secret = Keys(front.path).add("ops", "write")[1]
        said = dry_run(front, secret, capital("Spain", "Vigo"))
        assert said.json()["recent"] is None
        assert SPAIN not in said.text
