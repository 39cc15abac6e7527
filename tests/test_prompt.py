"""Where a prompt's question is, and where evidence goes."""

from typing import Any

import pytest

from memedit.prompt import ASKED, ChatPrompt, TextPrompt

CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOld?<|im_end|>\n"
    "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nNew?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nNew?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<bos><start_of_turn>user\nNew?<end_of_turn>\n<start_of_turn>model\n"
LLAMA2 = "<s>[INST] Old? [/INST] Yes.</s>[INST] New? [/INST]"


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The capital of France is", "The capital of France is"),
        ("A first paragraph.\n\nThe capital of France is\n", "The capital of France is"),
        ("<s>The capital of France is", "The capital of France is"),
        ("", ""),
        (CHATML, "New?"),
        (LLAMA3, "New?"),
        (GEMMA, "New?"),
        (LLAMA2, "New?"),
        (CHATML + "A beginning that is to be continued", "New?"),
    ],
)
def test_text_query_is_the_last_paragraph_or_the_last_user_turn(text: str, query: str) -> None:
    assert TextPrompt(text).query == query


@pytest.mark.parametrize("text", [CHATML, LLAMA3, GEMMA, LLAMA2])
def test_evidence_goes_right_in_front_of_a_rendered_question(text: str) -> None:
    assert TextPrompt(text).with_evidence("E. ").text == text.replace("New?", "E. New?")


def test_evidence_stands_behind_the_opening_token_and_earlier_paragraphs() -> None:
    assert TextPrompt("<s>One.\n\nTwo is").with_evidence("E. ").text == "<s>One.\n\nE. Two is"
    assert TextPrompt("<s>Two is").with_evidence("E. ").text == "<s>E. Two is"


def test_chat_query_is_the_last_user_turn_even_behind_tool_results() -> None:
    messages: tuple[dict[str, Any], ...] = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "result", "tool_call_id": "1"},
    )
    edited = ChatPrompt(messages).with_evidence("E. ")
    assert ChatPrompt(messages).query == "second"
    assert [m for m in edited.messages if m not in messages] == [
        {"role": "user", "content": "E. second"}
    ]
    assert len(edited.messages) == len(messages)
    assert messages[3]["content"] == "second"


def test_parts_other_than_the_last_text_are_the_callers_own() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "Look:"}, picture, {"type": "text", "text": "what?"}, picture]
    prompt = ChatPrompt(({"role": "user", "content": parts, "name": "x"},))
    edited = prompt.with_evidence("E. ", [{"role": "user", "content": "d"}])
    assert prompt.query == "Look:\nwhat?"
    assert edited.messages[0] == {"role": "user", "content": "d"}
    assert edited.messages[1]["name"] == "x"
    content = edited.messages[1]["content"]
    assert content == [parts[0], picture, {"type": "text", "text": "E. what?"}, picture]
    assert content[1] is picture


@pytest.mark.parametrize(
    "messages",
    [
        (),
        ({"role": "system", "content": "s"},),
        ({"role": "user"},),
        ({"role": "user", "content": None},),
        ({"role": "user", "content": "  "},),
        ({"role": "user", "content": [{"type": "image_url"}]},),
        ({"role": "user", "content": [{"type": "text"}, 5]},),
        ({"role": "user", "content": 5},),
    ],
)
def test_a_chat_that_asks_nothing_in_words_stays_as_it_is(messages: Any) -> None:
    prompt = ChatPrompt(messages)
    assert prompt.query.strip() == ""
    assert prompt.with_evidence("E. ") is prompt


def chat(*turns: str) -> ChatPrompt:
    roles = ("user", "assistant")
    return ChatPrompt(
        tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))
    )


def test_a_question_that_leans_on_earlier_turns_is_seen_with_them() -> None:
    leaning = chat("Tell me about Acme.", "It makes belts.", "And who runs it now?")
    assert leaning.query == "And who runs it now?"
    assert leaning.in_context == f"Tell me about Acme.\nIt makes belts.{ASKED}And who runs it now?"


@pytest.mark.parametrize(
    "turns",
    [
        ("Who runs it?",),
        ("Tell me about Acme.", "Yes.", "Who runs Siemens?"),
        ("Tell me about Acme.", "Yes.", "Summarise this: " + "one more word " * 30),
    ],
)
def test_a_question_that_stands_alone_is_seen_alone(turns: tuple[str, ...]) -> None:
    assert chat(*turns).in_context == turns[-1]


@pytest.mark.parametrize(
    ("asked", "name", "seen"),
    [
        ("Who is the mayor of London?", "And of Paris?", "Who is the mayor of Paris?"),
        ("Who is the CEO of Acme?", "and Siemens", "Who is the CEO of Siemens?"),
        ("Who runs IBM in France?", "And in Germany?", "Who runs IBM in Germany?"),
        ("Where is U.S. Steel based?", "What about Nucor Corp.?", "Where is Nucor Corp. based?"),
        (
            "Who wrote The Old Man and the Sea?",
            "Thanks! And what about War and Peace?",
            "Who wrote War and Peace?",
        ),
        (
            "How old is the University of Oslo?",
            "And the University of Bergen?",
            "How old is the University of Bergen?",
        ),
    ],
)
def test_a_name_alone_is_asked_what_was_asked_before(asked: str, name: str, seen: str) -> None:
    assert chat(asked, "No idea.", name).in_context == seen
    # Names may follow each other.
    assert chat(asked, "No idea.", "And of Rome?", "Nor that.", name).in_context == seen


@pytest.mark.parametrize(
    "turns",
    [
        ("And of Paris?",),
        ("Hello.", "Hello!", "What about Paris?"),  # nothing was asked
        ("Which is taller, the K2 or Kangchenjunga?", "K2.", "What about Everest?"),  # which one?
        ("Who is the mayor of London?", "Khan.", "And the library next door?"),  # no name
        ("Who is the CEO of Acme?", "Keller.", "And who is the CFO?"),  # a question of its own
        ("Who is the CEO of Acme?", "Keller.", "Thanks!"),
        ("A" * 300 + " of Acme?", "Keller.", "And of Siemens?"),  # too long to be one question
    ],
)
def test_a_name_alone_is_left_alone_where_it_is_unclear_what_is_asked(
    turns: tuple[str, ...],
) -> None:
    assert chat(*turns).in_context == turns[-1]


def test_of_earlier_turns_only_the_last_and_their_ends_are_seen() -> None:
    long = "x" * 5_000 + " Acme."
    asked = chat(long, "ok", long, "ok", long, "ok", "Who runs it?").in_context
    assert asked.count("Acme") == 2
    assert len(asked) < 2_200
    system = {"role": "system", "content": "Acme only."}
    assert ChatPrompt((system, {"role": "user", "content": "Who runs it?"})).in_context == (
        "Who runs it?"
    )
