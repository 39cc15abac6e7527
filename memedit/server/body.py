"""A JSON request body whose members can be replaced or removed in place.

Parsing a body and writing it again changes bytes that nobody asked to change (spacing, number
forms, escapes, duplicate keys). Here only the spans of the named members are cut or replaced;
every other byte stays as the client sent it. A body in one of JSON's other encodings becomes UTF-8
where it is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_SURROGATES = "surrogatepass"  # as json.loads has it: a body with lone ones is read as well


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the outermost object.

    Attributes:
        name: its decoded name.
        start, end: the span of name, colon and value in the text, in characters.
        value: where the value alone starts.
    """

    name: str
    start: int
    value: int
    end: int


class JsonBody:
    """A request body that is one JSON object.

    Args:
        raw: the bytes, read as :func:`json.loads` reads them, and with it the servers behind: in
            UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: the bytes are no text, not JSON, or not an object.
        RecursionError: the JSON is nested too deeply.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._text = raw.decode(json.detect_encoding(raw), _SURROGATES)
        data = _DECODER.decode(self._text)
        if not isinstance(data, dict):
            raise ValueError("the body is not a JSON object")
        self.data: dict[str, Any] = data

    def without(self, name: str) -> JsonBody:
        """The body with every member of that name cut out, each with one comma."""
        members = self._members()
        kept = [member for member in members if member.name != name]
        if len(kept) == len(members):
            return self
        text: list[str] = []
        cut_to = 0
        first_kept = kept[0] if kept else None
        for place, member in enumerate(members):
            if member.name != name:
                continue
            # The comma before goes along, or, where no kept member stands before, the one after.
            if first_kept is not None and member.start < first_kept.start:
                start, end = member.start, members[place + 1].start
            else:
                start = members[place - 1].end if place else member.start
                end = member.end
            start = max(start, cut_to)
            text.append(self._text[cut_to:start])
            cut_to = end
        text.append(self._text[cut_to:])
        return JsonBody(_encoded("".join(text)))

    def replaced(self, values: Mapping[str, Any]) -> bytes:
        """The bytes with new values for members that are there; the last one of a name counts."""
        return _encoded(self._replaced(values))

    def with_members(self, values: Mapping[str, Any]) -> bytes:
        """The bytes with these members: new values for those that are there, the others added."""
        text = self._replaced({name: value for name, value in values.items() if name in self.data})
        for name, value in values.items():
            if name not in self.data:
                text = inserted(text, 0, name, value)
        return _encoded(text)

    def _replaced(self, values: Mapping[str, Any]) -> str:
        text: list[str] = []
        position = 0
        last = {member.name: member for member in self._members()}
        for member in sorted((last[name] for name in values), key=lambda m: m.start):
            text += self._text[position : member.value], json.dumps(values[member.name])
            position = member.end
        text.append(self._text[position:])
        return "".join(text)

    def _members(self) -> list[Member]:
        return members(self._text)


def members(text: str, start: int = 0) -> list[Member]:
    """The members of the object that begins at ``start``, in a text known to be valid JSON."""
    found: list[Member] = []
    at = _skip(text, _skip(text, start) + 1)
    while text[at] != "}":
        begin = at
        name, at = _DECODER.raw_decode(text, begin)
        value = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, value)
        found.append(Member(name, begin, value, at))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def inserted(text: str, start: int, name: str, value: Any) -> str:
    """The text with a first member more in the object that begins at ``start``."""
    at = _skip(text, start) + 1
    comma = "" if text[_skip(text, at)] == "}" else ", "
    return f"{text[:at]}{json.dumps(name)}: {json.dumps(value)}{comma}{text[at:]}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", _SURROGATES)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
