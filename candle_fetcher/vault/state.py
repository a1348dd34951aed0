"""What vault.json and the state file of a series say, as values; read from bytes and written to bytes. Pure.

Both are JSON for people to read, with a checksum over the rest: a file that was cut or edited is a BadFile, which says
what to do. Times are Unix ms.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from candle_fetcher.core.errors import BadFile, InputError
from candle_fetcher.core.naming import text_of

VERSION = 1
FORMATS = ("csv", "parquet", "arrow")
MONTHS = ("parquet", "arrow")  # with a file for each month, in folders that say what is in them
_MARK, _CHECK = "candle_fetcher", "check"


class SeriesId(NamedTuple):
    """A series of a vault. `symbol` is BASE/QUOTE, `provider_symbol` the provider's id, `timeframe` the length of its
    candles, which may be resampled. `settings` are those that change values, beside the provider's defaults."""

    provider: str
    symbol: str
    provider_symbol: str
    timeframe: str
    kind: str = "candles"
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other series of the vault."""
        return self.provider, self.provider_symbol, self.timeframe, self.kind, self.settings

    @property
    def label(self) -> str:
        """The series as messages show it."""
        kind = "" if self.kind == "candles" else f" ({self.kind})"
        return f"{self.provider}:{self.symbol} {self.timeframe}{kind}"

    def name(self) -> str:
        """Return what the names of its files begin with: `PROVIDER_SYMBOLID[_KIND][_SETTING…]_TIMEFRAME`."""
        timeframe = self.timeframe.replace("M", "mo")
        kind = [] if self.kind == "candles" else [self.kind]
        parts = (self.provider, self.provider_symbol, *kind, *(value for _, value in self.settings), timeframe)
        return "_".join(map(text_of, parts))

    def folder(self) -> str:
        """Return the folder of its months: `provider=…/kind=…/symbol=…/timeframe=…`, with settings behind the kind; in
        the values all but letters, digits and `_.-~` is percent-encoded, and `1M` is `1mo`, since names may not tell
        capitals from small letters. Letters beyond ASCII stay: Spark decodes their bytes one by one."""
        settings = [f"{name}={value}" for name, value in self.settings]
        parts = (
            ("provider", self.provider),
            ("kind", ",".join([self.kind, *settings])),
            ("symbol", self.provider_symbol),
            ("timeframe", self.timeframe.replace("M", "mo")),
        )
        return "/".join(f"{name}={''.join(map(_escape, value))}" for name, value in parts)


def _escape(letter: str) -> str:
    return quote(letter, safe="") if letter.isascii() else letter


class Entry(NamedTuple):
    """A series as vault.json has it: the beginning of its files' names, and the start that was asked for."""

    series: SeriesId
    name: str
    start_ms: int


