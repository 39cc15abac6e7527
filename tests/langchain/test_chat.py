"""A wrapped chat model: its answers follow the memory, and all else is the model's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

pytest.importorskip("langchain_openai", reason="LangChain is not installed: use the extra dev")

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAI

import memedit
from memedit.adapters._wrapping import NO_ROOM
from memedit.adapters.langchain_chat import WrappedChatModel
from memedit.edits import Edit, structured
from memedit.errors import InvalidInput, Unsupported
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from tests.conftest import VllmServer
from tests.langchain.models import ASK, OTHER, Noted, chat
from tests.server.served import MAX_LEN, MODEL

pytestmark = pytest.mark.vllm

EDIT = structured("France", "The capital of {} is", "Lyon", id="capital")
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Notes a city",
        "strict": True,  # else vLLM lets the model write what it wants to
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def _runner() -> Iterator[None]:
    with RUNNER:
        yield


@pytest.fixture(scope="module")
def memory(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditMemory]:
    with EditMemory(tmp_path_factory.mktemp("langchain") / "memory.sqlite3", encoder) as opened:
        opened.add(EDIT)
        yield opened


@pytest.fixture
def bare(vllm_server: VllmServer) -> Noted:
    return chat(vllm_server.plain)


@pytest.fixture
def llm(bare: Noted, memory: EditMemory) -> WrappedChatModel:
    return memedit.wrap(bare, memory)


def plain(message: Any) -> dict[str, Any]:
    """A message without ids and without what memedit says of it."""
    found = message.model_dump()
    del found["id"]
    for name in ("id", "memedit"):
        found["response_metadata"].pop(name, None)
    return dict(found)


def whole(pieces: list[Any]) -> Any:
    """What pieces come to."""
    first, *rest = pieces
    for piece in rest:
        first = first + piece
    return first


RUNNER = asyncio.Runner()
"""One event loop for all calls: connections belong to the loop that opened them."""


async def gathered(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


def v3(model: Any, given: Any) -> Any:
    return model.stream_events(given, version="v3").output


async def av3(model: Any, given: Any) -> Any:
    return await (await model.astream_events(given, version="v3"))


def last_event(events: list[Any]) -> Any:
    """The message with which a run of version 2 ends."""
    assert [event["event"] for event in events].count("on_chat_model_start") == 1
    return events[-1]["data"]["output"]


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "invoke": lambda model, given: model.invoke(given),
    "ainvoke": lambda model, given: RUNNER.run(model.ainvoke(given)),
    "stream": lambda model, given: whole(list(model.stream(given))),
    "astream": lambda model, given: whole(RUNNER.run(gathered(model.astream(given)))),
    "batch": lambda model, given: model.batch([given])[0],
    "abatch": lambda model, given: RUNNER.run(model.abatch([given]))[0],
    "generate": lambda model, given: model.generate([given]).generations[0][0].message,
    "agenerate": lambda model, given: (
        RUNNER.run(model.agenerate([given])).generations[0][0].message
    ),
    "stream_events": v3,
    "astream_events": lambda model, given: RUNNER.run(av3(model, given)),
    "events v2": lambda model, given: last_event(
        RUNNER.run(gathered(model.astream_events(given, version="v2")))
    ),
}
QUICK = ("invoke", "astream", "agenerate", "stream_events")
"""Ways that ``make test`` goes, too."""

EVERY = [pytest.param(way, marks=() if way in QUICK else pytest.mark.slow, id=way) for way in WAYS]

SILENT = ("stream_events", "astream_events", "events v2")
"""Ways in whose results do not say which edits took part."""


def chats(text: str) -> list[Any]:
    return [SystemMessage("Be brief."), HumanMessage(text)]


@pytest.mark.parametrize("way", EVERY)
def test_what_no_edit_is_about_reaches_the_model_as_the_same_object(
    llm: WrappedChatModel, bare: Noted, way: str
) -> None:
    given = chats(OTHER)
    wanted = WAYS[way](bare, given)
    del bare.calls[:]
    got = WAYS[way](llm, given)
    _, sent, _ = bare.calls[0]
    assert sent[0] is given if way in ("generate", "agenerate") else sent is given
    assert plain(got) == plain(wanted)
    assert "memedit" not in got.response_metadata


@pytest.mark.parametrize(
    "given",
    [
        OTHER,
        ChatPromptValue(messages=chats(OTHER)),
        [("system", "Be brief."), ("human", OTHER)],
        [{"role": "user", "content": OTHER}],
    ],
    ids=["text", "prompt", "pairs", "mappings"],
)
def test_every_form_of_input_stays_what_it_is(
    llm: WrappedChatModel, bare: Noted, given: Any
) -> None:
    wanted = bare.invoke(given)
    assert plain(llm.invoke(given)) == plain(wanted)
    assert bare.calls[-1][1] is given


@pytest.mark.parametrize("way", EVERY)
def test_what_an_edit_is_about_is_answered_by_it(
    llm: WrappedChatModel, bare: Noted, way: str
) -> None:
    given = chats(ASK)
    assert "Paris" in WAYS[way](bare, given).text
    del bare.calls[:]
    got = WAYS[way](llm, given)
    assert "Lyon" in got.text
    (_, sent, _) = bare.calls[0]
    system, asked = sent[0] if way in ("generate", "agenerate") else sent
    assert system is given[0]
    assert type(asked) is HumanMessage
    assert EDIT.statement in asked.content
    assert asked.content.endswith(ASK)
    assert given[1].content == ASK
    if way not in SILENT:
        told = got.response_metadata["memedit"]
        assert told["route"] == "ike"
        assert told["edits"] == ["capital"]
        assert 0.5 < told["scope"] <= 1.0
        assert any("accepted" in reason for reason in told["reasons"])


@pytest.mark.parametrize(
    "given",
    [
        ASK,
        ChatPromptValue(messages=chats(ASK)),
        [("human", "Hello."), ("ai", "Hello!"), ("human", ASK)],
        [{"role": "user", "content": [{"type": "text", "text": ASK}]}],
        ["Hello.", ASK],
    ],
    ids=["text", "prompt", "pairs", "mappings", "texts"],
)
def test_every_form_of_input_is_edited(llm: WrappedChatModel, given: Any) -> None:
    assert "Lyon" in llm.invoke(given).text


def test_an_edit_is_live_at_once_and_gone_after_its_revert(
    bare: Noted, encoder: Encoder, tmp_path: Any
) -> None:
    with EditMemory(tmp_path / "memory.sqlite3", encoder) as own:
        llm = memedit.wrap(bare, own)
        before = llm.invoke(ASK)
        (record,) = own.add(EDIT)
        assert "Lyon" in llm.invoke(ASK).text
        own.revert(record.edit.id)
        assert plain(llm.invoke(ASK)) == plain(before)


def test_a_namespace_has_edits_of_its_own(bare: Noted, memory: EditMemory) -> None:
    assert "Paris" in memedit.wrap(bare, memory, namespace="other").invoke(ASK).text
    with pytest.raises(InvalidInput):
        memedit.wrap(bare, memory, namespace="two words").invoke(ASK)


def test_a_batch_in_one_go(llm: WrappedChatModel, bare: Noted) -> None:
    got = llm.batch([ASK, OTHER, "The capital of France is"], {"max_concurrency": 1})
    assert ["Lyon" in message.text for message in got] == [True, False, True]
    assert [given == OTHER for _, given, _ in bare.calls] == [False, True, False]
    assert llm.batch([]) == []
    edited, bad = llm.batch([ASK, [3]], return_exceptions=True)
    assert "Lyon" in edited.text
    with pytest.raises(type(bad)):
        bare.invoke([3])
    several = llm.generate([chats(ASK), chats(OTHER)])
    assert "Lyon" in several.generations[0][0].text
    assert plain(several.generations[1][0].message) == plain(bare.invoke(chats(OTHER)))
    assert "memedit" not in several.generations[1][0].message.response_metadata


def test_parts_and_pictures_stay_the_callers_own_objects(
    llm: WrappedChatModel, bare: Noted
) -> None:
    parts = ["Look.", PICTURE, {"type": "text", "text": ASK, "x": 1}, PICTURE]
    given = [SystemMessage("Be brief."), HumanMessage(content=parts, name="ann", id="7")]
    # This model has no eyes: the server refuses the picture, with evidence and without.
    with pytest.raises(openai.BadRequestError) as caught:
        llm.invoke(given)
    with pytest.raises(openai.BadRequestError) as wanted:
        bare.invoke(given)
    assert caught.value.message == wanted.value.message
    (_, edited, _), (_, own, _) = bare.calls[:2]
    assert own is given
    assert edited[0] is given[0]
    asked = edited[1]
    assert (asked.name, asked.id) == ("ann", "7")
    for at in (0, 1, 3):
        assert asked.content[at] is given[1].content[at]
    assert asked.content[2]["text"].endswith(ASK)
    assert {**asked.content[2], "text": ASK} == parts[2]
    llm.invoke([HumanMessage(content=["One question.", ASK])])
    first, second = bare.calls[-1][1][0].content
    assert first == "One question."
    assert EDIT.statement in second["text"]


def test_evidence_goes_to_the_last_question_behind_tool_calls(
    llm: WrappedChatModel, bare: Noted
) -> None:
    call = {"name": "note", "args": {"city": "?"}, "id": "call-1"}
    given = [
        HumanMessage("Hello."),
        AIMessage("Hello!"),
        HumanMessage(ASK),
        AIMessage("", tool_calls=[call]),
        ToolMessage("noted", tool_call_id="call-1"),
    ]
    llm.invoke(given)
    sent = bare.calls[-1][1]
    changed = [at for at, (one, other) in enumerate(zip(sent, given, strict=True)) if one != other]
    assert changed == [2]
    assert [one is other for one, other in zip(sent, given, strict=True)].count(False) == 1


def full(words: int, ask: str = ASK) -> list[Any]:
    """A conversation of so many words before its question."""
    return [HumanMessage("Say" + " rain" * words), AIMessage("rain"), HumanMessage(ask)]


@pytest.fixture(scope="module")
def most(vllm_server: VllmServer) -> int:
    """How many words fill the context up, with room for the question and four tokens."""
    model = chat(vllm_server.plain, max_tokens=4)
    used = model.invoke(full(100)).usage_metadata["input_tokens"]
    found: int = MAX_LEN - 4 - (used - 100)
    while True:
        try:
            model.invoke(full(found + 1))
        except openai.BadRequestError:
            return found
        found += 1


class TestRefusals:
    """What the server refuses with evidence is sent with less of it, and at last without."""

    @pytest.mark.parametrize("way", ["invoke", "astream", "generate", "stream_events"])
    def test_no_room_for_evidence(
        self, vllm_server: VllmServer, memory: EditMemory, most: int, way: str
    ) -> None:
        bare = chat(vllm_server.plain, max_tokens=4)
        given = full(most)
        wanted = WAYS[way](bare, given)
        del bare.calls[:]
        got = WAYS[way](memedit.wrap(bare, memory), given)
        assert plain(got) == plain(wanted)
        sent = [one[0] if way == "generate" else one for _, one, _ in bare.calls]
        assert len(sent) == 2
        assert EDIT.statement in sent[0][-1].content
        assert sent[1] is given
        if way not in SILENT:
            told = got.response_metadata["memedit"]
            assert (told["route"], told["edits"]) == ("passthrough", [])
            assert told["reasons"][-1] == f"passed: {NO_ROOM}"

    def test_room_for_the_fact_alone(
        self, vllm_server: VllmServer, memory: EditMemory, most: int
    ) -> None:
        bare = chat(vllm_server.plain, max_tokens=4)
        got = memedit.wrap(bare, memory).invoke(full(most - 50, "The capital of France is"))
        sent = [one for _, one, _ in bare.calls]
        lengths = [len(one) for one in sent]
        assert len(lengths) > 1
        assert lengths == sorted(lengths, reverse=True)
        assert got.response_metadata["memedit"]["edits"] == ["capital"]
        assert EDIT.statement in sent[-1][-1].content

    def test_another_refusal_is_about_the_callers_own_words(
        self, llm: WrappedChatModel, bare: Noted
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            llm.invoke(ASK, top_p=7)
        assert "top_p" in caught.value.message
        assert [given for _, given, _ in bare.calls][1:] == [ASK]

    def test_an_error_that_is_none_of_the_prompts_comes_at_once(
        self, llm: WrappedChatModel, bare: Noted
    ) -> None:
        with pytest.raises(openai.NotFoundError):
            llm.invoke(ASK, model="nobody")
        assert len(bare.calls) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"extra_body": {"echo": True}}, "echo"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
    ],
)
def test_evidence_stays_out_of_answers_that_show_the_prompt(
    llm: WrappedChatModel, bare: Noted, memory: EditMemory, options: dict[str, Any], name: str
) -> None:
    got = llm.invoke(ASK, **options)
    assert bare.calls[-1][1] is ASK
    told = got.response_metadata["memedit"]
    assert told["route"] == "passthrough"
    assert told["reasons"][-1].startswith(f"passed: {name} is set")
    own = bare.model_copy(update=options)
    assert memedit.wrap(own, memory).invoke(ASK).response_metadata["memedit"]["edits"] == []


def test_tools_are_bound_as_the_model_binds_them(
    vllm_server: VllmServer, memory: EditMemory
) -> None:
    bare = chat(vllm_server.plain, max_tokens=80)
    llm = memedit.wrap(bare, memory)
    bound, own = (
        llm.bind_tools([TOOL], tool_choice="any"),
        bare.bind_tools([TOOL], tool_choice="any"),
    )
    assert (type(bound), bound.kwargs, bound.config) == (type(own), own.kwargs, own.config)
    assert bound.bound is llm
    wanted = own.invoke(OTHER)
    assert wanted.tool_calls
    del bare.calls[:]
    got = bound.invoke(OTHER)
    assert [call["args"] for call in got.tool_calls] == [call["args"] for call in wanted.tool_calls]
    assert bare.calls[0][1] is OTHER
    (call,) = bound.invoke(f"{ASK} Note it.").tool_calls
    assert call["name"] == "note"
    _, sent, options = bare.calls[-1]
    assert EDIT.statement in sent[0].content
    assert options["tools"] == own.kwargs["tools"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_output_is_made_as_the_model_makes_it(
    vllm_server: VllmServer, memory: EditMemory, method: str, include_raw: bool
) -> None:
    bare = chat(vllm_server.plain, max_tokens=80)
    llm = memedit.wrap(bare, memory)
    schema = {"title": "note", "description": "A city", **TOOL["function"]["parameters"]}
    options = {"method": method, "include_raw": include_raw, "strict": True}
    own = bare.with_structured_output(schema, **options)
    made = llm.with_structured_output(schema, **options)
    wanted, got = own.invoke(OTHER), made.invoke(OTHER)
    assert (got["parsed"] if include_raw else got) == (wanted["parsed"] if include_raw else wanted)
    got = made.invoke(ASK)
    assert EDIT.statement in bare.calls[-1][1][0].content
    assert "city" in (got["parsed"] if include_raw else got)
    if include_raw:
        assert got["raw"].response_metadata["memedit"]["edits"] == ["capital"]


def test_a_model_that_hides_itself_is_refused(memory: EditMemory, vllm_server: VllmServer) -> None:
    class Hidden(Noted):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return RunnableLambda(lambda given: self.invoke(given))

    class Copied(Noted):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self.model_copy(update={"max_tokens": 3})

    options = {"model": MODEL, "base_url": f"{vllm_server.plain}/v1", "api_key": "none"}
    with pytest.raises(Unsupported, match="memedit does not find the model"):
        memedit.wrap(Hidden(**options), memory).bind_tools([TOOL])
    copied = memedit.wrap(Copied(**options), memory).bind_tools([TOOL])
    assert copied.max_tokens == 3
    assert copied.invoke(ASK).response_metadata["memedit"]["edits"] == ["capital"]


def test_only_chat_models_are_wrapped(llm: WrappedChatModel, memory: EditMemory) -> None:
    for thing in (llm.bind(stop=["x"]), OpenAI(api_key="none")):
        with pytest.raises(Unsupported, match="wrap the chat model itself"):
            memedit.wrap(thing, memory)


class Heard(BaseCallbackHandler):
    """What a run says of itself."""

    def __init__(self) -> None:
        self.starts: list[Any] = []
        self.tokens: list[str] = []
        self.ends: list[Any] = []
        self.tags: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.starts.append(messages)
        self.tags.append(kwargs["tags"])

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ends.append(response)


@pytest.mark.parametrize("ask", [ASK, OTHER])
def test_callbacks_hear_of_one_run_and_of_what_was_sent(llm: WrappedChatModel, ask: str) -> None:
    heard, usage = Heard(), UsageMetadataCallbackHandler()
    config: Any = {"callbacks": [heard, usage], "tags": ["mine"]}
    message = whole(list(llm.stream(ask, config, stream_usage=True)))
    assert len(heard.starts) == len(heard.ends) == 1
    assert heard.tags == [["mine"]]
    (((sent,),),) = heard.starts
    assert (EDIT.statement in sent.content) == (ask == ASK)
    assert "".join(heard.tokens) == message.text
    (counted,) = usage.usage_metadata.values()
    assert counted["input_tokens"] == message.usage_metadata["input_tokens"]
    assert counted["output_tokens"] == message.usage_metadata["output_tokens"]


def test_a_cache_never_answers_with_what_was_true_before_an_edit(
    vllm_server: VllmServer, encoder: Encoder, tmp_path: Any
) -> None:
    with EditMemory(tmp_path / "memory.sqlite3", encoder) as own:
        llm = memedit.wrap(chat(vllm_server.plain, cache=InMemoryCache()), own)
        before = llm.invoke(ASK)
        (record,) = own.add(EDIT)
        for _ in range(2):
            got = llm.invoke(ASK)
            assert "Lyon" in got.text
            assert got.response_metadata["memedit"]["edits"] == ["capital"]
        own.revert(record.edit.id)
        again = llm.invoke(ASK)
        assert again.text == before.text
        assert "memedit" not in again.response_metadata


def test_it_looks_like_the_model(llm: WrappedChatModel, bare: Noted) -> None:
    assert (llm.model_name, llm.temperature, llm.max_tokens) == (MODEL, 0, 10)
    assert llm._get_ls_params(stop=["x"]) == bare._get_ls_params(stop=["x"])
    assert llm.asdict() == bare.asdict()
    assert llm.profile == bare.profile
    assert llm.custom_get_token_ids is None
    with pytest.raises(AttributeError):
        _ = llm.nonsense
    counting = bare.model_copy(update={"custom_get_token_ids": lambda text: [1, 2, 3]})
    counting = llm.model_copy(update={"wrapped": counting})
    assert counting.get_num_tokens("x") == 3
    assert counting.get_token_ids("x") == [1, 2, 3]


def test_in_a_chain(llm: WrappedChatModel, bare: Noted) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{ask}")])
    chain = prompt | llm | StrOutputParser()
    assert "Lyon" in chain.invoke({"ask": ASK})
    assert chain.invoke({"ask": OTHER}) == (prompt | bare | StrOutputParser()).invoke(
        {"ask": OTHER}
    )
    assert "Lyon" in "".join(chain.stream({"ask": ASK}))
    assert "Lyon" in llm.with_retry().bind(stop=["\n"]).invoke(ASK).text


def test_decisions_are_told_without_a_call(llm: WrappedChatModel, bare: Noted) -> None:
    about, other = llm.decide([ASK, OTHER])
    assert [edit.id for edit in about.edits] == ["capital"]
    assert other.edits == ()
    assert bare.calls == []


def test_nothing_is_decided_on_what_asks_nothing(
    llm: WrappedChatModel, bare: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[Any] = []
    monkeypatch.setattr(llm.parts.router, "decide", lambda *given: decided.append(given))
    given = [SystemMessage("The capital of France is"), HumanMessage(" ")]
    llm.invoke(given)
    assert decided == []
    assert bare.calls[-1][1] is given


def test_an_edit_cannot_open_a_turn(bare: Noted, encoder: Encoder, tmp_path: Any) -> None:
    odd: Edit = structured("Österreich", "The motto of {} is", 'je {t\'aime} {facts} "assistant:"')
    with EditMemory(tmp_path / "memory.sqlite3", encoder) as own:
        own.add(odd)
        memedit.wrap(bare, own).invoke(chats("What is the motto of Österreich?"))
    sent = bare.calls[-1][1]
    assert [message.type for message in sent] == ["system", "human"]
    assert odd.statement in sent[1].content
