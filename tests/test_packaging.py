"""What is installed is what the repository holds, under the right names, and light to import."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import memedit

ROOT = Path(__file__).parent.parent
LINKS = ("adapters", "indexes")
HEAVY = ("torch", "vllm", "faiss", "transformers", "sentence_transformers", "langchain_core")

# What the pins leave out: docs/installing.md says why.
LEFT_OUT = {"llama-cpp-python", "llm", "torchaudio", "torchcodec", "torchvision", "triton"}


def run(*command: str | Path, **options: object) -> str:
    """The command's standard output; fails the test, with both streams shown, where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources(folder: Path) -> Path:
    """A copy of what a build reads, links kept, without what earlier builds left behind."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("memedit", *LINKS):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def expected() -> set[str]:
    """Every file that an installation of memedit must hold, as a path below site-packages."""
    homes = {"memedit": ROOT / "memedit"} | {f"memedit/{name}": ROOT / name for name in LINKS}
    kinds = {".py", ".j2", ".json", ".jsonl", ".toml", ".safetensors", ".txt", ".typed"}
    kinds |= {".css", ".html", ".js", ".svg"}
    return {
        f"{prefix}/{file.relative_to(home).as_posix()}"
        for prefix, home in homes.items()
        for file in home.rglob("*")
        if file.is_file()
        and (file.suffix in kinds or file.name == "py.typed")
        and not any((home / link) in file.parents for link in LINKS)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The wheel of the tree, the sdist of the tree, and the wheel of that sdist."""
    folder = tmp_path_factory.mktemp("build")
    tree = sources(folder / "tree")
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder / "both", tree)
    run(*build, "--wheel", "--outdir", folder / "direct", tree)
    (direct,) = (folder / "direct").glob("*.whl")
    (sdist,) = (folder / "both").glob("*.tar.gz")
    (indirect,) = (folder / "both").glob("*.whl")
    return direct, sdist, indirect


@pytest.fixture(scope="module")
def elsewhere(built: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second environment's ``bin`` folder: the wheel by pip; the rest lent by this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--no-deps", "--no-index", built[0])
    site = run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # A .pth file lends the packages but not this environment's own .pth files, and so not its
    # editable memedit.
    Path(site.strip(), "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_links_and_git_stores_them_as_such(name: str) -> None:
    link = ROOT / "memedit" / name
    assert link.is_symlink(), f"memedit/{name} must be a link to ../{name}"
    assert link.readlink() == Path("..", name)
    if (ROOT / ".git").exists():
        staged = run("git", "ls-files", "--stage", f"memedit/{name}", cwd=ROOT)
        assert staged.startswith("120000 "), f"git stores {staged!r}; a link has mode 120000"


@pytest.mark.parametrize("which", [0, 2], ids=["from the tree", "from the sdist"])
def test_the_wheel_holds_every_module_and_all_package_data(
    built: tuple[Path, Path, Path], which: int
) -> None:
    with zipfile.ZipFile(built[which]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected()


def test_the_sdist_needs_no_links(built: tuple[Path, Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        members = {m.name.partition("/")[2]: m for m in sdist.getmembers()}
    assert expected() <= members.keys()
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]
    assert "LICENSE" in members


def test_the_wheel_works_in_another_environment(elsewhere: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, json, memedit, memedit.adapters, memedit.indexes;"
        "print(json.dumps([memedit.__file__, memedit.adapters.__file__, memedit.indexes.__file__,"
        " memedit.__version__, [n for n in ('adapters', 'indexes') if u.find_spec(n)]]))"
    )
    *files, version, top_level = json.loads(run(elsewhere / "python", "-c", code, cwd=tmp_path))
    assert all(file.startswith(str(elsewhere.parent)) for file in files), files
    assert version == memedit.__version__
    assert top_level == [], "adapters and indexes are names of other projects' packages"


@pytest.mark.parametrize("module", ["memedit", "memedit.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    if module == "memedit.cli" and not (ROOT / "memedit/cli/__init__.py").exists():
        pytest.skip("there is no command line yet")
    code = (
        f"import sys, time; start = time.perf_counter(); import {module};"
        "import json; print(json.dumps([time.perf_counter() - start, list(sys.modules)]))"
    )
    seconds, modules = json.loads(run(sys.executable, "-c", code))
    print(f"import {module}: {seconds:.3f} s, {len(modules)} modules")
    assert not set(HEAVY) & set(modules)


@pytest.mark.parametrize("line", ["import adapters", "from indexes.exact import Exact"])
def test_ruff_refuses_the_names_of_other_projects(line: str) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    found = subprocess.run(
        [ruff, "check", "--output-format", "json", "--stdin-filename", "memedit/sample.py", "-"],
        input=f"{line}\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    banned = [item["message"] for item in json.loads(found.stdout) if item["code"] == "TID251"]
    assert banned, found.stdout
    assert "import memedit." in banned[0]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("memedit/edits.py", "import memedit.protocols"),
        ("memedit/edits.py", "import vllm"),
        ("memedit/edits.py", "import aiohttp"),
        ("memedit/protocols.py", "import memedit.adapters"),
        ("indexes/__init__.py", "import memedit.router"),
    ],
)
def test_the_layer_contracts_can_fail(tmp_path: Path, module: str, line: str) -> None:
    tree = sources(tmp_path / "tree")
    with (tree / module).open("a") as file:
        file.write(f"\n{line}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], capture_output=True, text=True, cwd=tree)
    assert done.returncode == 1, done.stdout + done.stderr
    importer = f"memedit.{module.removeprefix('memedit/').removesuffix('.py')}"
    importer = importer.removesuffix("/__init__")
    assert f"{importer} -> {line.removeprefix('import ')}" in done.stdout


def test_the_pins_are_all_that_a_cpu_installation_needs() -> None:
    """``pip install --no-deps -r constraints/cpu.txt`` leaves out what we name and nothing else."""
    lines = (ROOT / "constraints/cpu.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wanted = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    pinned = {canonicalize_name(pin.name): pin for pin in wanted}
    try:
        for name in pinned:
            distribution(name)
    except PackageNotFoundError as error:
        pytest.skip(f"not a CPU installation: {error}")
    missing = []
    for name in sorted(pinned):
        for text in distribution(name).requires or []:
            need = Requirement(text)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            if canonicalize_name(need.name) not in pinned.keys() | LEFT_OUT:
                missing.append(f"{name} needs {text}")
    assert not missing, "make pins, or see constraints/linux.txt"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_console_script_answers(elsewhere: Path, tmp_path: Path, option: str) -> None:
    if not (ROOT / "memedit/cli/__init__.py").exists():
        pytest.skip("there is no command line yet")
    said = run(elsewhere / "memedit", option, cwd=tmp_path)
    assert (memedit.__version__ if option == "--version" else "serve") in said
