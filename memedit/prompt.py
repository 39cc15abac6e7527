"""What a model is about to be asked: a chat, or a text.

A prompt is a value. It knows where its question is (the last user turn, the last paragraph of a
text, the last user turn of a chat that the caller has already rendered to text) and how to put
evidence right in front of that question and nowhere else, so that everything before it stays as
it was and a server's prefix cache keeps working.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memedit.edits import CONTROL_TOKEN

Message = Mapping[str, Any]
"""One chat message in OpenAI's form."""

ASKED = "\x1e"
"""Stands in a query between what was said before and what is asked: the record separator."""

_LEANING = 200
# A question of more characters is taken to say itself what it is about.
_PRONOUN = re.compile(
    r"\b(?:it|its|they|them|their|he|him|his|she|her|there|that|this|those|these)\b", re.IGNORECASE
)
# "And of Paris?", "What about the K2?": a name, and the question is the one before.
_ELLIPSIS = re.compile(
    r"(?:(?:ok(?:ay)?|thanks?(?: you)?|good|nice|great|right|yes|no)[,.!;:\s]+)?"
    r"(?:(?:and|but|or|then|so)[,\s]+)*"
    r"(?:(?:what|how)\s+about|(?P<and>and|or)\b|(?=of|in|for|at)\b)\s*"
    r"(?P<link>(?:of|in|for|at|by|from|with|on)\s+)?(?:the\s+)?"
    r"(?-i:(?P<name>[A-Z0-9][\w.'’&-]*(?:\s+(?:[A-Z0-9][\w.'’&-]*|of|the|and|de|&))*))\s*\??",
    re.IGNORECASE,
)
# A name inside a sentence: its words begin with capitals, and it is not the sentence's first.
_NAME = re.compile(
    r"(?<=[\w,:;)] )(?P<name>[A-Z][\w.&-]*(?:\s+(?:(?:of|the|and|de|&)\s+)*[A-Z0-9][\w.&-]*)*)"
)
_TURNS, _SAID = 4, 1_000
# How much of what was said before may be leant on: so many turns, so many characters of each.
# What a tokenizer puts in front of every text, where it is spelled out ("<s>").
_OPENING = re.compile(rf"(?:{CONTROL_TOKEN.pattern})*", CONTROL_TOKEN.flags)
_TEXT_PARTS = ("text", "input_text")
_ASKING = ("user", "human")
_ROLES = (*_ASKING, "assistant", "model", "system", "developer", "tool", "ipython")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation in OpenAI's message form. The messages are never changed in place.

    Attributes:
        messages: the turns, oldest first.
    """

    messages: tuple[Message, ...]

    @property
    def query(self) -> str:
        """The text of the last user turn; its text parts joined where it is made of parts."""
        turn = self._asking()
        return "" if turn is None else _text_of(self.messages[turn].get("content"))

    @property
    def in_context(self) -> str:
        """What scope is decided on: the query, and what it leans on.

        A short question with a pronoun may be about something that was named before ("And who
        runs it now?"): the last turns stand in front of it then, with :data:`ASKED` between. One
        that is but a name ("And of Paris?") is the user's question before, asked of that name.
        """
        query, turn = self.query, self._asking()
        if turn is None or len(query) > _LEANING:
            return query
        if ellipsis := _ELLIPSIS.fullmatch(query.strip()):
            return self._completed(ellipsis, turn) or query
        if not _PRONOUN.search(query):
            return query
        talk = [m for m in self.messages[:turn] if m.get("role") in ("user", "assistant")]
        said = [_text_of(message.get("content"))[-_SAID:] for message in talk[-_TURNS:]]
        before = "\n".join(text for text in said if text.strip())
        return f"{before}{ASKED}{query}" if before else query

    @property
    def last_text(self) -> str:
        """The text that evidence goes into: the query, or its last text part."""
        turn = self._asking()
        if turn is None:
            return ""
        content: Any = self.messages[turn].get("content")
        if isinstance(content, str):
            return content
        return str(content[_last_part(content)]["text"])

    def with_evidence(
        self, prefix: str, turns: Sequence[Message] = (), *, skip: int = 0
    ) -> ChatPrompt:
        """``turns`` go before the last user turn, ``prefix`` into :attr:`last_text`.

        Everything else, tool calls and pictures included, is the caller's own objects.

        Args:
            prefix: the evidence.
            turns: demonstrations.
            skip: so many characters of the text stay in front of the prefix.
        """
        turn = self._asking()
        if turn is None:
            return self
        asked = self.messages[turn]
        content: Any = asked.get("content")
        last = self.last_text
        text = last[:skip] + prefix + last[skip:]
        if isinstance(content, str):
            changed: Any = text
        else:
            at = _last_part(content)
            changed = [*content[:at], {**content[at], "text": text}, *content[at + 1 :]]
        asking = {**asked, "content": changed}
        return ChatPrompt((*self.messages[:turn], *turns, asking, *self.messages[turn + 1 :]))

    def _completed(self, ellipsis: re.Match[str], turn: int) -> str | None:
        """The question that a name alone leans on, asked of this name; ``None`` where none is."""
        asked = (
            _text_of(m.get("content")) for m in self.messages[:turn] if m.get("role") == "user"
        )
        for question in reversed([text.strip() for text in asked][-_TURNS:]):
            if _ELLIPSIS.fullmatch(question):
                continue
            names = [match.span("name") for match in _NAME.finditer(question)]
            if " of " not in ellipsis["name"]:
                # "the CEO of Acme": Siemens stands in for Acme.
                names = [(e - len(question[s:e].rpartition(" of ")[2]), e) for s, e in names]
            if len(names) > 1 and (link := ellipsis["link"]):
                names = [(s, e) for s, e in names if question[:s].endswith(f" {link}")]
            if len(names) != 1 or len(question) > _LEANING:
                return None
            start, end = names[0]
            return f"{question[:start]}{ellipsis['name']}{question[end:]}"
        return None

    def _asking(self) -> int | None:
        """The position of the last user turn with text in it."""
        for turn in range(len(self.messages) - 1, -1, -1):
            message = self.messages[turn]
            if message.get("role") == "user":
                return turn if _text_of(message.get("content")).strip() else None
        return None


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text that the model continues.

    The question is its last paragraph. Where the text is a conversation that the caller rendered
    with a chat template, the question is the last user turn in it.

    Attributes:
        text: the prompt, as sent.
    """

    text: str

    @property
    def query(self) -> str:
        """The text that scope is decided on."""
        start, end = self.span
        return self.text[start:end].strip()

    @property
    def in_context(self) -> str:
        """What scope is decided on: the query."""
        return self.query

    @property
    def rendered_chat(self) -> bool:
        """Whether the text holds a chat template's control tokens."""
        return CONTROL_TOKEN.search(self.text) is not None

    @property
    def span(self) -> tuple[int, int]:
        """Where the question stands, as ``(start, end)`` in characters."""
        turn = _last_rendered_turn(self.text)
        if turn is not None:
            return turn
        body = self.text.rstrip()
        start = body.rfind("\n\n")
        opening = _OPENING.match(self.text)
        assert opening is not None
        return max(opening.end(), 0 if start < 0 else start + 2), len(self.text)

    def with_evidence(self, prefix: str) -> TextPrompt:
        """The text with ``prefix`` right in front of its question."""
        start, _ = self.span
        return TextPrompt(self.text[:start] + prefix + self.text[start:])


def _is_text(part: object) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") in _TEXT_PARTS
        and isinstance(part.get("text"), str)
    )


