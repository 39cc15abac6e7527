"""A response of a version of the weights names the model that everybody is answered by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memedit.server.answers import Amended
from memedit.server.asgi import Message

NAMES = ("memedit-v1", 'my "model"')
SAYS = 'see {"model": "memedit-v1"} and \\"model\\":\\"memedit-v1\\"'


async def sent(kind: bytes, *pieces: bytes) -> bytes:
    """What goes out of a response in these pieces."""
    out: list[Message] = []

    async def send(message: Message) -> None:
        out.append(message)

    amended = Amended(send, renamed=dict([NAMES]))
    headers = [(b"content-type", kind), (b"content-length", b"%d" % sum(map(len, pieces)))]
    await amended({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await amended({"type": "http.response.body", "body": piece, "more_body": True})
    await amended({"type": "http.response.body", "body": b""})
    body = b"".join(message.get("body", b"") for message in out)
    if kind == b"application/json":
        assert (b"content-length", b"%d" % len(body)) in out[0]["headers"]
    return body


@pytest.mark.parametrize("space", [(",", ":"), (", ", ": ")])
async def test_every_member_of_that_name_and_value(space: tuple[str, str]) -> None:
    told: dict[str, Any] = {
        "model": NAMES[0],
        "response": {"model": NAMES[0], "parent": NAMES[0]},
        "choices": [{"text": SAYS, "model": "another"}],
    }
    raw = json.dumps(told, separators=space).encode()
    found = json.loads(await sent(b"application/json", raw[:20], raw[20:]))
    told["model"] = told["response"]["model"] = NAMES[1]
    assert found == told


async def test_events_however_they_are_cut() -> None:
    event = {"model": NAMES[0], "choices": [{"text": SAYS}]}
    raw = f"data: {json.dumps(event)}\n\n".encode() * 2 + b": ping\n\ndata: [DONE]\n\n"
    for step in (1, 7, len(raw)):
        pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
        lines = (await sent(b"text/event-stream", *pieces)).split(b"\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        assert events == [{**event, "model": NAMES[1]}] * 2
        assert lines[-5:] == [b": ping", b"", b"data: [DONE]", b"", b""]


async def test_what_is_no_json_is_left_alone() -> None:
    raw = b'"model": "memedit-v1"'
    assert await sent(b"text/plain", raw) == raw
    assert await sent(b"application/json", b"[" + raw) == b"[" + raw
