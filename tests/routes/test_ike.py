"""IKE's prompts: where the fact stands, how many demonstrations, and what gives way first."""

from pathlib import Path

import pytest

from memedit.config import IKEConfig
from memedit.edits import question, structured
from memedit.encoders import SentenceEncoder
from memedit.errors import ConfigError
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Encoder
from memedit.routes.ike import IKE

CAPITAL = structured("France", "The capital of {} is", "Lyon")
CEO = question("Who is the CEO of Acme?", "Maria Keller")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return SentenceEncoder()


def ike(encoder: Encoder, *, chat: int = 0, text: int = 0) -> IKE:
    return IKE(IKEConfig(chat_demonstrations=chat, text_demonstrations=text), encoder)


def chat(*contents: str) -> ChatPrompt:
    roles = ("user", "assistant") * len(contents)
    return ChatPrompt(
        tuple({"role": r, "content": c} for r, c in zip(roles, contents, strict=False))
    )


def test_chat_evidence_stands_in_the_last_user_turn_before_the_callers_own_words(
    encoder: Encoder,
) -> None:
    prompt = chat("Hello", "Hi!", "What is the capital of France?")
    (rewrite,) = ike(encoder).rewrites(prompt, [CAPITAL])
    assert rewrite.messages[:2] == prompt.messages[:2]
    content = rewrite.messages[2]["content"]
    assert CAPITAL.statement in content
    assert content.endswith("What is the capital of France?")


def test_chat_demonstrations_are_pairs_of_turns_before_the_last(encoder: Encoder) -> None:
    prompt = chat("Hello", "Hi!", "The capital of France is")
    ladder = ike(encoder, chat=3).rewrites(prompt, [CAPITAL])
    assert [len(rewrite.messages) - 3 for rewrite in ladder] == [12, 8, 6, 2, 0]
    richest = ladder[0].messages
    assert [m["role"] for m in richest] == ["user", "assistant"] * 7 + ["user"]
    assert richest[:2] == prompt.messages[:2]
    # The edit's own go first, those in other words before the others; then what is least like
    # the question.
    assert ladder[1].messages[2:] == (*richest[2:4], *richest[8:])
    assert ladder[2].messages[2:] == richest[8:]
    assert ladder[3].messages[2:] == richest[12:]


def test_an_open_request_gets_the_fact_and_no_demonstrations(encoder: Encoder) -> None:
    prompt = chat("Write an essay about the capital of France.")
    (rewrite,) = ike(encoder, chat=3).rewrites(prompt, [CAPITAL])
    assert len(rewrite.messages) == 1
    (text,) = ike(encoder, text=3).rewrites(TextPrompt("What is the capital of France?"), [CAPITAL])
    assert text.text.count("New Fact") == 1


def test_before_a_question_an_edit_taught_by_one_is_shown_as_it_was_taught(
    encoder: Encoder,
) -> None:
    shown, without = ike(encoder).rewrites(chat("Who runs Acme?"), [CEO])
    asked, answer, last = (message["content"] for message in shown.messages)
    assert asked.endswith("Question: Who is the CEO of Acme?")
    assert answer == "Maria Keller"
    assert last.endswith("Question: Who runs Acme?")
    assert CEO.statement in last
    assert [message["content"] for message in without.messages] == [
        f"Context: {CEO.statement}\nUsing the context, answer: Who runs Acme?"
    ]
    # Not before a request, which would be answered in two words, nor of several edits, of which
    # one would be answered; nor for what was told otherwise.
    assert len(ike(encoder).rewrites(chat("Who runs Acme?"), [CEO, CAPITAL])) == 1
    assert len(ike(encoder).rewrites(chat("Write an essay about Acme's CEO."), [CEO])) == 1
    assert len(ike(encoder).rewrites(chat("Who runs France?"), [CAPITAL])) == 1
    text, _ = ike(encoder).rewrites(TextPrompt("Who runs Acme?"), [CEO])
    assert "Prompt: Who is the CEO of Acme? Maria Keller\n\n" in text.text


