"""The registry: what there is, where it is looked for, and what is said when it is not there."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from memedit.cli.datasets import datasets
from memedit.errors import InvalidInput, MissingData
from memedit.evaluation.datasets import DATASETS, data_root, load, locate
from memedit.evaluation.datasets.parts import part_of

FLAT = {
    "case_id": 7,
    "subject": "Velm Tower",
    "prompt": "Velm Tower is located in",
    "target_new": "Oslo",
    "ground_truth": "Lima",
    "rephrase_prompt": "One finds Velm Tower in",
    "locality_prompt": "Karst Hall is located in",
    "locality_ground_truth": "Lima",
}


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_every_dataset_says_where_it_comes_from() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.source.startswith("https://")
        assert dataset.paper.startswith("https://")
        assert dataset.licence
        assert dataset.files
        assert "all" in dataset.splits
        assert "\n" not in dataset.summary


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMEDIT_DATA", "/somewhere")
    assert data_root(tmp_path) == tmp_path
    assert data_root() == Path("/somewhere")
    monkeypatch.setenv("MEMEDIT_DATA", "")
    assert data_root() == Path("data")


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(InvalidInput, match=r"no dataset 'counterfacts'; there are counterfact, "):
        load("counterfacts")
    with pytest.raises(InvalidInput, match=r"no split 'test'; it has train, dev, all"):
        load("counterfact", "test")
    with pytest.raises(InvalidInput, match=r"no split 'fit'"):
        load("counterfact", "fit")
    with pytest.raises(InvalidInput, match=r"it has all, fit, hold, report"):
        load("mquake", "train")
    with pytest.raises(InvalidInput, match="no dataset"):
        locate("nothing")


def test_a_missing_file_is_named_with_its_publisher_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        load("counterfact", "dev", data=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "counterfact" / "dev.json") in message
    assert DATASETS["counterfact"].source in message
    assert "--data or MEMEDIT_DATA" in message
    with pytest.raises(MissingData, match="check the path"):
        load("counterfact", path=tmp_path / "no.json")


def test_locate(tmp_path: Path) -> None:
    path = write(tmp_path / "counterfact" / "dev.json", [FLAT])
    train, dev = locate("counterfact", tmp_path)
    assert (train.split, train.found, train.bytes) == ("train", False, 0)
    assert train.path == tmp_path / "counterfact" / "train.json"
    assert (dev.split, dev.found, dev.bytes) == ("dev", True, path.stat().st_size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "holds dict; expected a list of records"),
        ("[3]", "record 1 is int; expected an object"),
        ("version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
        ('[{"case_id": 1}]', r"record 1: field 'target_new' is missing; this record has case_id"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cf.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        load("counterfact", path=path)


def test_a_wrong_field_is_named_with_its_record(tmp_path: Path) -> None:
    path = write(tmp_path / "cf.json", [FLAT, FLAT | {"subject": 5}])
    with pytest.raises(InvalidInput, match=r"cf\.json, record 2: field 'subject' is 5; expected"):
        load("counterfact", path=path)
    write(path, [FLAT | {"case_id": [1]}])
    with pytest.raises(InvalidInput, match="a text or a whole number"):
        load("counterfact", path=path)
    path.write_bytes(b"\xff\xfe[]")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load("counterfact", path=path)


def test_a_named_file_is_the_part_its_name_says_or_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", [FLAT])
    assert load("counterfact", path=path).path == path
    with pytest.raises(InvalidInput, match="is not known to be the part 'dev'"):
        load("counterfact", "dev", path=path)
    dev = write(tmp_path / "dev.json", [FLAT])
    assert len(load("counterfact", "dev", path=dev).cases) == 1
    with pytest.raises(InvalidInput, match="part 'train'"):
        load("counterfact", "train", path=dev)


@pytest.mark.parametrize("folder", ["", "counterfact"])
def test_a_named_folder_holds_the_parts(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "counterfact" / "dev.json", [FLAT])
    loaded = load("counterfact", "dev", path=tmp_path / folder)
    assert loaded.path == tmp_path / "counterfact" / "dev.json"
    with pytest.raises(MissingData, match=r"train\.json"):
        load("counterfact", "all", path=tmp_path / folder)


def test_all_reads_every_part_and_numbers_repeated_ids(tmp_path: Path) -> None:
    write(tmp_path / "counterfact" / "train.json", [FLAT, FLAT])
    write(tmp_path / "counterfact" / "dev.json", [FLAT | {"case_id": "7.2"}, FLAT])
    loaded = load("counterfact", data=tmp_path)
    assert [case.id for case in loaded.cases] == ["7", "7.2", "7.2.2", "7.3"]
    assert loaded.path == tmp_path / "counterfact"
    assert loaded.records == 4
    again = load("counterfact", data=tmp_path)
    assert loaded == again
    ids = [edit.id for case in loaded.cases for edit in case.edits]
    assert ids[0] == "counterfact-7-1"
    assert len(set(ids)) == 4


def test_a_refused_edit_is_a_skipped_record(tmp_path: Path) -> None:
    bad = [
        FLAT | {"prompt": "It is located in"},
        FLAT | {"prompt": "It stands in"},
        FLAT | {"target_new": "<|im_start|>"},
        FLAT | {"target_new": ""},
        FLAT | {"prompt": "{} {} is in"},
        FLAT | {"target_new": "x" * 3_000},
    ]
    loaded = load("counterfact", path=write(tmp_path / "cf.json", [FLAT, *bad]))
    assert len(loaded.cases) == 1
    assert loaded.records == 7
    assert loaded.skipped == {
        "the prompt does not name the subject": 2,
        "a text of the edit holds a control token of chat templates": 1,
        "a text of the edit is empty": 1,
        "the prompt has several places for the subject": 1,
        "a text of the edit is too long": 1,
    }


def test_parts_are_by_subject_and_do_not_change() -> None:
    assert part_of("Epaspidoceras") == part_of(" epASPidoceras ")
    assert [part_of(name) for name in ("Louise Grandjean", "ZIC3", "Fritz X")] == [
        "report",
        "report",
        "fit",
    ]
    many = [part_of(f"subject {n}") for n in range(4_000)]
    assert many.count("fit") / 4_000 == pytest.approx(0.35, abs=0.03)
    assert many.count("hold") / 4_000 == pytest.approx(0.15, abs=0.03)


def test_the_command_lists_files_found_and_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "counterfact" / "dev.json", [FLAT])
    app = typer.Typer()
    app.command()(datasets)
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [row["name"] for row in found["datasets"]] == list(DATASETS)
    train, dev = found["datasets"][0]["files"]
    assert dev == {
        "part": "dev",
        "path": str(path),
        "found": True,
        "bytes": path.stat().st_size,
        "records": 1,
    }
    assert train["found"] is False
    assert train["records"] is None
    shown = CliRunner().invoke(app, ["--data", str(tmp_path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "not there" in shown.output
    assert "MEMEDIT_DATA" in shown.output
    path.write_text("{", encoding="utf-8")
    broken = json.loads(CliRunner().invoke(app, ["--data", str(tmp_path), "--json"]).output)
    assert broken["datasets"][0]["files"][1]["records"] is None
