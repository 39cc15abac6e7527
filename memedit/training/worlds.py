"""The data that scope is trained and measured on: edits that are live together, and texts.

Every set is split by subject into ``fit``, ``hold`` and ``report``. ``fit`` gives the weights;
``hold`` gives the calibration and every threshold, and nothing else; ``report`` is measured on.
CounterFact's train.json, without the subjects of dev.json, is ``fit`` and ``hold``, its dev.json
is ``report``; of the other sets 35 / 15 / 50 % of the subjects. In a world all edits of a set are
live, and the texts are those of one part.

In scope by rule: a CounterFact prompt that names the subject of a live edit and whose record has
that edit's relation, told by its ParaRel pattern. Two edits of one subject and one relation are
twins, and either is right.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memedit.edits import Edit, sentence, structured
from memedit.encoders import SentenceEncoder
from memedit.errors import InvalidEdit, InvalidInput
from memedit.evaluation.datasets.parts import PARTS, Part, part_of
from memedit.lexicon import Mention
from memedit.names import Names
from memedit.protocols import Candidate, Vectors

COUNTERFACT_FIT, COUNTERFACT_HOLD = 0.85, 0.15
"""Shares of the subjects of CounterFact's train.json."""

NEAREST = 8
"""Edits without a subject that a text is compared with."""


@dataclass(frozen=True, slots=True)
class Case:
    """One text: the edits it is about, and those it may fire on without being counted."""

    query: str
    kind: str
    right: frozenset[int] = frozenset()
    exempt: frozenset[int] = frozenset()


