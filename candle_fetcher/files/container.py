"""The file of a backup: a tar that every tar program lists and unpacks, not compressed, with a head and a checksum.

The first member is the head, `candle_fetcher.json`: JSON of a fixed size, filled up with blanks. Its `sha256` covers
every byte of the file: it is the SHA-256 of the digest of all that follows the head, and of the head itself with zeros
in place of these 64 digits. So the head is written last, and read first.

The other members are values of series, `values/…` with the fields of their key as folders, each head of a page followed
by its files, `pages/…`; and documents of providers. No member's name is used as that of a file: nothing is unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple
from urllib.parse import quote, unquote

from candle_fetcher.concurrency import start_thread
from candle_fetcher.core.errors import BadFile, InputError, shown

FORMAT = "candle_fetcher cache"
VERSION = 1
HEAD_NAME = "candle_fetcher.json"
VALUES, FILES, DOCUMENTS = "values/", "pages/", "documents/"
_BLOCK = 512  # of a tar
_HEAD_BYTES = 4 * _BLOCK  # the block that names it, and its text
_NO_DIGEST = "0" * 64
_PIECES = 8  # that wait to be added up
_SMALL_BYTES = 1 << 18  # a member of less is written as one piece
_MOST_NAME_BYTES = 1 << 14
_MOST_BYTES = 1 << 28  # of a member: more than any value or file of a page
# Fields of a key that are no names of files and folders, or not everywhere.
_SPELT = {"": "-", "-": "%2D", ".": "%2E", "..": "%2E%2E"}
_MEANT = {spelt: field for field, spelt in _SPELT.items()}


class Member(NamedTuple):
    """A member of the container: its name, and its bytes."""

    name: str
    data: bytes


class _Sum(contextlib.AbstractContextManager["_Sum"]):
    """The SHA-256 of pieces, worked out by a thread beside the work of the caller, which does not change them any
    more. A block ends the thread."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._pieces: queue.Queue[bytes | memoryview | None] = queue.Queue(_PIECES)
        self._thread = start_thread("candle-sum", self._work)

    def add(self, piece: bytes | memoryview) -> None:
        """Add a piece."""
        if self._thread is None:
            self._sum.update(piece)
        else:
            self._pieces.put(piece)

    def digest(self) -> bytes:
        """Return the digest of all pieces, of which there are no more."""
        self.__exit__()
        return self._sum.digest()

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._pieces.put(None)
            thread.join()

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._sum.update(piece)


class ContainerWriter(contextlib.AbstractContextManager["ContainerWriter"]):
    """Writes a container into a file that can be sought in: members by `add`, and at last the head by `finish`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = _Sum()
        file.write(bytes(_HEAD_BYTES))
        self.bytes = _HEAD_BYTES

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Write a member."""
        rest = bytes(-len(data) % _BLOCK)
        if len(data) < _SMALL_BYTES:
            self._write(b"".join((_header(name, len(data)), data, rest)))
            return
        self._write(_header(name, len(data)))
        self._write(data)
        self._write(rest)

    def finish(self, facts: Mapping[str, object]) -> None:
        """Write the end, and the head with the facts."""
        self._write(bytes(2 * _BLOCK))
        head = {"format": FORMAT, "version": VERSION, **facts, "sha256": _NO_DIGEST}
        text = json.dumps(head, indent=1).encode()
        block = _header(HEAD_NAME, _HEAD_BYTES - _BLOCK) + text.ljust(_HEAD_BYTES - _BLOCK - 1) + b"\n"
        assert len(block) == _HEAD_BYTES
        digest = _sum_of(self._sum.digest(), block)
        self._file.seek(0)
        self._file.write(block.replace(_NO_DIGEST.encode(), digest.encode()))
        self._file.seek(0, os.SEEK_END)

    def __exit__(self, *_: object) -> None:
        self._sum.__exit__()

    def _write(self, data: bytes | memoryview) -> None:
        self._sum.add(data)
        self._file.write(data)
        self.bytes += len(data)


def read_facts(file: IO[bytes]) -> dict[str, Any]:
    """Return the head of the container.

    Raises InputError where the file is of another kind or of a newer version, BadFile where its head is damaged.
    """
    file.seek(0)
    block = file.read(_HEAD_BYTES)
    if not block:
        raise BadFile("it is empty")
    if not block.startswith(HEAD_NAME.encode() + b"\0"):
        raise InputError("it is not a backup of a cache; expected a file that cache backup wrote")
    try:
        facts = json.loads(block[_BLOCK:])
    except (ValueError, RecursionError) as error:
        raise BadFile("its head cannot be read") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or type(facts.get("version")) is not int:
        raise BadFile(f"its head is not that of a backup: {shown(facts)}")
    if facts["version"] > VERSION:
        raise InputError(
            f"it is of version {facts['version']} and was written by a newer candle_fetcher, and this one reads version"
            f" {VERSION}; upgrade candle-fetcher"
        )
    return facts


class _SummedFile:
    """Reads a file and adds up the checksum of what was read."""

    def __init__(self, file: IO[bytes], total: _Sum) -> None:
        self._file = file
        self._sum = total

    def read(self, count: int) -> bytes:
        """Return so many bytes. Raises BadFile where the file ends before."""
        data = self._file.read(count)
        if len(data) != count:
            raise BadFile("it was cut")
        self._sum.add(data)
        return data


def read_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members behind the head, one at a time.

    Raises BadFile where they are not those of a container and, after the last one, unless every byte of the file is
    what was written.
    """
    digest = str(read_facts(file).get("sha256")).encode()
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    with _Sum() as total:
        yield from _read_members(_SummedFile(file, total))
        if file.read(1):
            raise BadFile("it goes on after its end")
        body = total.digest()
    if len(digest) != len(_NO_DIGEST) or head.count(digest) != 1:
        raise BadFile("its checksum is not whole")
    if _sum_of(body, head.replace(digest, _NO_DIGEST.encode())).encode() != digest:
        raise BadFile("its bytes do not match its checksum")


def _read_members(body: _SummedFile) -> Iterator[Member]:
    name = ""
    while (block := body.read(_BLOCK)) != bytes(_BLOCK):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise BadFile("a member of it has no name") from error
        is_name = info.type == tarfile.GNUTYPE_LONGNAME
        if (not is_name and not info.isreg()) or not 0 <= info.size <= (_MOST_NAME_BYTES if is_name else _MOST_BYTES):
            raise BadFile(f"its member {shown(info.name)} is not one of a backup")
        data = body.read(info.size)
        body.read(-info.size % _BLOCK)
        if is_name:
            name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        yield Member(name or info.name, data)
        name = ""
    if name or body.read(_BLOCK) != bytes(_BLOCK):
        raise BadFile("it does not end as a backup does")


def name_of(key: str) -> str:
    """Return the name of the member with the value of that key of a series: its fields as folders."""
    return VALUES + "/".join(_SPELT.get(field, field) for field in key.split("|"))


def document_name_of(key: str) -> str:
    """Return the name of the member with the document of that key, which belongs to no series."""
    return DOCUMENTS + quote(key, safe="")


def key_of(name: str) -> str:
    """Return the key of the value or document in a member of that name."""
    if name.startswith(DOCUMENTS):
        return unquote(name.removeprefix(DOCUMENTS))
    return "|".join(_MEANT.get(field, field) for field in name.removeprefix(VALUES).split("/"))


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o600
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _sum_of(body: bytes, head: bytes) -> str:
    return hashlib.sha256(body + head).hexdigest()
