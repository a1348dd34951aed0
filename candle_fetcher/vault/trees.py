"""Where a vault of months keeps its files, by names such as `candles/provider=binance/…/2024-01.parquet`: in a folder.

`vault/urls.py` has the same for URLs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from candle_fetcher.core.checksum import find_crc32
from candle_fetcher.vault.files import replace_document, sync_folder
from candle_fetcher.vault.state import TAIL_BYTES

_BLOCK = 1 << 20
_crc32 = find_crc32()


class Listed(NamedTuple):
    """A file as a list of its folder shows it: its bytes, and a mark that another file in its place does not have."""

    size: int
    mark: str


class Sums(NamedTuple):
    """The bytes of a file, its checksum, and that of its end."""

    bytes: int
    check: int
    tail: int


class Tree(Protocol):
    """Files by their names. Calls raise OSError for what cannot be read or written, and FileNotFoundError for what is
    not there, where they do not say otherwise."""

    def place(self, name: str) -> Path | str:
        """Return where the file or folder lies, for other programs and for messages."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file."""

    def source(self, name: str) -> Path | IO[bytes]:
        """Return what the file is read from."""

    def sums(self, name: str) -> Sums:
        """Return the sums of a file, which is read to its end."""

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""

    def listing(self, folder: str) -> dict[str, Listed]:
        """Return the files in a folder, without those in folders of it; {} where it is not there."""

    def is_empty(self, folder: str) -> bool:
        """Return whether there is nothing in the folder, or no such folder."""

    def write(self, name: str, fill: Callable[[IO[bytes]], object]) -> Sums:
        """Write a file, and return its sums. It is complete on the disk afterwards."""

    def replace(self, name: str, data: bytes) -> None:
        """Put a small file in the place of another one, in one step."""

    def move(self, name: str, target: str) -> None:
        """Put a file in the place of another one, in one step; then its own name is gone."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def prune(self, folder: str) -> None:
        """Remove the folder, and those above it, as far as they are empty."""


class FolderTree:
    """Files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, name: str) -> Path:
        """Return the path."""
        return self._root / name

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file."""
        return (self._root / name).read_bytes()

    def source(self, name: str) -> Path:
        """Return the path."""
        return self._root / name

    def sums(self, name: str) -> Sums:
        """Return the sums of a file."""
        with (self._root / name).open("rb") as file:
            return sums_of(iter(lambda: file.read(_BLOCK), b""))

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""
        return (self._root / name).exists()

    def listing(self, folder: str) -> dict[str, Listed]:
        """Return the files in a folder."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file():
                        said = os.stat(entry.path)  # noqa: PTH116 - on Windows an entry's own stat has no st_ino
                        found[entry.name] = Listed(said.st_size, f"{said.st_ino} {said.st_mtime_ns}")
        return found

    def is_empty(self, folder: str) -> bool:
        """Return whether there is nothing in the folder."""
        path = self._root / folder
        return not path.is_dir() or next(path.iterdir(), None) is None

    def write(self, name: str, fill: Callable[[IO[bytes]], object]) -> Sums:
        """Write a file and sync it."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        return self.sums(name)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a small file by one rename, which lasts beyond a power cut."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_document(path, data)
        sync_folder(path.parent)

    def move(self, name: str, target: str) -> None:
        """Move a file by one rename."""
        path = self._root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        (self._root / name).replace(path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._root / name).unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        """Remove folders that are empty."""
        path = self._root / folder
        with contextlib.suppress(OSError):
            while path != self._root:
                path.rmdir()
                path = path.parent


def sums_of(blocks: Iterable[bytes]) -> Sums:
    """Return the sums of the blocks, one after the other."""
    size = check = 0
    end = b""
    for block in blocks:
        size, check = size + len(block), _crc32(block, check)
        end = (end + block)[-TAIL_BYTES:]
    return Sums(size, check, _crc32(end))
