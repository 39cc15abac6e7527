"""The pairs that the relation verifier learns from: two texts, and whether they ask the same.

Most come from the ``fit`` worlds: a text and the edit it is about; a text about one subject and
the edit of another with the same relation, and with another. The rest comes from our own words in
``phrasings.json``: some 270 relations, each in a dozen wordings, turned round, and beside those
that are taken for it; sentences that name a subject and ask nothing; what chats put around a
question. The subject is masked throughout, so that nothing is learnt of any subject.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from memedit.edits import Edit
from memedit.lexicon import mentions
from memedit.scope.reading import readings
from memedit.scope.relation import MASK
from memedit.scope.verified import SOMETHING, stated_relation, turned_relation
from memedit.sentences import split_sentences
from memedit.training.worlds import World, question_templates

DATA = 4.0
"""How much a pair of the data counts beside one of our phrasings, which are many more."""

PHRASINGS = Path(__file__).with_name("phrasings.json")

_TEXTS = 9
# So many of a relation's wordings are paired with each that may be an edit's.
_TASKS = (
    "Translate into German: {}",
    'Translate "{}" into French.',
    "Correct the grammar: {}",
    "Rewrite more politely: {}",
    "Summarise: {}",
    "How many words are in this sentence? {}",
    "Count the letters of: {}",
    "Make a title out of this: {}",
    "Is this sentence in the active voice? {}",
    "Put this into capital letters: {}",
)
_CHECKS = (
    "Is it true that {}?",
    "Am I right that {}?",
    "{}, right?",
    "Someone told me that {}. Is that so?",
    "True or false: {}",
    "{} - correct?",
)
_ANSWERS = (
    "Anna Berger",
    "Lisbon",
    "France",
    "in 1987",
    "Nordwind Systems",
    "the piano",
    "a lawyer",
    "Portuguese",
    "on 4 May",
    "the second one",
    "John Smith, said the paper",
    "about three thousand",
)


@dataclass(slots=True)
class Pairs:
    """Pairs of masked texts, query first, each with how often it was in scope and out of it."""

    counts: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, query: str, key: str, same: bool, weight: float, source: str) -> None:
        """Counts a pair once more."""
        pair = (" ".join(query.split()), " ".join(key.split()))
        if pair not in self.counts:
            self.counts[pair] = [0.0, 0.0]
            self.sources[source] += 1
        self.counts[pair][0 if same else 1] += weight

    def __contains__(self, pair: object) -> bool:
        return pair in self.counts


def make_pairs(
    fit: Sequence[World],
    data: Path,
    seed: int,
    without: Mapping[str, Iterable[str]] | None = None,
) -> Pairs:
    """The pairs of the ``fit`` worlds and of our phrasings.

    Args:
        fit: as :func:`memedit.training.worlds.worlds` gives them.
        data: the folder of the benchmark data, for the templates.
        seed: of every choice.
        without: relations to leave out, by their name in Wikidata, each with its names in the
            phrasings: for measuring on relations that were never seen. With them go all edits
            whose relation has no such name.
    """
    random = Random(seed)
    pairs = Pairs()
    left_out = frozenset(without or ())
    templates: dict[str, list[str]] = defaultdict(list)
    for relation, text in question_templates(data):
        if relation not in left_out:
            templates[relation].append(text.replace("[X]", MASK))
    for world in fit:
        _of_world(pairs, world, templates, left_out, random)
    for one in templates:
        for other in templates:
            for a in templates[one]:
                for b in templates[other]:
                    if one == other or random.random() < 0.5:
                        pairs.add(a, b, one == other, 1.0, "templates")
    phrasings = json.loads(PHRASINGS.read_text(encoding="utf-8"))
    unseen = {name for names in (without or {}).values() for name in names}
    keys = sorted({key for world in fit for key in _keys_of(world, left_out)})
    _of_phrasings(pairs, phrasings, unseen, keys, random)
    return pairs


def asked_of(world: World, query: str, place: int) -> str | None:
    """The masked sentence of a text that names the subject of the edit at ``place``."""
    spans = mentions(query, world.edits[place].names)
    found = readings(query, spans, split_sentences(query)) if spans else []
    return found[0] if found else None


def _keys_of(world: World, left_out: frozenset[str]) -> set[str]:
    return {
        stated_relation(edit)
        for edit, relation in zip(world.edits, world.relations, strict=True)
        if edit.subject is not None and not _is_hidden(relation, left_out)
    }


def _is_hidden(relation: frozenset[str], left_out: frozenset[str]) -> bool:
    """Whether a relation is left out; where any is, so are those that nobody named."""
    return bool(left_out) and (bool(relation & left_out) or not _is_wikidata(relation))


def _is_wikidata(relation: frozenset[str]) -> bool:
    return bool(relation) and all(name[:1] == "P" and name[1:].isdigit() for name in relation)


def _of_world(
    pairs: Pairs,
    world: World,
    templates: Mapping[str, Sequence[str]],
    left_out: frozenset[str],
    random: Random,
) -> None:
    """Own pairs of every case; pairs across subjects; pairs across relations."""
    name = world.name.split()[0]
    texts: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    keys: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    stated = [stated_relation(edit) for edit in world.edits]
    others: dict[str, set[str]] = defaultdict(set)
    last = -1
    for case in world.cases:
        if case.right:
            # Of twins the edit of the record itself is any of them: they share their relation.
            last = min(case.right)
            place = last
            relation = world.relations[place]
            asked = asked_of(world, case.query, place)
            if _is_hidden(relation, left_out) or MASK not in stated[place]:
                continue
            if asked is None:
                _of_target(pairs, world.edits[place], case.query, name)
                continue
            keys[relation][stated[place]] += 1
            pairs.add(asked, stated[place], True, DATA, name)
            if case.kind in ("rephrase", "question"):
                texts[relation][asked] += 1
        elif case.kind == "other relation" and last >= 0 and not case.exempt:
            asked = asked_of(world, case.query, last)
            seen = not _is_hidden(world.relations[last], left_out)
            if seen and asked is not None and asked != stated[last]:
                pairs.add(asked, stated[last], False, DATA, f"{name}, other relation")
                others[stated[last]].add(asked)
    relations = [relation for relation in keys if relation]
    named = bool(relations) and _is_wikidata(relations[0])
    everywhere = [(relation, key) for relation in relations for key in keys[relation]]
    for relation in relations:
        mine = list(keys[relation])
        akin = [key for other in relations if other & relation for key in keys[other]]
        asked_here = {t for other in relations if other & relation for t in texts[other]}
        foreign = [key for other, key in everywhere if not other & relation]
        if name == "counterfact":
            for text in texts[relation]:
                for key in mine:
                    if (text, key) not in pairs:
                        pairs.add(text, key, True, 0.5 * DATA, f"{name}, other subject")
            for key in mine:
                for text in random.sample(akin, min(6, len(akin))):
                    pairs.add(text, key, True, DATA, f"{name}, other subject")
                for text in random.sample(foreign, min(30, len(foreign))):
                    if text not in asked_here:
                        pairs.add(text, key, False, DATA, f"{name}, other relation")
        elif name == "pokemqa" and named:
            _of_questions(pairs, relation, keys, texts, relations, templates, random)
        else:
            for key in mine:
                for text in foreign:
                    if text not in asked_here and name != "zsre":
                        pairs.add(text, key, False, DATA, f"{name}, other relation")


def _of_target(pairs: Pairs, edit: Edit, query: str, name: str) -> None:
    """A text that names the edit's target, and not its subject: it asks for the subject."""
    key = turned_relation(edit)
    spans = mentions(query, [edit.target]) if edit.target and key else []
    for asked in readings(query, spans, split_sentences(query))[:1] if spans else ():
        assert key is not None
        pairs.add(asked, key, True, DATA, f"{name}, for the subject")


