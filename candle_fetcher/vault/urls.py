"""A vault of Parquet files at a URL that fsspec opens, such as `s3://bucket/candles` or `memory://candles`.

An object store puts a file in the place of another one in one step, and has no rename. So the step that counts is the
put of a series' state: months are put under new names before it, and copied to their places after it. A cut update
leaves the old state or the new one, and files that the next update moves or removes. There are no locks between
processes: one update at a time is the user's part, and what another one changed meanwhile is an error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from candle_fetcher.core.errors import BadFile, InputError, MissingExtra
from candle_fetcher.files.columnar import need_pyarrow
from candle_fetcher.vault.databases import SCHEMES, is_url
from candle_fetcher.vault.files import Files
from candle_fetcher.vault.locks import Holding
from candle_fetcher.vault.opening import Options, check_unused, document_name, make_months, new_document
from candle_fetcher.vault.state import Entry, VaultDocument
from candle_fetcher.vault.trees import Listed, Sums, sums_of

_FORMAT = "parquet"
_NAME = document_name(_FORMAT)
_LOCAL = ("file", "local")
# What file systems say of a file that is another one after each write.
_MARKS = ("size", "ETag", "etag", "md5Hash", "content_md5", "checksum", "crc32c", "generation", "version")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created", "ino")
_OF_DATABASES = re.compile(r"\w+\+\w+://|(postgres|mysql|mariadb|oracle|mssql)://")
_held: dict[tuple[str, str], object] = {}
_turn = threading.Lock()


def is_file_url(where: str) -> bool:
    """Return whether a place is written as a URL, and is none of a database."""
    return ("://" in where or "::" in where) and not is_url(where)


def local_folder(url: str) -> Path | None:
    """Return the folder that a URL such as file:///data/vault names; None for another URL."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _LOCAL or "::" in url:
        return None
    return Path(url2pathname(urlsplit(url).path if rest.startswith("/") else rest))


def check_options(options: Options, url: str) -> Options:
    """Return the options, of Parquet. Raises InputError for another format."""
    if options.format not in (None, _FORMAT):
        raise InputError(f"{_masked(url)} is a URL, where a vault has Parquet files; expected format={_FORMAT!r}")
    if options.csv:
        raise InputError(f"{next(iter(options.csv))} is of CSVs, and a vault at a URL has Parquet files; leave it out")
    need_pyarrow("a vault of parquet")
    return options._replace(format=_FORMAT)


def open_url(url: str, options: Options) -> UrlHome:
    """Return the place of a vault. Raises InputError for a scheme that is not known, MissingExtra where a package is
    not installed that opens it."""
    if _OF_DATABASES.match(url):
        raise _unknown(url, "that database is not supported")
    options = check_options(options, url)
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("fsspec", f"a vault at {_masked(url)}") from None
    try:
        system, root = fsspec.core.url_to_fs(url.rstrip("/") if url.rstrip("/")[-1:] not in (":", "") else url)
    except ImportError as error:
        raise MissingExtra(_package_of(url, error), f"a vault at {_masked(url)}", is_package=True) from error
    except (ValueError, TypeError) as error:
        raise _unknown(url, str(error)) from error
    return UrlHome(UrlTree(system, str(root).rstrip("/"), _masked(url).rstrip("/")), options)


def _unknown(url: str, reason: str) -> InputError:
    scheme = url.partition("://")[0]  # alone: the rest may have a password in it
    databases = ", ".join(f"{one}://" for one in SCHEMES)
    return InputError(
        f"{scheme}://… is a URL at which no vault is kept ({_masked(reason)}); expected a folder, a URL such as "
        f"s3://bucket/candles, or one that begins with {databases}"
    )


def _package_of(url: str, error: ImportError) -> str:
    """Return the package that is missing: as the error names it, or the one that has the scheme's file system."""
    from fsspec.registry import known_implementations

    if error.__cause__ is not None and getattr(error.__cause__, "name", None):
        name = str(error.__cause__.name)  # type: ignore[attr-defined]
    else:
        scheme = url.rpartition("::")[2].partition("://")[0]
        name = error.name or str(known_implementations.get(scheme, {}).get("class", scheme))
    return name.partition(".")[0]


def _masked(url: str) -> str:
    """Return the text without names and passwords before a host."""
    return re.sub(r"//[^/@\s]*@", "//***@", url)


