"""Causal tracing, where the outcome is known."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from memedit.cli.app import app
from memedit.editors import tracing
from memedit.editors.architectures import Architecture, architecture_of
from memedit.editors.passes import Start, started
from memedit.editors.tracing import Trace, chart, trace
from memedit.errors import InvalidInput
from tests.editors import tiny
from tests.editors.test_deltas import bits
from tests.evaluation import flat


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_what_is_put_back_at_the_top_gives_the_answer_back(kind: str) -> None:
    model = tiny.model(kind)
    before = bits(model)
    found = trace(model, tiny.tokenizer(), tiny.edits(3), samples=2, noise=20.0)
    lost = found.clean - found.blurred
    assert abs(lost) > 1e-4
    # The last layer's state at the prompt's end is all that the answer depends on, and at the
    # subject's end nothing does any more.
    assert found.effects["stream"]["end"][-1] == pytest.approx(lost, abs=1e-5)
    assert found.effects["stream"]["subject"][-1] == pytest.approx(0, abs=1e-6)
    assert found.effects["stream"]["subject"][0] != 0
    assert {len(line) for lines in found.effects.values() for line in lines.values()} == {4}
    assert bits(model) == before
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_layers_that_are_not_run_again_make_no_difference(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edits = tiny.model(architecture), tiny.edits(2)
    found = trace(model, tiny.tokenizer(), edits, samples=2, noise=20.0)
    lowest: list[Start] = []

    def from_the_lowest(model: Any, table: Architecture, start: Start) -> Any:
        if start.layer == 0:
            lowest.append(start)
        return started(model, table, lowest[-1])

    monkeypatch.setattr(tracing, "started", from_the_lowest)
    whole = trace(model, tiny.tokenizer(), edits, samples=2, noise=20.0)
    for kind, lines in found.effects.items():
        for place, line in lines.items():
            assert line == pytest.approx(whole.effects[kind][place], abs=1e-6)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_noise_is_measured_in_what_the_model_embeds(architecture: str) -> None:
    model = tiny.model(architecture)
    table = architecture_of(model)
    with torch.no_grad():
        embedded = model.get_submodule(table.embedding)(torch.arange(tiny.VOCABULARY))
    seen: list[Any] = []
    first = model.get_submodule(table.layer_name(0))
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    trace(model, tiny.tokenizer(), tiny.edits(2)[1:], samples=200, noise=3.0)
    hook.remove()
    clean, blurred = seen[:2]
    moved = (blurred - clean)[:, : len("Bo Lee")]
    assert moved.std().item() == pytest.approx(3 * embedded.std().item(), rel=0.02)
    assert (blurred - clean)[:, len("Bo Lee") :].abs().max() == 0


def test_without_noise_nothing_is_lost_or_gained() -> None:
    found = trace(tiny.model("llama"), tiny.tokenizer(), tiny.edits(2), samples=1, noise=0.0)
    assert found.clean == pytest.approx(found.blurred, rel=1e-4)
    for lines in found.effects.values():
        for line in lines.values():
            torch.testing.assert_close(torch.tensor(line), torch.zeros(4), rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_trace() -> None:
    model = tiny.model("llama")
    one, same, other = (
        trace(model, tiny.tokenizer(), tiny.edits(1), samples=1, seed=seed) for seed in (0, 0, 1)
    )
    assert one == same
    assert one.blurred != other.blurred
    with pytest.raises(InvalidInput, match="samples is 0"):
        trace(model, tiny.tokenizer(), tiny.edits(1), samples=0)


def test_the_plot_has_a_line_for_every_place_and_kind() -> None:
    lines = {"subject": (0.0, 0.3, 0.1), "end": (0.0, 0.0, 0.2)}
    found = Trace(2, 0.5, 0.1, 1, {"stream": lines, "mlp": lines, "attention": lines})
    assert found.best == 1
    drawn = ET.fromstring(chart(found, "a <model>"))
    space = "{http://www.w3.org/2000/svg}"
    points = [line.get("points", "").split() for line in drawn.iter(f"{space}polyline")]
    assert len(points) == 6
    assert all(len(line) == 3 for line in points)
    heights = [float(point.split(",")[1]) for point in points[0]]
    assert heights[1] == min(heights), "the highest value is drawn highest"
    title = drawn.find(f"{space}title")
    assert title is not None
    assert (title.text or "").startswith("a <model>: 2 facts")


@pytest.mark.slow
def test_the_command_traces_the_packaged_model(model_folder: Path, tmp_path: Path) -> None:
    file, plot = flat.write(tmp_path, 1), tmp_path / "trace.svg"
    options = ["--path", str(file), "--samples", "1", "--plot", str(plot), "--json"]
    done = CliRunner().invoke(app, ["trace", "counterfact", *options])
    assert done.exit_code != 0
    assert "take --any" in done.output
    options.append("--any")
    done = CliRunner().invoke(app, ["trace", "counterfact", *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["facts"] == 1
    assert len(found["effects"]["mlp"]["subject"]) == 30
    assert 0 <= found["best"] < 30
    assert plot.read_text().startswith("<svg")
