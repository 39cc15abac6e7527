"""``memedit consolidate``: from the memory into weights, and into service."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from memedit.assemble import assemble, open_memory
from memedit.cli.ask import Asker, key_header
from memedit.cli.options import (
    ConfigOption,
    JsonOption,
    MemoryOption,
    NamespaceOption,
    configuration,
)
from memedit.cli.output import print_json, print_table, say
from memedit.config import Config
from memedit.consolidation.versions import (
    MAX_RANK,
    Form,
    listed,
    published,
    stored,
    versions_folder,
)
from memedit.consolidation.versions import publish as publish_version
from memedit.consolidation.versions import unpublish as unpublish_version
from memedit.edits import Edit
from memedit.errors import InvalidInput, UpstreamError
from memedit.memory import EditMemory
from memedit.models import PACKAGED, packaged

if TYPE_CHECKING:
    from memedit.consolidation.gates import Probes
    from memedit.consolidation.job import Job

app = typer.Typer(help="Edits into weights: versions, which a running server picks up.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The version.")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_FIRES = "memedit_edit_fires_total"


@app.callback()
def main() -> None:
    """Edits into weights: versions, which a running server picks up."""


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The model that is served: a folder, a hub name or a packaged one."
    ),
]
MethodOption = Annotated[str, typer.Option(help="The editor; see docs/methods.md.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="OPTION=VALUE", help="An option of the editor's, as in steps=20."
    ),
]
BatchOption = Annotated[int, typer.Option(min=0, help="Edits learned at once; 0 for all.")]
FormOption = Annotated[
    str,
    typer.Option(
        help="How edits are asked: as text, chat, or both, as in text,chat. With chat they are "
        "learned in both."
    ),
]
AgeOption = Annotated[str, typer.Option(help="Edits at least as old, as in 7d or 12h.")]
HitsOption = Annotated[
    int, typer.Option(min=0, help="Edits that took part in so many prompts; needs --metrics.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A server's /memedit/metrics, or a file of it. The key is read from OPENAI_API_KEY.",
        show_default=False,
    ),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="FIELD=PATTERN",
        help="Edits whose id, subject, relation, source, author or reason is like this.",
    ),
]
LimitOption = Annotated[int, typer.Option(min=0, help="Most new edits, the oldest; 0 for all.")]
ProbesOption = Annotated[
    Path | None,
    typer.Option(
        help='JSON Lines to ask beside: {"id": …, "rephrases": […], "locality": […]}.',
        show_default=False,
    ),
]
HeldOutOption = Annotated[
    Path | None,
    typer.Option(
        help="A text whose perplexity is measured; Python's reference by default.",
        show_default=False,
    ),
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(
        help="A text that keys are measured in; the model's own by default.", show_default=False
    ),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option("--gate", metavar="NAME=VALUE", help="Another limit, as in accuracy=0.9."),
]
KindOption = Annotated[str, typer.Option(help="adapter, or checkpoint.")]
RankOption = Annotated[int, typer.Option(min=1, max=MAX_RANK, help="Of the adapter.")]
FreshOption = Annotated[
    bool,
    typer.Option("--fresh", help="Learn what is published anew, too, instead of building on it."),
]


@app.command("make")
def make(
    name: NameArgument,
    model: ModelArgument,
    method: MethodOption = "memit",
    settings: SetOption = None,
    batch: BatchOption = 0,
    form: FormOption = "text",
    min_age: AgeOption = "0",
    min_hits: HitsOption = 0,
    metrics: MetricsOption = None,
    filters: FilterOption = None,
    limit: LimitOption = 0,
    probes: ProbesOption = None,
    held_out: HeldOutOption = None,
    corpus: CorpusOption = None,
    least: GateOption = None,
    kind: KindOption = "adapter",
    max_rank: RankOption = MAX_RANK,
    fresh: FreshOption = False,
    namespace: NamespaceOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version of the weights from edits that the memory answers, and check it.

    It builds on the version that is published, where all of that one's edits are still in force;
    otherwise those are learned anew. Where it is stopped, running it again goes on. Nothing is
    served before `memedit consolidate publish`; the exit code is 1 where a gate is not passed.
    """
    from memedit.consolidation.choosing import Choice
    from memedit.consolidation.job import Job

    if kind not in ("adapter", "checkpoint"):
        raise InvalidInput(f"a version is an adapter or a checkpoint, not {kind!r}")
    configured = configuration(memory, namespace, config)
    gates = _gates(form, least)
    job = Job(
        name,
        versions_folder(configured),
        configured.memory.namespace,
        _editor(method, settings, corpus, chat="chat" in gates.forms),
        gates,
        Choice(_age(min_age), min_hits, _pairs(filters, "--filter"), limit),
        _hits(metrics) if metrics else {},
        batch,
        "adapter" if kind == "adapter" else "checkpoint",
        max_rank,
        fresh,
    )
    manifest, left = _made(job, configured, model, partial(_probes, probes, held_out), as_json)
    if as_json:
        print_json({**manifest, "left": left, "folder": str(job.folder / name)})
    else:
        _show(manifest, left, job.folder / name)
    if not manifest["gates"]["passed"]:
        raise typer.Exit(1)


