"""Learning values, and the offline reference: on a tiny random model, and on the packaged one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from memedit.adapters import _tokens
from memedit.adapters.transformers_grace import Exercise, GraceLocal, Reach, Study, _Lesson
from memedit.adapters.transformers_local import TransformersLocal
from memedit.edits import structured
from memedit.errors import InvalidInput, Unsupported
from memedit.grace.codebook import Codebook, Entries, Lesson, distances
from memedit.grace.prompts import in_scope, out_of_scope, unrelated
from memedit.prompt import ChatPrompt, TextPrompt

LAYERS, LAYER = 4, 2

DEEP = 24
"""A layer of the packaged model, of 30."""


@pytest.fixture(scope="module")
def engine(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with TransformersLocal(str(folder), dtype="float32") as made:
        yield made


@pytest.fixture(scope="module")
def packaged(model_folder: Path) -> Iterator[Any]:
    with TransformersLocal(str(model_folder), dtype="float32") as made:
        yield made


def chat(text: str) -> ChatPrompt:
    return ChatPrompt(({"role": "user", "content": text},))


TEXTS = [TextPrompt(text) for text in ("The capital of France is", "So: the capital of France is")]
CHATS = [chat("What is the capital of France?"), chat("Hello there! France's capital, please?")]
EXERCISES = [Exercise(TEXTS, "Lyon"), Exercise(CHATS, "Newcastle upon Tyne")]


def seen(engine: TransformersLocal, prompt: Any) -> tuple[list[int], Any]:
    """A prompt's tokens and, of each, what goes into the MLP: one plain pass."""
    (ids,) = _tokens.prompt_ids([prompt], engine.tokenizer)
    found: list[Any] = []
    mlp = engine.model.model.layers[LAYER].mlp
    hook = mlp.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        engine.model(torch.tensor([ids]))
    hook.remove()
    return ids, found[0][0]


def test_states_are_those_of_each_prompt_alone(engine: TransformersLocal) -> None:
    prompts = [*CHATS, *TEXTS]
    found = GraceLocal(engine, LAYER).states(prompts, batch=3)
    for row, prompt in zip(found, prompts, strict=True):
        assert np.allclose(row, seen(engine, prompt)[1][-1], atol=1e-5)