class VaultDocument(NamedTuple):
    """What vault.json says. `origins` is the root URL of each provider, None for its own hosts; `processors` are the
    names of the functions that the rows go through."""

    format: str
    columns: str | tuple[tuple[str, str], ...] = "ohlcv"
    options: tuple[tuple[str, Any], ...] = ()
    processors: tuple[str, ...] = ()
    context: int = 0
    origins: tuple[tuple[str, str | None], ...] = ()
    entries: tuple[Entry, ...] = ()

    def find(self, series: SeriesId) -> Entry | None:
        """Return the entry of the series; None where the vault does not have it."""
        return next((one for one in self.entries if one.series.key == series.key), None)

    def with_series(self, series: SeriesId, start_ms: int, origin: str | None) -> VaultDocument:
        """Return the document with the series in it, ordered by provider and symbol; its files get a name that no other
        series has. Raises InputError where its folder would be that of another series on some disks."""
        folder = series.folder().casefold()
        same = [one.series.label for one in self.entries if one.series.folder().casefold() == folder]
        if self.format in MONTHS and same:
            raise InputError(
                f"{series.label} and {same[0]} differ by capitals alone; use another vault for one of them"
            )
        taken = {one.name.casefold() for one in self.entries}
        name, count = series.name(), 1
        while name.casefold() in taken:
            count += 1
            name = f"{series.name()}-{count}"
        origins = self.origins if series.provider in dict(self.origins) else (*self.origins, (series.provider, origin))
        entries = sorted((*self.entries, Entry(series, name, start_ms)), key=lambda one: str(one.series.key))
        return self._replace(origins=origins, entries=tuple(entries))

    def with_start(self, series: SeriesId, start_ms: int) -> VaultDocument:
        """Return the document with another start of the series."""
        entries = (one._replace(start_ms=start_ms) if one.series.key == series.key else one for one in self.entries)
        return self._replace(entries=tuple(entries))

    def without(self, series: SeriesId) -> VaultDocument:
        """Return the document without the series, and without the origin of a provider that has no other."""
        entries = tuple(one for one in self.entries if one.series.key != series.key)
        providers = {one.series.provider for one in entries}
        return self._replace(entries=entries, origins=tuple(one for one in self.origins if one[0] in providers))

    def to_bytes(self) -> bytes:
        """Return the text of vault.json."""
        return _seal(
            {
                _MARK: "vault",
                "version": VERSION,
                "format": self.format,
                "columns": self.columns if isinstance(self.columns, str) else dict(self.columns),
                "options": dict(self.options),
                "processors": list(self.processors),
                "context": self.context,
                "origins": dict(self.origins),
                "series": [
                    {
                        **one.series._asdict(),
                        "settings": dict(one.series.settings),
                        "name": one.name,
                        "start": one.start_ms,
                    }
                    for one in self.entries
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> VaultDocument:
        """Return what the text says; `place` is the file, for messages. Raises BadFile where it is damaged, InputError
        where it is of a newer version."""
        fix = "put back a copy of it, or move the folder away and update into a new one"
        found = _unseal(data, "vault", place, fix)
        try:
            entries = []
            for one in found["series"]:
                settings = tuple(one["settings"].items())
                names = {name: one[name] for name in SeriesId._fields}
                entries.append(Entry(SeriesId(**{**names, "settings": settings}), one["name"], int(one["start"])))
            columns = found["columns"]
            return cls(
                found["format"],
                columns if isinstance(columns, str) else tuple(columns.items()),
                tuple(found["options"].items()),
                tuple(found["processors"]),
                int(found["context"]),
                tuple(found["origins"].items()),
                tuple(entries),
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise BadFile(f"{place} lacks what it should say; {fix}") from None


class Piece(NamedTuple):
    """A file of a series, up to the byte where it agrees with the series.

    `check` is the CRC-32 of these bytes, `tail` that of the last `TAIL_BYTES` of them; `rows`, `first_ms` and `last_ms`
    are of its candles (None without any), and `end_ms` is where the time ends that they cover.
    """

    bytes: int = 0
    rows: int = 0
    check: int = 0
    tail: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    end_ms: int = 0


TAIL_BYTES = 4096
NOTHING = Piece()


class Field(NamedTuple):
    """A column of a file: its header, our name of it, and its kind: float, int, bool or time."""

    header: str
    column: str
    kind: str


class Facts(NamedTuple):
    """What is known of a series beside its files.

    It covers [start_ms, end_ms). The next update looks again from `recheck_ms` on: what lies behind it was read soon
    after its close, or had a hole that may be filled yet. `revisions` is how many the cache had noted, and when the
    newest of them was read. `settings` are all settings of its candles, with those that the user did not choose.
    `rewrites` counts how often rows were replaced: a reader that began before one reads again.
    """

    start_ms: int
    end_ms: int
    recheck_ms: int
    revisions: tuple[int, int] = (0, 0)
    updated_ms: int = 0
    settings: tuple[tuple[str, str], ...] = ()
    fields: tuple[Field, ...] = ()
    rewrites: int = 0


class SeriesState(NamedTuple):
    """What the state file of a series says: its facts, its files by name, and which of them is the current one; of
    months that is the name "", under which their sums stand.

    `moving` are files that were written beside their places, and where: until they are moved there, they are read where
    they are.
    """

    series: SeriesId
    facts: Facts
    pieces: tuple[tuple[str, Piece], ...]
    current: str
    moving: tuple[tuple[str, str], ...] = ()

    @property
    def piece(self) -> Piece:
        """The current file."""
        return dict(self.pieces).get(self.current, NOTHING)

    def with_piece(self, name: str, piece: Piece) -> SeriesState:
        """Return the state with another value for that file."""
        pieces = dict(self.pieces) | {name: piece}
        return self._replace(pieces=tuple(sorted(pieces.items())))

    def to_bytes(self) -> bytes:
        """Return the text of the state file."""
        facts = self.facts
        return _seal(
            {
                _MARK: "series of a vault",
                "version": VERSION,
                "series": {**self.series._asdict(), "settings": dict(self.series.settings)},
                "facts": {
                    **facts._asdict(),
                    "settings": dict(facts.settings),
                    "fields": [list(one) for one in facts.fields],
                },
                "current": self.current,
                "moving": dict(self.moving),
                "files": {name: piece._asdict() for name, piece in self.pieces},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> SeriesState:
        """Return what the text says; `place` is the file, for messages. Raises BadFile where it is damaged, InputError
        where it is of a newer version."""
        fix = "put back a copy of it, or remove the series and update it again: what the cache has is not asked for"
        found = _unseal(data, "series of a vault", place, fix)
        try:
            names, said = found["series"], found["facts"]
            series = SeriesId(**{**names, "settings": tuple(names["settings"].items())})
            count, read_ms = said["revisions"]
            facts = Facts(
                **{
                    **said,
                    "revisions": (count, read_ms),
                    "settings": tuple(said["settings"].items()),
                    "fields": tuple(Field(*one) for one in said["fields"]),
                }
            )
            pieces = tuple((name, Piece(**piece)) for name, piece in found["files"].items())
            return cls(series, facts, pieces, found["current"], tuple(found.get("moving", {}).items()))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise BadFile(f"{place} lacks what it should say; {fix}") from None


def _seal(document: Mapping[str, Any]) -> bytes:
    return json.dumps({**document, _CHECK: _check(document)}, indent=1, ensure_ascii=False).encode() + b"\n"


def _unseal(data: bytes, kind: str, place: str, fix: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
        said = found.pop(_CHECK) if isinstance(found, dict) else None
    except (ValueError, KeyError, RecursionError):
        raise BadFile(f"{place} is damaged or was edited; {fix}") from None
    if not isinstance(found, dict) or found.get(_MARK) != kind:
        raise BadFile(f"{place} was not written by a vault; {fix}")
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{place} was written by a newer version of candle_fetcher; update the package")
    if said != _check(found):
        raise BadFile(f"{place} is damaged or was edited; {fix}")
    return found


def _check(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, ensure_ascii=True).encode())
