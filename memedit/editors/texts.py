"""Text that a model makes itself: prefixes for prompts, and a corpus where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from memedit.editors.rows import Context
from memedit.errors import InvalidInput

_BATCH = 64
# Texts that are sampled at once.

_MADE: WeakKeyDictionary[Any, dict[tuple[int, int, int], list[str]]] = WeakKeyDictionary()
# Each model's prefixes: sampled before its first edit, and the same for the later ones.


def contexts(
    model: Any,
    tokenizer: Any,
    number: int,
    tokens: int,
    *,
    chat: bool,
    wordings: Sequence[str] = (),
    seed: int = 0,
) -> list[Context]:
    """The bare context, ``number`` prefixes that the model makes, other wordings, a chat turn.

    Args:
        model: samples the prefixes.
        tokenizer: its tokenizer.
        number: how many prefixes; 0 for none.
        tokens: length of each.
        chat: whether an edit's prompt is also put as the user's turn of a chat, where the
            tokenizer has a template.
        wordings: prompts to be learned beside the edit's own, with ``{}`` for the subject.
        seed: of the sampling.

    Raises:
        InvalidInput: a wording has no place for the subject, or several.
    """
    for wording in wordings:
        if wording.count("{}") != 1:
            raise InvalidInput(
                f"the wording {wording!r} needs one {{}} where the subject stands, as in "
                "'{} is known for'"
            )
    found = [Context()]
    if number:
        made = _MADE.setdefault(model, {})
        if (number, tokens, seed) not in made:
            made[number, tokens, seed] = sampled(model, tokenizer, number, tokens, seed=seed)
        texts = made[number, tokens, seed]
        found += [Context(before=f"{' '.join(text.split())}. ") for text in texts]
    found += [Context(wording=wording) for wording in wordings]
    if chat and getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": _HERE}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(_HERE)
        found.append(Context(before, after, seam="", special=False))
    return found


_HERE = "\ue000"
# Stands in for a prompt while a template is rendered.


def sampled(model: Any, tokenizer: Any, number: int, tokens: int, *, seed: int = 0) -> list[str]:
    """Texts of ``tokens`` tokens that the model makes from nothing, at temperature 1."""
    start = next(
        (
            token
            for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            if token is not None
        ),
        0,
    )
    hidden = set(tokenizer.all_special_ids)
    texts: list[str] = []
    generator = torch.Generator(device=model.device).manual_seed(seed)
    with torch.no_grad():
        while len(texts) < number:
            rows = min(_BATCH, number - len(texts))
            ids = torch.full((rows, 1), start, device=model.device)
            past, new = None, ids
            for _ in range(tokens):
                out = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
                logits = out.logits[:, -1].float()
                logits[:, [token for token in hidden if token < logits.shape[1]]] = -torch.inf
                new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
                ids, past = torch.cat([ids, new], dim=1), out.past_key_values
            texts += tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
    return texts