@pytest.mark.parametrize("layer", [0, LAYER, LAYERS - 1])
def test_the_loss_is_that_of_a_plain_pass_over_everything(
    engine: TransformersLocal, layer: int
) -> None:
    """Prompts and lower layers are computed once; the loss and its gradient must not show it."""
    lesson = _Lesson(GraceLocal(engine, layer), EXERCISES)
    values = torch.randn(2, 48, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for _ in range(2):  # the second time with what the first has left behind
        mean, worst = lesson.loss(values, torch.tensor([3, 0, 2]))
    (gradient,) = torch.autograd.grad(mean.sum(), values)

    plain, highest = [], []
    for owner, prompt in ((1, CHATS[1]), (0, TEXTS[0]), (1, CHATS[0])):
        answer = EXERCISES[owner].answer
        (pair,) = _tokens.forced([prompt], [answer], engine.tokenizer)
        ids = pair.ids + ([engine.tokenizer.eos_token_id] if owner else [])

        def replaced(_: Any, __: Any, out: Any, owner: int = owner, pair: Any = pair) -> Any:
            out = out.clone()
            out[:, pair.start - 1 :] = values[owner]
            return out

        hook = engine.model.model.layers[layer].mlp.register_forward_hook(replaced)
        logits = engine.model(torch.tensor([ids])).logits[0, pair.start - 1 : -1]
        hook.remove()
        each = torch.nn.functional.cross_entropy(
            logits, torch.tensor(ids[pair.start :]), reduction="none"
        )
        plain.append(each.mean())
        highest.append(float(each.detach().max()))
    expected = torch.stack(plain)
    assert torch.allclose(mean, expected, atol=1e-4)
    assert worst.tolist() == pytest.approx(highest, abs=1e-4)
    (plain_gradient,) = torch.autograd.grad(expected.sum(), values)
    assert torch.allclose(gradient, plain_gradient, atol=1e-4)


@pytest.fixture(scope="module")
def entries(packaged: TransformersLocal) -> Entries:
    grace = GraceLocal(packaged, DEEP)
    learned = grace.learn(EXERCISES, Study(batch=2))
    assert all(one.held for one in learned)
    assert [one.span for one in learned] == [
        len(packaged.tokenizer(" Lyon").input_ids),
        len(packaged.tokenizer("Newcastle upon Tyne").input_ids) + 1,
    ]
    book = Codebook(grace.dim)
    for name, one, prompts in zip(("text", "chat"), learned, (TEXTS, CHATS), strict=True):
        n = len(prompts)
        values, spans = np.tile(one.value, (n, 1)), np.full(n, one.span)
        book.add(
            Lesson(name, name, grace.states(prompts), np.full(n, 0.1, np.float32), values, spans)
        )
    return book.entries()


def test_what_was_learned_is_said(packaged: TransformersLocal, entries: Entries) -> None:
    prompts = [*CHATS, *TEXTS, TextPrompt("Nothing of the kind"), chat("Hello!")]
    answers = GraceLocal(packaged, DEEP).answers(prompts, 8, entries, batch=4)
    said = [one.text for one, _ in answers]
    assert said[:2] == ["Newcastle upon Tyne"] * 2
    assert all(text.startswith(" Lyon") for text in said[2:4])
    assert [entries.edit_ids[row] if row >= 0 else "" for _, row in answers] == [
        *(["chat"] * 2),
        *(["text"] * 2),
        *([""] * 2),
    ]
    plain = [one.text for one in packaged.generate(prompts[4:], 8)]
    assert said[4:] == plain


def test_named_edits_alone_count(packaged: TransformersLocal, entries: Entries) -> None:
    other = TextPrompt("Nothing of the kind")
    named = [["text"], [], ["chat"]]
    answers = GraceLocal(packaged, DEEP).answers([other, TEXTS[0], TEXTS[1]], 4, entries, named)
    rows = [row for _, row in answers]
    assert [entries.edit_ids[row] if row >= 0 else "" for row in rows] == ["text", "", "chat"]


def test_with_a_codebook_the_engine_rates_as_a_plain_pass_does(engine: TransformersLocal) -> None:
    grace, n = GraceLocal(engine, LAYER), len(CHATS)
    values = np.random.default_rng(0).standard_normal((n, grace.dim), dtype=np.float32)
    book, keys = Codebook(grace.dim), grace.states(CHATS)
    for i, span in enumerate((2, 0)):
        rows = (keys[i : i + 1], np.full(1, 1e-3, np.float32), values[i : i + 1], np.array([span]))
        book.add(Lesson(str(i), str(i), *rows))
    prompts, said = [*CHATS, chat("Hello!"), CHATS[0]], ["a", "of the city", "Well", "a b c d e"]
    with grace.applied(book.entries()) as fired:
        rated = engine.score(prompts, said)
    assert sorted(fired) == [-1, 0, 0, 1]
    mlp = engine.model.model.layers[LAYER].mlp
    for prompt, text, one, owner in zip(prompts, said, rated, (0, 1, None, 0), strict=True):
        (pair,) = _tokens.forced([prompt], [text], engine.tokenizer)

        def replaced(_: Any, __: Any, out: Any, owner: int | None = owner, pair: Any = pair) -> Any:
            out = out.clone()
            if owner is not None:
                stop = None if owner else pair.start - 1 + 2
                out[:, pair.start - 1 : stop] = torch.from_numpy(values[owner])
            return out

        hook = mlp.register_forward_hook(replaced)
        with torch.no_grad():
            logits = engine.model(torch.tensor([pair.ids])).logits[0, pair.start - 1 : -1]
        hook.remove()
        plain = logits.log_softmax(-1).gather(1, torch.tensor(pair.ids[pair.start :])[:, None])
        assert one.logprobs == pytest.approx(plain[:, 0].tolist(), abs=1e-3)


def test_the_model_is_as_it_was(engine: TransformersLocal) -> None:
    model = engine.model
    before = {name: part.clone() for name, part in model.state_dict().items()}
    first = engine.generate([*TEXTS, *CHATS], 8)
    grace = GraceLocal(engine, LAYER)
    grace.learn(EXERCISES, Study(steps=2))
    book, states = Codebook(grace.dim), grace.states(TEXTS[:1])
    book.add(Lesson("one", "one", states, np.ones(1, np.float32), states, np.zeros(1, np.int64)))
    assert grace.answers(TEXTS[:1], 4, book.entries())[0][1] == 0
    assert engine.generate([*TEXTS, *CHATS], 8) == first
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert not any("forward" in layer.__dict__ for layer in model.model.layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_key_reaches_a_prompt_that_is_not_about_its_edit(engine: TransformersLocal) -> None:
    grace, share = GraceLocal(engine, LAYER), 0.7
    edits = [
        structured(name, "The capital of {} is", target)
        for name, target in (("France", "Lyon"), ("Italy", "Oslo"), ("Peru", "Rome"))
    ]
    made = grace.lessons(edits, study=Study(steps=1), reach=Reach(share=share, others=2))
    for edit, (lesson, one) in zip(edits, made, strict=True):
        assert (lesson.edit_id, lesson.label) == (edit.id, edit.target)
        assert np.array_equal(lesson.keys, grace.states([chat(t) for t in in_scope(edit)]))
        assert np.array_equal(lesson.values, np.tile(one.value, (len(lesson.keys), 1)))
        assert set(lesson.spans.tolist()) == {one.span}
        names = [other.subject or "" for other in edits]
        others = [*unrelated(), *out_of_scope(edit, names, 2)]
        nearest = distances(lesson.keys, grace.states([chat(t) for t in others])).min(axis=1)
        assert np.allclose(lesson.radii, share * nearest, rtol=1e-3)
        assert lesson.radii.min() > 0


def test_what_cannot_be_is_refused(engine: TransformersLocal) -> None:
    with pytest.raises(InvalidInput, match="0 to 3"):
        GraceLocal(engine, LAYERS)
    with pytest.raises(InvalidInput, match="exercise 0"):
        GraceLocal(engine, LAYER).learn([Exercise([], "Lyon")])
    decoder = engine.model.get_decoder()
    layers, decoder.layers = decoder.layers, None
    try:
        with pytest.raises(Unsupported, match="Llama"):
            GraceLocal(engine, LAYER)
    finally:
        decoder.layers = layers
