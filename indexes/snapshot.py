"""Indexes on disk, so that a million rows are there again in seconds.

A snapshot is one file: what FAISS writes of an index, arrays beside it (ids, dead rows), and at
the end a description of it all with a checksum a block. It is written beside its place, synced
and renamed, so that a crash leaves the old one or the new one; nothing in it is executed when it
is read. It is a cache: :func:`load` raises nothing, and where anything is in doubt it says why
the index has to be rebuilt from the journal.

The rows are read into main memory, which takes a second for a gigabyte: FAISS stops the process
when a row is added to an index that it has mapped from a file.

>>> save(index, path, Stamp(encoder.name, position=1_000_000))
>>> match load(path, "auto", encoder.dim, Stamp(encoder.name, position=1_000_007)):
...     case Loaded(index, position, beside): missing, stale = differences(index, active)
...     case Rebuild(reason): log.info("rebuilding the index: %s", reason)
"""

from __future__ import annotations

import contextlib
import glob
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from memedit.indexes.exact import ExactIndex
from memedit.indexes.faiss_index import FaissFlatIndex, import_faiss
from memedit.indexes.growing import AutoIndex, GrowingIndex, HeldIndex, HNSWIndex, IVFPQIndex
from memedit.indexes.hnsw import FaissHNSWIndex
from memedit.indexes.ivfpq import FaissIVFPQIndex
from memedit.protocols import Ids

FORMAT = 1
"""Number of the file format; a file of another is rebuilt."""

_MAGIC = b"memedit index\n"
_TAIL = struct.Struct(f">QI{len(_MAGIC)}s")  # length and CRC-32 of the description before it
_BLOCK = 1 << 24
_READ = 1 << 20
_ALIGN = 64
_BESIDE = "beside:"

