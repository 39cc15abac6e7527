"""What the edits API takes and gives, as its OpenAPI schema shows it.

A member or a parameter that is not listed here is refused: a misspelt ``dry_run`` must not change
anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
)
from pydantic.json_schema import SkipJsonSchema

from memedit.edits import MAX_ALIASES, MAX_CHARS
from memedit.importing import ImportReport
from memedit.journal import Event, EventKind
from memedit.memory import MAX_NOTE
from memedit.planning import Conflict, OnConflict, Planned
from memedit.protocols import Decision, EditRecord, State
from memedit.server.keys import Role

MAX_EDITS = 1_000
"""Most edits of one request to add; an import takes more."""

MAX_PAGE = 1_000
"""Most entries of one page."""

MAX_QUERY = 16_000
"""Longest text to search by, in characters."""

RESERVED = frozenset(
    {
        *("audit", "conflicts", "explain", "export", "history"),
        *("import", "key", "openapi.json", "search"),
    }
)
"""Ids that an edit cannot have here: they are paths of the API."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


Text = Annotated[StrictStr, Field(max_length=MAX_CHARS)]
Note = Annotated[StrictStr, Field(max_length=MAX_NOTE)]
Time = Annotated[
    StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr,
    Field(description="Seconds since the epoch, or ISO 8601 (UTC where it names no zone)."),
]
Policy = Literal["supersede", "reject", "keep"]
POLICIES: dict[str, OnConflict] = {
    "supersede": "supersede",
    "reject": "reject",
    "keep": "keep-both",
}

# requests


class NewEdit(_Closed):
    """A fact: a statement; or subject, prompt and target; or a question and its answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["statement"]},
                {"required": ["subject", "prompt", "target"]},
                {"required": ["question", "answer"]},
                {"required": ["question", "target"]},
            ]
        }
    )

    id: Annotated[
        StrictStr | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$",
            description="Of your own choice. A key that is bound to namespaces chooses ids that "
            "begin with the namespace and a colon.",
        ),
    ] = None
    statement: Annotated[Text | None, Field(description="The fact as a sentence.")] = None
    subject: Annotated[Text | None, Field(description="The entity it is about.")] = None
    prompt: Annotated[Text | None, Field(description="A text with {} for the subject.")] = None
    target: Annotated[Text | None, Field(description="What completes the prompt.")] = None
    question: Annotated[Text | None, Field(description="The fact as a question.")] = None
    answer: Annotated[Text | None, Field(description="The question's answer.")] = None
    relation: Annotated[Text | None, Field(description="A name for the relation.")] = None
    aliases: Annotated[list[Text], Field(max_length=MAX_ALIASES)] = []
    old_target: Annotated[Text | None, Field(description="The answer until now.")] = None
    source: Annotated[Text | None, Field(description="Where it comes from.")] = None
    route: Annotated[
        Literal["auto", "ike", "grace"] | None,
        Field(description="In context alone (`ike`), or learned into the engine's codebook."),
    ] = None
    valid_from: Time | None = None
    expires_at: Time | None = None


class Said(_Closed):
    """Who changes something, and why; for people."""

    author: Annotated[
        Note | None, Field(description="Who does this; the key's name by default.")
    ] = None
    reason: Annotated[Note, Field(description="Why.")] = ""


class AddOne(NewEdit, Said):
    """One edit to add."""

    policy: Annotated[Policy, Field(description="What to do with what answers it otherwise.")] = (
        "supersede"
    )


class AddMany(Said):
    """Several edits to add, all of them or none."""

    edits: Annotated[list[NewEdit], Field(min_length=1, max_length=MAX_EDITS)]
    policy: Policy = "supersede"


def _is_many(body: Any) -> str:
    return (
        "many"
        if isinstance(body, AddMany) or (isinstance(body, dict) and "edits" in body)
        else "one"
    )


Add = Annotated[
    Annotated[AddOne, Tag("one")] | Annotated[AddMany, Tag("many")], Discriminator(_is_many)
]


class Supersede(Said):
    """What an edit says from now on; everything that is not given stays as it is."""

    target: Text | None = None
    statement: Text | None = None
    aliases: Annotated[list[Text] | None, Field(max_length=MAX_ALIASES)] = None
    source: Text | None = None
    valid_from: Time | None = None
    expires_at: Time | None = None


class Search(_Closed):
    """A search by meaning."""

    query: Annotated[StrictStr, Field(min_length=1, max_length=MAX_QUERY)]
    limit: Annotated[StrictInt, Field(ge=1, le=100)] = 10
    min_score: Annotated[
        StrictFloat | StrictInt, Field(ge=-1, le=1, description="Least cosine.")
    ] = -1
    as_of: Time | None = None


class Explain(_Closed):
    """A prompt as an application would send it: a text, or a chat's messages."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["prompt"]}, {"required": ["messages"]}]}
    )

    prompt: StrictStr | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None


