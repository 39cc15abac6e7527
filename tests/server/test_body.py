"""A JSON body: members cut out and replaced, and not another byte changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memedit.server.body import JsonBody

NAME = "memedit"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"memedit": 1, "a": 2}', '{"a": 2}'),
        ('{"a": 2, "memedit": 1}', '{"a": 2}'),
        ('{"a": 2, "memedit": {"x": [1, "}"]}, "b" :3}', '{"a": 2, "b" :3}'),
        ('{"memedit": 1}', "{}"),
        ('{ "memedit" : 1 }', "{  }"),
        ('{"memedit": 1, "memedit": 2}', "{}"),
        ('{"memedit": 1, "a": 2, "memedit": 3}', '{"a": 2}'),
        ('{"a": 2, "memedit": 1, "memedit": 3, "b": 4}', '{"a": 2, "b": 4}'),
        (r'{"\u006demedit": 1, "a": 2}', '{"a": 2}'),
        (r'{"a": 2, "mem\u0065dit": "\"}"}', '{"a": 2}'),
        ('\n{\t"a": 2\r\n,\n  "memedit": null\n}\n', '\n{\t"a": 2\n}\n'),
        ('{"ü😀": 2, "memedit": "é", "c": "ü"}', '{"ü😀": 2, "c": "ü"}'),
    ],
)
def test_without_cuts_exactly_that_member(before: str, after: str) -> None:
    body = JsonBody(before.encode()).without(NAME)
    assert body.raw.decode() == after
    assert body.data == json.loads(after)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"memedit": 1}, "b": [{"memedit": 2}], "c": "memedit"}',
        '{"memedit ": 1, "Memedit": 2, "\\"memedit": 3}',
        '{"a": 1.0e+05, "a": 2, "b": "\\u00e9\\/"}',
        "{}",
    ],
)
def test_without_leaves_everything_else(text: str) -> None:
    assert JsonBody(text.encode()).without(NAME).raw == text.encode()


def test_replaced_changes_only_the_value() -> None:
    raw = b'{ "n":1.50, "prompt" :  "a" ,"x":"\\u00e9", "prompt": "b" }'
    got = JsonBody(raw).replaced({"prompt": ["c", "é"]})
    assert got == b'{ "n":1.50, "prompt" :  "a" ,"x":"\\u00e9", "prompt": ["c", "\\u00e9"] }'
    assert json.loads(got)["prompt"] == ["c", "é"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[1]",
        b'"text"',
        b"{",
        b"{]",
        b'{"a": 1,}',
        b'{"a" 1}',
        b"{'a': 1}",
        b'{"a": 1} {"b": 2}',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16")[:-1],
        b'{"a": "line\nbreak"}',
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        JsonBody(raw)


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_jsons_other_encodings_are_read_and_become_utf8_where_something_changes(
    encoding: str,
) -> None:
    raw = ' {"memedit": 1, "a": "ü😀"}'.encode(encoding)
    body = JsonBody(raw)
    assert (body.raw, body.data) == (raw, json.loads(raw))
    assert body.without("b").raw == raw
    assert body.without(NAME).raw == ' {"a": "ü😀"}'.encode()
    assert body.replaced({"a": 2}) == b' {"memedit": 1, "a": 2}'
    assert json.loads(body.with_members({"b": 3})) == {**body.data, "b": 3}


def test_lone_surrogates_are_read_and_kept() -> None:
    raw = b'{"a": "\xed\xa0\x80", "memedit": 1}'
    body = JsonBody(raw)
    assert body.data == json.loads(raw)
    assert body.without(NAME).raw == b'{"a": "\xed\xa0\x80"}'
    assert body.with_members({"memedit": 2}) == raw.replace(b"1", b"2")


def test_nesting_too_deep_is_refused() -> None:
    with pytest.raises((ValueError, RecursionError)):
        JsonBody(b'{"a": ' + b"[" * 200_000)


SPACE = st.text(alphabet=" \t\n\r", max_size=2)
NAMES = st.sampled_from(
    [NAME, "messages", "prompt", "a", "é", '"', "\\", "", "memedit2"]
) | st.text(max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from([NAME, '{"memedit": 1}', ",", "}", '\\"', "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """A value in one of the ways that JSON can spell it."""
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii="\ud800" in value or draw(st.booleans()))
        if draw(st.booleans()) and value.isascii() and value.isalnum():
            text = '"' + "".join(f"\\u{ord(char):04X}" for char in value) + '"'
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]], list[str]]:
    """An object's opening, its members as ``(name, spelled member)`` and the text after each."""
    members, after = [], []
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=6)):
        parts = [draw(spelled(name)), draw(SPACE), ":", draw(SPACE), draw(spelled(value))]
        members.append((name, "".join(parts)))
        after.append(draw(SPACE) + "," + draw(SPACE))
    if after:
        after[-1] = draw(SPACE)
    return draw(SPACE) + "{" + draw(SPACE), members, after


def _joined(opening: str, members: list[tuple[str, str]], after: list[str]) -> bytes:
    pieces = [text + tail for (_, text), tail in zip(members, after, strict=True)]
    return (opening + "".join(pieces) + "}").encode()


@given(objects())
def test_without_keeps_meaning_and_every_other_byte(
    made: tuple[str, list[tuple[str, str]], list[str]],
) -> None:
    raw = _joined(*made)
    cut = JsonBody(raw).without(NAME)
    # What it means: the pairs, in order, duplicates included, without the named ones.
    pairs = json.loads(raw, object_pairs_hook=list) if made[1] else []
    kept = json.loads(cut.raw, object_pairs_hook=list)
    wanted = [(name, value) for name, value in pairs if name != NAME]
    assert (kept or []) == wanted
    # Its bytes: each kept member is spelled as it was, in order, and nothing was added.
    rest = cut.raw.decode()
    for name, text in made[1]:
        if name != NAME:
            assert text in rest
            rest = rest[rest.index(text) + len(text) :]
    assert _is_subsequence(cut.raw, raw)
    assert cut.raw.endswith(b"}")
    if all(name != NAME for name, _ in made[1]):
        assert cut.raw == raw


@given(objects(), VALUES)
def test_replaced_keeps_every_other_byte(
    made: tuple[str, list[tuple[str, str]], list[str]], value: Any
) -> None:
    opening, members, after = made
    body = JsonBody(_joined(opening, members, after))
    for name in body.data:
        last = max(place for place, (known, _) in enumerate(members) if known == name)
        got = body.replaced({name: value}).decode()
        head = _joined(opening, members[:last], after[:last]).decode()[:-1]
        tail = after[last] + _joined("", members[last + 1 :], after[last + 1 :]).decode()
        assert got.startswith(head)
        assert got.endswith(tail)
        spelled_name = members[last][1]
        changed = got[len(head) : len(got) - len(tail)]
        assert changed.endswith(json.dumps(value))
        assert spelled_name.startswith(changed.removesuffix(json.dumps(value)))
        assert json.loads(got)[name] == value


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_json_reads_them(raw: bytes) -> None:
    try:
        wanted = json.loads(raw)
    except ValueError:
        wanted = None
    try:
        body = JsonBody(raw)
    except ValueError:
        assert not isinstance(wanted, dict)
    else:
        assert body.data == wanted
        assert body.without(NAME).raw == raw or NAME in body.data


def _is_subsequence(short: bytes, long: bytes) -> bool:
    rest = iter(long)
    return all(byte in rest for byte in short)