_STORED: dict[str, Any] = {
    of.kind: of for of in (ExactIndex, FaissFlatIndex, FaissHNSWIndex, FaissIVFPQIndex)
}
_GROWING: dict[str, type[GrowingIndex]] = {
    "hnsw": HNSWIndex,
    "ivfpq": IVFPQIndex,
    "auto": AutoIndex,
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the vectors of a snapshot come from.

    Attributes:
        encoder: the name of the encoder that made them.
        position: the journal's position up to which edits are in; when loading, where the
            journal is now.
        journal: what tells the journal from others, such as a number drawn when it was made.
    """

    encoder: str
    position: int
    journal: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An index as it was saved, ready for adds and removals.

    Attributes:
        index: of the kind that was asked for.
        position: the journal's position that it was saved at.
        beside: the bytes that were saved beside it, by name.
    """

    index: HeldIndex
    position: int
    beside: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The index has to be made from the journal, and why."""

    reason: str


class _Doubt(Exception):
    """What is wrong with a file; never leaves this module."""


def save(
    index: HeldIndex,
    path: str | os.PathLike[str],
    stamp: Stamp,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a snapshot, in place of the one that is there.

    May run beside searches; adds and removals wait while rows are written (not while the disk
    takes them in) if the index is one that grows, and must not be made meanwhile if it is not.

    Args:
        index: what to write; of an index that grows, the one that answers now.
        path: where to.
        stamp: what its vectors come from.
        beside: bytes to keep in the same file, such as those of a lexicon.

    Raises:
        OSError: the file cannot be written; the one that was there is still there.
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    bytes_beside = {
        _BESIDE + name: np.frombuffer(data, np.uint8) for name, data in (beside or {}).items()
    }
    try:
        sweep(path)
        if isinstance(index, GrowingIndex):
            with index.still() as current:
                described = _write_parts(current, bytes_beside, new)
        else:
            described = _write_parts(index, bytes_beside, new)
        with new.open("r+b") as file:
            described |= {
                "format": FORMAT,
                "encoder": stamp.encoder,
                "position": stamp.position,
                "journal": stamp.journal,
                "checksums": _checksums(file),
            }
            file.seek(0, os.SEEK_END)
            description = json.dumps(described).encode()
            file.write(description)
            file.write(_TAIL.pack(len(description), zlib.crc32(description), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _sync_folder(path.parent)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        new.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], kind: str, dim: int, stamp: Stamp) -> Loaded | Rebuild:
    """The index that was saved here, if it is what it should be to the last byte.

    Args:
        path: what :func:`save` wrote.
        kind: the kind of index that is wanted.
        dim: length of the vectors.
        stamp: what it must come from; a snapshot may be behind the position, not ahead of it.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _TAIL.size:
                raise _Doubt("the file is cut off")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                description = _description(mapped)
                _compare(description, kind, dim, stamp)
                _check(mapped, description["checksums"], description["length"])
                index, beside = _read(mapped, description, dim)
    except FileNotFoundError:
        return Rebuild(f"there is no {path}")
    except _Doubt as doubt:
        return Rebuild(f"{path}: {doubt}")
    except Exception as error:  # noqa: BLE001 - whatever a strange file causes, the answer is this
        return Rebuild(f"{path}: {type(error).__name__}: {error}")
    grown = _GROWING.get(kind)
    index = index if grown is None else grown(dim, index)
    return Loaded(index, description["position"], beside)


def differences(index: HeldIndex, active: Ids) -> tuple[Ids, Ids]:
    """What a loaded index lacks of the active positions, and what it holds beyond them.

    A position's vector never changes, so adding the first and removing the second makes the
    index what it would be if it were rebuilt.

    Args:
        index: as loaded.
        active: the positions of all active edits, in any order, shape (n,).
    """
    held, active = index.ids(), np.sort(np.asarray(active, dtype=np.int64))
    if np.array_equal(held, active):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return (
        np.setdiff1d(active, held, assume_unique=True),
        np.setdiff1d(held, active, assume_unique=True),
    )


def _write_parts(
    index: HeldIndex, beside: Mapping[str, NDArray[np.uint8]], path: Path
) -> dict[str, Any]:
    """Writes what an index consists of and describes where in the file it is."""
    stored: Any = index
    structure, arrays = stored.parts()
    path.touch(mode=0o600)
    if structure is not None:
        import_faiss(stored.kind).write_index(structure, str(path))
    described: list[dict[str, Any]] = []
    with path.open("ab") as file:
        structure_bytes = file.tell()
        for name, array in (arrays | beside).items():
            file.write(bytes(-file.tell() % _ALIGN))
            array = np.ascontiguousarray(array)
            described.append(
                {
                    "name": name,
                    "dtype": array.dtype.str,
                    "shape": array.shape,
                    "at": file.tell(),
                }
            )
            file.write(array.data.cast("B") if array.size else b"")
        length = file.tell()
    return {
        "kind": stored.kind,
        "dim": stored.dim,
        "count": len(stored),
        "structure": structure_bytes,
        "arrays": described,
        "length": length,
    }


def sweep(path: Path) -> None:
    """Removes what processes that were killed while they wrote ``.NAME.PID.new`` have left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        writer = left.name.removesuffix(".new").rpartition(".")[2]
        try:
            os.kill(int(writer), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (ValueError, OSError):
            continue


def _checksums(file: BinaryIO) -> list[int]:
    file.seek(0)
    return [zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK), b"")]


def _description(mapped: mmap.mmap) -> dict[str, Any]:
    length, checksum, magic = _TAIL.unpack(mapped[-_TAIL.size :])
    if magic != _MAGIC:
        raise _Doubt("the file is cut off, or no index of memedit")
    start = len(mapped) - _TAIL.size - length
    if start < 0 or zlib.crc32(text := mapped[start : start + length]) != checksum:
        raise _Doubt("its description is damaged")
    description: dict[str, Any] = json.loads(text)
    if description["length"] != start:
        raise _Doubt(f"it has {start:,} bytes of rows and should have {description['length']:,}")
    return description


def _compare(description: dict[str, Any], kind: str, dim: int, stamp: Stamp) -> None:
    """Raises _Doubt where the snapshot is not of what is wanted."""
    grown = _GROWING.get(kind)
    kinds = (kind,) if grown is None else grown.kinds
    for what, found, wanted in (
        ("format", description["format"], (FORMAT,)),
        ("kind", description["kind"], kinds),
        ("encoder", description["encoder"], (stamp.encoder,)),
        ("dimension", description["dim"], (dim,)),
        ("journal", description["journal"], (stamp.journal,)),
    ):
        if found not in wanted:
            expected = " or ".join(map(repr, wanted))
            raise _Doubt(f"its {what} is {found!r}; expected {expected}")
    if description["position"] > stamp.position:
        raise _Doubt(
            f"it was saved at position {description['position']:,} of a journal that is at "
            f"{stamp.position:,}"
        )


def _check(mapped: mmap.mmap, checksums: list[int], length: int) -> None:
    """Raises _Doubt where a block is not as it was written."""
    if len(checksums) != -(-length // _BLOCK):
        raise _Doubt("its checksums are not those of its blocks")
    with memoryview(mapped) as view:
        for number, wanted in enumerate(checksums):
            stop = min(length, (number + 1) * _BLOCK)
            with view[number * _BLOCK : stop] as block:
                if zlib.crc32(block) != wanted:
                    raise _Doubt(f"its block {number} is damaged")


def _read(
    mapped: mmap.mmap, description: dict[str, Any], dim: int
) -> tuple[HeldIndex, dict[str, bytes]]:
    structure = None
    if description["structure"]:
        faiss = import_faiss(description["kind"])
        mapped.seek(0)
        structure = faiss.read_index(faiss.PyCallbackIOReader(mapped.read, _READ))
    arrays: dict[str, NDArray[Any]] = {}
    for part in description["arrays"]:
        dtype, shape = np.dtype(part["dtype"]), tuple(part["shape"])
        array = np.empty(shape, dtype)
        if array.size:
            # Copied out of the file: the rows outlive it, and are written to.
            array[...] = np.frombuffer(mapped, dtype, array.size, part["at"]).reshape(shape)
        arrays[part["name"]] = array
    beside = {
        name.removeprefix(_BESIDE): arrays.pop(name).tobytes()
        for name in list(arrays)
        if name.startswith(_BESIDE)
    }
    index: HeldIndex = _STORED[description["kind"]].of_parts(dim, structure, arrays)
    if len(index) != description["count"]:
        raise _Doubt(f"it holds {len(index):,} rows and should hold {description['count']:,}")
    return index, beside


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the file itself is safe by then.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
