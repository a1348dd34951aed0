"""Where a vault lies: its document, the files of its series, and the locks of its writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from candle_fetcher.vault.databases import is_url
from candle_fetcher.vault.files import Files, sync_folder
from candle_fetcher.vault.locks import SeriesLocks
from candle_fetcher.vault.opening import (
    Options,
    check_unused,
    load_document,
    make_files,
    new_document,
    open_folder,
    save_document,
)
from candle_fetcher.vault.sql import open_sql
from candle_fetcher.vault.state import Entry, VaultDocument
from candle_fetcher.vault.trees import FolderTree
from candle_fetcher.vault.urls import check_options, is_file_url, local_folder, open_url

_DOCUMENT_LOCK = "vault.json"


class Home(Protocol):
    """The place of one vault. `str()` shows it in messages, without a password. Threads share it."""

    def load(self) -> VaultDocument | None:
        """Return the document of the vault; None where there is none. Raises BadFile where it is damaged."""

    def change(self, change: Callable[[VaultDocument], VaultDocument]) -> VaultDocument:
        """Change the document, alone among all writers, and return what it says then; a new one is of the options."""

    def files(self, document: VaultDocument, entry: Entry) -> Files:
        """Return the files of a series."""

    def try_acquire(self, name: str) -> bool:
        """Lock a series without waiting. Return False where another writer has it."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Hold a series for a block, once no other writer does."""

    def release(self, name: str) -> None:
        """Unlock the series, if this object has locked it."""

    def settle(self) -> None:
        """Make what was written last beyond a power cut, as far as files and transactions did not already."""

    def close(self) -> None:
        """Release all locks, and leave nothing open. A second call does nothing."""


def open_home(where: str | os.PathLike[str], options: Options) -> Home:
    """Return the place of a vault. Raises InputError for what is none."""
    if is_url(where):
        return open_sql(os.fspath(where), options)
    if isinstance(where, str) and is_file_url(where):
        folder = local_folder(where)
        return open_url(where, options) if folder is None else FolderHome(folder, check_options(options, where))
    return FolderHome(open_folder(where), options)


class FolderHome:
    """A folder with the vault's document, files and a lock file."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder, self._options = folder, options
        locks = SeriesLocks(folder)
        self.try_acquire, self.hold, self.release, self.close = (
            locks.try_acquire,
            locks.hold,
            locks.release,
            locks.close,
        )

    def __str__(self) -> str:
        return str(self._folder)

    def load(self) -> VaultDocument | None:
        """Return what the document says."""
        return load_document(self._folder)

    def change(self, change: Callable[[VaultDocument], VaultDocument]) -> VaultDocument:
        """Change the document."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.hold(_DOCUMENT_LOCK):
            before = load_document(self._folder)
            if before is None:
                check_unused(FolderTree(self._folder), new_document(self._options).format)
            after = change(before or new_document(self._options))
            if after != before:
                save_document(self._folder, after)
            return after

    def files(self, document: VaultDocument, entry: Entry) -> Files:
        """Return the files of a series, in the vault's format."""
        return make_files(document, self._folder, entry)

    def settle(self) -> None:
        """Make renames lasting."""
        if self._folder.is_dir():
            sync_folder(self._folder)