@contextlib.contextmanager
def _as_os_error(place: str) -> Iterator[None]:
    """Raise what the file system raises as an OSError."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", place) from None
    except OSError:
        raise
    except Exception as error:  # each service has errors of its own
        said = _masked(str(error))[:300]
        raise OSError(errno.EIO, f"{type(error).__name__}: {said}", place) from error


class UrlTree:
    """Files at a URL."""

    def __init__(self, system: Any, root: str, url: str) -> None:
        self._system, self._root, self._url = system, root, url

    def __str__(self) -> str:
        return self._url

    @property
    def key(self) -> str:
        """What tells the place from others in this process."""
        return f"{hash(self._system)} {self._root}"

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def place(self, name: str) -> str:
        """Return the URL."""
        return f"{self._url}/{name}"

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        with _as_os_error(self.place(name)):
            self._system.invalidate_cache()
            return bytes(self._system.cat_file(self._at(name)))

    def source(self, name: str) -> IO[bytes]:
        """Return the bytes of a file, as a file."""
        return io.BytesIO(self.read(name))

    def sums(self, name: str) -> Sums:
        """Return the sums of a file."""
        return sums_of([self.read(name)])

    def exists(self, name: str) -> bool:
        """Return whether the file is there. Raises OSError where that is not known."""
        try:
            with _as_os_error(self.place(name)):
                self._system.invalidate_cache()
                self._system.info(self._at(name))
        except FileNotFoundError:
            return False
        return True

    def listing(self, folder: str) -> dict[str, Listed]:
        """Return the files in a folder."""
        return {
            str(one["name"]).rstrip("/").rpartition("/")[2]: Listed(int(one.get("size") or 0), _mark(one))
            for one in self._entries(folder)
            if one.get("type") == "file"
        }

    def is_empty(self, folder: str) -> bool:
        """Return whether there is nothing in the folder."""
        return not self._entries(folder)

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        try:
            with _as_os_error(self.place(folder)):
                self._system.invalidate_cache()
                return list(self._system.ls(self._at(folder), detail=True))
        except FileNotFoundError:
            return []

    def write(self, name: str, fill: Callable[[IO[bytes]], object]) -> Sums:
        """Put a file that is made in memory."""
        buffer = io.BytesIO()
        fill(buffer)
        data = buffer.getvalue()
        self.replace(name, data)
        return sums_of([data])

    def replace(self, name: str, data: bytes) -> None:
        """Put a file, which object stores do in one step."""
        with _as_os_error(self.place(name)):
            self._with_folder(name, lambda: self._system.pipe_file(self._at(name), data))

    def move(self, name: str, target: str) -> None:
        """Copy a file to its place, which object stores do in one step, and remove it under its own name."""
        with _as_os_error(self.place(target)):
            try:
                self._with_folder(target, lambda: self._system.cp_file(self._at(name), self._at(target)))
            except NotImplementedError:
                data = self._system.cat_file(self._at(name))
                self._with_folder(target, lambda: self._system.pipe_file(self._at(target), data))
        self.remove(name)

    def _with_folder(self, name: str, write: Callable[[], object]) -> None:
        """Write, and make the folder first where there are folders and it is missing."""
        try:
            write()
        except FileNotFoundError:
            self._system.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            write()

    def remove(self, name: str) -> None:
        """Remove a file."""
        with contextlib.suppress(FileNotFoundError), _as_os_error(self.place(name)):
            self._system.rm_file(self._at(name))

    def prune(self, folder: str) -> None:
        """Do nothing: an object store has no folders."""


def _mark(said: dict[str, Any]) -> str:
    return " ".join(f"{name}={said[name]}" for name in (*_MARKS, *_TIMES) if said.get(name) is not None)


class UrlHome(Holding):
    """A URL with the vault's document and months. The locks are among the threads of this process."""

    def __init__(self, tree: UrlTree, options: Options) -> None:
        self._tree, self._options, self._key = tree, options, tree.key

    def __str__(self) -> str:
        return str(self._tree)

    def load(self) -> VaultDocument | None:
        """Return what the document says."""
        data = self._read()
        return None if data is None else VaultDocument.from_bytes(data, self._tree.place(_NAME))

    def _read(self) -> bytes | None:
        try:
            return self._tree.read(_NAME)
        except FileNotFoundError:
            return None

    def change(self, change: Callable[[VaultDocument], VaultDocument]) -> VaultDocument:
        """Change the document. Raises BadFile where another process changes it at the same time."""
        with self.hold(_NAME):
            data = self._read()
            if data is None:
                check_unused(self._tree, _FORMAT)
                before = None
            else:
                before = VaultDocument.from_bytes(data, self._tree.place(_NAME))
            after = change(before or new_document(self._options))
            if after != before:
                if self._read() != data:
                    raise BadFile(
                        f"{self._tree.place(_NAME)} changed while it was updated: another program writes to it. Let "
                        "one update run at a time, and update again"
                    )
                self._tree.replace(_NAME, after.to_bytes())
            return after

    def files(self, document: VaultDocument, entry: Entry) -> Files:
        """Return the files of a series."""
        return make_months(document, self._tree, entry)

    def try_acquire(self, name: str) -> bool:
        """Lock a series without waiting, among the threads of this process."""
        with _turn:
            if (self._key, name) in _held:
                return False
            _held[self._key, name] = self
            return True

    def release(self, name: str) -> None:
        """Unlock the series, if this object has locked it."""
        with _turn:
            if _held.get((self._key, name)) is self:
                del _held[self._key, name]

    def settle(self) -> None:
        """Do nothing: what is put lasts."""

    def close(self) -> None:
        """Release all locks."""
        with _turn:
            for pair in [pair for pair, holder in _held.items() if holder is self]:
                del _held[pair]
