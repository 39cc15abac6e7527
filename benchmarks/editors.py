"""What editors of weights do to a model: do edits hold, what else changes, what does it cost?

    python benchmarks/editors.py --out TEXT corpus
    python benchmarks/editors.py --limit 100 --out FILE --corpus TEXT run [--modes 1,10]
    python benchmarks/editors.py --limit 25 --out FILE --corpus TEXT run --rows memit:25,rome:1
    python benchmarks/editors.py --limit 20 --out FILE tune rome --grid "stop=0.6,0.9 steps=15"
    python benchmarks/editors.py --out FILE moments --tokens 2048,8192,32768
    python benchmarks/editors.py --out FILE table

Records are drawn from CounterFact with a seed. Prompts are given to the model to continue,
greedily. For each editor: each record's edit alone (``1``), in batches of 10, 25 or 100, and all
edits one after the other (``sequence``), looked at after 1, 10, 25, 50 and 100. Per row:

    accuracy     the edit's own prompt: the answer states the new target and not the old one
    generality   CounterFact's ``rephrase_prompt``, likewise
    locality     ``locality_prompt``: the answer is the unedited model's, to the character
    first_word   of that answer, its first word alone
    leaks        of those, the answer states the new target and the unedited one's did not
    perplexity   of held-out text (topics of Python's reference manual), as a share of the unedited
                 model's; of single edits, the mean over the first ten
    seconds      to make the deltas, an edit, by the clock (of single edits without the second
                 moments, which are measured once a model); processor seconds beside it, since the
                 clock tells little where other programs run: ``load`` says how many did

Rows are written as they are found; the same command goes on where it stopped. Settings are the
editors' defaults; ``tune`` compares others, on the train part. With ``--split subjects`` records
are wiki_counterfact's: what stands under generality is then the subject by another name, and what
stands under locality is another relation of the same subject.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import math
import os
import platform
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ike_forms import share
from setting import commit, cpu, read

from memedit.adapters.transformers_local import TransformersLocal
from memedit.editors import EDITORS, make_editor, options_of
from memedit.editors.deltas import applied
from memedit.edits import Edit, structured
from memedit.errors import InvalidEdit
from memedit.evaluation.matching import stated
from memedit.evaluation.measures import holds, spoken, unchanged
from memedit.evaluation.runner import write_whole
from memedit.models import packaged
from memedit.prompt import TextPrompt
from memedit.protocols import WeightDelta

MAX_TOKENS = 10
"""Longest answer."""
HELD_OUT = 2_048
"""Tokens of the text whose perplexity is measured; a quarter of it for single edits."""
STEPS = (1, 10, 25, 50, 100)
"""After how many edits a sequence is looked at."""


@dataclass(frozen=True, slots=True)
class Case:
    """A record: its edit, and the three prompts."""

    edit: Edit
    prompts: tuple[str, str, str]
    old: str


def cases(data: Path, split: str, limit: int, seed: int) -> list[Case]:
    """A seeded sample of a part of CounterFact, or of ``subjects`` (:func:`asked_more`)."""
    if split == "subjects":
        return asked_more(data, limit, seed)
    found: list[Case] = []
    for record in _shuffled(data, f"counterfact/{split}.json", seed):
        prompts = (record["prompt"], record["rephrase_prompt"], record["locality_prompt"])
        if (edit := _edit(record, f"counterfact-{record['case_id']}")) is not None:
            found.append(Case(edit, prompts, record["ground_truth"]))
        if len(found) == limit:
            break
    return found


def asked_more(data: Path, limit: int, seed: int) -> list[Case]:
    """A sample of wiki_counterfact: the subject by another name in place of a rephrase, and another
    relation of the same subject, whose answer is not the edit's target, in place of a neighbour.
    """
    found: list[Case] = []
    for number, record in enumerate(_shuffled(data, "knowedit/wiki_counterfact.json", seed)):
        others = record.get("locality", {}).get("Relation_Specificity", [])
        names = record.get("portability", {}).get("Subject_Aliasing", [])
        if not others or not names or record["subject"] not in others[0]["prompt"]:
            continue
        truth = json.dumps(others[0]["ground_truth"], ensure_ascii=False).casefold()
        edit = _edit(record, f"wiki-{number}")
        if edit is not None and record["target_new"].casefold() not in truth:
            prompts = (record["prompt"], names[0]["prompt"], others[0]["prompt"])
            found.append(Case(edit, prompts, record["ground_truth"]))
        if len(found) == limit:
            break
    return found


def _shuffled(data: Path, name: str, seed: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = read(data, name)
    random.Random(seed).shuffle(records)
    return records


def _edit(record: dict[str, Any], number: str) -> Edit | None:
    """A record's edit; ``None`` where it cannot be one."""
    try:
        return structured(record["subject"], record["prompt"], record["target_new"], id=number)
    except InvalidEdit:
        return None