@dataclass
class World:
    """Edits that are live together, and the texts put to them.

    Attributes:
        name: of the set and the part.
        edits: the live edits; cases name them by their place here.
        relations: of each edit the names of its relation, where the set tells; else empty.
        cases: the texts.
        notes: counts a reader of the figures should know.
    """

    name: str
    edits: list[Edit] = field(default_factory=list)
    relations: list[frozenset[str]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    _names: Names | None = None

    @property
    def names(self) -> Names:
        """The names of all edits, by their place."""
        if self._names is None:
            self._names = Names()
            for i, edit in enumerate(self.edits):
                if edit.names:
                    self._names.add(i, edit.names, edit.target)
        return self._names

    def candidates(self, queries: Sequence[str]) -> list[tuple[list[int], list[Candidate]]]:
        """For each text the edits that it may be about, as a memory finds them, and their places.

        Those are the edits whose subject or target it names, and of the edits without a subject the
        :data:`NEAREST` by cosine.
        """
        found = [self._named(query) for query in queries]
        unnamed, keys = self._unnamed
        if unnamed:
            cosines = encoder().encode(queries) @ keys.T
            for (places, candidates), row in zip(found, cosines, strict=True):
                nearest = np.argsort(-row, kind="stable")[:NEAREST].tolist()
                places += [unnamed[i] for i in nearest]
                candidates += [Candidate(self.edits[unnamed[i]], float(row[i])) for i in nearest]
        return found

    def _named(self, query: str) -> tuple[list[int], list[Candidate]]:
        named = self.names.find(query)
        return [one.position for one in named], [
            Candidate(
                self.edits[one.position], None, (one.start, one.end), one.likeness, one.answer
            )
            for one in named
        ]

    @functools.cached_property
    def _unnamed(self) -> tuple[list[int], Vectors]:
        """The edits without a subject, by their place, and the vectors of their keys."""
        places = [i for i, edit in enumerate(self.edits) if not edit.names]
        return places, encoder().encode([self.edits[i].key for i in places])


@functools.cache
def encoder() -> SentenceEncoder:
    """The packaged encoder, with a cache for every text of the data."""
    return SentenceEncoder(cache_size=200_000, threads=None)


def read(data: Path, name: str) -> Any:
    """The records of one file of the data folder.

    Raises:
        InvalidInput: the file is not there or is not JSON.
    """
    try:
        return json.loads((data / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{data / name} cannot be read ({error}); name the folder of the benchmark data with "
            "--data or MEMEDIT_DATA"
        ) from error


def plain(text: str) -> str:
    """Lower case, words only, one space between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def worlds(data: Path, part: Part) -> list[World]:
    """The worlds of one part: CounterFact with the search questions, PokeMQA, both of KnowEdit."""
    return [
        counterfact(data, part),
        pokemqa(data)[part],
        knowedit(data, "wiki_counterfact", part),
        knowedit(data, "zsre", part),
    ]


def counterfact_part(subject: str, reserved: frozenset[str]) -> Part:
    """The part of a record of train.json; ``reserved`` are the subjects of dev.json."""
    if subject.casefold() in reserved:
        return "report"
    return part_of(subject, COUNTERFACT_FIT, COUNTERFACT_HOLD)


def counterfact(data: Path, part: Part) -> World:
    """CounterFact's train and dev edits together, with the prompts, rephrases and locality prompts
    of one part; in ``fit`` and ``hold`` without the dev edits.
    """
    world, patterns = World(f"counterfact {part}"), _counterfact_relations(data)
    dev = read(data, "counterfact/dev.json")
    train = read(data, "counterfact/train.json")
    reserved = frozenset(record["subject"].casefold() for record in dev)
    records = train + dev if part == "report" else train
    kept: list[dict[str, Any]] = []
    ours: list[bool] = []
    for i, record in enumerate(records):
        is_dev = i >= len(train)
        where = "report" if is_dev else counterfact_part(record["subject"], reserved)
        if part != "report" and where == "report":
            continue
        edit = structured(record["subject"], record["prompt"], record["target_new"])
        world.edits.append(edit)
        stem = plain((edit.prompt or "").replace("{}", " subject "))
        world.relations.append(patterns.get(stem) or frozenset({stem}))
        kept.append(record)
        ours.append(is_dev if part == "report" else where == part)
    of_subject: dict[str, list[int]] = {}
    for i, edit in enumerate(world.edits):
        of_subject.setdefault(plain(edit.subject or ""), []).append(i)
    twins = 0
    for i, record in enumerate(kept):
        if not ours[i]:
            continue
        relation = world.relations[i]
        same = of_subject[plain(record["subject"])]
        right = frozenset(j for j in same if world.relations[j] & relation)
        twins += len(right) > 1
        world.cases.append(Case(world.edits[i].key, "prompt", right))
        world.cases.append(Case(record["rephrase_prompt"], "rephrase", right))
        near = record["locality_prompt"]
        exempt = frozenset(
            j
            for mention in world.names.lexicon.find(near)
            if not mention.within_longer_name
            # Some locality prompts ask another relation than their record.
            for asks in (relation | patterns.get(_stem(near, mention), frozenset()),)
            for j in mention.positions
            if world.relations[j] & asks
        )
        kind = "locality in scope by rule" if exempt else "locality"
        world.cases.append(Case(near, kind, exempt=exempt))
    world.cases += [
        Case(text, "search question")
        for text in read(data, "scope/natural_questions.json")
        if part_of(text) == part
    ]
    world.notes = {"edits with a twin": twins}
    return world


@functools.cache
def _counterfact_relations(data: Path) -> Mapping[str, frozenset[str]]:
    """The relations of CounterFact's prompts by what they say around the subject.

    ParaRel's patterns tell most. A record's locality prompt asks the record's own relation of
    somebody else, so that a prompt which ParaRel lacks has the relation of those that stand beside
    it there.
    """
    known = relation_patterns(data)
    records = read(data, "counterfact/train.json") + read(data, "counterfact/dev.json")
    names = Names()
    for i, record in enumerate(records):
        names.lexicon.add(i, [record["subject"]])
    group: dict[str, str] = {}

    def find(stem: str) -> str:
        while group.setdefault(stem, stem) != stem:
            stem = group[stem]
        return stem

    relations: dict[str, set[str]] = {}
    for record in records:
        own = plain(record["prompt"].replace(record["subject"], " subject "))
        near = record["locality_prompt"]
        for mention in names.lexicon.find(near):
            stem = _stem(near, mention)
            for one, other in ((own, stem), (stem, own)):
                if one not in known and len(known.get(other, "x")) == 1:
                    if other in known:
                        relations.setdefault(one, set()).update(known[other])
                    else:
                        group[find(one)] = find(other)
    found = dict(known)
    for record in records:
        stem = plain(record["prompt"].replace(record["subject"], " subject "))
        if stem not in found:
            found[stem] = frozenset(relations.get(stem) or {find(stem)})
    return found


def _stem(text: str, mention: Mention) -> str:
    """What a text says around a mention, as the patterns of relations have it."""
    return plain(f"{text[: mention.start]} subject {text[mention.end :]}")


def knowedit(data: Path, name: str, part: Part) -> World:
    """A file of KnowEdit: prompts, rephrases, alias prompts; same subject with another relation.

    In ``zsre`` some records of one subject replace the same true answer in other words ("What team
    does X play for?", "What team is X associated with?"): they are twins. A probe for another
    relation that has this true answer, too, asks the fact itself ("X constellation").
    """
    world = World(f"{name} {part}")
    kept = []
    skipped = 0
    for record in read(data, f"knowedit/{name}.json"):
        try:
            edit = structured(record["subject"], record["prompt"], record["target_new"])
        except InvalidEdit:
            skipped += 1
            continue
        world.edits.append(edit)
        world.relations.append(frozenset({plain((edit.prompt or "").replace("{}", " subject "))}))
        kept.append(record)
    of_key: dict[str, set[int]] = {}
    of_answer: dict[tuple[str, str], set[int]] = {}
    for i, edit in enumerate(world.edits):
        of_key.setdefault(plain(edit.key), set()).add(i)
        for fact in _true_facts(name, edit.subject or "", kept[i]):
            of_answer.setdefault(fact, set()).add(i)
    twins = asked_again = 0
    for i, record in enumerate(kept):
        if part_of(record["subject"]) != part:
            continue
        subject = record["subject"]
        same = [of_answer[fact] for fact in _true_facts(name, subject, record)]
        right = frozenset(of_key[plain(world.edits[i].key)].union(*same))
        twins += len(right) > 1
        world.cases.append(Case(world.edits[i].key, "prompt", right))
        if record.get("rephrase_prompt"):
            world.cases.append(Case(record["rephrase_prompt"], "rephrase", right))
        for probe in record["portability"].get("Subject_Aliasing", ()):
            world.cases.append(Case(probe["prompt"], "alias", right))
        for probe in record["locality"].get("Relation_Specificity", ()):
            exempt = of_key.get(plain(probe["prompt"]), set())
            again = [of_answer.get(f, set()) for f in _true_facts(name, subject, probe)]
            asks = any(again)
            asked_again += asks
            kind = "other relation, in scope by rule" if asks else "other relation"
            world.cases.append(Case(probe["prompt"], kind, exempt=frozenset(exempt.union(*again))))
    world.notes = {
        "records without the subject in their prompt": skipped,
        "edits with a twin": twins,
        "probes of another relation that ask the edited fact": asked_again,
    }
    return world


def _true_facts(name: str, subject: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """A zsRE record's or probe's subject with each of its true answers; nothing of other sets."""
    if name != "zsre":
        return []
    return [(plain(subject), plain(answer)) for answer in record["ground_truth"]]


def pokemqa(data: Path) -> dict[Part, World]:
    """PokeMQA by part: sentences as edits, one a fact, and the questions about them.

    Records that share a question or a sentence are about one fact, of which one edit is live.
    """
    rows = read(data, "scope/edit_questions.json")
    leader = list(range(len(rows)))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        for text in (row["edit"], *row["questions"]):
            leader[find(i)] = find(first.setdefault(plain(text), i))
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(find(i), []).append(i)
    templates = cloze_templates(data)
    edits = [sentence(rows[members[0]]["edit"]) for members in groups.values()]
    relations = [frozenset(_relation_of(edit, templates)) for edit in edits]
    found: dict[Part, World] = {}
    for part in PARTS:
        found[part] = World(f"pokemqa {part}", edits, relations)
    names = found["fit"].names
    for world in found.values():
        world._names = names
    for i, members in enumerate(groups.values()):
        part = part_of(edits[i].subject or edits[i].statement)
        for asked in dict.fromkeys(q for m in members for q in rows[m]["questions"]):
            found[part].cases.append(Case(asked, "question", frozenset({i})))
    return found


def relation_patterns(data: Path) -> dict[str, frozenset[str]]:
    """ParaRel: the Wikidata relations by what a pattern says between subject and object."""
    relations: dict[str, set[str]] = {}
    for relation, patterns in read(data, "scope/relation_patterns.json").items():
        for pattern in patterns:
            stem = pattern.split("[Y]")[0]
            if "[X]" in stem:
                relations.setdefault(plain(stem.replace("[X]", " subject ")), set()).add(relation)
    return {stem: frozenset(names) for stem, names in relations.items()}


def cloze_templates(data: Path) -> list[tuple[str, str]]:
    """MQuAKE's cloze templates as ``(plain text before the answer, relation)``, longest first."""
    found = [
        (plain(template.split("__")[0].replace("[X]", " subject ")), relation)
        for relation, template in read(data, "mquake/templates/cloze_templates.json").items()
    ]
    return sorted(found, key=lambda pair: (-len(pair[0]), pair))


def question_templates(data: Path) -> Iterator[tuple[str, str]]:
    """MQuAKE's templates, clozes up to the answer and questions, as ``(relation, text)``."""
    for name in ("cloze", "question"):
        for relation, text in read(data, f"mquake/templates/{name}_templates.json").items():
            yield relation, text.split("__")[0].strip()


def _relation_of(edit: Edit, templates: Sequence[tuple[str, str]]) -> Iterable[str]:
    if edit.subject is None:
        return ()
    said = plain(edit.statement.replace(edit.subject, " subject ", 1))
    return [relation for stem, relation in templates if said.startswith(stem)][:1]