def _of_questions(
    pairs: Pairs,
    relation: frozenset[str],
    keys: Mapping[frozenset[str], Counter[str]],
    texts: Mapping[frozenset[str], Counter[str]],
    relations: Sequence[frozenset[str]],
    templates: Mapping[str, Sequence[str]],
    random: Random,
) -> None:
    own = [text for name in relation for text in templates.get(name, ())]
    mine = list(texts[relation])
    for key in keys[relation]:
        for text in random.sample(mine, min(2, len(mine))):
            pairs.add(text, key, True, DATA, "pokemqa, other subject")
        for text in own:
            pairs.add(text, key, True, 0.5 * DATA, "pokemqa, template")
        for _ in range(40):
            other = random.choice(relations)
            if other != relation and texts[other]:
                text = random.choice(list(texts[other]))
                # "Who is in charge of X?" is asked of directors and of chairpersons.
                if text not in texts[relation]:
                    pairs.add(text, key, False, DATA, "pokemqa, other relation")
        name = random.choice(list(templates))
        if name not in relation:
            text = random.choice(templates[name])
            pairs.add(text, key, False, DATA, "pokemqa, template")


def _of_phrasings(
    pairs: Pairs, phrasings: dict[str, Any], unseen: set[str], keys: Sequence[str], random: Random
) -> None:
    relations = {
        name: {
            kind: [text.replace("[X]", MASK) for text in entry[kind]]
            for kind in ("statements", "questions", "reversed")
        }
        for name, entry in phrasings["relations"].items()
        if name not in unseen
    }
    chatter = [text.replace("[X]", MASK) for text in phrasings["chatter"]]
    frames = phrasings["frames"]
    names = list(relations)
    said = {name: relations[name]["statements"] + relations[name]["questions"] for name in names}
    kinds = {name: set(phrasings["relations"][name]["type"].split(" or ")) for name in names}
    for name in names:
        confusable = [c for c in phrasings["relations"][name]["confusable"] if c in relations]
        questions, turned = relations[name]["questions"], relations[name]["reversed"]
        stated = relations[name]["statements"]
        for key in stated + random.sample(questions, 2):
            for text in random.sample(said[name], min(_TEXTS, len(said[name]))):
                pairs.add(text, key, True, 1.0, "phrasings")
            framed = random.choice(frames).format(random.choice(questions))
            pairs.add(framed, key, True, 1.0, "phrasings, framed")
            for other in confusable:
                for text in random.sample(said[other], 2):
                    pairs.add(text, key, False, 1.0, "phrasings, confusable")
            for other in random.sample(confusable, min(3, len(confusable))):
                both = _joined(random.choice(questions), random.choice(said[other]), random)
                pairs.add(both, key, True, 1.0, "phrasings, two at once")
            for other in random.sample(names, 3):
                if other != name:
                    pairs.add(random.choice(said[other]), key, False, 1.0, "phrasings, other")
            for text in random.sample(turned, min(1, len(turned))):
                pairs.add(text, key, False, 1.0, "phrasings, reversed")
            pairs.add(random.choice(chatter), key, False, 1.0, "chatter")
            task = random.choice(_TASKS).format(random.choice(said[name]))
            pairs.add(task, key, False, 1.0, "tasks")
            told = f"{random.choice(stated).rstrip(':')} {random.choice(_ANSWERS)}"
            pairs.add(f"{told}.", key, False, 0.5, "told")
            pairs.add(random.choice(_CHECKS).format(told), key, True, 0.5, "told, to be checked")
        for other in names:
            # What people ask of one kind of subject is told apart two by two.
            if other != name and kinds[other] & kinds[name]:
                for key in random.sample(stated, 2):
                    pairs.add(random.choice(said[other]), key, False, 1.0, "phrasings, akin")
        for stem in random.sample(stated, 4):
            key = f"{stem.rstrip(':').replace(MASK, SOMETHING)} {MASK}"
            for text in turned:
                pairs.add(text, key, True, 1.0, "phrasings, for the subject")
            if turned:
                framed = random.choice(frames).format(random.choice(turned))
                pairs.add(framed, key, True, 1.0, "phrasings, for the subject")
            akin = [text for other in confusable for text in relations[other]["reversed"]]
            other = random.choice([other for other in names if other != name])
            wrong = [
                *random.sample(akin, min(2, len(akin))),
                *random.sample(questions, 2),
                random.choice(stated),
                *random.sample(said[other], 3),
                *relations[other]["reversed"][:1],
                random.choice(chatter),
            ]
            for text in wrong:
                if text not in turned:
                    pairs.add(text, key, False, 1.0, "phrasings, of the target")
    for text in chatter:
        for key in random.sample(keys, min(12, len(keys))):
            pairs.add(text, key, False, 1.0, "chatter")
    for _ in range(4_000 if keys else 0):
        name = random.choice(names)
        pairs.add(
            random.choice(relations[name]["questions"]), random.choice(keys), False, 0.25, "other"
        )


def _joined(one: str, other: str, random: Random) -> str:
    """Two questions about one subject in one sentence, in either order."""
    first, second = random.sample([one.rstrip(" ?.:"), other.rstrip(" ?.:")], 2)
    return f"{first}, and {second[:1].lower()}{second[1:]}?"