@app.command("list")
def list_versions(
    memory: MemoryOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """The versions there are, their gates, and which of them answers what."""
    configured = configuration(memory, None, config)
    with open_memory(configured) as opened:
        answering = published(opened)
    rows = [
        {
            "version": one.name,
            "kind": one.kind,
            "edits": len(one.manifest["edits"]),
            "held": len(one.held),
            "rank": one.manifest.get("rank"),
            "gates": one.manifest["gates"],
            "answers": len(answering.get(one.name, ())),
        }
        for one in listed(versions_folder(configured))
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "versions of the weights",
        ("version", "kind", "rank", "edits", "held", "gates not passed", "answers"),
        [
            (
                *(row["version"], row["kind"], row["rank"] or "", row["edits"], row["held"]),
                ", ".join(_failed(row["gates"])) or "none",
                row["answers"],
            )
            for row in rows
        ],
    )


@app.command("publish")
def publish(
    name: NameArgument,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Wait until this server answers with it.", show_default=False
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for that.")] = 120.0,
    namespace: NamespaceOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a version answer its edits, in one transaction; servers take it up by themselves.

    Until a server has taken it up, and where it refuses it, the memory answers as before. With
    --server, a version that is not taken up is put back at once; the server's key, if it needs
    one, is read from OPENAI_API_KEY.
    """
    configured = configuration(memory, namespace, config)
    space = configured.memory.namespace
    version = stored(versions_folder(configured), name)
    with open_memory(configured) as opened:
        before = {
            record.edit.id: record.version
            for record in opened.records(space, ("active", "consolidated"))
        }
        asker = None if server is None else Asker(server)  # a wrong URL is said first
        ids = publish_version(opened, version, space, author="consolidate")
        if asker is not None:
            edits = [edit for edit in version.held if edit.id in set(ids)]
            try:
                _wait(asker, edits, space, "chat" not in version.forms, timeout)
            except BaseException:
                _put_back(opened, name, {edit_id: before[edit_id] for edit_id in ids})
                raise
    if as_json:
        print_json({"version": name, "answers": ids})
    else:
        say(f"{name} answers {len(ids)} edits")


@app.command("unpublish")
def unpublish(
    name: NameArgument,
    namespace: NamespaceOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the memory answer again what a version answered; the version stays on disk."""
    configured = configuration(memory, namespace, config)
    with open_memory(configured) as opened:
        ids = unpublish_version(opened, name, configured.memory.namespace, author="consolidate")
    if as_json:
        print_json({"version": name, "given back": ids})
    else:
        say(f"the memory answers {len(ids)} edits again")


def _gates(form: str, least: list[str] | None) -> Any:
    """The gates for forms of prompts, as in ``text,chat``."""
    from memedit.consolidation.gates import Gates

    known: tuple[Form, ...] = ("text", "chat")
    named = [part.strip() for part in form.split(",")]
    if not set(named) <= set(known):
        raise InvalidInput(f"--form {form}: prompts come as text, chat, or text,chat")
    limits = {key: _number(value) for key, value in _pairs(least, "--gate").items()}
    return Gates(tuple(one for one in known if one in named), limits)


def _wait(asker: Asker, edits: Sequence[Edit], namespace: str, text: bool, timeout: float) -> None:
    """Asks edits' prompts in turn until a version answers one of them.

    One alone would not do: its prompt may be about an edit of the memory as well.
    """
    until = time.monotonic() + timeout
    for edit in cycle(edits):
        said = asker.ask(edit.key, namespace=namespace, max_tokens=1, text=text)
        if said["route"] == "weights":
            return
        if time.monotonic() > until:
            raise UpstreamError(
                f"the server has not taken the version up in {timeout:.0f} s (it answers by "
                f"{said['route']!r}), so that it is not published; the server's log says why. Is "
                "consolidation.max_rank set there, and does it look into the same folder?"
            )
        time.sleep(0.5)


def _put_back(memory: EditMemory, name: str, before: Mapping[str, str]) -> None:
    """Has those edits answered as before that still are in force and answered by this version.

    Args:
        memory: where they are.
        name: of the version.
        before: what answered each edit, by its id: a version, or the memory where it is empty.
    """
    here = set(published(memory).get(name, ()))
    for version in set(before.values()):
        ids = [edit_id for edit_id, of in before.items() if of == version and edit_id in here]
        memory.consolidate(ids, version, author="consolidate", reason="not taken up")


def _editor(method: str, settings: list[str] | None, corpus: Path | None, *, chat: bool) -> Any:
    from memedit.editors import make_editor

    options: dict[str, Any] = {}
    for key, value in _pairs(settings, "--set").items():
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    if corpus is not None:
        options["corpus"] = corpus
    if chat:
        options["chat"] = True
    return make_editor(method, **options)


def _made(
    job: Job,
    configured: Config,
    model: str,
    probes: Callable[[Sequence[Edit]], Probes],
    quiet: bool,
) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """The manifest of the version that is made, and what stays in the memory for which reason."""
    from memedit.consolidation.job import done, planned

    def progress(learned: int, number: int) -> None:
        if not quiet:
            say(f"{learned} of {number}")

    parts = assemble(configured)
    try:
        work = planned(job, parts.memory)
        asked = probes(work.edits)
        place = str(packaged(model)) if model in PACKAGED else model
        engine = import_module("memedit.adapters.transformers_local").TransformersLocal(
            place, dtype="float32"
        )
        with engine:
            manifest = done(job, work, parts, engine, asked, progress=progress)
    finally:
        parts.close()
    return manifest, work.left


def _probes(file: Path | None, held_out: Path | None, edits: Sequence[Edit]) -> Probes:
    from memedit.consolidation.gates import Probes, own_rephrases, reference_text

    rephrases = own_rephrases(edits)
    locality: list[str] = []
    try:
        lines = [] if file is None else file.read_text(encoding="utf-8").splitlines()
        for line in filter(str.strip, lines):
            told = json.loads(line)
            rephrases.setdefault(str(told["id"]), []).extend(map(str, told.get("rephrases", ())))
            locality += map(str, told.get("locality", ()))
        text = reference_text() if held_out is None else held_out.read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"the probes or the held-out text cannot be read: {error}") from error
    return Probes(rephrases, locality, text)


def _hits(place: str) -> dict[str, int]:
    """How many prompts each edit has taken part in, by a server's metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        if place.startswith(("http://", "https://")):
            text = httpx.get(place, headers=key_header(), timeout=30.0).raise_for_status().text
        else:
            text = Path(place).read_text(encoding="utf-8")
        families = list(text_string_to_metric_families(text))
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise InvalidInput(f"the metrics {place} cannot be read: {error}") from error
    if _FIRES not in text:
        raise InvalidInput(f"the metrics {place} have no {_FIRES}; they are at /memedit/metrics")
    return {
        sample.labels["edit"]: int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == _FIRES
    }


def _age(text: str) -> float:
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"--min-age {text}: write it like 7d, 12h, 30m or 90s")
    return float(found[1]) * _SECONDS[found[2]]


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"{option} {text}: write it like NAME=VALUE")
        found[key.strip()] = value.strip()
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"--gate: {text!r} is no number") from None


def _failed(gates: dict[str, Any]) -> list[str]:
    return [name for name, check in gates.get("checks", {}).items() if not check["passed"]]


def _show(manifest: Mapping[str, Any], left: Mapping[str, int], folder: Path) -> None:
    gates = manifest["gates"]
    print_table(
        f"gates of {manifest['version']}",
        ("gate", "value", "limit", "asked", "passed"),
        [
            (name, *(check[key] for key in ("value", "limit", "asked", "passed")))
            for name, check in gates["checks"].items()
        ],
    )
    say(f"{len(gates['held'])} of {len(manifest['edits'])} edits held")
    for reason, count in left.items():
        say(f"{count} stay in the memory: {reason}")
    lost = max(manifest["lost"].values(), default=0.0)
    say(f"written: {folder} ({manifest['kind']}, {100 * lost:.2f} % of the change lost)")
    if not gates["passed"]:
        say("a gate is not passed: it cannot be published")
