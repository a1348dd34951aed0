"""Candles as the DataFrame that users get, and the manifest that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from candle_fetcher.core.candles import INTEGERS, MISSING, OHLCV, Candles, candles_from, have_prices, widen
from candle_fetcher.core.errors import InputError, shown, unknown
from candle_fetcher.core.labels import label_index
from candle_fetcher.core.types import COLUMN_SETS

MANIFEST = "candle_fetcher"
_HUGE_PAGE = 2**21 // 8  # int64 values
ALL_COLUMNS = (
    *OHLCV, "close_time", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
_OBJECTS = ("floating", "integer", "mixed-integer-float", "decimal", "empty")  # numbers, as pandas calls them
# pandas 3 copies on write, so that a frame can be handed out again without copying it.
COPIES_ON_WRITE = int(pd.__version__.partition(".")[0]) >= 3


class Manifest(dict[str, Any]):
    """The facts about a frame, as values that JSON can hold. `fingerprint` is computed when it is first read.

    pandas deep-copies a frame's attrs at every operation; copying this class takes a microsecond.
    """

    _compute: Callable[[], str | None] | None = None
    # A frame that shares read-only arrays with the frame of this manifest. While it exists, pandas copies such an array
    # before it writes; otherwise pandas would write in place, which fails.
    shared_with: pd.DataFrame | None = None
    # Why a part is missing, as the source said it.
    why: str | None = None
    # What the frame was converted to, by output: the sources that the conversion states, and the table.
    tables: dict[str, tuple[dict[str, int], Any]] | None = None
    # Whether the frame is the final and complete answer to its request.
    is_final: bool = False

    def add_fingerprint(self, compute: Callable[[], str | None], **rest: Any) -> Manifest:
        """Add a fingerprint, which `compute` returns when it is first read, then `rest`. Return the manifest itself."""
        self["fingerprint"] = ""
        self.update(rest)
        self._compute = compute
        return self

    def _fill_fingerprint(self) -> None:
        compute = self._compute
        if compute is not None:
            # In this order, another thread may compute it too, but never reads the empty placeholder.
            super().__setitem__("fingerprint", compute())
            self._compute = None

    def __getitem__(self, key: str) -> Any:
        if key == "fingerprint":
            self._fill_fingerprint()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key == "fingerprint":
            self._fill_fingerprint()
        return super().get(key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._fill_fingerprint()
        return super().setdefault(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self._fill_fingerprint()
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        # Overridden so that dict(manifest) and {**manifest} go through __getitem__ and see the fingerprint.
        return super().__iter__()

    def items(self) -> Any:
        self._fill_fingerprint()
        return super().items()

    def values(self) -> Any:
        self._fill_fingerprint()
        return super().values()

    def __eq__(self, other: object) -> bool:
        self._fill_fingerprint()
        if isinstance(other, Manifest):
            other._fill_fingerprint()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # dict has its own

    __hash__ = None

    def __repr__(self) -> str:
        self._fill_fingerprint()
        return super().__repr__()

    def _repr_html_(self) -> str:
        from candle_fetcher.core.html import fact_table

        return fact_table("", self.items())

    def __deepcopy__(self, memo: Any) -> Manifest:
        twin = Manifest((name, _copied(value)) for name, value in super().items())
        twin._compute = self._compute
        twin.shared_with = self.shared_with
        twin.why = self.why
        return twin

    def __copy__(self) -> Manifest:
        return self.__deepcopy__(None)

    copy = __copy__

    def __reduce__(self) -> Any:
        return dict, (dict(self.items()),)


def _copied(value: Any) -> Any:
    """Return a copy of a list or dict in the manifest, so that changing one manifest changes no other."""
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return dict(value) if isinstance(value, dict) else value


def check_columns(columns: object) -> str:
    """Return the `columns` setting. Raises InputError for any other value."""
    if not isinstance(columns, str) or columns not in COLUMN_SETS:
        raise unknown("columns", columns, COLUMN_SETS)
    return columns


def to_frame(
    candles: Candles, columns: str, closed: npt.NDArray[np.bool_] | None = None, *, is_shared: bool = False
) -> pd.DataFrame:
    """Return the candles as a frame with a UTC DatetimeIndex named `timestamp`; float columns share their memory.

    `columns="ohlcv"` gives float64 open, high, low, close, volume; `"all"` adds close_time (UTC), quote_volume, trades
    (Int64), taker_buy_volume, taker_buy_quote_volume, and other columns of the provider. Rows without prices have their
    own columns in either case. `closed` becomes the column `is_closed`. `is_shared` makes every array read-only; see
    `hand_out`.
    """
    if is_shared:
        candles = _frozen(candles)
    elif not candles.block.flags.writeable:  # a part of what the cache holds
        candles = Candles(candles.names, candles.block.copy())
    frame = frame_of(candles, shown_columns(candles.names, columns))
    if closed is not None:
        frame["is_closed"] = closed
    return frame


def frame_of(candles: Candles, names: Sequence[str]) -> pd.DataFrame:
    """Return a frame with those columns; a column that the candles lack has no values.

    The arrays of the frame are read-only where the block of the candles is.
    """
    opens_ns = _nanoseconds(candles.open_ms)
    if not candles.block.flags.writeable:
        _read_only(opens_ns)
    data = {at: _column(candles, name) for at, name in enumerate(names)}
    frame = pd.DataFrame(data, index=_index(opens_ns, "timestamp"), copy=False)
    frame.columns = label_index(names)
    return frame


def shown_columns(names: Sequence[str], columns: str) -> tuple[str, ...]:
    """Return the columns of a frame or file, given those of the candles and the set of columns; see `to_frame`."""
    if not have_prices(names):
        return tuple(names[1:])
    if columns == "ohlcv":
        return OHLCV
    return (*ALL_COLUMNS, *(name for name in names[1:] if name not in ALL_COLUMNS))


def utc_index(ms: npt.NDArray[np.int64], name: str | None = None) -> pd.DatetimeIndex:
    """Return Unix ms as a UTC index in nanoseconds, without a frequency; MISSING becomes NaT."""
    return _index(np.where(ms == MISSING, MISSING, ms * 1_000_000), name)


def _index(ns: npt.NDArray[np.int64], name: str | None = None) -> pd.DatetimeIndex:
    """Return Unix ns as a UTC index that shares their memory."""
    return pd.DatetimeIndex(ns, name=name, tz="UTC", copy=False)


def _nanoseconds(ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return Unix ms as Unix ns.

    Linux gives large arrays memory in huge pages, but for what lies before the first border of such pages and after the
    last one. With room for one page more, most of the array lies in them, and its memory comes in half of the time.
    """
    if len(ms) < _HUGE_PAGE:
        return ms * 1_000_000
    ns = np.empty(len(ms) + _HUGE_PAGE, np.int64)[: len(ms)]
    np.multiply(ms, 1_000_000, out=ns)
    return ns


