"""The edits API: what ``memedit edits`` does, over HTTP, for those who hold a key.

``docs/api.md`` describes it for its users, ``GET /v1/edits/openapi.json`` for their programs. It is
one ASGI application, the same in the proxy, in vLLM behind ``--middleware`` and in vLLM as an
endpoint plug-in; :mod:`memedit.server.door` stands in front of it and lets in who may.

Every operation works in one namespace, the one that its :class:`~memedit.server.door.Caller` was
let in for. An edit of another namespace is answered for like one that is not there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from tempfile import TemporaryFile
from typing import Annotated, Any, BinaryIO, TypeVar, get_args

from fastapi import Body, Depends, FastAPI, Header, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

import memedit
from memedit.assemble import Parts
from memedit.config import Config
from memedit.edits import Edit, from_mapping, new_id, with_id
from memedit.errors import EditNotFound, InvalidEdit, InvalidInput, WrongState
from memedit.importing import Format, ImportReport, dry_run, import_edits, read_source
from memedit.journal import Event
from memedit.memory import proposal_of_mapping
from memedit.planning import Planned, Proposal
from memedit.prompt import ASKED, ChatPrompt, TextPrompt
from memedit.protocols import EditRecord, State
from memedit.server.api_errors import CODES, ApiError, answer_errors
from memedit.server.api_models import (
    POLICIES,
    RESERVED,
    Add,
    AddMany,
    AddQuery,
    AuditLine,
    AuditList,
    Disputed,
    DisputedList,
    EditList,
    EditObject,
    ErrorBody,
    EventList,
    EventObject,
    Explain,
    Explanation,
    Found,
    FoundList,
    GetQuery,
    HistoryQuery,
    Imported,
    ImportQuery,
    KeyObject,
    ListQuery,
    NewEdit,
    PageQuery,
    PreviewList,
    Reverted,
    Said,
    Search,
    Supersede,
    TriedPrompt,
    TriedPrompts,
    Where,
    disputed,
    edit_members,
    edit_object,
    event_object,
    explanation,
    imported,
    preview,
)
from memedit.server.audit import Audit
from memedit.server.door import CALLER, PATH, ROLE, Caller, Guard
from memedit.server.keys import Keys, Role
from memedit.server.recent import RecentPrompts
from memedit.server.trial import tried

T = TypeVar("T")

_FORMATS: Mapping[str, Format] = {
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
}
_LONGEST_ID = 64
_EXPORTED_AT_ONCE = 500


def edits_api(parts: Parts, config: Config, recent: RecentPrompts | None = None) -> Guard:
    """The edits API of a memory.

    Args:
        parts: the memory, and router and routes that explain.
        config: where the memory is, which namespace is the server's own, the longest body.
        recent: the prompts that dry runs try edits on.

    Raises:
        AccessFileError: the keys cannot be read.
    """
    keys, audit = Keys(config.memory.path), Audit(config.memory.path)
    server = config.server
    keys.all()  # what is wrong with the file is said now
    return Guard(
        _Api(parts, audit, recent or RecentPrompts(0)).app,
        keys,
        audit,
        namespace=config.memory.namespace,
        max_body=min(server.max_body, server.refuse_body or server.max_body),
    )


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


async def _spooled(request: Request) -> AsyncIterator[BinaryIO]:
    """The body on the disk: an import is read more than once, and never at once."""
    with TemporaryFile() as file:
        async for piece in request.stream():
            await run_in_threadpool(file.write, piece)
        yield file


By = Annotated[Caller, Depends(_caller)]
IfMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(description="Only if the edit's `etag` is one of these.", max_length=1000),
]
IfNoneMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(description="Only if the edit's `etag` is another.", max_length=1000),
]
IdempotencyKey = Annotated[
    str | SkipJsonSchema[None],
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="The same request again under the same key changes nothing more.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Operation:
    """A method of :class:`_Api` that answers a path: ``@_Operation.of(...)`` makes one of it.

    Attributes:
        function: the method.
        method, path: of HTTP.
        role: what a key must have.
        answer: the model of what goes well, or ``None``.
        codes: how it may be refused, besides what every operation may say.
        status: of what goes well.
        also: more of its responses, by status, as OpenAPI has them.
        extra: more of the operation, likewise.
        listed: whether the schema names it.
    """

    function: Callable[..., Any]
    method: str
    path: str
    role: Role
    answer: Any
    codes: tuple[str, ...] = ()
    status: int = 200
    also: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = True

    @classmethod
    def of(
        cls, method: str, path: str, role: Role, answer: Any, *codes: str, **more: Any
    ) -> Callable[[Callable[..., Any]], _Operation]:
        """A decorator; its arguments are the attributes."""
        return lambda function: cls(function, method, path, role, answer, codes, **more)

    def responses(self) -> dict[int | str, dict[str, Any]]:
        """All that it may answer, as FastAPI takes it."""
        found: dict[int | str, dict[str, Any]] = {n: dict(said) for n, said in self.also.items()}
        common = ["invalid_request", "invalid_api_key", "not_permitted", "memory_unavailable"]
        common += ["body_too_large"] if self.method == "POST" else []
        for code in (*common, *self.codes):
            status, meaning = CODES[code]
            said = found.setdefault(status, {"model": ErrorBody, "description": ""})
            before = f"{said['description']}; " if said["description"] else ""
            said["description"] = f"{before}`{code}`: {meaning}"
        return found


def _bodies(*forms: Format) -> dict[str, Any]:
    kinds = [kind for kind, form in _FORMATS.items() if form in forms and "x-" not in kind]
    return {kind: {"schema": {"type": "string"}} for kind in kinds}


def _with_headers(*names: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}} for name in names}}


_ONE = f"{PATH}/{{edit_id}}"
_CHANGING = ("edit_not_found", "wrong_state", "edit_changed")
_TAGGED = _with_headers("ETag")
_MADE = _with_headers("ETag", "Location")


class _Api:
    """The operations. Those without ``async`` run on a thread each: the memory may block."""

    def __init__(self, parts: Parts, audit: Audit, recent: RecentPrompts) -> None:
        self._memory = parts.memory
        self._parts = parts
        self._audit = audit
        self._recent = recent
        self.app = FastAPI(
            title="memedit edits",
            version=memedit.__version__,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            generate_unique_id_function=lambda route: route.name,
        )
        self.app.openapi = self._schema  # type: ignore[method-assign]
        answer_errors(self.app)
        found = [f for f in vars(_Api).values() if isinstance(f, _Operation)]
        # "search" is a path of its own before it can be an edit's id.
        for one in sorted(found, key=lambda one: "{" in one.path):
            self.app.add_api_route(
                one.path,
                one.function.__get__(self),
                methods=[one.method],
                name=one.function.__name__.rstrip("_"),
                response_model=one.answer,
                status_code=one.status,
                responses=one.responses(),
                openapi_extra={ROLE: one.role, **one.extra},
                include_in_schema=one.listed,
            )

    # looking

    @_Operation.of("GET", PATH, "read", EditList, "invalid_cursor")
    def list_(self, by: By, query: Annotated[ListQuery, Query()]) -> EditList:
        """Edits of the namespace, page by page."""
        states = [known for known in get_args(State) if {known, "all"} & set(query.state)]
        filters = query.model_dump(exclude={"namespace", "limit", "cursor"})
        records = self._memory.records(by.namespace, states, as_of=query.as_of)
        if query.order == "desc":
            records.reverse()
        digest = _digest(by.namespace, "edits", filters)
        found = filter(_matches(query.subject, query.text), self._after(records, query, by, digest))
        page, more = _page(found, query.limit)
        return EditList(
            data=[edit_object(record) for record in page],
            has_more=more,
            next_cursor=_cursor(digest, page[-1].edit.id) if more else None,
        )

    @_Operation.of(
        "GET",
        _ONE,
        "read",
        EditObject,
        "edit_not_found",
        also={200: _TAGGED, 304: {"description": "The edit is as `If-None-Match` says"}},
    )
    def get(
        self,
        by: By,
        edit_id: str,
        query: Annotated[GetQuery, Query()],
        response: Response,
        if_none_match: IfNoneMatch = None,
    ) -> Any:
        """One edit, in whatever state."""
        found = edit_object(self._get(by, edit_id, query.as_of))
        headers = {"etag": found.etag, "cache-control": "private, no-cache"}
        if if_none_match is not None and _is_among(found.etag, if_none_match, weak=True):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return found

    @_Operation.of("POST", f"{PATH}/search", "read", FoundList)
    def search(self, by: By, query: Annotated[Where, Query()], body: Search) -> FoundList:
        """The edits in force closest in meaning to a text."""
        found = self._memory.search(body.query, body.limit, by.namespace, as_of=body.as_of)
        return FoundList(
            data=[
                Found(**edit_members(record), score=score)
                for record, score in found
                if score >= body.min_score
            ]
        )

    @_Operation.of("POST", f"{PATH}/explain", "read", Explanation)
    def explain(self, by: By, query: Annotated[Where, Query()], body: Explain) -> Explanation:
        """What would happen to a prompt, and why; no model is asked."""
        if (body.prompt is None) == (body.messages is None):
            raise ApiError("invalid_request", "give either prompt or messages", param="prompt")
        asked: ChatPrompt | TextPrompt
        if body.messages is not None:
            asked = ChatPrompt(tuple(body.messages))
        else:
            asked = TextPrompt(body.prompt or "")
        (decision,) = self._parts.router.decide([asked.in_context], by.namespace)
        rewritten = None
        if decision.edits:
            first = self._parts.routes[decision.route].rewrites(asked, decision.edits)[0]
            rewritten = first.text if isinstance(first, TextPrompt) else list(first.messages)
        return explanation(asked.query, decision, rewritten)

    @_Operation.of("GET", f"{PATH}/history", "read", EventList, "invalid_cursor")
    def history(self, by: By, query: Annotated[HistoryQuery, Query()]) -> EventList:
        """What happened to the namespace's edits, page by page."""
        digest = _digest(by.namespace, "history", query.order)
        if query.order == "desc":
            return self._newest(by, query, digest)
        start = _start(query.cursor, digest)
        events = self._memory.events(by.namespace, start, query.limit + 1)
        page, more = _page(iter(events), query.limit)
        return EventList(
            data=self._told(page),
            has_more=more,
            next_cursor=_cursor(digest, start + len(page)) if more else None,
        )

    def _newest(self, by: Caller, query: HistoryQuery, digest: str) -> EventList:
        """A page of what happened, the newest first; the cursor says how many came before it."""
        count = self._memory.count_events(by.namespace)
        end = count if query.cursor is None else min(_start(query.cursor, digest), count)
        start = max(0, end - query.limit)
        events = self._memory.events(by.namespace, start, end - start)
        return EventList(
            data=self._told(events[::-1]),
            has_more=start > 0,
            next_cursor=_cursor(digest, start) if start else None,
        )

    @_Operation.of("GET", f"{_ONE}/history", "read", EventList, "edit_not_found")
    def history_of(self, by: By, edit_id: str, query: Annotated[Where, Query()]) -> EventList:
        """What happened to one edit, the oldest first."""
        record = self._get(by, edit_id)
        events = self._memory.history(record.edit.id)
        return EventList(data=[event_object(event, record.edit.statement) for event in events])

    @_Operation.of("GET", f"{PATH}/conflicts", "read", DisputedList, "invalid_cursor")
    def conflicts(self, by: By, query: Annotated[PageQuery, Query()]) -> DisputedList:
        """Edits that were added to stand beside others of their fact, with those others."""
        digest = _digest(by.namespace, "conflicts")
        records = self._memory.disputed(by.namespace)
        page, more = _page(self._after(records, query, by, digest), query.limit)
        return DisputedList(
            data=[disputed(record, self._memory.conflicts(record.edit.id)) for record in page],
            has_more=more,
            next_cursor=_cursor(digest, page[-1].edit.id) if more else None,
        )

    @_Operation.of("GET", f"{_ONE}/conflicts", "read", Disputed, "edit_not_found")
    def conflicts_of(self, by: By, edit_id: str, query: Annotated[Where, Query()]) -> Disputed:
        """The live edits that answer an edit's fact otherwise."""
        record = self._get(by, edit_id)
        return disputed(record, self._memory.conflicts(record.edit.id))

    @_Operation.of("GET", f"{PATH}/export", "read", None, also={200: {"content": _bodies("jsonl")}})
    def export(self, by: By, query: Annotated[Where, Query()]) -> StreamingResponse:
        """The edits in force as JSON Lines, which import takes."""
        lines = self._memory.export_jsonl(by.namespace)
        return StreamingResponse(_pieces(lines), media_type="application/jsonl")

    @_Operation.of("GET", f"{PATH}/audit", "admin", AuditList, "invalid_cursor")
    def audit(self, by: By, query: Annotated[PageQuery, Query()]) -> AuditList:
        """Who changed what in the namespace, the oldest first."""
        digest = _digest(by.namespace, "audit")
        start = _start(query.cursor, digest)
        lines = (line for at, line in enumerate(self._audit.lines(by.namespace)) if at >= start)
        page, more = _page(lines, query.limit)
        return AuditList(
            data=[AuditLine(**line) for line in page],
            has_more=more,
            next_cursor=_cursor(digest, start + len(page)) if more else None,
        )

    @_Operation.of("GET", f"{PATH}/key", "read", KeyObject)
    def key(self, by: By, query: Annotated[Where, Query()]) -> KeyObject:
        """What the key that came along may do."""
        known = by.key.namespaces or sorted({by.namespace, *self._memory.namespaces()})
        return KeyObject(
            id=by.key.id,
            name=by.key.name,
            role=by.key.role,
            namespace=by.namespace,
            namespaces=list(known),
            all_namespaces=not by.key.namespaces,
        )

    @_Operation.of("GET", f"{PATH}/openapi.json", "read", None, listed=False)
    def openapi(self, query: Annotated[Where, Query()]) -> Response:
        """This API's OpenAPI schema."""
        return Response(json.dumps(self._schema()), media_type="application/json")

    # changing

    @_Operation.of(
        "POST",
        PATH,
        "write",
        EditObject | EditList | PreviewList,
        "edit_conflict",
        "idempotency_key_reused",
        status=201,
        also={200: {"model": PreviewList}, 201: _MADE},
    )
    def add(
        self,
        by: By,
        body: Annotated[Add, Body()],
        query: Annotated[AddQuery, Query()],
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> Any:
        """Adds one edit, or several: all of them or none."""
        policy, now = POLICIES[body.policy], time.time()
        many = isinstance(body, AddMany)
        given = body.edits if isinstance(body, AddMany) else [body]
        proposals = [
            self._proposal(
                by, one, idempotency_key, number, f"edits.{number}: " if many else "", now
            )
            for number, one in enumerate(given)
        ]
        if query.dry_run:
            response.status_code = 200
            planned = self._memory.preview(proposals, by.namespace, policy)
            return PreviewList(
                data=[preview(one) for one in planned], recent=self._tried(by, planned)
            )
        with self._audit.change(
            "add", key=by.key, namespace=by.namespace, request=by.request
        ) as to:
            records = self._memory.add_timed(
                proposals,
                namespace=by.namespace,
                author=_author(by, body),
                reason=body.reason,
                on_conflict=policy,
                idempotency_key=_mark(by, idempotency_key),
            )
            to.edits = [
                record.edit.id
                for record, proposal in zip(records, proposals, strict=True)
                if record.edit.id == proposal.edit.id
            ]
        made = [edit_object(record) for record in records]
        if many:
            return EditList(data=made)
        _locate(response, made[0])
        return made[0]

    @_Operation.of(
        "POST",
        f"{_ONE}/supersede",
        "write",
        EditObject,
        *_CHANGING,
        "idempotency_key_reused",
        status=201,
        also={201: _MADE},
    )
    def supersede(
        self,
        by: By,
        edit_id: str,
        body: Supersede,
        query: Annotated[Where, Query()],
        response: Response,
        if_match: IfMatch = None,
        idempotency_key: IdempotencyKey = None,
    ) -> EditObject:
        """Adds an edit in the place of another, with what is given changed."""
        old = self._seen(by, edit_id, if_match)
        edit = with_id(_revised(old.edit, body), _id_for(by, idempotency_key, 0))
        with self._audit.change(
            "supersede", key=by.key, namespace=by.namespace, request=by.request
        ) as to:
            record = self._memory.supersede(
                old,
                edit,
                author=_author(by, body),
                reason=body.reason,
                valid_from=body.valid_from,
                expires_at=body.expires_at,
                idempotency_key=_mark(by, idempotency_key),
            )
            if record.edit.id == old.edit.id:
                raise WrongState(f"edit {edit_id} says all this already; nothing was added")
            to.edits = [record.edit.id, old.edit.id]
        made = edit_object(record)
        _locate(response, made)
        return made

    @_Operation.of("POST", f"{_ONE}/revert", "write", Reverted, *_CHANGING, also={200: _TAGGED})
    def revert(
        self,
        by: By,
        edit_id: str,
        query: Annotated[Where, Query()],
        response: Response,
        body: Said | None = None,
        if_match: IfMatch = None,
    ) -> Reverted:
        """Undoes an edit: what it had replaced answers again."""
        record = self._change(by, "revert", edit_id, body or Said(), if_match)
        back = [old for old in record.supersedes if self._memory.get(old).state == "active"]
        made = Reverted(**edit_members(record), active_again=back)
        response.headers["etag"] = made.etag
        return made

    @_Operation.of("POST", f"{_ONE}/restore", "write", EditObject, *_CHANGING, also={200: _TAGGED})
    def restore(
        self,
        by: By,
        edit_id: str,
        query: Annotated[Where, Query()],
        response: Response,
        body: Said | None = None,
        if_match: IfMatch = None,
    ) -> EditObject:
        """Undoes a revert: the edit is back in its place."""
        made = edit_object(self._change(by, "restore", edit_id, body or Said(), if_match))
        response.headers["etag"] = made.etag
        return made

    @_Operation.of(
        "POST",
        f"{PATH}/import",
        "write",
        Imported,
        "edit_conflict",
        "unsupported_media_type",
        extra={"requestBody": {"required": True, "content": _bodies("jsonl", "csv")}},
    )
    def import_(
        self,
        by: By,
        file: Annotated[BinaryIO, Depends(_spooled)],
        query: Annotated[ImportQuery, Query()],
        request: Request,
    ) -> Imported:
        """Adds the edits of JSON Lines or CSV, and says what became of every line."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _FORMATS:
            raise ApiError(
                "unsupported_media_type", f"an import is sent as {' or '.join(_FORMATS)}"
            )
        source = read_source(
            file, _FORMATS[kind], time.time(), lambda given: _admitted(by, given, query.ids)
        )
        policy = POLICIES[query.policy]
        if query.dry_run:
            return imported(
                dry_run(
                    self._memory,
                    source,
                    namespace=by.namespace,
                    on_conflict=policy,
                    again=query.again,
                )
            )
        if source.errors and not query.skip_bad:
            lines = [{"line": bad.line, "message": bad.message} for bad in source.errors]
            raise ApiError(
                "invalid_edit",
                f"{len(lines):,} of {source.total:,} lines are bad, and nothing was added; "
                "put them right, or leave them out with skip_bad=true",
                more={"lines": lines},
            )
        report = ImportReport()
        with self._audit.change(
            "import", key=by.key, namespace=by.namespace, request=by.request
        ) as to:
            for report in import_edits(
                self._memory,
                source,
                namespace=by.namespace,
                author=query.author if query.author is not None else by.key.name,
                reason=query.reason,
                on_conflict=policy,
                skip_bad=query.skip_bad,
                again=query.again,
            ):
                to.edits = report.ids
        return imported(report)

    # what they share

    def _get(self, by: Caller, edit_id: str, as_of: str | None = None) -> EditRecord:
        """An edit of the caller's namespace."""
        record = None
        if as_of is None:
            record = self._memory.find(edit_id)
        else:
            with contextlib.suppress(EditNotFound):
                record = self._memory.get(edit_id, as_of=as_of)
        if record is not None and record.namespace == by.namespace:
            return record
        raise ApiError(
            "edit_not_found",
            f"there is no edit {edit_id[:_LONGEST_ID]!r} in the namespace {by.namespace}"
            f"{' at that time' if as_of else ''}; GET {PATH} lists those there are",
        )

    def _seen(self, by: Caller, edit_id: str, if_match: str | None) -> EditRecord:
        """An edit of the caller's namespace, which is as the caller believes."""
        record = self._get(by, edit_id)
        if if_match is not None and not _is_among(edit_object(record).etag, if_match):
            raise ApiError(
                "edit_changed",
                f"edit {edit_id} is {record.state} now and not as If-Match says; GET it again and "
                "decide anew",
            )
        return record

    def _change(
        self, by: Caller, action: Any, edit_id: str, body: Said, if_match: str | None
    ) -> EditRecord:
        """Reverts or restores."""
        record = self._seen(by, edit_id, if_match)
        change = self._memory.revert if action == "revert" else self._memory.restore
        with self._audit.change(
            action, key=by.key, namespace=by.namespace, request=by.request
        ) as to:
            to.edits = [edit_id]
            return change(
                edit_id,
                author=_author(by, body),
                reason=body.reason,
                seen=None if if_match is None else record,
            )

    def _tried(self, by: Caller, planned: Sequence[Planned]) -> TriedPrompts | None:
        """What the edits that are planned would change of the namespace's recent prompts."""
        if not self._recent.most:
            return None
        recent = self._recent.of(by.namespace)
        found = tried(self._parts, planned, [prompt for prompt, _ in recent], by.namespace)
        return TriedPrompts(
            tried=len(recent),
            changed=[
                TriedPrompt(
                    prompt=recent[one.prompt][0].rpartition(ASKED)[2],
                    times=recent[one.prompt][1],
                    before=list(one.before),
                    after=list(one.after),
                )
                for one in found
            ],
        )

    def _told(self, events: Sequence[Event]) -> list[EventObject]:
        """Events with what their edits say."""
        return [event_object(e, self._memory.get(e.edit_id).edit.statement) for e in events]

    def _proposal(
        self, by: Caller, one: NewEdit, key: str | None, number: int, where: str, now: float
    ) -> Proposal:
        given = one.model_dump(include=set(NewEdit.model_fields), exclude_none=True)
        try:
            if one.id is not None:
                _check_id(by, one.id)
            given.setdefault("id", _id_for(by, key, number))
            return replace(proposal_of_mapping(given, where, now), where=where)
        except InvalidInput as error:
            raise InvalidEdit(f"{where}{error}") from error

    def _after(
        self, records: Sequence[EditRecord], query: PageQuery, by: Caller, digest: str
    ) -> Iterator[EditRecord]:
        """Those of the records, in their order, that come after the one that the cursor names."""
        if query.cursor is None:
            return iter(records)
        last = _read_cursor(query.cursor, digest)
        try:
            place = self._get(by, str(last)).position
        except ApiError as error:
            raise _wrong_cursor() from error
        backward = isinstance(query, ListQuery) and query.order == "desc"
        return (r for r in records if (r.position < place if backward else r.position > place))

    def _schema(self) -> dict[str, Any]:
        if self.app.openapi_schema is None:
            schema = get_openapi(
                title=self.app.title,
                version=self.app.version,
                openapi_version="3.1.0",
                summary="What a served model should answer with, and who said so.",
                description=f"Each operation names under `{ROLE}` the role that it needs. All work "
                "in one namespace: that of the header `X-Memedit-Namespace` or the query "
                "parameter `namespace`, which have to agree.",
                routes=self.app.routes,
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    # What FastAPI says of itself; here a malformed request is a 400.
                    said = operation["responses"].get("422", {})
                    if "HTTPValidationError" in json.dumps(said):
                        del operation["responses"]["422"]
            parts = schema["components"]
            for name in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(name, None)
            parts["securitySchemes"] = {
                "header": {"type": "apiKey", "in": "header", "name": "X-Memedit-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            }
            schema["security"] = [{name: []} for name in parts["securitySchemes"]]
            self.app.openapi_schema = schema
        return self.app.openapi_schema


def _author(by: Caller, body: Said) -> str:
    return by.key.name if body.author is None else body.author


def _mark(by: Caller, idempotency_key: str | None) -> str | None:
    """The name under which a call is remembered: each admin key has names of its own."""
    return None if idempotency_key is None else f"{by.key.id}:{idempotency_key}"


def _id_for(by: Caller, idempotency_key: str | None, number: int) -> str:
    """The id of a new edit: the same for the same call again, so that its answer is, too."""
    if idempotency_key is None:
        return new_id()
    name = json.dumps([by.namespace, _mark(by, idempotency_key), number])
    return f"ed-{blake2b(name.encode(), digest_size=8).hexdigest()}"


def _admitted(by: Caller, given: Proposal, ids: str) -> Proposal | str:
    """An imported edit with the id that it may have here, or what is wrong with its own."""
    if ids == "new" or (by.key.namespaces and not _is_within(by, given.edit.id)):
        return replace(given, edit=with_id(given.edit, new_id()))
    try:
        _check_id(by, given.edit.id)
    except InvalidEdit as error:
        return str(error)
    return given


def _is_within(by: Caller, edit_id: str) -> bool:
    return edit_id.startswith(f"{by.namespace}:")


def _check_id(by: Caller, edit_id: str) -> None:
    """Refuses ids that an edit cannot have here.

    Ids are unique in a whole memory. Were one free to choose them, one could find out which ids
    there are in namespaces that one's key does not grant.
    """
    if edit_id in RESERVED:
        raise InvalidEdit(f"the id {edit_id!r} is a path of this API; choose another")
    if by.key.namespaces and not _is_within(by, edit_id):
        raise InvalidEdit(
            f"the id {edit_id!r} does not begin with '{by.namespace}:', as ids do that a key "
            "chooses which is bound to namespaces; leave it out to get a fresh one"
        )


def _revised(old: Edit, body: Supersede) -> Edit:
    """An edit with what is given changed."""
    changes = body.model_dump(
        include={"target", "statement", "aliases", "source"}, exclude_none=True
    )
    if not changes:
        raise ApiError(
            "invalid_request", "nothing is changed; give target, statement, aliases or source"
        )
    given = old.to_mapping() | changes
    del given["id"]
    if "statement" not in changes and "target" in changes:
        del given["statement"]  # it says the old answer
        if old.key == old.statement:
            raise InvalidEdit(
                f"edit {old.id} is a sentence, of which the answer cannot be told apart; give the "
                "new statement"
            )
    elif "statement" in changes and old.key == old.statement:
        given = {"statement": body.statement, "source": given.get("source")}
    return from_mapping(given)


def _locate(response: Response, made: EditObject) -> None:
    response.headers["etag"] = made.etag
    response.headers["location"] = f"{PATH}/{made.id}"


def _is_among(etag: str, header: str, *, weak: bool = False) -> bool:
    """Whether a list of entity tags (RFC 9110, section 13.1) names this one, or any by ``*``."""
    tags = [tag.strip() for tag in header.split(",")]
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or etag in tags


def _matches(subject: str | None, text: str | None) -> Callable[[EditRecord], bool]:
    name = None if subject is None else subject.casefold()
    part = None if text is None else text.casefold()

    def matches(record: EditRecord) -> bool:
        edit = record.edit
        if name is not None and name not in (known.casefold() for known in edit.names):
            return False
        if part is None:
            return True
        texts = (
            *(edit.statement, edit.prompt, edit.target, edit.question, edit.relation, edit.source),
            *(*edit.names, edit.old_target, record.author, record.reason),
        )
        return any(part in known.casefold() for known in texts if known)

    return matches


def _page(found: Iterator[T], limit: int) -> tuple[list[T], bool]:
    """The first of these, and whether there are more."""
    some = list(islice(found, limit + 1))
    return some[:limit], len(some) > limit


def _digest(*parts: Any) -> str:
    """Of what a list is of, so that a cursor is not used for another."""
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()


def _cursor(digest: str, place: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, place]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, digest: str) -> str | int:
    """The place that a cursor of this list names."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        said, place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise _wrong_cursor() from error
    if said != digest or not isinstance(place, str | int):
        raise _wrong_cursor()
    return place


def _start(cursor: str | None, digest: str) -> int:
    place = 0 if cursor is None else _read_cursor(cursor, digest)
    if not isinstance(place, int) or not 0 <= place < 2**62:
        raise _wrong_cursor()
    return place


def _wrong_cursor() -> ApiError:
    return ApiError(
        "invalid_cursor",
        "the cursor is not one of this list's; begin without one, and then send next_cursor with "
        "the same parameters",
        param="cursor",
    )


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    """Lines in pieces of some kilobytes: a thread is asked for each piece."""
    some: list[str] = []
    for line in lines:
        some.append(f"{line}\n")
        if len(some) == _EXPORTED_AT_ONCE:
            yield "".join(some).encode()
            some.clear()
    yield "".join(some).encode()