class Where(_Closed):
    """Parameters of every operation."""

    namespace: Annotated[
        str | SkipJsonSchema[None],
        Field(
            pattern=r"^[A-Za-z0-9._-]{1,64}$",
            description="The namespace, where X-Memedit-Namespace does not name it; else the "
            "key's only one, or the server's own.",
        ),
    ] = None


class AddQuery(Where):
    """Parameters of adding."""

    dry_run: Annotated[bool, Field(description="Only say what would happen.")] = False


class GetQuery(Where):
    """Parameters of looking at one edit."""

    as_of: Annotated[
        str | SkipJsonSchema[None], Field(description="The memory as of then, in ISO 8601.")
    ] = None


class PageQuery(Where):
    """Parameters of a list."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    cursor: Annotated[
        str | SkipJsonSchema[None],
        Field(max_length=500, description="`next_cursor` of the page before."),
    ] = None


class HistoryQuery(PageQuery):
    """Parameters of the list of what happened."""

    order: Annotated[Literal["asc", "desc"], Field(description="Oldest or newest first.")] = "asc"


class ListQuery(PageQuery):
    """Parameters of the list of edits."""

    state: Annotated[
        list[
            Literal[
                "proposed", "active", "consolidated", "superseded", "reverted", "expired", "all"
            ]
        ],
        Field(description="Edits in this state; may be given several times."),
    ] = ["active"]
    subject: Annotated[
        str | SkipJsonSchema[None],
        Field(max_length=MAX_CHARS, description="A name of the subject, in any case."),
    ] = None
    text: Annotated[
        str | SkipJsonSchema[None],
        Field(max_length=MAX_CHARS, description="A part of any of its texts, in any case."),
    ] = None
    order: Annotated[Literal["asc", "desc"], Field(description="Oldest or newest first.")] = "desc"
    as_of: Annotated[
        str | SkipJsonSchema[None], Field(description="The memory as of then, in ISO 8601.")
    ] = None


class ImportQuery(Where):
    """Parameters of an import."""

    dry_run: Annotated[bool, Field(description="Only say what would happen.")] = False
    skip_bad: Annotated[bool, Field(description="Leave bad lines out.")] = False
    again: Annotated[bool, Field(description="Even if it was imported before.")] = False
    ids: Annotated[
        Literal["keep", "new"], Field(description="Keep the ids of the lines, or make new ones.")
    ] = "keep"
    policy: Policy = "supersede"
    author: Annotated[str | SkipJsonSchema[None], Field(max_length=MAX_NOTE)] = None
    reason: Annotated[str, Field(max_length=MAX_NOTE)] = ""


# answers


class EditObject(BaseModel):
    """An edit, and what is known of it."""

    object: Literal["edit"] = "edit"
    id: str
    namespace: str
    state: State
    statement: str
    subject: str | None
    prompt: str | None
    target: str | None
    question: str | None
    relation: str | None
    aliases: list[str]
    old_target: str | None
    source: str
    route: Annotated[str, Field(description="`auto`, `ike` or `grace`.")]
    author: str
    reason: str
    created_at: datetime
    valid_from: datetime | None
    expires_at: datetime | None
    supersedes: list[str]
    superseded_by: str | None
    version: Annotated[str, Field(description="The weights that hold it, if any do.")]
    etag: Annotated[str, Field(description="For If-Match and If-None-Match.")]
    warnings: Annotated[list[str], Field(description="What the call that added it has to say.")]


class Reverted(EditObject):
    """A reverted edit."""

    active_again: Annotated[list[str], Field(description="Ids of what answers in its place.")]


class Found(EditObject):
    """An edit that was searched for."""

    score: Annotated[float, Field(ge=-1, le=1, description="Cosine with the query.")]


class EditList(BaseModel):
    """A page of edits."""

    object: Literal["list"] = "list"
    data: list[EditObject]
    has_more: bool = False
    next_cursor: str | None = None


class FoundList(BaseModel):
    """The closest edits, the closest first."""

    object: Literal["list"] = "list"
    data: list[Found]


class Against(BaseModel):
    """An edit that answers the same fact otherwise."""

    id: str
    state: State
    statement: str
    target: str | None
    reason: Annotated[str, Field(description="Why the two are taken for one fact.")]


class Preview(BaseModel):
    """What adding an edit would come to."""

    object: Literal["edit.preview"] = "edit.preview"
    id: Annotated[str, Field(description="Its id, or of the edit that says all this already.")]
    outcome: Literal["add", "unchanged", "refuse"]
    statement: str
    supersedes: list[str]
    conflicts: list[Against]
    warnings: list[str]
    problem: str


class TriedPrompt(BaseModel):
    """A prompt that would be answered otherwise."""

    prompt: str
    times: Annotated[int, Field(description="How often it came since it is kept.")]
    before: Annotated[list[str], Field(description="Ids of the edits that answer it now.")]
    after: Annotated[list[str], Field(description="Ids of those that would.")]


class TriedPrompts(BaseModel):
    """The recent prompts of the namespace that edits were tried on."""

    tried: Annotated[int, Field(description="How many.")]
    changed: Annotated[list[TriedPrompt], Field(description="The latest first.")]


class PreviewList(BaseModel):
    """What adding edits would come to; nothing was changed."""

    object: Literal["preview"] = "preview"
    data: list[Preview]
    recent: Annotated[
        TriedPrompts | None,
        Field(description="Null where the server keeps no prompts (`server.recent_prompts`)."),
    ]


class Disputed(BaseModel):
    """An edit, and those that answer its fact otherwise."""

    object: Literal["edit.conflicts"] = "edit.conflicts"
    id: str
    state: State
    statement: str
    target: str | None
    conflicts: list[Against]


class DisputedList(BaseModel):
    """A page of edits that stand beside others of their fact."""

    object: Literal["list"] = "list"
    data: list[Disputed]
    has_more: bool = False
    next_cursor: str | None = None


class EventObject(BaseModel):
    """Something that happened to an edit."""

    object: Literal["edit.event"] = "edit.event"
    edit_id: str
    statement: Annotated[str, Field(description="What the edit says.")]
    kind: EventKind
    at: datetime
    author: str
    reason: str
    supersedes: list[str]
    version: str


class EventList(BaseModel):
    """A page of what happened."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool = False
    next_cursor: str | None = None


