"""Runs an evaluation: a plan, an engine, some methods, one folder.

The folder of a run:

    run.json           what was asked for; a run is resumed only by the same
    transcript.jsonl   what the engine said (see transcript.py)
    timings.jsonl      how long each chunk took
    cases.jsonl        one line per method, pool and case: prompts as sent, outputs, verdicts
    sequence.jsonl     one line per method and step: which edits hold after so many
    report.json        every number, computed from the two files above
    timings.json       what things cost in seconds
    report.html        the same for a person

The last five are written when all is done, each whole or not at all; the first three grow.
"""

from __future__ import annotations

import fcntl
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memedit.config import Config
from memedit.edits import Edit
from memedit.errors import InvalidInput, Unsupported
from memedit.evaluation.cases import Case, Probe
from memedit.evaluation.measures import (
    forced_agreement,
    forced_exact,
    forced_magnitude,
    forced_prefers,
    forced_token_accuracy,
    ngram_entropy,
)
from memedit.evaluation.methods import Answered, AnyPrompt, Ask, Bench, Method, method_class
from memedit.evaluation.plan import ALL, Group, Plan, Pool, Settings
from memedit.evaluation.transcript import Progress, Transcript
from memedit.evaluation.verdicts import form_of, verdict
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Encoder, Engine, Feed, Generation, Scored

FLUENCY_TOKENS = 100
"""Length of an answer to an open prompt, in tokens, as in Meng et al. 2022."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a run has found.

    Attributes:
        rows: the lines of ``cases.jsonl``.
        sequence: the lines of ``sequence.jsonl``.
        methods: what each method says of itself.
        timings: what things cost, by method.
    """

    rows: list[dict[str, Any]]
    sequence: list[dict[str, Any]]
    methods: dict[str, Any]
    timings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Remembered:
    """The engine of a run, behind its transcript."""

    transcript: Transcript
    what: str
    max_tokens: int

    def __call__(self, prompts: Sequence[AnyPrompt], weights: str = "") -> list[Generation]:
        """Prompts to answers, in order."""
        return self.transcript.answers(self.what, prompts, self.max_tokens, weights)

    def flow(self, feed: Feed) -> None:
        """Answers what ``feed`` gives, as it comes."""
        self.transcript.flow(self.what, feed)


@dataclass(frozen=True, slots=True)
class _Timed:
    """The engine itself, to the first token of an answer; of a chain, to the end of its last."""

    engine: Engine

    def __call__(self, prompts: Sequence[AnyPrompt], weights: str = "") -> list[Generation]:
        del weights  # the engine has them; nothing is remembered here
        return self.engine.generate(prompts, 1)

    def flow(self, feed: Feed) -> None:
        self.engine.flow(feed)


@contextmanager
def run_folder(folder: Path, what: Mapping[str, Any]) -> Iterator[bool]:
    """Holds the folder of a run for one process.

    Args:
        folder: made where it is not there.
        what: all that the run's outputs depend on; JSON types.

    Yields:
        Whether there is something to resume.

    Raises:
        InvalidInput: the folder belongs to another run, or another process is in it.
    """
    with alone(folder, "running the evaluation"):
        file = folder / "run.json"
        resumed = file.exists()
        if resumed:
            _check_same(file, what)
        else:
            write_whole(file, json.dumps(what, ensure_ascii=False, indent=2) + "\n")
        yield resumed


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made where it is not there.

    Args:
        folder: what is held.
        doing: what for; another process that tries is told.

    Raises:
        InvalidInput: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidInput(f"another process is {doing} in {folder}") from error
        yield