class Subject:
    """The model under test, and what it says unedited."""

    def __init__(self, folder: Path, dtype: str, everyone: Sequence[Case]) -> None:
        self.engine = TransformersLocal(str(folder), dtype=dtype, batch_size=64)
        self.model, self.tokenizer = self.engine.model, self.engine.tokenizer
        texts = [case.prompts[2] for case in everyone]
        self.before = dict(zip(texts, self.answers(texts), strict=True))
        self.held_out, self.text_hash = held_out(self.tokenizer)
        self._plain: dict[int, float] = {}

    def answers(self, texts: Sequence[str]) -> list[str]:
        """The first line of each continuation."""
        said = self.engine.generate([TextPrompt(text) for text in texts], MAX_TOKENS)
        return [spoken(one.text, chat=False) for one in said]

    def loss(self, tokens: int) -> float:
        """The mean loss of the held-out text's first tokens, in nats a token."""
        rows = self.held_out[: tokens // 128]
        with torch.inference_mode():
            logits = self.model(input_ids=rows[:, :-1]).logits.float().log_softmax(-1)
        return -logits.gather(2, rows[:, 1:, None]).mean().item()

    def drift(self, tokens: int) -> float:
        """Perplexity as a share of the unedited model's, with the weights as they are."""
        return math.exp(self.loss(tokens) - self._plain[tokens])

    def prepare(self) -> None:
        """Measures the unedited model."""
        for tokens in (HELD_OUT, HELD_OUT // 4):
            self._plain[tokens] = self.loss(tokens)

    def verdicts(self, some: Sequence[Case]) -> list[dict[str, bool]]:
        """Each case with the weights as they are."""
        said = self.answers([prompt for case in some for prompt in case.prompts])
        found = []
        for case, place in zip(some, range(0, len(said), 3), strict=True):
            own, other, near = said[place : place + 3]
            target, subject = [case.edit.target or ""], [case.edit.subject or ""]
            before = self.before[case.prompts[2]]
            first, first_before = near.split()[:1], before.split()[:1]
            leaks = stated(near, target).accepted and not stated(before, target).accepted
            found.append(
                {
                    "accuracy": holds(own, target, [case.old], subject),
                    "generality": holds(other, target, [case.old], subject),
                    "locality": unchanged(near, before),
                    "first_word": first == first_before,
                    "leaks": leaks,
                }
            )
        return found


def held_out(tokenizer: Any) -> tuple[torch.Tensor, str]:
    """Rows of 128 tokens of prose, and the text's hash."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    text = " ".join(text.replace('"', "").split())[: 40 * HELD_OUT]
    ids = tokenizer(text, add_special_tokens=False).input_ids[:HELD_OUT]
    return torch.tensor(ids).view(-1, 128), hashlib.sha256(text.encode()).hexdigest()[:16]


class Clock:
    """Seconds by the clock and of the processor, and how busy the machine was."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, edits: int) -> dict[str, float]:
        """An edit's share."""
        return {
            "seconds_per_edit": round((time.perf_counter() - self._wall) / edits, 3),
            "processor_seconds_per_edit": round((time.process_time() - self._cpu) / edits, 3),
            "load": round(self._load, 2),
        }


def row(
    verdicts: Sequence[dict[str, bool]], drift: float, spent: dict[str, float]
) -> dict[str, Any]:
    """The figures of one row."""
    names = ("accuracy", "generality", "locality", "first_word", "leaks")
    return {
        **{name: share(sum(one[name] for one in verdicts), len(verdicts)) for name in names},
        "perplexity": round(drift, 4),
        **spent,
    }


def alone(subject: Subject, editor: Any, some: Sequence[Case]) -> dict[str, Any]:
    """Each edit on the unedited model; the time is that of edits made one by one."""
    timed = some[: min(5, len(some))]
    editor.deltas(subject.model, subject.tokenizer, [some[0].edit])  # second moments are kept
    one_by_one = Clock()
    for case in timed:
        editor.deltas(subject.model, subject.tokenizer, [case.edit])
    spent = one_by_one.stop(len(timed))
    together = Clock()
    every = editor.separately(subject.model, subject.tokenizer, [case.edit for case in some])
    spent |= {f"together_{name}": value for name, value in together.stop(len(some)).items()}
    verdicts, drifts = [], []
    for place, (case, deltas) in enumerate(zip(some, every, strict=True)):
        with applied(subject.model, deltas):
            verdicts += subject.verdicts([case])
            if place < 10:
                drifts.append(subject.drift(HELD_OUT // 4))
    return row(verdicts, sum(drifts) / len(drifts), spent)


def batched(subject: Subject, editor: Any, some: Sequence[Case], size: int) -> dict[str, Any]:
    """Batches of edits, each batch on the unedited model."""
    verdicts, drifts, lots = [], [], []
    clock = Clock()
    for start in range(0, len(some), size):
        edits = [case.edit for case in some[start : start + size]]
        lots.append(editor.deltas(subject.model, subject.tokenizer, edits))
    spent = clock.stop(len(some))
    for place, deltas in enumerate(lots):
        with applied(subject.model, deltas):
            verdicts += subject.verdicts(some[place * size : (place + 1) * size])
            drifts.append(subject.drift(HELD_OUT // (1 if len(lots) == 1 else 4)))
    return row(verdicts, sum(drifts) / len(drifts), spent)


def sequence(subject: Subject, editor: Any, some: Sequence[Case]) -> dict[str, Any]:
    """One edit after the other, each on what the one before left; all so far are asked."""
    deltas: list[WeightDelta] = []
    looks = []
    clock = Clock()
    for number, case in enumerate(some, 1):
        done = [before.edit for before in some[: number - 1]]
        with applied(subject.model, deltas):
            new = editor.deltas(subject.model, subject.tokenizer, [case.edit], done)
        deltas = [*deltas, *new]
        if number in STEPS or number == len(some):
            spent = clock.stop(number)
            with applied(subject.model, deltas):
                found = row(subject.verdicts(some[:number]), subject.drift(HELD_OUT), spent)
            looks.append({"after": number, **found})
    return {**looks[-1], "steps": looks}


MODES: dict[str, Callable[[Subject, Any, Sequence[Case]], dict[str, Any]]] = {
    "1": alone,
    "10": partial(batched, size=10),
    "25": partial(batched, size=25),
    "100": partial(batched, size=100),
    "sequence": sequence,
}


class Results:
    """The file of results, written after every row."""

    def __init__(self, file: Path, what: dict[str, Any]) -> None:
        self._file = file
        self._all = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {**what, "rows": []}
        )
        for name in ("model", "split", "seed", "limit"):
            if self._all.get(name) != what.get(name):
                raise SystemExit(f"{file} holds another run ({name}); name another file with --out")

    def has(self, key: dict[str, Any]) -> bool:
        """Whether there is a row of this editor, mode and settings."""
        return any(all(row.get(n) == v for n, v in key.items()) for row in self._all["rows"])

    def add(self, key: dict[str, Any], figures: dict[str, Any]) -> None:
        """Writes a row."""
        now = datetime.now(UTC).isoformat("T", "seconds")
        self._all["rows"].append({**key, **figures, "date": now, "commit": commit()})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(self._all, indent=1, ensure_ascii=False) + "\n")


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on."""
    return {
        "model": args.model.name,
        "dtype": args.dtype,
        "split": args.split,
        "seed": args.seed,
        "limit": args.limit,
        "max_tokens": MAX_TOKENS,
        "corpus": args.corpus.name if args.corpus else "the model's own",
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def editor_of(name: str, args: argparse.Namespace, **options: Any) -> Any:
    """An editor with the run's corpus, where it takes one."""
    made = make_editor(name, **options)
    if args.corpus is None or "corpus" not in options_of(made):
        return made
    return make_editor(name, corpus=args.corpus, **options)


def run(args: argparse.Namespace) -> None:
    """Every editor in every mode."""
    some = cases(args.data, args.split, args.limit, args.seed)
    results = Results(args.out, about(args))
    subject = Subject(args.model, args.dtype, some)
    subject.prepare()
    product = itertools.product(args.editors.split(","), args.modes.split(","))
    rows = [one.split(":") for one in args.rows.split(",")] if args.rows else product
    for name, mode in rows:
        editor = editor_of(name, args)
        key = {"editor": name, "mode": mode, "settings": plain(editor.describe(subject.model))}
        if results.has(key):
            continue
        figures = MODES[mode](subject, editor, some)
        results.add(key, {**figures, "held_out": subject.text_hash})
        print(name, mode, line(figures), flush=True)


def tune(args: argparse.Namespace) -> None:
    """Settings of one editor, on the train part unless another is named."""
    some = cases(args.data, args.split, args.limit, args.seed)
    results = Results(args.out, about(args))
    subject = Subject(args.model, args.dtype, some)
    subject.prepare()
    for options in grid(args.grid):
        editor = editor_of(args.editor, args, **options)
        key = {
            "editor": args.editor,
            "mode": args.mode,
            "settings": plain(editor.describe(subject.model)),
        }
        if results.has(key):
            continue
        figures = MODES[args.mode](subject, editor, some)
        results.add(key, figures)
        print(args.editor, args.mode, options, line(figures), flush=True)


def corpus(args: argparse.Namespace) -> None:
    """A text for second moments: what is true by the train part, a paragraph for five records."""
    records = read(args.data, "counterfact/train.json")
    random.Random(args.seed).shuffle(records)
    said = [
        f"{record[prompt]} {record[answer]}."
        for record in records
        for prompt, answer in (
            ("prompt", "ground_truth"),
            ("locality_prompt", "locality_ground_truth"),
        )
    ]
    paragraphs = [" ".join(said[start : start + 10]) for start in range(0, len(said), 10)]
    args.out.write_text("\n".join(paragraphs) + "\n", encoding="utf-8")


def moments(args: argparse.Namespace) -> None:
    """How much text is enough: ROME's direction C⁻¹k against that of the most text."""
    from memedit.editors.architectures import architecture_of
    from memedit.editors.locating import inverse_times, keys
    from memedit.editors.rows import Context

    some = cases(args.data, args.split, args.limit, args.seed)
    subject = Subject(args.model, args.dtype, some)
    model, tokenizer = subject.model, subject.tokenizer
    architecture = architecture_of(model)
    layer = architecture.layer_one
    edits = [case.edit for case in some]
    mean = keys(model, tokenizer, architecture, edits, [Context()], [layer])[layer].mean.T
    found = {}
    for tokens in sorted(int(part) for part in args.tokens.split(",")):
        editor = editor_of("r-rome", args, tokens=tokens)
        clock = Clock()
        moment = editor.statistics.moments(model, tokenizer, architecture, [layer])[layer]
        spent = clock.stop(1)
        found[tokens] = (inverse_times(moment, mean, editor.ridge), spent)
    most = found[max(found)][0]
    rows = [
        {
            "tokens": tokens,
            "cosine": round(torch.cosine_similarity(towards, most, dim=0).mean().item(), 4),
            "seconds": spent["seconds_per_edit"],
            "processor_seconds": spent["processor_seconds_per_edit"],
        }
        for tokens, (towards, spent) in found.items()
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(
        args.out, json.dumps({**about(args), "layer": layer, "rows": rows}, indent=1) + "\n"
    )
    for one in rows:
        print(one)


def table(args: argparse.Namespace) -> None:
    """The results as Markdown: a line an editor, a column a mode."""
    found = json.loads(args.out.read_text(encoding="utf-8"))
    rows = {(one["editor"], one["mode"]): one for one in found["rows"]}
    modes = [mode for mode in MODES if any(mode == of for _, of in rows)]
    print(f"| editor | {' | '.join(modes)} | perplexity | processor s an edit |")
    print(f"|{'---|' * (len(modes) + 3)}")
    for name in EDITORS:
        mine = [rows.get((name, mode)) for mode in modes]
        cells = ["" if one is None else short(one) for one in mine]
        drift = [f"{100 * (one['perplexity'] - 1):+.1f}" for one in mine if one]
        spent = [f"{one['processor_seconds_per_edit']:.1f}" for one in mine if one]
        if spent:
            tail = f"{' / '.join(drift)} % | {' / '.join(spent)}"
            print(f"| `{name}` | {' | '.join(cells)} | {tail} |")


def short(row: dict[str, Any]) -> str:
    """Accuracy / generality / locality / the first word, in whole percent."""
    names = ("accuracy", "generality", "locality", "first_word")
    return " / ".join(f"{row[name]['percent']:.0f}" for name in names)


def plain(settings: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(settings))


def line(figures: dict[str, Any]) -> str:
    """The figures of a row on one line."""
    shares = (
        f"{name} {figures[name]['percent']}" for name in ("accuracy", "generality", "locality")
    )
    return (
        f"{', '.join(shares)}, perplexity {figures['perplexity']}, {figures['seconds_per_edit']} s"
    )


def grid(text: str) -> Iterator[dict[str, Any]]:
    """Every combination of ``name=value,value name=value``; values are Python's literals."""
    names, choices = [], []
    for part in re.split(r"\s+(?=\w+=)", text.strip()) if text.strip() else ():
        name, _, values = part.partition("=")
        names.append(name)
        choices.append(ast.literal_eval(f"[{values}]"))
    for chosen in itertools.product(*choices):
        yield dict(zip(names, chosen, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEMEDIT_DATA", "data")))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("--split", default="dev")
    command.add_argument("--editors", default=",".join(EDITORS))
    command.add_argument("--modes", default="1,10,100,sequence")
    command.add_argument("--rows", help="EDITOR:MODE,… instead, in the order of their worth")
    command.set_defaults(do=run)
    command = commands.add_parser("tune")
    command.add_argument("editor", choices=EDITORS)
    command.add_argument("--grid", default="")
    command.add_argument("--mode", default="1", choices=MODES)
    command.add_argument("--split", default="train")
    command.set_defaults(do=tune)
    command = commands.add_parser("corpus")
    command.set_defaults(do=corpus)
    command = commands.add_parser("moments")
    command.add_argument("--tokens", default="2048,8192,32768")
    command.set_defaults(do=moments, split="train")
    command = commands.add_parser("table")
    command.set_defaults(do=table)
    args = parser.parse_args()
    if args.model is None:
        args.model = packaged("smollm2-135m-instruct")
    args.do(args)


if __name__ == "__main__":
    main()