class ConsideredObject(BaseModel):
    """An edit that was considered."""

    id: str
    statement: str
    mention: str | None
    relation: float | None = Field(description="That the prompt asks the edit's relation.")
    asked: str = Field(description="What of the prompt was compared, the subject masked.")
    stated: str = Field(description="What of the edit it was compared with.")
    similarity: float | None
    probability: float
    accepted: bool


class Explanation(BaseModel):
    """The decision on a prompt."""

    object: Literal["decision"] = "decision"
    query: Annotated[str, Field(description="The part of the prompt that was looked at.")]
    route: str
    edits: list[str]
    scope: float
    reasons: list[str]
    considered: list[ConsideredObject]
    timings: Annotated[dict[str, float], Field(description="Milliseconds per stage.")]
    rewritten: Annotated[
        str | list[dict[str, Any]] | None,
        Field(description="The prompt as it goes on; null where no edit takes part."),
    ]


class LineProblem(BaseModel):
    """A line that cannot be added."""

    line: int
    message: str


class LineSupersedes(BaseModel):
    """What a line retires."""

    line: int
    edit_id: str
    old_id: str


class Imported(BaseModel):
    """What an import has done, or would do."""

    object: Literal["import"] = "import"
    dry_run: bool
    total: Annotated[int, Field(description="Lines that hold something.")]
    added: int
    unchanged: Annotated[int, Field(description="Lines that say nothing new.")]
    skipped: Annotated[int, Field(description="Lines that an earlier run had dealt with.")]
    superseded: list[LineSupersedes]
    warnings: list[str]
    errors: list[LineProblem]


class KeyObject(BaseModel):
    """The key that came along."""

    object: Literal["key"] = "key"
    id: str
    name: str
    role: Role
    namespace: Annotated[str, Field(description="What this request is about.")]
    namespaces: Annotated[
        list[str],
        Field(description="Those that the key grants; where it grants all, those that are known."),
    ]
    all_namespaces: Annotated[bool, Field(description="Whether the key grants every namespace.")]


