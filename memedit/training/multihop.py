"""``memedit multihop train``: the decomposer, from our own words and a part of MQuAKE.

Most questions are made: a chain of relations of the library that fit each other, each said in one
of its wordings (``phrasings.json``, the noun phrases in ``compositions.json``, and PokeMQA's
questions for what is asked at last), with the mask for the start. The rest are MQuAKE's, of the
tuning part; longer ones are made of those by putting a noun phrase in the place of the start.
Beside them stand texts that ask nothing of the library.

**Parts.** A case of MQuAKE-CF-3k odd is for the report where
:func:`~memedit.evaluation.datasets.parts.part_of` its first edit's subject says so. Of the others
those are tuned on whose start no report case has, and whose chain is not one of the share
:data:`HELD` of chains that tuning never sees.

The packaged encoder stays as it is, so that every text goes through it once; what is trained is the
decoder on its token states.

Source: MQuAKE, Zhong et al. 2023 (arXiv:2305.14795); PokeMQA, Gu et al. 2024 (arXiv:2312.15194).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memedit.encoders import packaged_folder
from memedit.evaluation.datasets.parts import part_of
from memedit.multihop.decoder import WIDTH, ChainDecoder
from memedit.multihop.decompose import Decomposer, encoded, token_states
from memedit.multihop.relations import SUBJECT, library
from memedit.scope.relation import MASK
from memedit.training.pairs import PHRASINGS
from memedit.training.worlds import question_templates

HELD = 0.2
"""Share of MQuAKE's chains that are kept out of tuning altogether."""

STEPS, RATE = 3_000, 2e-3
MADE, GRAFTS = 16_000, 4
SHARES = (("made", 32), ("asked", 12), ("grafted", 12), ("single", 2), ("other", 6))
"""How many questions of each kind a batch has."""

SMOOTHING = 0.02
_AT_ONCE = 8
_LENGTHS = {1: 0.3, 2: 0.35, 3: 0.22, 4: 0.13}
# Shares of questions of so many hops.
_OTHER = ("",)
_PLAIN_NOUN = re.compile(r"([\w /-]+) of \[X\]")

RELATIONS = {
    "P495": "country of origin",
    "P27": "citizenship",
    "P641": "sport",
    "P36": "capital",
    "P112": "founder",
    "P30": "continent",
    "P37": "official language",
    "P413": "position played",
    "P140": "religion",
    "P35": "head of state",
    "P26": "spouse",
    "P19": "birth place",
    "P50": "author",
    "P6": "head of government",
    "P170": "creator",
    "P1037": "manager",
    "P175": "performer",
    "P178": "developer",
    "P169": "chief executive",
    "P937": "workplace city",
    "P136": "genre of musician",
    "P159": "headquarters",
    "P176": "manufacturer",
    "P449": "network",
    "P69": "education",
    "P286": "coach",
    "P800": "notable work",
    "P108": "employer",
    "P20": "death place",
    "P40": "child",
    "P1412": "languages spoken",
    "P740": "place of foundation",
    "P488": "chairperson",
    "P106": "occupation",
    "P407": "language of work",
    "P1308": "officeholder",
    "P17": "country of location",
    "P127": "owner",
    "P131": "region",
    "P264": "record label",
    "P276": "event location",
    "P364": "language of work",
    "P190": "twin city",
    "P463": "political party",
}
"""MQuAKE's relations by Wikidata's number, and the library's name for each."""