def _last_part(content: Sequence[Any]) -> int:
    """The place of the last text part."""
    return max(i for i, part in enumerate(content) if _is_text(part))


def _text_of(content: object) -> str:
    """The text of a message's content, whether a text or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return "\n".join(part["text"] for part in content if _is_text(part))
    return ""


def _last_rendered_turn(text: str) -> tuple[int, int] | None:
    """The span of the last user turn in a rendered conversation; None where there is none.

    Control tokens cut the text into pieces. A role stands either alone in a piece (Llama 3) or
    on the first line of one (ChatML, Gemma); a piece with no role at all belongs to the user
    where it is the one that ``[INST]`` opens (Llama 2, Mistral).
    """
    found: tuple[int, int] | None = None
    role: str | None = None
    start, opener = 0, ""
    pieces = [(m.start(), m.end(), m.group()) for m in CONTROL_TOKEN.finditer(text)]
    for token_start, token_end, token in [*pieces, (len(text), len(text), "")] if pieces else []:
        piece = text[start:token_start]
        bare = piece.strip()
        first, newline, _ = piece.partition("\n")
        if bare.lower() in _ROLES:
            role = bare.lower()
        elif bare:
            begin = start
            if newline and first.strip().lower() in _ROLES:
                role = first.strip().lower()
                begin = start + len(first) + 1
            if role in _ASKING or (role is None and opener.lower() == "[inst]"):
                begin += len(text[begin:token_start]) - len(text[begin:token_start].lstrip())
                found = (begin, token_start)
            role = None
        start, opener = token_end, token
    return found
