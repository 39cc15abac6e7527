"""MeLLo: the model divides the question itself, and checks each answer against an edit.

Source: Zhong et al. 2023, "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop
Questions", arXiv:2305.14795, section 5 and appendix. Four worked questions show the model the
format: a subquestion, an answer of its own, the retrieved fact, whether that contradicts the
answer, an intermediate answer, and at last the final one. The model writes until it wants a fact;
the live edit whose statement is nearest to the subquestion is put there, and it writes on, four
rounds at most, as in the reference. What differs: the worked questions are our own; edits are found
with memedit's encoder, where the paper has Contriever; a round also ends where the model begins
another question, and lines of the format count wherever in a round they stand, since a small model
does not stop by itself.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from memedit.multihop.chain import Hop, Nearest, Outcome, Steps
from memedit.prompt import TextPrompt
from memedit.protocols import Request

ROUNDS = 4
"""So often the model may ask for a fact."""

ROUND_TOKENS = 256
"""Longest text of a round, in tokens."""

FACT, ASKED, ANSWER = "Retrieved fact:", "Subquestion:", "Final answer:"
"""The words of the format that the loop reads; the first ends a round."""

QUESTION = "Question:"


def mello(question: str) -> Steps:
    """The question by MeLLo, whatever it asks.

    The outcome has no answer where the model leaves the format, or has not finished after
    :data:`ROUNDS` rounds.
    """
    text = f"{_examples()}\n\n{QUESTION} {question}\n"
    outcome = Outcome(None)
    hops: list[Hop] = []
    reason = f"no final answer after {ROUNDS} facts"
    for _ in range(ROUNDS):
        prompt = TextPrompt(text)
        said = yield Request(prompt, ROUND_TOKENS, (FACT, f"\n{QUESTION}"))
        outcome = outcome.after(prompt, said)
        lines = [line.strip() for line in said.text.strip().split("\n") if line.strip()]
        if final := next((line for line in lines if line.startswith(ANSWER)), None):
            answer = final.removeprefix(ANSWER).strip().rstrip(".") or None
            return _done(outcome, answer, hops, "" if answer else "an empty final answer")
        asked = next((line for line in reversed(lines) if line.startswith(ASKED)), None)
        if asked is None:
            reason = "the model asks no subquestion"
            break
        subquestion = asked.removeprefix(ASKED).strip()
        edit = yield Nearest(subquestion)
        if edit is None:
            reason = "there is no edit to retrieve"
            break
        own = next((line for line in lines[lines.index(asked) + 1 :]), "")
        hops.append(Hop(subquestion, own.partition(":")[2].strip() or None, edit, said.text))
        text = f"{text}{said.text.rstrip()}\n{FACT} {edit.statement}\n"
    return _done(outcome, None, hops, reason)


def _done(outcome: Outcome, answer: str | None, hops: list[Hop], reason: str) -> Outcome:
    return Outcome(
        answer,
        tuple(hops),
        asked=outcome.asked,
        prompt_tokens=outcome.prompt_tokens,
        tokens=outcome.tokens,
        reason=reason,
    )


@cache
def _examples() -> str:
    file = files("memedit.multihop").joinpath("prompts", "mello.txt")
    return file.read_text(encoding="utf-8").strip()
