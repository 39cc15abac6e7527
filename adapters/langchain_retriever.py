"""The edits of a memory as documents of a LangChain retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, InstanceOf, PrivateAttr

from memedit.arguments import check_k
from memedit.assemble import assemble
from memedit.config import Config, load
from memedit.edits import Edit
from memedit.memory import EditMemory
from memedit.router import Router


class EditRetriever(BaseRetriever):
    """Finds the edits that a query is about, or the ones nearest to it.

    A document's text is the edit's statement. Its metadata has the edit's ``id``, ``subject``,
    ``relation`` and ``target`` (``None`` where the edit has none), the ``namespace``, and with
    ``in_scope`` the ``probability`` that the query is about the edit, in [0, 1], else as ``score``
    the cosine of query and edit, in [-1, 1]. The most probable comes first, or the nearest.

    Attributes:
        memory: an open memory; edits added to it, by whichever process, are found from then on.
        namespace: whose edits; the configuration's by default.
        k: at most so many documents, at least 1. A call may say another (``invoke(query, k=1)``).
        in_scope: whether only edits that the query is about are found, as a server would accept
            them; else the nearest ones, whatever they are about.
        config: the configuration; the environment's by default.

    Raises:
        ValueError: ``k`` is below 1, or the namespace or the configuration is malformed; pydantic's
            where the retriever is made, an InvalidInput where it is called.
        MemeditError: a part cannot be made, or the memory cannot be read.
    """

    memory: InstanceOf[EditMemory] = Field(exclude=True, repr=False)
    namespace: str = ""
    k: int = 4
    in_scope: bool = True
    config: InstanceOf[Config] | None = Field(default=None, exclude=True, repr=False)

    _settings: Config = PrivateAttr()
    _router: Router = PrivateAttr()
    _most: int = PrivateAttr(default=0)

    def model_post_init(self, context: Any, /) -> None:
        """Makes the parts that decide on scope, so that what is wrong with them is said now."""
        super().model_post_init(context)
        check_k(self.k)
        self._settings = self.config or load()
        self.namespace = self.namespace or self._settings.memory.namespace
        if self.in_scope:
            self._look_at(self.k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any = None, k: int | None = None
    ) -> list[Document]:
        k = self.k if k is None else k
        check_k(k)
        if not self.in_scope:
            found = self.memory.search(query, k, self.namespace)
            return [self._document(record.edit, {"score": score}) for record, score in found]
        if k > self._most:
            self._look_at(k)
        (decision,) = self._router.decide([query], self.namespace)
        return [
            self._document(row.edit, {"probability": row.probability})
            for row in decision.considered
            if row.accepted
        ][:k]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: Any = None, k: int | None = None
    ) -> list[Document]:
        return await asyncio.to_thread(self._get_relevant_documents, query, k=k)

    def _look_at(self, k: int) -> None:
        """Has the router accept up to ``k`` edits."""
        scope = self._settings.scope
        scope = replace(scope, candidates=max(k, scope.candidates), edits=k)
        self._router = assemble(replace(self._settings, scope=scope), self.memory).router
        self._most = k

    def _document(self, edit: Edit, found: Mapping[str, float]) -> Document:
        metadata = {
            "id": edit.id,
            "subject": edit.subject,
            "relation": edit.relation,
            "target": edit.target,
            "namespace": self.namespace,
            **found,
        }
        return Document(id=edit.id, page_content=edit.statement, metadata=metadata)