class Runner:
    """Carries a plan out.

    Args:
        plan: the cases and pools.
        settings: what to measure.
        engine: the model.
        encoder: the sentence encoder, for methods and nothing else.
        config: the configuration under test.
        folder: the run's folder, held.
        progress: is told how far each step has come.

    Raises:
        InvalidInput: there is no such method.
        Unsupported: a method needs what the engine lacks.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        *,
        engine: Engine,
        encoder: Encoder,
        config: Config,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._engine = engine
        self._encoder = encoder
        self._config = config
        self._folder = folder
        self._progress = progress
        self._seconds: dict[str, dict[str, Any]] = {}
        for name in settings.methods:
            if lacking := method_class(name).needs - engine.capabilities:
                raise Unsupported(
                    f"the method {name} needs {', '.join(sorted(lacking))}, which the engine "
                    f"{engine.name} does not offer; choose another engine"
                )

    def run(self) -> Results:
        """Everything, in one order; what the transcript knows is not asked again."""
        results = Results([], [], {}, {})
        with (
            tempfile.TemporaryDirectory(prefix="memedit-run-") as scratch,
            Transcript(
                self._folder, self._engine, self._progress, batch=self._settings.batch
            ) as transcript,
            ExitStack() as methods,
        ):
            self._encoder.encode(["warm"])  # its loading is no method's time
            unedited = self._unedited(transcript)
            for name in self._settings.methods:
                place = Path(scratch) / name
                place.mkdir()
                method = method_class(name)(self._bench(place))
                methods.callback(method.close)
                results.methods[name] = dict(method.describe())
                self._seconds[name] = {"edits": 0, "learn": 0.0}
                for pool in self._plan.pools:
                    results.rows.extend(self._pool(method, pool, transcript, unedited))
                results.sequence.extend(self._sequence(method, transcript))
                self._latency(method)
        results.timings.update(self._timings())
        return results

    def _bench(self, place: Path) -> Bench:
        return Bench(
            self._config,
            self._encoder,
            place,
            self._engine,
            self._settings.at_once,
            Path(self._settings.corpus) if self._settings.corpus else None,
        )

    def _prompt(self, text: str) -> AnyPrompt:
        if self._settings.surface == "chat":
            return ChatPrompt(({"role": "user", "content": text},))
        return TextPrompt(text)

    def _unedited(self, transcript: Transcript) -> dict[str, str]:
        """What the unedited model says to every probe that any method is asked."""
        texts = list(dict.fromkeys(p.prompt for case in self._plan.cases for p in case.probes))
        said = transcript.answers(
            "unedited", [self._prompt(text) for text in texts], self._settings.max_tokens
        )
        return {text: one.text for text, one in zip(texts, said, strict=True)}

    def _pool(
        self, method: Method, pool: Pool, transcript: Transcript, unedited: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """The rows of one method in one pool."""
        what = f"{method.name}, pool {pool.size}"
        asks, probes = [], []
        for group in pool.groups:
            self._learn(method, group.edits, group.space)
            for case in group.asked:
                for place, probe in enumerate(case.probes):
                    asks.append(Ask(self._prompt(probe.prompt), group.space))
                    probes.append((group, case, place, probe))
        answered = self._answers(method, asks, transcript, what, self._settings.max_tokens)
        rows: dict[str, dict[str, Any]] = {}
        live = {group.space: {edit.id: edit for edit in group.edits} for group in pool.groups}
        for (group, case, place, probe), one in zip(probes, answered, strict=True):
            row = rows.setdefault(case.id, self._row(method, pool, group, case))
            row["probes"].append(
                verdict(
                    case,
                    probe,
                    one,
                    unedited=unedited[probe.prompt],
                    edits=live[group.space],
                    apart=group.apart.get((case.id, place)),
                )
            )
        self._forced(what, probes, answered, rows, transcript)
        self._fluency(method, pool, rows, transcript, what)
        return list(rows.values())

    def _row(self, method: Method, pool: Pool, group: Group, case: Case) -> dict[str, Any]:
        return {
            "method": method.name,
            "pool": pool.size,
            "live_edits": len(group.edits),
            "case": case.id,
            "facts": [edit.statement for edit in case.edits],
            "ids": [edit.id for edit in case.edits],
            "probes": [],
        }

    def _learn(self, method: Method, edits: Sequence[Edit], space: str) -> None:
        started = time.perf_counter()
        method.learn(edits, space)
        seconds = self._seconds[method.name]
        seconds["learn"] += time.perf_counter() - started
        seconds["edits"] += len(edits)

    def _answers(
        self,
        method: Method,
        asks: Sequence[Ask],
        transcript: Transcript,
        what: str,
        max_tokens: int,
    ) -> list[Answered]:
        return method.answers(asks, Remembered(transcript, what, max_tokens))

    def _forced(
        self,
        what: str,
        probes: Sequence[tuple[Group, Case, int, Probe]],
        answered: Sequence[Answered],
        rows: Mapping[str, dict[str, Any]],
        transcript: Transcript,
    ) -> None:
        """Rates the first cases' targets by teacher forcing, under the prompts as sent."""
        needed = "score_chats" if self._settings.surface == "chat" else "score"
        if not self._settings.forced or needed not in self._engine.capabilities:
            return
        taken = {case.id for case in self._plan.cases[: self._settings.forced]}
        wanted = [
            (rows[case.id]["probes"][place], probe, one)
            for (_, case, place, probe), one in zip(probes, answered, strict=True)
            if case.id in taken and probe.answers
        ]
        first = _scores(
            transcript,
            f"{what}, forced",
            [(one, probe.answers[0]) for _, probe, one in wanted],
        )
        rivals = [(place, probe.old[0]) for place, (_, probe, _) in enumerate(wanted) if probe.old]
        rated = _scores(
            transcript,
            f"{what}, forced rival",
            [(wanted[place][2], old) for place, old in rivals],
        )
        second = dict(zip((place for place, _ in rivals), rated, strict=True))
        outside = [place for place, (_, probe, _) in enumerate(wanted) if not probe.in_scope]
        plain = transcript.scores(
            "unedited, forced",
            [self._prompt(wanted[place][1].prompt) for place in outside],
            [wanted[place][1].answers[0] for place in outside],
        )
        before = dict(zip(outside, plain, strict=True))
        for place, (entry, _, _) in enumerate(wanted):
            entry["forced"] = _rating(first[place], second.get(place), before.get(place))

    def _fluency(
        self,
        method: Method,
        pool: Pool,
        rows: Mapping[str, dict[str, Any]],
        transcript: Transcript,
        what: str,
    ) -> None:
        """Open prompts about the subjects of the first cases, and the entropy of what is said."""
        asks, owners = [], []
        taken = {case.id for case in self._plan.cases[: self._settings.fluency]}
        for group in pool.groups:
            for case in group.asked:
                subject = next((edit.subject for edit in case.edits if edit.subject), None)
                if case.id in taken and subject:
                    asks.append(Ask(self._prompt(self._open(subject)), group.space))
                    owners.append(case.id)
        answered = self._answers(method, asks, transcript, f"{what}, open", FLUENCY_TOKENS)
        for owner, one in zip(owners, answered, strict=True):
            rows[owner]["open"] = {
                "sent": form_of(one.sent),
                "output": one.generation.text,
                "edits": list(one.edits),
                "entropy": round(ngram_entropy(one.generation.text), 4),
            }

    def _open(self, subject: str) -> str:
        chat = self._settings.surface == "chat"
        return f"Tell me about {subject}." if chat else f"{subject} is"

    def _sequence(self, method: Method, transcript: Transcript) -> list[dict[str, Any]]:
        """Which cases' edits hold after so many have been learned, one line a step."""
        lines = []
        group = next((p.groups[0] for p in self._plan.pools if p.size == ALL), None)
        aside = group.apart if group else {}
        for step in self._plan.steps:
            cases = self._plan.cases[:step]
            space = f"sequence-{step}"
            method.learn([edit for case in cases for edit in case.edits], space)
            asked = [
                (case, probe)
                for case in cases
                for place, probe in enumerate(case.probes)
                if probe.measure == "accuracy" and (case.id, place) not in aside
            ]
            asks = [Ask(self._prompt(probe.prompt), space) for _, probe in asked]
            what = f"{method.name}, after {step}"
            answered = self._answers(method, asks, transcript, what, self._settings.max_tokens)
            held: dict[str, bool] = {}
            for (case, probe), one in zip(asked, answered, strict=True):
                entry = verdict(case, probe, one, unedited="", edits=_by_id(cases), apart=None)
                held[case.id] = held.get(case.id, True) and entry["holds"]
            lines.append({"method": method.name, "step": step, "holds": held})
        return lines

    def _latency(self, method: Method) -> None:
        """Times single prompts to the first token of the answer, none of them remembered.

        To the first token: the end of an answer comes the sooner the shorter it is.
        """
        if not self._settings.latency:
            return
        group = self._plan.pools[0].groups[0]
        prompts = [
            self._prompt(case.probes[0].prompt) for case in group.asked[: self._settings.latency]
        ]
        prompts = [prompts[0], *prompts]  # the first warms up
        seconds = []
        for number, prompt in enumerate(prompts):
            self._progress(f"{method.name}, one by one", number, len(prompts))
            started = time.perf_counter()
            method.answers([Ask(prompt, group.space)], _Timed(self._engine))
            seconds.append(time.perf_counter() - started)
        self._progress(f"{method.name}, one by one", len(prompts), len(prompts))
        self._seconds[method.name]["latency"] = seconds[1:]

    def _timings(self) -> dict[str, Any]:
        """What things cost, by method."""
        chunks: dict[str, list[dict[str, Any]]] = {}
        lines = (self._folder / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines:
            entry = json.loads(line)
            chunks.setdefault(entry["what"].partition(",")[0], []).append(entry)
        found = {}
        for name, seconds in self._seconds.items():
            asked = chunks.get(name, [])
            single = seconds.get("latency")
            found[name] = {
                "edits_learned": seconds["edits"],
                "seconds_per_edit": _ratio(seconds["learn"], seconds["edits"]),
                "prompts_asked": sum(entry["prompts"] for entry in asked),
                "engine_seconds": round(sum(entry["seconds"] for entry in asked), 3),
                "latency_median_seconds": round(statistics.median(single), 4) if single else None,
            }
        base = found.get("none", {}).get("latency_median_seconds")
        for figures in found.values():
            own = figures["latency_median_seconds"]
            figures["added_latency_seconds"] = (
                round(own - base, 4) if own is not None and base is not None else None
            )
        return found


def write_whole(file: Path, text: str) -> None:
    """Writes a file so that it is there whole or, after a crash, as it was before."""
    draft = file.with_name(f".{file.name}.new")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def lines_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def describe(
    loaded: Mapping[str, Any], plan: Plan, settings: Settings, engine: Engine, config: Config
) -> dict[str, Any]:
    """All that the outputs of a run depend on, as JSON types; a resumed run must have the same."""
    import memedit

    return {
        "memedit": memedit.__version__,
        "dataset": dict(loaded),
        "settings": json.loads(json.dumps(asdict(settings))),
        "cases": len(plan.cases),
        "first_case": plan.cases[0].id,
        "engine": dict(engine.describe()),
        "config": {
            section: {
                name: value
                for name, value in asdict(getattr(config, section)).items()
                if not isinstance(value, Path)
            }
            for section in ("encoder", "scope", "ike")
        },
    }


def _check_same(file: Path, what: Mapping[str, Any]) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{file} is damaged; choose another folder with --out") from error
    now = json.loads(json.dumps(what))
    changed = sorted(_changed(before, now))
    if changed:
        raise InvalidInput(
            f"{file.parent} holds another run: {', '.join(changed[:5])} differ; choose another "
            "folder with --out, or remove that one"
        )


def _changed(before: Any, now: Any, at: str = "") -> Iterator[str]:
    """The dotted names under which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _changed(before.get(name), now.get(name), f"{at}.{name}".lstrip("."))
    elif before != now:
        yield at


def _rating(wanted: Scored, rival: Scored | None, before: Scored | None) -> dict[str, Any]:
    """What teacher forcing says of one probe."""
    found: dict[str, Any] = {
        "token_accuracy": round(forced_token_accuracy(wanted), 6),
        "exact": forced_exact(wanted),
    }
    if rival is not None:
        found["prefers"] = forced_prefers(wanted, rival)
        found["magnitude"] = round(forced_magnitude(wanted, rival), 6)
    if before is not None:
        found["agreement"] = round(forced_agreement(wanted, before), 6)
    return found


def _scores(
    transcript: Transcript, what: str, pairs: Sequence[tuple[Answered, str]]
) -> list[Scored]:
    """Continuations of prompts as sent, rated with the weights that the answers came from."""
    places: dict[str, list[int]] = {}
    for place, (one, _) in enumerate(pairs):
        places.setdefault(one.weights.name if one.weights else "", []).append(place)
    found: dict[int, Scored] = {}
    for name, here in places.items():
        weights = pairs[here[0]][0].weights
        with weights.applied() if weights else nullcontext():
            sent = [pairs[place][0].sent for place in here]
            rated = transcript.scores(what, sent, [pairs[place][1] for place in here], name)
        found.update(zip(here, rated, strict=True))
    return [found[place] for place in range(len(pairs))]


def _by_id(cases: Sequence[Case]) -> dict[str, Edit]:
    return {edit.id: edit for case in cases for edit in case.edits}


def _ratio(total: float, n: int) -> float | None:
    return round(total / n, 6) if n else None
