"""What can be known of the container files without a container engine: they name what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from memedit.cli.app import app
from memedit.config import Config, variable
from memedit.server.keys import Keys
from memedit.server.operations import LIVE, METRICS
from tests.server.front import Front
from tests.server.upstream import Upstream

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def last(name: str) -> str:
    """The arguments of the last instruction of a name."""
    return [rest for given, rest in instructions() if given == name][-1]


def environment() -> dict[str, str]:
    """What the image sets for what runs in it."""
    return dict(re.findall(r"(\w+)=(\S+)", last("ENV")))


def copied() -> list[str]:
    """What the build takes from the repository."""
    found = [rest.split() for name, rest in instructions() if name == "COPY"]
    return [path for words in found if words[0] != "--from=build" for path in words[:-1]]


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


@pytest.fixture
def service(compose: Any) -> Any:
    """memedit's own."""
    return compose["services"]["memedit"]


def test_the_compose_file_is_one() -> None:
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = subprocess.run([*command, FOLDER / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_volumes_secrets_and_services_that_are_named_are_there(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == {"vllm", "memedit", "prometheus"}
    named = {
        mount.partition(":")[0] for service in services.values() for mount in service["volumes"]
    }
    files = {name for name in named if name.startswith(".")}
    assert named - files == set(compose["volumes"])
    assert files
    assert all((FOLDER / name).is_file() for name in files)
    assert set(compose["secrets"]) == set(services["prometheus"]["secrets"])
    for one in services.values():
        assert set(one.get("depends_on", ())) <= set(services)
    build = services["memedit"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_what_memedit_is_started_with_is_what_serve_takes(service: Any, tmp_path: Path) -> None:
    assert json.loads(last("ENTRYPOINT")) == ["memedit"]
    command = service["command"]
    known = {
        flag
        for param in get_command(app).commands["serve"].params  # type: ignore[attr-defined]
        for flag in param.opts
    }
    assert {word for word in command if word.startswith("-")} <= known
    given = {**environment(), **service["environment"]}
    options = {
        variable(section.name, option.name)
        for section in fields(Config)
        for option in fields(getattr(Config(), section.name))
    }
    assert {name for name in given if name.startswith("MEMEDIT_")} <= options
    shown = CliRunner().invoke(app, [*command, "--show-config"], env=given)
    assert shown.exit_code == 0, shown.output
    told = tomllib.loads(shown.output)
    port = told["server"]["port"]
    assert told["server"]["host"] == "0.0.0.0"
    assert last("EXPOSE") == str(port)
    assert [mapping.rpartition(":")[2] for mapping in service["ports"]] == [str(port)]
    assert told["memory"]["path"].startswith(f"{last('VOLUME')}/")
    assert service["volumes"] == [f"memory:{last('VOLUME')}"]
    # Who stops it waits for longer than what is under way may take.
    assert int(service["stop_grace_period"].rstrip("s")) > told["server"]["drain_timeout"]


def test_nobody_has_more_rights_than_needed_and_no_port_is_open_to_all(compose: Any) -> None:
    assert last("USER") == "memedit"
    for name in ("memedit", "prometheus"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "ports" not in compose["services"]["vllm"]


def test_no_secret_is_in_an_image_or_in_the_files(compose: Any) -> None:
    names = [name for given, rest in instructions() if given == "ARG" for name in rest.split("=")]
    names += environment()
    for service in compose["services"].values():
        names += service.get("environment", {})
    assert [name for name in names if SECRET.search(name)] == []
    text = "".join(file.read_text() for file in FOLDER.iterdir() if file.is_file())
    assert "mek-" not in text
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split("\n")
    assert "*" in ignored  # only what is let in again goes to the build
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())


def test_what_the_build_copies_is_enough_to_build_memedit(tmp_path: Path) -> None:
    tree = tmp_path / "src"
    tree.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                tree / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        else:
            shutil.copy(ROOT / name, tree)
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, tree)
    done = subprocess.run(list(map(str, build)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "uv pip" in rest]
    words = install.split()
    assert (tree / words[words.index("-c") + 1]).is_file()
    pinned = (ROOT / "constraints" / "cpu.txt").read_text()
    for package in ("torch", *words[words.index(".") + 1 :]):
        assert re.search(rf"^{re.escape(package)}==", pinned, re.MULTILINE), package


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with Upstream() as upstream, Front(upstream.url, tmp_path) as running:
        yield running


def test_the_health_check_tells_a_server_from_none(front: Front) -> None:
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    port = environment()["MEMEDIT_SERVER_PORT"]
    assert f"127.0.0.1:{port}{LIVE}" in command[2]

    def status(url: str) -> int:
        script = command[2].replace(f"http://127.0.0.1:{port}", url)
        return subprocess.run(
            [sys.executable, *command[1:2], script], capture_output=True
        ).returncode

    assert status(front.url) == 0
    front.stop()
    assert status(front.url) != 0


def test_prometheus_asks_where_the_metrics_are_with_a_key_that_it_can_read(
    compose: Any, front: Front
) -> None:
    told = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in told["scrape_configs"]}
    port = environment()["MEMEDIT_SERVER_PORT"]
    assert jobs["memedit"]["static_configs"] == [{"targets": [f"memedit:{port}"]}]
    assert jobs["memedit"]["metrics_path"] == METRICS
    key = jobs["memedit"]["authorization"]
    assert Path(key["credentials_file"]).parent == Path("/run/secrets")
    assert Path(key["credentials_file"]).name in compose["services"]["prometheus"]["secrets"]
    _, secret = Keys(front.path).add("prometheus", "read")
    url = f"{front.url}{jobs['memedit']['metrics_path']}"
    elsewhere = {"x-forwarded-for": "203.0.113.9"}
    assert httpx.get(url, headers=elsewhere).status_code == 401
    sent = {**elsewhere, "authorization": f"{key['type']} {secret}"}
    assert "memedit_live_edits" in httpx.get(url, headers=sent).text
