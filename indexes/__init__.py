"""Vector indexes, one file each, behind :class:`memedit.protocols.Index`.

Import this package as ``memedit.indexes``. An index is a cache of the journal: it holds no truth
and may be dropped at any time. Scores are inner products, equal scores are ordered by the smaller
id, and what an index promises is checked in ``tests/contracts/test_index.py``. ``exact`` and
``flat`` find the very best; ``hnsw`` and ``ivfpq`` may miss one and promise all the rest; ``auto``
is flat while it is small or has a GPU, and hnsw from then on.

A new index is a file here, a line in :data:`KINDS` and the docs' line; the contract suite finds it.
"""

from __future__ import annotations

from importlib import import_module

from memedit.errors import ConfigError
from memedit.protocols import Index

KINDS = {
    "exact": "memedit.indexes.exact:ExactIndex",
    "flat": "memedit.indexes.faiss_index:FaissFlatIndex",
    "hnsw": "memedit.indexes.growing:HNSWIndex",
    "ivfpq": "memedit.indexes.growing:IVFPQIndex",
    "auto": "memedit.indexes.growing:AutoIndex",
}
"""Kinds of index and the classes that make them, imported when first asked for."""


def make_index(kind: str, dim: int) -> Index:
    """An empty index of a kind.

    Args:
        kind: a key of :data:`KINDS`.
        dim: length of the vectors, at least 1.

    Raises:
        ConfigError: there is no such kind.
        MissingDependency: the kind needs a library that is not installed.
    """
    check_kind(kind)
    module, _, name = KINDS[kind].partition(":")
    index: Index = getattr(import_module(module), name)(dim)
    return index


def check_kind(kind: str) -> None:
    """Raises ConfigError where ``kind`` is no kind of index."""
    if kind not in KINDS:
        raise ConfigError(f"there is no index {kind!r}; the kinds are {', '.join(KINDS)}")