Chain = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the mask for its start, and its chain; :data:`_OTHER` for none."""

    text: str
    chain: Chain


@dataclass(frozen=True, slots=True)
class MQuAKECase:
    """What the decomposer is told of a case.

    Attributes:
        case_id: the publishers'.
        start: the entity at the beginning.
        chain: the relations, by the library's names.
        questions: three wordings.
        hops: each hop asked by itself, before and after the edits: the question, its subject, its
            relation.
        report: whether it is for the report.
        held: whether its chain is kept out of tuning.
    """

    case_id: int
    start: str
    chain: Chain
    questions: tuple[str, ...]
    hops: tuple[tuple[str, str, str], ...]
    report: bool
    held: bool


def mquake_cases(file: Path) -> list[MQuAKECase]:
    """The cases of a file in MQuAKE's form whose relations all are in :data:`RELATIONS`."""
    found = []
    for row in json.loads(file.read_text(encoding="utf-8")):
        numbers = [triple[1] for triple in row["orig"]["new_triples"]]
        if not RELATIONS.keys() >= set(numbers):
            continue
        chain = tuple(RELATIONS[number] for number in numbers)
        found.append(
            MQuAKECase(
                row["case_id"],
                row["orig"]["new_triples_labeled"][0][0],
                chain,
                tuple(row["questions"]),
                tuple(_hops(row)),
                part_of(row["requested_rewrite"][0]["subject"]) == "report",
                is_held(chain),
            )
        )
    return found