def _read_only(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    array.flags.writeable = False
    return array


def hand_out(kept: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a kept frame that was made with `is_shared`. Editing the copy changes no other frame.

    With pandas 3 the copy shares its arrays, which are read-only, since pandas copies a column before it writes to it.
    With earlier versions the copy is deep, index and column names included.
    """
    frame = kept.copy(deep=not COPIES_ON_WRITE)
    if COPIES_ON_WRITE:
        frame.attrs[MANIFEST].shared_with = kept
    else:
        frame.index, frame.columns = kept.index.copy(deep=True), kept.columns.copy(deep=True)
    return frame


def _frozen(candles: Candles) -> Candles:
    """Return the same candles in a read-only array."""
    return Candles(candles.names, _read_only(candles.block.view()))


def _column(candles: Candles, name: str) -> Any:
    if name not in candles.names:
        lacking = widen(candles.pick(("open_time",)), ("open_time", name))
        return _column(lacking if candles.block.flags.writeable else _frozen(lacking), name)
    if name == "close_time":
        times = candles.integers(name)
        times_ns, is_missing = _nanoseconds(times), times == MISSING
        if is_missing.any():
            times_ns[is_missing] = MISSING
        return _index(times_ns if times.flags.writeable else _read_only(times_ns))
    if name in INTEGERS:
        values = candles.integers(name)
        is_missing = values == MISSING
        is_missing.flags.writeable = values.flags.writeable
        return pd.arrays.IntegerArray(values, is_missing, copy=False)
    return candles.floats(name)


def candles_in(frame: pd.DataFrame, names: Sequence[str]) -> Candles:
    """Return those columns of a frame as candles: the way back from `frame_of`.

    Raises InputError for a column that does not hold what its name says.
    """
    columns: list[npt.NDArray[Any]] = [index_ms(frame)]
    for name in names:
        values: Any = frame[name]
        try:
            if name == "close_time":
                known = values.notna().to_numpy()
                found = np.full(len(frame), MISSING)
                found[known] = index_ms(pd.DataFrame(index=pd.DatetimeIndex(values[known])))
                columns.append(found)
            elif name in INTEGERS:
                columns.append(values.astype("Int64").to_numpy(dtype=np.int64, na_value=MISSING))
            else:
                columns.append(floats_in(frame, name))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"the column {shown(name)} of the frame cannot be read ({error})") from None
    return candles_from(("open_time", *names), columns)


GAP_COLUMNS = ("first", "last", "count", "cause")


def gap_frame(gaps: Sequence[Any]) -> pd.DataFrame:
    """Return a row for each gap: first and last missing open time (UTC), number of candles, and cause.

    Times have the unit ms, since a range without a start begins in the year 1, which ns cannot express.
    """
    return pd.DataFrame(
        {
            "first": _utc_ms([gap.first_ms for gap in gaps]),
            "last": _utc_ms([gap.last_ms for gap in gaps]),
            "count": np.array([gap.count for gap in gaps], np.int64),
            "cause": pd.Series([gap.cause for gap in gaps], dtype="str"),
        }
    )


def _utc_ms(ms: list[int]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(np.array(ms, "M8[ms]")).tz_localize("UTC")


class Convertible(Protocol):
    """A table of another library, such as polars.DataFrame or pyarrow.Table."""

    def to_pandas(self) -> Any:
        """Return the table as a pandas frame."""


def as_pandas(given: Any) -> Any:
    """Return a table of Polars or Arrow as a pandas frame with its times as the index; anything else unchanged.

    The manifest is that of the metadata of an Arrow table, or the second value of a pair.
    """
    manifest: Any = None
    if isinstance(given, tuple) and len(given) == 2:
        given, manifest = given
    if not isinstance(given, pd.DataFrame):
        if not hasattr(given, "to_pandas"):
            return given
        metadata = getattr(getattr(given, "schema", None), "metadata", None) or {}
        noted = metadata.get(MANIFEST.encode()) if isinstance(metadata, Mapping) else None
        manifest = _read_noted(noted) if manifest is None and noted else manifest
        given = with_times(given.to_pandas())
    if manifest is not None:
        given = given.copy(deep=False)
        given.attrs = {**given.attrs, MANIFEST: manifest}
    return given


def _read_noted(noted: bytes) -> Any:
    """Return the manifest in the metadata of a table; damaged, it is text, which is no manifest."""
    try:
        return json.loads(noted)
    except ValueError:
        return str(noted)


def with_times(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its column `timestamp` as the index, where the index has no times.

    Raises InputError where that column has others than times: a number may be seconds or milliseconds.
    """
    if isinstance(frame.index, pd.DatetimeIndex) or "timestamp" not in frame:
        return frame
    times = frame["timestamp"]
    try:
        if times.ndim != 1 or pd.api.types.is_numeric_dtype(times.dtype) or pd.api.types.is_string_dtype(times):
            raise TypeError(getattr(times, "dtype", "several columns"))
        index = pd.DatetimeIndex(times, name="timestamp")
    except (TypeError, ValueError) as error:
        raise InputError(f"the column timestamp has others than times ({error}); expected times in UTC") from None
    return frame.set_index(index).drop(columns="timestamp")


def check_columns_of(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise InputError where the frame lacks one of these columns of candles, or has one twice."""
    lacking = [name for name in names if name not in frame]
    if lacking:
        raise InputError(f"expected a frame of candles; it lacks the columns {', '.join(lacking)}")
    for name in names:
        if frame[name].ndim != 1:
            raise InputError(f"the frame has several columns {name}; expected one")


def flags_in(frame: pd.DataFrame, name: str, value: bool, *, missing: bool = False) -> npt.NDArray[np.bool_]:
    """Return in which rows a column of flags has that value; `missing` where it has none.

    Raises InputError where it has others than True and False, such as texts.
    """
    column = frame[name]
    if column.ndim != 1 or pd.api.types.infer_dtype(column, skipna=True) not in ("boolean", *_OBJECTS):
        raise InputError(f"the column {name} has others than True and False; expected a frame of candles")
    found = (column == value).to_numpy(dtype=np.bool_, na_value=False)
    return found | column.isna().to_numpy() if missing else found


def floats_in(frame: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """Return a column as floats; a missing value is NaN. Raises InputError where it has others than numbers."""
    column = frame[name]
    if column.ndim != 1:
        raise InputError(f"the frame has several columns {name}; expected one")
    kind: Any = column.dtype
    if isinstance(kind, np.dtype) and kind.kind == "O":
        has_numbers = pd.api.types.infer_dtype(column, skipna=True) in _OBJECTS
    else:
        has_numbers = kind.kind in "biuf"
    if not has_numbers:
        raise InputError(f"the column {name} has others than numbers ({kind}); expected a frame of candles")
    return column.to_numpy(np.float64, na_value=np.nan)


def index_ms(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the open times of a frame in Unix ms.

    Raises InputError where its index does not consist of times, or lacks one.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"expected a frame of candles, got {shown(frame)}")
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        raise InputError(f"expected a frame with a DatetimeIndex, got {type(index).__name__}")
    if index.hasnans:
        raise InputError("the index of the frame has NaT; expected a time in each row")
    if index.tz is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    return index.to_numpy().astype("M8[ms]").astype(np.int64)