class AuditLine(BaseModel):
    """A line of the audit log."""

    model_config = ConfigDict(extra="allow")

    at: datetime
    key: str | None
    name: str | None
    action: str
    outcome: str
    namespace: str
    edits: list[str]
    request: str


class AuditList(BaseModel):
    """A page of the audit log, the oldest first."""

    object: Literal["list"] = "list"
    data: list[AuditLine]
    has_more: bool = False
    next_cursor: str | None = None


class ErrorObject(BaseModel):
    """What was wrong, and what to do."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorObject


# from what the memory gives


def edit_members(record: EditRecord) -> dict[str, Any]:
    """The members of :class:`EditObject`; the tag is of all the others but the warnings."""
    edit = record.edit
    said: dict[str, Any] = {
        "id": edit.id,
        "namespace": record.namespace,
        "state": record.state,
        "statement": edit.statement,
        "subject": edit.subject,
        "prompt": edit.prompt,
        "target": edit.target,
        "question": edit.question,
        "relation": edit.relation,
        "aliases": list(edit.aliases),
        "old_target": edit.old_target,
        "source": edit.source,
        "route": edit.route or "auto",
        "author": record.author,
        "reason": record.reason,
        "created_at": record.created_at,
        "valid_from": record.valid_from,
        "expires_at": record.expires_at,
        "supersedes": list(record.supersedes),
        "superseded_by": record.superseded_by,
        "version": record.version,
    }
    digest = blake2b(json.dumps(said).encode(), digest_size=12).hexdigest()
    times = {name: moment(said[name]) for name in ("created_at", "valid_from", "expires_at")}
    return {**said, **times, "etag": f'"{digest}"', "warnings": list(record.warnings)}


def edit_object(record: EditRecord) -> EditObject:
    """An edit as it is answered."""
    return EditObject(**edit_members(record))


def against(conflict: Conflict) -> Against:
    """The other side of a conflict."""
    other = conflict.record
    return Against(
        id=other.edit.id,
        state=other.state,
        statement=other.edit.statement,
        target=other.edit.target,
        reason=conflict.reason,
    )


def preview(planned: Planned) -> Preview:
    """What is planned of one edit."""
    return Preview(
        id=planned.edit_id,
        outcome="refuse" if planned.problem else "add" if planned.added else "unchanged",
        statement=planned.proposal.edit.statement,
        supersedes=list(planned.supersedes),
        conflicts=[against(conflict) for conflict in planned.conflicts],
        warnings=planned.warnings,
        problem=planned.problem,
    )


def disputed(record: EditRecord, conflicts: Sequence[Conflict]) -> Disputed:
    """An edit and its conflicts."""
    return Disputed(
        id=record.edit.id,
        state=record.state,
        statement=record.edit.statement,
        target=record.edit.target,
        conflicts=[against(conflict) for conflict in conflicts],
    )


def event_object(event: Event, statement: str) -> EventObject:
    """An event, without its place in the journal, which other namespaces share."""
    return EventObject(
        edit_id=event.edit_id,
        statement=statement,
        kind=event.kind,
        at=datetime.fromtimestamp(event.at, UTC),
        author=event.author,
        reason=event.reason,
        supersedes=list(event.supersedes),
        version=event.version,
    )


def explanation(
    query: str, decision: Decision, rewritten: str | list[dict[str, Any]] | None
) -> Explanation:
    """A decision, its reasons, and what it comes to."""
    return Explanation(
        query=query,
        route=decision.route,
        edits=[edit.id for edit in decision.edits],
        scope=decision.scope,
        reasons=list(decision.reasons),
        considered=[
            ConsideredObject(
                id=row.edit.id,
                statement=row.edit.statement,
                mention=row.mention,
                relation=row.relation,
                asked=row.asked,
                stated=row.stated,
                similarity=row.cosine,
                probability=row.probability,
                accepted=row.accepted,
            )
            for row in decision.considered
        ],
        timings=dict(decision.timings),
        rewritten=rewritten,
    )


def imported(report: ImportReport) -> Imported:
    """What came of an import."""
    return Imported(
        dry_run=report.dry_run,
        total=report.total,
        added=report.added,
        unchanged=report.unchanged,
        skipped=report.skipped,
        superseded=[
            LineSupersedes(line=old.line, edit_id=old.edit_id, old_id=old.old_id)
            for old in report.superseded
        ],
        warnings=report.warnings,
        errors=[LineProblem(line=bad.line, message=bad.message) for bad in report.errors],
    )


def moment(seconds: float | None) -> datetime | None:
    """A time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
