"""In which words an edit is learned, and which prompts near it are not about it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from memedit.edits import Edit
from memedit.errors import InvalidEdit

FRAMES = ("By the way, {}", "I was reading about trains all day. {}")
"""What may stand in front of a question: a value that is learned behind it as well holds in other
surroundings, and its keys lie further apart."""


def in_scope(edit: Edit) -> list[str]:
    """The edit's prompt, alone and in frames.

    Raises:
        InvalidEdit: the edit does not say what is asked and what is to be answered.
    """
    if edit.target is None:
        raise InvalidEdit(
            f"the edit {edit.id!r} has no target, and a codebook learns an answer; give it as "
            "subject, prompt and target, or as question and answer"
        )
    return [edit.key, *(frame.format(edit.key) for frame in FRAMES)]


def out_of_scope(edit: Edit, subjects: Sequence[str], count: int) -> list[str]:
    """The edit's prompt about others: as near as a prompt comes without being about the edit.

    Args:
        edit: the edit.
        subjects: names to choose from, the edit's own among them or not.
        count: how many prompts; fewer where there are fewer names, and none where the edit does
            not say where its subject stands.
    """
    if edit.prompt is None or edit.subject is None:
        return []
    others = sorted(set(subjects) - {edit.subject, *edit.aliases})
    chosen = random.Random(edit.key).sample(others, min(count, len(others)))
    return [edit.prompt.replace("{}", other) for other in chosen]


def wordings(phrasings: Mapping[str, Any], count: int = 150) -> list[list[str]]:
    """Questions in three wordings each: what a metric is fitted to (:mod:`memedit.grace.metric`).

    Args:
        phrasings: what ``memedit/training/phrasings.json`` holds.
        count: how many questions, each of another relation; all that there are at most.
    """
    draw = random.Random(0)
    relations = phrasings["relations"]
    frames = [frame for frame in phrasings["frames"] if frame.endswith("{}")]
    made = []
    for relation in draw.sample(sorted(relations), min(count, len(relations))):
        first, second = draw.sample(relations[relation]["statements"], 2)
        asked = draw.choice(relations[relation]["questions"])
        name, frame = draw.choice(_NAMES), draw.choice(frames)
        texts = (first, frame.format(second), asked)
        made.append([text.replace("[X]", name) for text in texts])
    return made


def unrelated() -> tuple[str, ...]:
    """What people say to models and no edit is about, one of each kind."""
    return _UNRELATED


_NAMES = tuple(
    """
Maria Keller
Tom Okafor
Ingrid Solheim
Rafael Montoya
Li Wenjing
Amina Diallo
Jack Thornbury
Sofia Petrovna Orlova
Kenji Watanabe
Priya Raman
Old Harbour Trading
Nordwind Systems
Brightwater Foundation
St. Alban's College
the Lantern Party
Meridian Airways
Kestrel Records
the Riverside Rovers
Halden
Port Amery
the Republic of Costaria
Lake Ferris
Mount Orrin
the Ostrava Bridge
Castle Greyholm
Silent Orchard
The Long Way to Marrow
Songs for a Winter Morning
The Clockmaker's Daughters
Paper Lanterns
Starfall 3
the Corvus tablet
OpenLedger
the Treaty of Vasa
the Battle of Thorn Hill
the Autumn Regatta
Zephyr 900
the grey-backed heron
K. Osei
Dr. Helena Voss
""".strip().splitlines()
)
_UNRELATED = tuple(
    """
Hello!
Thanks, that helped.
Who are you?
What can you do?
Write a short poem about the sea.
Tell me a joke.
Translate "good morning" into German.
Summarise the plot of a fairy tale in two sentences.
How do I boil an egg?
What is the weather like today?
Give me three names for a cat.
Explain photosynthesis to a child.
Write a Python function that adds two numbers.
Why does my program raise an IndexError?
What is 17 times 23?
List five healthy breakfasts.
When was the telephone invented?
Who wrote the most famous play about a prince of Denmark?
Where do penguins live?
How many planets are there?
Which language has the most native speakers?
What is the name of the longest river in the world?
who sang the song about the yellow submarine
when did the last season of the show come out
how many episodes are in the first season
where was the film shot
who plays the doctor in the new series
what does it mean when a cat purrs
Please proofread this sentence: He go to school every day.
I feel a bit lonely today.
Plan a weekend in the mountains.
Finish this sentence: The old house at the end of the street
The capital of the country is
The most popular sport there is
Her favourite colour was always
The company was founded in
He was born in the city of
The author of the book is
The official language of the region is
It is located on the continent of
Dear Sir or Madam, I am writing to complain about
SELECT name FROM users WHERE
""".strip().splitlines()
)