def _hops(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each hop of a case by itself."""
    for triples, hops in (("triples", "single_hops"), ("new_triples", "new_single_hops")):
        labels = row["orig"][triples + "_labeled"]
        for triple, label, hop in zip(row["orig"][triples], labels, row[hops], strict=False):
            if name := RELATIONS.get(triple[1]):
                yield hop["question"], label[0], name


def is_held(chain: Chain) -> bool:
    """Whether a chain is kept out of tuning: by the first 64 bits of its SHA-256."""
    digest = hashlib.sha256(("chain: " + " > ".join(chain)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < HELD


def tuning(cases: Sequence[MQuAKECase]) -> list[MQuAKECase]:
    """The cases that may be tuned on."""
    reported = {case.start for case in cases if case.report}
    return [c for c in cases if not c.report and not c.held and c.start not in reported]


class Composer:
    """Makes questions of the library's relations.

    Args:
        random: of every choice.
        heard: further questions for relations, with :data:`SUBJECT`; drawn as often as our own.
    """

    def __init__(self, random: Random, heard: Mapping[str, Sequence[str]] | None = None) -> None:
        self._random = random
        self._heard = dict(heard or {})
        words = json.loads(PHRASINGS.read_text(encoding="utf-8"))
        own = json.loads(PHRASINGS.with_name("compositions.json").read_text(encoding="utf-8"))
        self._frames: list[str] = words["frames"]
        self._phrasings: dict[str, Any] = words["relations"]
        self._chatter: list[str] = words["chatter"]
        self._nouns: dict[str, list[str]] = {name: own[name]["nouns"] for name in library()}
        self._questions: dict[str, list[str]] = {
            name: [
                *(q for q in self._known(name, "questions") if q.count(SUBJECT) == 1),
                *own[name]["questions"],
                relation.ask,
            ]
            for name, relation in library().items()
        }
        self._next = {
            kind: [name for name, relation in library().items() if kind in relation.of]
            for kind in {relation.gives for relation in library().values()}
        }

    def _known(self, name: str, kind: str) -> list[str]:
        texts: list[str] = self._phrasings.get(name, {}).get(kind, [])
        return texts

    def wordings(self, name: str) -> list[str]:
        """All that asks for or names a relation, with the mask for the subject."""
        texts = [*self._questions[name], *self._nouns[name]]
        return [text.replace(SUBJECT, MASK) for text in texts]

    def noun(self, name: str, subject: str) -> str:
        """A relation of a subject as a noun phrase: "the capital of X", "X's capital"."""
        form = self._random.choice(self._nouns[name])
        plain = _PLAIN_NOUN.fullmatch(form)
        clause = any(f" {word} " in subject for word in ("that", "who", "where"))
        if plain and not clause and self._random.random() < 0.3:
            return f"{subject}'s {plain[1]}"
        return "the " + form.replace(SUBJECT, subject)

    def question(self, chain: Chain) -> str:
        """One question, or an unfinished statement, for a chain."""
        subject = MASK
        for name in chain[:-1]:
            subject = self.noun(name, subject)
        name, share = chain[-1], self._random.random()
        relation = library()[name]
        if share < 0.3:
            noun = self.noun(name, subject)
            who = "Who" if relation.gives == "person" else "What"
            kind = "one" if relation.gives == "value" else relation.gives
            forms = (
                f"{who} is {noun}?", f"What is the name of {noun}?", f"Name {noun}.",
                f"Tell me {noun}.", f"{noun}?", f"Which {kind} is {noun}?",
                f"Can you identify {noun}?",
            )  # fmt: skip
            return self._random.choice(forms)
        stated = self._known(name, "statements")
        if share < 0.42 and stated:
            return self._random.choice(stated).replace(SUBJECT, subject)
        heard = self._heard.get(name, ())
        asked = heard if heard and self._random.random() < 0.5 else self._questions[name]
        return self._random.choice(asked).replace(SUBJECT, subject)

    def chain(self, hops: int) -> Chain:
        """Relations that fit each other, the first drawn evenly."""
        while True:
            chain = [self._random.choice(list(library()))]
            while len(chain) < hops and (
                following := self._next.get(library()[chain[-1]].gives, [])
            ):
                chain.append(self._random.choice(following))
            if len(chain) == hops:
                return tuple(chain)

    def made(self, number: int) -> list[Asked]:
        """So many questions of one to four hops, some in a chat's words."""
        found = []
        for hops in self._random.choices(list(_LENGTHS), list(_LENGTHS.values()), k=number):
            chain = self.chain(hops)
            text = self.question(chain)
            if self._random.random() < 0.12:
                text = self._random.choice(self._frames).replace("{}", text)
            found.append(Asked(text, chain))
        return found

    def other(self) -> list[Asked]:
        """Texts that ask nothing of the library, or ask it the other way round."""
        texts = list(self._chatter)
        for name, row in self._phrasings.items():
            texts += row["reversed"] if name in library() else row["questions"] + row["statements"]
        return [Asked(text.replace(SUBJECT, MASK), _OTHER) for text in texts]

    def grafted(self, asked: Sequence[Asked]) -> list[Asked]:
        """Longer questions: the start of each becomes a noun phrase of another."""
        found = []
        for one in asked:
            kinds = library()[one.chain[0]].of
            before = [name for name, relation in library().items() if relation.gives in kinds]
            for _ in range(GRAFTS if before and len(one.chain) < 4 else 0):
                name = self._random.choice(before)
                text = one.text.replace(MASK, self.noun(name, MASK))
                found.append(Asked(text, (name, *one.chain)))
        return found


def masked(cases: Sequence[MQuAKECase]) -> list[Asked]:
    """The questions that name their start, with the mask for it."""
    asked = ((text, case.start, case.chain) for case in cases for text in case.questions)
    return _named(asked)


def single(cases: Sequence[MQuAKECase]) -> list[Asked]:
    """The cases' hops, each wording once."""
    return list(
        dict.fromkeys(
            _named((text, who, (name,)) for case in cases for text, who, name in case.hops)
        )
    )


def _named(asked: Iterable[tuple[str, str, Chain]]) -> list[Asked]:
    """Those questions that name their start, masked."""
    found = []
    for text, start, chain in asked:
        at = text.lower().find(start.lower())
        if at >= 0:
            found.append(Asked(text[:at] + MASK + text[at + len(start) :], chain))
    return found


def heard_questions(data: Path) -> dict[str, list[str]]:
    """PokeMQA's questions for one relation each, with :data:`SUBJECT`, by the library's names.

    The relation is told by MQuAKE's cloze that the edit is worded by. Subjects for the report are
    left out.
    """
    clozes = [
        (re.compile(re.escape(text).replace(re.escape(SUBJECT), "(.+?)") + " .+"), name)
        for number, text in question_templates(data)
        if text.count(SUBJECT) == 1 and not text.endswith("?")
        if (name := RELATIONS.get(number))
    ]
    found: dict[str, dict[str, None]] = {}
    for row in json.loads((data / "scope" / "edit_questions.json").read_text(encoding="utf-8")):
        for cloze, name in clozes:
            if match := cloze.fullmatch(row["edit"]):
                subject = match[1]
                if part_of(subject) != "report":
                    texts = (q for q in row["questions"] if q.count(subject) == 1)
                    found.setdefault(name, {}).update(
                        dict.fromkeys(text.replace(subject, SUBJECT) for text in texts)
                    )
                break
    return {name: list(texts) for name, texts in found.items()}


class _Learner(nn.Module):  # type: ignore[misc]
    """The encoder, and the decoder that learns on what it says."""

    def __init__(self, wordings: Sequence[Sequence[str]], seed: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        super().__init__()
        torch.manual_seed(seed)
        base = packaged_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        encoder = AutoModel.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        self.encoder = encoder.eval()
        for parameter in encoder.parameters():
            parameter.requires_grad_(False)
        self.texts = self._means(wordings)
        dim = self.texts.shape[1]
        self.decoder = ChainDecoder(len(wordings) + 2, dim)
        self.of_text = nn.Linear(dim, WIDTH)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _means(self, wordings: Sequence[Sequence[str]]) -> Tensor:
        """Of each relation's wordings the mean vector, less the mean of all: what names it."""
        found = []
        for texts in wordings:
            inputs = encoded(self.tokenizer, texts)
            states = token_states(self.encoder, inputs)
            weights = inputs["mask"].unsqueeze(-1).float()
            rows = nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
            found.append(nn.functional.normalize(rows.mean(0), dim=0))
        both = torch.stack(found)
        return both - both.mean(0)

    def symbols(self) -> Tensor:
        """The vectors of all symbols: those of relations begin with what their wordings say."""
        relations = 3 * self.of_text(self.texts)
        return self.decoder.symbols + nn.functional.pad(relations, (0, 0, 0, 2))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """Each text's token states, (tokens, dim), bfloat16."""
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for at in range(0, len(order), 128):
            places = order[at : at + 128]
            inputs = encoded(self.tokenizer, [texts[i] for i in places])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rows = token_states(self.encoder, inputs)
            for place, row, mask in zip(places, rows, inputs["mask"], strict=True):
                found[place] = row[mask].to(torch.bfloat16).clone()
        return found

    def loss(
        self, of_texts: Sequence[Tensor], places: Tensor, labels: Sequence[list[int]]
    ) -> Tensor:
        """The mean cross-entropy of the symbols, in nats."""
        states = nn.utils.rnn.pad_sequence(list(of_texts), batch_first=True).float()
        lengths = torch.tensor([len(row) for row in of_texts])
        mask = torch.arange(states.shape[1]).unsqueeze(0) < lengths.unsqueeze(1)
        state, keys, values = self.decoder.prepared(states, places)
        symbols = self.symbols()
        wanted = nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in labels], batch_first=True, padding_value=-100
        )
        before = self.decoder.first.expand(len(labels), -1)
        seen = torch.zeros_like(before)
        total = torch.zeros(())
        for step in range(wanted.shape[1]):
            state, seen, odds = self.decoder.step(state, before, seen, keys, values, mask, symbols)
            total = total + nn.functional.cross_entropy(
                odds, wanted[:, step], reduction="sum", label_smoothing=SMOOTHING
            )
            before = symbols[wanted[:, step].clamp(min=0)]
        return total / (wanted >= 0).sum()

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Writes what :class:`memedit.multihop.decompose.Decomposer` reads, in 16 bits."""
        from safetensors.torch import save_file

        tensors = dict(self.decoder.state_dict())
        tensors["symbols"] = self.symbols()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: t.detach().to(torch.float16).contiguous() for name, t in tensors.items()},
            str(folder / "model.safetensors"),
        )
        config = {"relations": list(library()), **about}
        text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")


def train(
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    threads: int = 1,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains the decomposer and writes it, with what was measured, into a folder.

    Args:
        data: the data folder, with MQuAKE-CF-3k's odd cases and PokeMQA's questions.
        out: the folder, made where it is not there.
        seed: of every choice.
        steps: batches of 64 questions.
        threads: CPU threads; more than one are no quicker on a machine that does other work.
        command: what to write down as the command that made the weights.
        say: is told of the progress.

    Returns:
        What was measured; also in ``config.json``.
    """
    torch.set_num_threads(threads)
    cases = mquake_cases(data / "mquake" / "cf-3k-odd.json")
    composer = Composer(Random(seed), heard_questions(data))
    learner = _Learner([composer.wordings(name) for name in library()], seed)
    asked = masked(tuning(cases))
    kinds = {
        "made": composer.made(MADE),
        "asked": asked,
        "grafted": composer.grafted(asked),
        "single": single(tuning(cases)),
        "other": composer.other(),
    }
    say(", ".join(f"{len(texts):,} {kind}" for kind, texts in kinds.items()))
    losses = _learn(learner, kinds, seed, steps, say)
    about = {
        "made": {
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "seed": seed,
            "steps": steps,
            "questions": {kind: len(texts) for kind, texts in kinds.items()},
            "losses": losses,
        }
    }
    learner.eval()
    learner.save(out, about)
    measured = measure(Decomposer(out), cases)
    learner.save(out, {**about, "measured": measured})
    return measured