def test_text_demonstrations_stand_before_the_fact_and_the_fact_before_the_question(
    encoder: Encoder,
) -> None:
    prompt = TextPrompt("An introduction.\n\nThe capital of France is")
    ladder = ike(encoder, text=4).rewrites(prompt, [CAPITAL])
    lengths = [len(rewrite.text) for rewrite in ladder]
    assert lengths == sorted(lengths, reverse=True)
    # its own three and four, its copy and four, four, two, one, none
    assert len(set(lengths)) == 6
    for rewrite in ladder:
        assert rewrite.text.startswith("An introduction.\n\n")
        assert rewrite.text.endswith(f"{CAPITAL.statement}\nPrompt: The capital of France is")


def test_a_text_that_breaks_off_has_the_edit_itself_as_its_first_demonstrations(
    encoder: Encoder,
) -> None:
    ladder = ike(encoder, chat=2).rewrites(chat("The capital of France is"), [CAPITAL])
    richest = ladder[0].messages
    asked = [turn["content"].rpartition(": ")[2] for turn in richest[:6:2]]
    assert asked == ["The capital of France is", "France", "France is known for"]
    for turn in richest[:6:2]:
        assert CAPITAL.statement in turn["content"]
    assert all(turn == {"role": "assistant", "content": "Lyon"} for turn in richest[1:6:2])
    assert list(ladder[1].messages) == [*richest[:2], *richest[6:]]
    assert list(ladder[2].messages) == list(richest[6:])


def test_of_several_edits_each_is_shown_in_its_own_words_alone(encoder: Encoder) -> None:
    other = structured("France", "The anthem of {} is", "Marianne")
    first, second = ike(encoder).rewrites(chat("The capital of France is"), [CAPITAL, other])
    assert [turn["content"] for turn in first.messages[1::2]] == ["Marianne", "Lyon"]
    assert len(second.messages) == 1


@pytest.mark.parametrize(
    ("before", "named"),
    [
        ("It rained all day. ", "The capital of France is"),
        ("Rain again!\n", "France, whose capital is"),
        ("Paris was lovely. ", "Mr. France, born in"),
        ("", "The capital of France is"),
        ("", "France is big. Its capital is"),
        ("", "Its capital is"),
        ("It rained. " * 1000, "The capital of France is"),
        ("", "The capital of France, " + "a big country, " * 1000 + "is"),
    ],
)
def test_the_fact_stands_before_the_sentence_that_names_the_subject(
    encoder: Encoder, before: str, named: str
) -> None:
    for rewrite in ike(encoder).rewrites(chat("Hello", "Hi!", before + named), [CAPITAL]):
        content = rewrite.messages[-1]["content"]
        assert content.startswith(f"{before}New fact: ")
        assert content.endswith(f"fact: {named}")


def test_in_a_turn_of_parts_the_fact_stands_in_the_last_text(encoder: Encoder) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    texts = ("The capital of France is what we look for.", "It rained. The capital of France is")
    parts = [{"type": "text", "text": texts[0]}, {"type": "text", "text": texts[1]}, picture]
    prompt = ChatPrompt(({"role": "user", "content": parts},))
    (*_, rewrite) = ike(encoder).rewrites(prompt, [CAPITAL])
    first, second, third = rewrite.messages[0]["content"]
    assert (first, third) == (parts[0], picture)
    assert second["text"].startswith("It rained. New fact: ")
    assert second["text"].endswith("fact: The capital of France is")


