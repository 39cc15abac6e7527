"""``memedit evaluate`` from the command to the folder, with a real model; stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import flat

OPTIONS = [
    *("--engine", "transformers", "--seed", "3", "--max-tokens", "8", "--batch", "4"),
    *("--pool", "4,all", "--forced", "3", "--fluency", "1", "--steps", "2", "--latency", "1"),
]
SAME = ("cases.jsonl", "sequence.jsonl", "report.json")
CASES = 6
# Threads that wait for each other cost more than they bring where other tests' servers run.
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(file: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "memedit", "evaluate", "counterfact", "--path", str(file)),
        *("--out", str(out), *OPTIONS, *options),
    ]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=600, env=ENVIRON)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flat.write(tmp_path_factory.mktemp("data"), CASES)


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(command(file, out))
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    return out


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


def test_every_case_is_in_every_method_and_pool_once(whole: Path) -> None:
    seen = [(row["method"], row["pool"], row["case"]) for row in rows(whole)]
    assert len(seen) == len(set(seen)) == 3 * 2 * CASES
    assert {row["live_edits"] for row in rows(whole) if row["pool"] == 4} == {4}
    for row in rows(whole):
        assert [probe["measure"] for probe in row["probes"]] == [
            "accuracy",
            "generality",
            "locality",
        ]


def test_the_methods_do_what_their_names_say(whole: Path) -> None:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows(whole):
        by_method.setdefault(row["method"], []).extend(row["probes"])
    assert all(probe["edits"] == [] for probe in by_method["none"])
    assert all(
        probe["sent"] == [{"role": "user", "content": probe["prompt"]}]
        for probe in by_method["none"]
    )
    for probe in by_method["ike-always"]:
        assert len(probe["edits"]) == 1
        assert len(probe["sent"]) == 33, "16 demonstrations and the question"
        assert probe["sent"][-1]["content"].startswith("New Fact: ")
    memory = by_method["memory"]
    assert any(probe["edits"] for probe in memory)
    for probe in memory:
        passed = probe["sent"] == [{"role": "user", "content": probe["prompt"]}]
        assert passed == (probe["edits"] == [])
        assert not passed or probe["answer"] == probe["unedited"]


def test_the_numbers_of_the_report_are_those_of_the_rows(whole: Path) -> None:
    for result in report(whole)["results"]:
        here = [
            probe
            for row in rows(whole)
            if (row["method"], row["pool"]) == (result["method"], result["pool"])
            for probe in row["probes"]
            if probe["apart"] is None
        ]
        accurate = [probe["holds"] for probe in here if probe["measure"] == "accuracy"]
        assert result["accuracy"]["n"] == len(accurate) == CASES
        assert result["accuracy"]["count"] == sum(accurate)
        same = [probe["same"] for probe in here if probe["measure"] == "locality"]
        assert result["locality"]["count"] == sum(same)
        if result["method"] == "none":
            assert result["locality"]["rate"] == 1
            assert result["accuracy"]["rate"] == 0
        if result["method"] == "memory":
            assert result["accuracy"]["count"] >= CASES / 2
        assert result["forced"]["accuracy"]["token_accuracy"]["n"] == 3


def test_what_a_run_leaves_behind(whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == {
        *SAME,
        ".lock",
        "run.json",
        "report.html",
        "timings.json",
        "timings.jsonl",
        "transcript.jsonl",
    }
    found = report(whole)
    assert found["run"]["methods"]["ike-always"]["demonstrations"] == 16
    assert found["scalability"]["memory"][0]["from_live_edits"] == 4
    assert found["retainability"]["memory"]["steps"][-1]["edits_learned"] == CASES
    timings = json.loads((whole / "timings.json").read_text())
    assert timings["memory"]["seconds_per_edit"] > 0
    assert timings["memory"]["added_latency_seconds"] is not None
    assert str(whole.parent) not in (whole / "report.json").read_text(), "no place of a machine"


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same_to_the_byte(
    whole: Path, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    transcript = out / "transcript.jsonl"
    for chunks in (2, 9):
        started = subprocess.Popen(
            command(file, out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRON,
        )
        deadline = time.monotonic() + 300
        while not transcript.exists() or transcript.read_bytes().count(b"\n") < chunks:
            assert started.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        assert not (out / "report.json").exists()
    with transcript.open("ab") as stream:
        stream.write(b'{"cut off in the mid')
    before = transcript.read_bytes().count(b"\n")
    done = run(command(file, out))
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    assert before < (whole / "transcript.jsonl").read_bytes().count(b"\n")
    for name in (*SAME, "transcript.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_folder_of_another_run_is_left_alone(whole: Path, file: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    done = run(command(file, whole, "--limit", "5"))
    assert done.returncode == 2
    assert "another run" in done.stderr
    assert "limit" in done.stderr
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_damaged_transcript_is_named(whole: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged"
    out.mkdir()
    (out / "run.json").write_bytes((whole / "run.json").read_bytes())
    lines = (whole / "transcript.jsonl").read_bytes().splitlines(keepends=True)
    (out / "transcript.jsonl").write_bytes(lines[0][:50] + b"\n" + b"".join(lines[1:]))
    done = run(command(file, out))
    assert done.returncode == 2
    assert "line 1 is damaged" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "rom"], "none, ike-always, memory"),
        (["--pool", "many"], "--pool"),
        (["--pool", "99"], "99"),
        (["--engine", "jax"], "transformers"),
        (["--engine", "openai"], "--base-url"),
        (["--surface", "voice"], "surface"),
    ],
)
def test_bad_options_are_errors_that_say_what_there_is(
    file: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    done = run(command(file, tmp_path / "none", *options))
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_is_named_and_the_rest_is_run(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "memedit", "evaluate", "counterfact,zsre"]
    done = run([*argv, "--data", str(tmp_path)])
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr


@pytest.mark.vllm
def test_any_server_with_the_openai_api_can_be_the_model(
    file: Path, tmp_path: Path, vllm_server: Any
) -> None:
    out = tmp_path / "served"
    argv = [sys.executable, "-m", "memedit", "evaluate", "counterfact", "--path", str(file)]
    options = ["--limit", "2", "--method", "none,memory", "--max-tokens", "8", "--out", str(out)]
    done = run([*argv, *options, "--base-url", vllm_server.plain])
    assert done.returncode == 0, done.stderr
    found = report(out)
    assert found["run"]["engine"]["engine"] == "openai"
    assert found["run"]["engine"]["deterministic"] is False
    assert {result["method"] for result in found["results"]} == {"none", "memory"}
    for row in rows(out):
        assert all(probe["output"] for probe in row["probes"])