def _learn(
    learner: _Learner,
    kinds: dict[str, list[Asked]],
    seed: int,
    steps: int,
    say: Callable[[str], None],
) -> list[float]:
    names = {name: place for place, name in enumerate(library())}
    texts = list(dict.fromkeys(one.text for of_kind in kinds.values() for one in of_kind))
    started = time.monotonic()
    states = dict(zip(texts, learner.states(texts), strict=True))
    say(f"{len(texts):,} texts read, {time.monotonic() - started:.0f} s")
    mask_id = learner.tokenizer.mask_token_id
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.1
    )
    random = Random(seed + 1)
    losses: list[float] = []
    total = 0.0
    learner.decoder.train()
    waiting: list[list[Asked]] = []
    for step in range(1, steps + 1):
        if not waiting:
            waiting = _batches(kinds, random)
        batch = waiting.pop()
        rows = [learner.tokenizer(o.text, truncation=True, max_length=64).input_ids for o in batch]
        places = torch.tensor([row.index(mask_id) if mask_id in row else 0 for row in rows])
        labels = [
            [len(names) + 1]
            if one.chain == _OTHER
            else [*(names[name] for name in one.chain), len(names)]
            for one in batch
        ]
        loss = learner.loss([states[one.text] for one in batch], places, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % 100 == 0 or step == steps:
            losses.append(round(total / (step % 100 or 100), 4))
            total = 0.0
            say(f"step {step} of {steps}: loss {losses[-1]}, {time.monotonic() - started:.0f} s")
    return losses


def _batches(kinds: dict[str, list[Asked]], random: Random) -> list[list[Asked]]:
    """Some batches drawn together and sorted by length, so that little is padded."""
    drawn = [
        one for kind, share in SHARES for one in random.choices(kinds[kind], k=share * _AT_ONCE)
    ]
    drawn.sort(key=lambda one: len(one.text))
    size = len(drawn) // _AT_ONCE
    batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
    random.shuffle(batches)
    return batches


def measure(decomposer: Decomposer, cases: Sequence[MQuAKECase]) -> dict[str, Any]:
    """How often the gold start and chain are read, by part: first reading and any of them.

    Tuning cases were trained on. A question of MQuAKE does not always say all of its hops, so that
    1 is out of reach.
    """
    parts = {
        "tuning": tuning(cases),
        "report": [case for case in cases if case.report and not case.held],
        "report, chains held out": [case for case in cases if case.report and case.held],
    }
    return {name: _measured(decomposer, of_part) for name, of_part in parts.items()}


def _measured(decomposer: Decomposer, cases: Sequence[MQuAKECase]) -> dict[str, Any]:
    found = decomposer.read([text for case in cases for text in case.questions])
    first, among, of_case = [], [], []
    at = 0
    for case in cases:
        rights = []
        for readings in found[at : at + len(case.questions)]:
            right = [
                reading.relations == case.chain and _bare(reading.start) == _bare(case.start)
                for reading in readings
            ]
            first.append(bool(right and right[0]))
            among.append(any(right))
            rights.append(first[-1])
        at += len(case.questions)
        of_case.append(any(rights))
    return {
        "cases": len(cases),
        "questions": len(first),
        "first_reading": round(float(np.mean(first)), 4),
        "any_reading": round(float(np.mean(among)), 4),
        "any_question": round(float(np.mean(of_case)), 4),
    }


def _bare(name: str) -> str:
    return name.casefold().removeprefix("the ")
