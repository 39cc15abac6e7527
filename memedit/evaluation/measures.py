"""The survey's six measures, fluency, and the numbers that other frameworks print.

Each function takes what has been observed and returns a number; docs/measures.md has the
definitions side by side. Equation numbers are those of Wang et al. 2024, *Knowledge Editing for
Large Language Models: A Survey*, section 3.3 (doi 10.1145/3698590): (3) and (4) accuracy, (5) and
(6) locality, (7) and (8) generality, (9) and (10) portability, (11) and (12) retainability, (13)
and (14) scalability.

What is generated and what is forced never share a name: functions of the second kind begin with
``forced_``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from memedit.evaluation.matching import stated
from memedit.protocols import Scored


def holds(
    answer: str, accepted: Sequence[str], old: Sequence[str], subjects: Sequence[str] = ()
) -> bool:
    """Whether an answer counts for accuracy, generality and portability: (3), (7) and (9).

    It asserts an accepted answer and none of the answers that the edit replaces. The survey's
    indicator compares the most probable output with the target; ours reads what was generated.

    Args:
        answer: what the model said, as :func:`spoken` cuts it.
        accepted: the right answers, aliases included.
        old: the answers that the edit replaces.
        subjects: who is asked about; a name inside one of these is no answer.
    """
    return stated(answer, accepted, old, aside=subjects).took


def every_hop_holds(taken: Sequence[str | None], accepted: Sequence[Sequence[str]]) -> bool:
    """Whether a multi-hop question was followed all the way: MQuAKE's hop-wise accuracy.

    As many hops were taken as the question has, and each one's answer is an accepted one. A right
    answer by a wrong way does not count.

    Args:
        taken: the answer found at each hop, ``None`` where there was none.
        accepted: the accepted answers of each hop of the question.

    Source: Zhong et al. 2023 (arXiv:2305.14795), section 3.
    """
    if len(taken) != len(accepted):
        return False
    pairs = zip(taken, accepted, strict=True)
    return all(answer is not None and holds(answer, names, ()) for answer, names in pairs)


def unchanged(edited: str, unedited: str) -> bool:
    """Whether an out-of-scope answer counts for locality: (5).

    The answers of the edited and of the unedited model are the same text, white space at the
    ends aside. The true answer plays no part in it.
    """
    return edited.strip() == unedited.strip()


def spoken(text: str, *, chat: bool) -> str:
    """The part of an output that is the answer.

    A chat ends its turn when it has answered. A text that is continued does not: what comes after
    its first line break is another text.
    """
    stripped = text.strip()
    return stripped if chat else stripped.partition("\n")[0].rstrip()


def retainability(first_edit_holds: Sequence[bool]) -> float:
    """The survey's retainability of a sequence of n edits: (11) and (12).

    The mean over the steps i = 1 … n-1 of Acc(e1; f*_{i+1}) - Acc(e1; f*_i): it telescopes to the
    last minus the first, over n - 1. A total collapse over 1,000 edits scores -0.001; read
    :func:`retained` beside it.

    Args:
        first_edit_holds: whether the first edit holds after each step, shape (n,); only the
            first and the last of them count.

    Raises:
        ValueError: there are fewer than two steps.
    """
    n = len(first_edit_holds)
    if n < 2:
        raise ValueError(f"retainability needs at least 2 steps, not {n}")
    return (int(first_edit_holds[-1]) - int(first_edit_holds[0])) / (n - 1)


def retained(held_when_learned: Sequence[bool], holds_now: Sequence[bool]) -> list[bool]:
    """Of the edits that held when they were learned, whether each still does.

    Args:
        held_when_learned: one verdict per edit, at the first look after it was learned.
        holds_now: the same edits' verdicts now.
    """
    pairs = zip(held_when_learned, holds_now, strict=True)
    return [now for then, now in pairs if then]


def scalability(alone: float, together: float) -> float:
    """The accuracy that is lost when all edits are live at once: (13), alone less together.

    0 is the best; the survey's sign, so that more is worse.

    Args:
        alone: accuracy with each edit live on its own, in [0, 1].
        together: accuracy with all edits live, in [0, 1].
    """
    return alone - together


def relative_scalability(alone: float, together: float) -> float | None:
    """The same as a share of what there was to lose: (14). ``None`` where nothing held alone."""
    return None if alone == 0 else (alone - together) / alone


def ngram_entropy(text: str) -> float:
    """Fluency: the weighted entropy of a text's bigrams and trigrams, in bits.

    A text that repeats itself scores low: 0 where every n-gram is the same. Words here are runs
    of letters and digits in lower case, and single other marks; short texts score low as well, so
    that only texts of one length compare.

    Source: Zhang et al. 2018 (arXiv:1809.05972), weighted 2/3 and 4/3 and averaged as in Meng et
    al. 2022 (ROME, arXiv:2202.05262).
    """
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = sum(grams.values())
    return -sum(c / total * math.log2(c / total) for c in grams.values()) if total else 0.0


def forced_token_accuracy(scored: Scored) -> float:
    """The share of the target's tokens that the model predicts when it is shown those before.

    This is what EasyEdit prints as ``rewrite_acc``, ``rephrase_acc`` and ``portability_acc``.
    """
    hits = [a == b for a, b in zip(scored.tokens, scored.predicted, strict=True)]
    return sum(hits) / len(hits) if hits else 0.0


def forced_exact(scored: Scored) -> bool:
    """Whether every token of the target is predicted when it is shown those before."""
    return bool(scored.tokens) and scored.tokens == scored.predicted


def forced_prefers(wanted: Scored, other: Scored) -> bool:
    """Whether the wanted text is the more probable one, by the mean log-probability of a token.

    With the new target wanted this is CounterFact's efficacy and paraphrase score (ES, PS); with
    the true answer wanted on a neighbourhood prompt, its neighbourhood score (NS). A tie is no
    preference.
    """
    return mean_logprob(wanted) > mean_logprob(other)


def forced_magnitude(wanted: Scored, other: Scored) -> float:
    """P(wanted) less P(other), each the exponential of the mean: CounterFact's EM, PM and NM."""
    return math.exp(mean_logprob(wanted)) - math.exp(mean_logprob(other))


def forced_agreement(edited: Scored, unedited: Scored) -> float:
    """The share of places where both models predict the same token: EasyEdit's ``locality``.

    Both were shown the same text, the true answer; nothing was generated.
    """
    pairs = list(zip(edited.predicted, unedited.predicted, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0


def mean_logprob(scored: Scored) -> float:
    """Natural log, per token; minus infinity where there is none."""
    return sum(scored.logprobs) / len(scored.logprobs) if scored.logprobs else -math.inf