@pytest.mark.parametrize(
    ("query", "completed"),
    [
        ("The capital of France is", True),
        ("What is the twin city of Wellington? It is", True),
        ("Toko Yasuda, the", True),
        ("What is the capital of France?", False),
        ("who runs acme", False),
        ("tell me about Acme", False),
        ("He said hello.", False),
        ("Q: what is it\nA:", False),
        ("The city in which Maria Keller was born is", True),
        ("When Maria Keller retired, she moved to", True),
        ("Where Maria Keller is from, people speak the language of", True),
        ("In what is now Germany, Maria Keller was born in", True),
        ("Will Smith is", True),
        ("Will Smith's wife is", True),
        ("Can Bartu plays", True),
        ("Who Framed Roger Rabbit was made in", True),
        ("How I Met Your Mother is", True),
        ("Hello Kitty is owned by", True),
        ("Jeopardy! was created by", True),
        ("St. Louis is", True),
        ("Dr. No was", True),
        ("J. R. R. Tolkien wrote", True),
        ("Acme Inc. is headquartered in", True),
        ("In which country was Maria Keller born", False),
        ("At which school did she teach", False),
        ("what's the capital of France", False),
        ("When Maria Keller retired, where did she go", False),
        ("where was Maria Keller born", False),
        ("Where Maria Keller was born", False),
        ("Will Maria Keller resign", False),
        ("Can Acme products be sold in France", False),
        ("Is Maria Keller the CEO of Acme", False),
        ("Name Japanese cities", False),
        ("Maria Keller is the author of which book", False),
        ("We like Acme. who runs it", False),
        ("The capital of France is what", False),
    ],
)
def test_what_breaks_off_is_completed_and_anything_else_answered(
    encoder: Encoder, query: str, completed: bool
) -> None:
    rewrite = ike(encoder).rewrites(chat(query), [CAPITAL])[-1]
    assert ("Complete the following" in rewrite.messages[-1]["content"]) is completed


@pytest.mark.parametrize(
    ("subject", "query"),
    [
        ("Where Eagles Dare", "Where Eagles Dare was directed by"),
        ("what dreams may come", "what dreams may come was released in"),
        ("Which Way Home", "Which Way Home, from"),
        ("Were Ilu", "Were Ilu's surroundings include"),
        ("Just Shoot Me!", "It rained. Just Shoot Me! is shown on"),
        ("Where Do You Hide the Sun?", "Where Do You Hide the Sun? from"),
    ],
)
def test_what_begins_with_a_subject_asks_nothing_by_it(
    encoder: Encoder, subject: str, query: str
) -> None:
    edit = structured(subject, "{} is by", "Maria Keller")
    rewrite = ike(encoder).rewrites(chat(query), [edit])[-1]
    assert "Complete the following" in rewrite.messages[-1]["content"]


def test_several_facts_all_stand_there_the_most_probable_next_to_the_question(
    encoder: Encoder,
) -> None:
    (rewrite,) = ike(encoder).rewrites(chat("Who leads Acme and where?"), [CEO, CAPITAL])
    content = rewrite.messages[0]["content"]
    assert content.index(CAPITAL.statement) < content.index(CEO.statement)


def test_a_chat_that_the_caller_rendered_gets_the_fact_in_its_last_user_turn(
    encoder: Encoder,
) -> None:
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    (rewrite,) = ike(encoder, text=4).rewrites(TextPrompt(text), [CAPITAL])
    assert rewrite.text.startswith("<|im_start|>user\n")
    assert rewrite.text.count("<|im_start|>") == 2
    assert CAPITAL.statement in rewrite.text
    assert rewrite.text.endswith(text[len("<|im_start|>user\n") :])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"kind": "copy"}',
        '{"kind": "other", "statement": "a", "query": "b", "answer": "c"}',
        '{"kind": "copy", "statement": "<|im_start|>", "query": "b", "answer": "c"}',
    ],
)
def test_a_malformed_demonstration_names_its_line(
    encoder: Encoder, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "demonstrations.jsonl"
    good = '{"kind": "copy", "statement": "a", "query": "b", "answer": "c"}'
    file.write_text(f"{good}\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        IKE(IKEConfig(file=str(file)), encoder)


def test_a_missing_file_of_demonstrations_is_an_error(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        IKE(IKEConfig(file=str(tmp_path / "none.jsonl")), encoder)
