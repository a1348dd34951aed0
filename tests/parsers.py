"""The parsers of the package, each with good bytes and with a judge that knows what is right without the code that it
judges: what is read must be what a slow reading of the same bytes gives, and what is refused must be refused by the
error that is documented, in one printable line that names what was read, and within a second.

test_damage.py and fuzz.py send damaged bytes to each. Real replies beside the repository are good bytes too, where they
are.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import csv
import datetime as dt
import hashlib
import io
import json
import math
import os
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import numpy as np
import stream_frames
from quote_replies import RECORDED, REPLIES, QuoteReply

import candle_fetcher
from candle_fetcher.cache import CandleCache
from candle_fetcher.cli.environment import dotenv
from candle_fetcher.cli.symbols_file import read_symbols_file
from candle_fetcher.cli.talk import Talk
from candle_fetcher.core.call import Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import COLUMNS, INTEGERS, MISSING, OHLCV, Candles, Fingerprint, check
from candle_fetcher.core.entry import Entry, Hole, HoleState, pack, seal, unpack, unseal
from candle_fetcher.core.errors import BadFile, CandleFetcherError, InputError, SourceError
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.funding import check_funding
from candle_fetcher.core.naming import csv_name
from candle_fetcher.core.page import EMPTY_PAGE, PageFile, pack_page, unpack_page
from candle_fetcher.core.plan import CHUNK_SLOTS
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text import quick
from candle_fetcher.core.text.csv import read_rows as read_csv_rows
from candle_fetcher.core.text.rows import Row, iter_csv, parse_rows
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.files.container import ContainerWriter, name_of, read_facts, read_members
from candle_fetcher.files.exporting import TableFile
from candle_fetcher.files.formats import read_kraken
from candle_fetcher.files.layout import PLAIN as PLAIN_CSV
from candle_fetcher.files.places import find_place
from candle_fetcher.files.reading import checked_blocks
from candle_fetcher.files.report import FileReport
from candle_fetcher.files.verifying import candles_of, check_file
from candle_fetcher.net.budget import State, Window, pack_state, unpack_state
from candle_fetcher.net.roots import check_root
from candle_fetcher.providers import find_funding, find_provider
from candle_fetcher.providers.binance import used_weight
from candle_fetcher.providers.binance_archive import find_checksum, find_file, read_file
from candle_fetcher.providers.binance_bucket import find_first_ms, find_intervals
from candle_fetcher.providers.binance_bucket import parse_listing as parse_bucket
from candle_fetcher.providers.binance_klines import KLINE
from candle_fetcher.settings import default, read_settings
from candle_fetcher.store import MemoryTier, Store
from candle_fetcher.store.shared import PLACE_BYTES, SharedState
from candle_fetcher.vault.state import Entry as VaultEntry
from candle_fetcher.vault.state import Facts, Field, Piece, SeriesId, SeriesState, VaultDocument

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOW_MS = 1_717_243_200_000
# A message is a line to be read, and the symbol or path in it has the length that it has.
MOST_SAID = 370
MOST_QUOTED = 400  # with the words of a provider in it
MOST_S = 1.0


class Parser(NamedTuple):
    """A parser: `read` is called as the package does; `good` are bytes that it reads, the usual ones first.

    judge(data, value): fails unless the value is a right reading of the bytes. refuse(data): fails where the bytes must
    be read. errors: what it may raise, with a message that `names` what was read (a regular expression); a parser of
    stored bytes may raise nothing. weight: its part of random cases; `strain`: more than a call costs elsewhere.
    """

    name: str
    good: Callable[[], Sequence[bytes]]
    read: Callable[[bytes], Any]
    judge: Callable[[bytes, Any], None]
    names: str = ""
    errors: tuple[type[CandleFetcherError], ...] = (SourceError, InputError)
    refuse: Callable[[bytes], None] = lambda data: None
    weight: int = 20
    most_said: int = MOST_SAID
    secret: str = ""
    is_slow: bool = False


def hold(parser: Parser, data: bytes) -> bool:
    """Return whether the parser reads the bytes. Fails unless it reads them right, or refuses them as it should."""
    began_s = time.thread_time()
    try:
        value = parser.read(data)
    except parser.errors as error:
        taken_s = time.thread_time() - began_s
        refused(error, parser)
        parser.refuse(data)
        is_read = False
    else:
        taken_s = time.thread_time() - began_s
        parser.judge(data, value)
        is_read = value is not None
    assert taken_s < MOST_S, f"took {taken_s:.1f} s"
    return is_read


def refused(error: BaseException, parser: Parser) -> None:
    """Fails unless the refusal is one readable line without a secret, whatever the refused text contains."""
    said = str(error)
    assert said.isprintable(), f"not printable: {said!r}"
    assert 0 < len(said) <= parser.most_said, f"{len(said)} characters: {said[:400]!r}"
    assert re.search(parser.names, said), f"names nothing of {parser.names}: {said!r}"
    assert not parser.secret or parser.secret not in said


# -- slow readings, by other means than those of the package ----------------------------------------------------------

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FRACTION = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?", re.ASCII)


class _Integer(str):
    __slots__ = ()


def _no_float(text: str) -> Any:
    return None


def slow_whole(text: object) -> int | None:
    """An integer of at most 18 digits; None for anything else."""
    return int(text) if isinstance(text, str) and _WHOLE.fullmatch(text) else None


def slow_float(text: object) -> float | None:
    """The float64 nearest to the decimal, by a division of integers, which rounds once; None for anything else."""
    found = _FRACTION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    sign, whole, rest = found[1], found[2], found[3] or ""
    try:
        value = _long(whole + rest) / 10 ** len(rest)
    except OverflowError:
        return None
    return -value if sign else value


def slow_unread(text: object) -> bool | None:
    """A decimal of any size; None for anything else."""
    return True if isinstance(text, str) and _FRACTION.fullmatch(text) else None


SLOW: dict[str, Callable[[object], Any]] = {"i": slow_whole, "d": slow_float, "x": slow_unread}


def _long(digits: str) -> int:
    """An integer of any length; Python refuses to read more than 4,300 digits at once."""
    return int(digits) if len(digits) <= 4_000 else _long(digits[:-4_000]) * 10**4_000 + int(digits[-4_000:])


def slow_rows(body: bytes, kinds: str) -> list[list[Any]] | None:
    """The columns of a JSON list of rows; None where it is none."""
    try:
        rows = json.loads(body, parse_int=_Integer, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list):
        return None
    read = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(kinds):
            return None
        for kind, value in zip(kinds, row, strict=True):
            if type(value) is not (_Integer if kind == "i" else str):
                return None
        read.append([SLOW[kind](value) for kind, value in zip(kinds, row, strict=True)])
        if None in read[-1]:
            return None
    return [[row[at] for row in read] for at, kind in enumerate(kinds) if kind != "x"]


def slow_lines(text: bytes) -> list[list[str]] | None:
    """The fields of CSV text without quotes, less mark, header and blank lines; None where a byte is not ASCII."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    if text[:1].isalpha():
        text = text.partition(b"\n")[2]
    try:
        lines = text.rstrip(b"\r\n").decode("ascii").split("\n")
    except UnicodeDecodeError:
        return None
    return [line.split(",") for line in (line.removesuffix("\r") for line in lines) if line]


def slow_csv(text: bytes, kinds: str) -> list[list[Any]] | None:
    """The columns of CSV text; None where it is none."""
    lines = slow_lines(text)
    if lines is None or any(len(line) != len(kinds) for line in lines):
        return None
    read = [[SLOW[kind](value) for kind, value in zip(kinds, line, strict=True)] for line in lines]
    if any(None in row for row in read):
        return None
    return [[row[at] for row in read] for at, kind in enumerate(kinds) if kind != "x"]


def same_columns(columns: Sequence[Any], expected: list[list[Any]], kinds: str) -> None:
    """Fails unless they are the same to the last bit."""
    read = [kind for kind in kinds if kind != "x"]
    assert len(columns) == len(expected) == len(read)
    for kind, ours, theirs in zip(read, columns, expected, strict=True):
        assert ours.dtype == (np.int64 if kind == "i" else np.float64)
        assert ours.tobytes() == np.array(theirs, ours.dtype).tobytes(), (ours.tolist(), theirs)


def can_be(row: dict[str, Any]) -> bool:
    """Whether a market can print the candle."""
    prices = [row[name] for name in ("open", "high", "low", "close")]
    rest = [value for name, value in row.items() if name not in INTEGERS]
    return (
        all(map(math.isfinite, rest))
        and row["low"] == min(prices)
        and row["high"] == max(prices)
        and row["volume"] >= 0
    )


# -- seeds ------------------------------------------------------------------------------------------------------------


@cache
def replies(part: str) -> tuple[bytes, ...]:
    """Recorded replies beside the repository whose name has the part; none where there are none."""
    found = sorted((SHARED / "recorded").glob(f"binance_*/*{part}*")) if SHARED.is_dir() else []
    return tuple(path.read_bytes() for path in found if ".meta." not in path.name)


def made_row(n: int) -> str:
    return (
        f'[{NOW_MS + n * 3_600_000},"{67000 + n}.12","{67100 + n}.50000000","66900.00","{67050 + n}.1","{n * 7}.25",'
        f'{NOW_MS + n * 3_600_000 + 3_599_999},"{n * 470000}.123",{n * 11},"1.5","100000.5","0"]'
    )


@cache
def kline_bodies() -> tuple[bytes, ...]:
    made = [f"[{','.join(made_row(n) for n in range(rows))}]".encode() for rows in (1, 2, 5)]
    written = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("replies/*/candles.body"))]
    spaced = [json.dumps(json.loads(made[1]), indent=1).encode(), b"[]", b'{"code":-1121,"msg":"Invalid symbol."}']
    real = [json.dumps(json.loads(body)[:4], separators=(",", ":")).encode() for body in replies("klines*.json")[:40]]
    return (*made, *written, *spaced, *real)


def csv_of(rows: Sequence[Sequence[Any]], end: str = "\n") -> bytes:
    return "".join(",".join(map(str, row)) + end for row in rows).encode()


@cache
def csv_texts() -> tuple[bytes, ...]:
    rows = json.loads(f"[{','.join(made_row(n) for n in range(5))}]")
    header = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,a,ignore\n"
    made = [csv_of(rows[:2]), csv_of(rows), csv_of(rows, "\r\n"), header + csv_of(rows[:3]),
            b"\xef\xbb\xbf" + csv_of(rows[:2]),
            csv_of(rows[:2]).rstrip(), csv_of(rows[:2], "\n\n"), b""]  # fmt: skip
    return (*made, *(b"\n".join(body.split(b"\n")[:4]) for body in replies("klines*.csv")))


# -- rows of numbers --------------------------------------------------------------------------------------------------

PLAIN = Row("i d x")


def judge_columns(slow: Callable[[bytes], list[list[Any]] | None], kinds: str, data: bytes, columns: Any) -> None:
    expected = slow(data)
    assert expected is not None, "read what is wrong"
    same_columns(columns, expected, kinds)


def refuse_rows(slow: Callable[[bytes], list[list[Any]] | None], data: bytes) -> None:
    too_long = max(map(len, data.split(b"\n")), default=0) > 2**16 or b"\n" * 2**16 in data
    assert slow(data) is None or too_long, "refused what is right"


def rows_parser(name: str, weight: int, good: Callable[[], Sequence[bytes]], row: Row) -> Parser:
    slow = partial(slow_rows, kinds=row.kinds)
    return Parser(
        name, good, lambda data: parse_rows(data, row), partial(judge_columns, slow, row.kinds),
        "JSON list of rows|row [0-9]", refuse=partial(refuse_rows, slow), weight=weight,
    )  # fmt: skip


def pieces_of(text: bytes) -> list[bytes]:
    size = 1 + zlib.crc32(text) % (len(text) + 2)
    return [text[at : at + size] for at in range(0, len(text), size)]


def read_csv_text(text: bytes) -> Any:
    blocks = list(iter_csv(iter(pieces_of(text)), KLINE))
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)] or KLINE.empty()


slow_klines = partial(slow_csv, kinds=KLINE.kinds)


def quick_parsers() -> Iterator[Parser]:
    """The readers of other packages that are here and exact: what they do not read is left to ours."""
    for name, find in quick.READERS.items():
        try:
            reader = find()
        except ImportError:
            continue

        def read(text: bytes, reader: quick.Read = reader) -> Any:
            return quick.read_plain(text, KLINE.kinds, reader)

        def judge(text: bytes, columns: Any) -> None:
            if columns is not None:
                judge_columns(lambda data: slow_klines(b"h\n" + data), KLINE.kinds, text, columns)

        if quick.is_exact(reader):
            yield Parser(f"CSV by {name}", csv_texts, read, judge, errors=(), is_slow=True)


# -- files of people --------------------------------------------------------------------------------------------------


OURS = (
    b"timestamp,open,high,low,close,volume\n2024-02-29 00:00:00,1,2.5,0.5,1.25,17\n2024-02-29 01:00:00.125,1,2,1,1,0\n"
)
MORE = (
    b"timestamp,open,high,low,close,volume,close_time,trades,base_volume\n"
    b"1999-12-31 23:00:00,1,2,1,1,,1999-12-31 23:59:59.999,7,1.5\r\n"
)
KRAKEN = b"1704067200,42283.5,42554,42261.01,42475.2,1E+1,9\n1704070800,42475,42775,42431,42613,1201.6,31\n"


def files_of_people() -> tuple[bytes, ...]:
    return OURS, MORE, MORE + b"2000-01-01 00:00:00,1,2,1,1,3,,,\n"


_MOMENT = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{3})?")


def slow_csv_of_ours(text: bytes) -> dict[str, list[Any]] | None:
    """The columns, line by line; None where it is none, and no columns where there is nothing in it."""
    if text and not text.endswith(b"\n"):
        return None
    lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    header, *rows = [line.split(b",") for line in lines if line] or [[b""]]
    if header == [b""]:
        return {}
    names = [name.decode("ascii", "replace") for name in header]
    known = {*COLUMNS[6:]}
    if names[:6] != ["timestamp", *OHLCV] or len({*names}) < len(names) or not {*names[6:]} <= known:
        return None
    names[0] = "open_time"
    found: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        if len(row) != len(names):
            return None
        for name, field in zip(names, row, strict=True):
            value = _slow_field(name, field)
            if value is None:
                return None
            found[name].append(value)
    return found if rows else {}


def _slow_field(name: str, field: bytes) -> Any:
    if not field and name not in ("open_time", *OHLCV[:4]):
        return MISSING if name in INTEGERS else math.nan
    if name in ("open_time", "close_time"):
        try:
            moment = dt.datetime.fromisoformat(field.decode()) if _MOMENT.fullmatch(field) else None
        except ValueError:
            return None
        if moment is None:
            return None
        return (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(milliseconds=1)  # noqa: DTZ001
    try:
        return SLOW["i" if name in INTEGERS else "d"](field.decode("ascii"))
    except UnicodeDecodeError:
        return None


def judge_ours(text: bytes, blocks: Any) -> None:
    expected = slow_csv_of_ours(text)
    assert expected is not None, "read what is wrong"
    for name, column in expected.items():
        kind = np.int64 if name in INTEGERS else np.float64
        got = [block.integers(name).view(kind) for block in blocks]
        same_columns(got and [np.concatenate(got)], [column], "i" if name in INTEGERS else "d")


def judge_kraken_file(text: bytes, blocks: Any) -> None:
    rows = [row for block in blocks for row in block.block[[0, 5, 6]].T]
    lines = [line.strip(b"\r\xef\xbb\xbf") for line in text.split(b"\n")]
    fields = [line.split(b",") for line in lines if line[:1].isdigit() or line[:1] == b"-"]
    reference = dict.fromkeys((int(line[0]) * 1000, float(line[5]), int(Decimal(line[6].decode()))) for line in fields)
    assert [(int(row[0]), float(row[1:2].view(np.float64)[0]), int(row[2])) for row in rows] == list(reference)
    judge_rows_of(blocks)


def judge_rows_of(blocks: Sequence[Candles]) -> None:
    opens = [ms for block in blocks for ms in block.open_ms.tolist()]
    assert opens == sorted(set(opens))
    for block in blocks:
        names = [name for name in block.names if name == "open_time" or name in OHLCV]
        columns = [(block.integers if name in INTEGERS else block.floats)(name).tolist() for name in names]
        assert all(can_be(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


# -- candles of providers ---------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What is read of a reply: its candles, when they may still change, and the token of the next page."""

    candles: Candles
    final_ms: int = FOREVER_MS
    token: str | None = None


def judge_table(candles: Candles, rows: Sequence[tuple[Any, ...]], span: Span) -> None:
    """Fails unless the candles are those rows, each once, to the last bit, in order, inside the span, and possible."""
    got = [
        candles.block[at].view(np.int64 if name in INTEGERS else np.float64).tolist()
        for at, name in enumerate(candles.names)
    ]
    # NaN is not itself: repr is. Whether a zero has a minus is the same.
    reference = dict.fromkeys(repr(tuple(value + 0 for value in row)) for row in rows)
    assert [repr(tuple(value + 0 for value in row)) for row in zip(*got, strict=True)] == list(reference)
    opens = candles.open_ms.tolist()
    assert opens == sorted(set(opens))
    assert all(span.start_ms <= ms < span.end_ms for ms in opens)
    volumes = {"volume": 0.0} if np.isnan(candles.floats("volume")).all() else {}  # some providers have none
    assert all(can_be(dict(zip(candles.names, row, strict=True)) | volumes) for row in zip(*got, strict=True))


def candles_parser(
    name: str, symbol: str, timeframe: str, slow: Callable[[bytes], Answer], *settings: str, kind: str = "candles",
    case: str = "candles", weight: int = 20, recorded: str = "",
) -> Parser:  # fmt: skip
    """The candles of a reply, checked against the span of the good one: a case of replies/, or a recorded reply beside
    the repository. `slow` has rows in place of candles."""
    provider = find_provider(name)
    feed = provider.feed(kind)
    chosen = tuple(tuple(pair.split("=")) for pair in settings)
    series = Series(name, None, symbol, parse_timeframe(timeframe), kind, chosen)  # type: ignore[arg-type]
    call = feed.call(series, Span(1_600_000_000_000, 1_600_086_400_000), 1)
    folder = TESTS / "replies" / name
    good = (SHARED / "recorded" / recorded if recorded else folder / f"{case}.body").read_bytes()
    opens = feed.parse(good, series).open_ms
    span = Span(int(opens[0]), int(opens[-1]) + 1)

    def bodies() -> list[bytes]:
        real = [json.dumps(json.loads(body)[:4], separators=(",", ":")).encode() for body in replies("klines*.json")]
        return [good, *(path.read_bytes() for path in sorted(folder.glob("*.body")) if path.stem != case), *real[:9]]

    def read(body: bytes) -> Answer:
        candles = feed.parse(body, series)
        final_ms = FOREVER_MS if feed.final_until is None else feed.final_until(body, candles)
        following = None if feed.next_call is None else feed.next_call(call, body)
        token = None if following is None else dict(following.params)["page_token"]
        assert following is None or following._replace(params=following.params[: len(call.params)]) == call
        return Answer(check(candles, span), final_ms, token)

    def judge(body: bytes, answer: Answer) -> None:
        reference = slow(body)
        judge_table(answer.candles, reference.candles, span)  # type: ignore[arg-type]
        assert answer[1:] == reference[1:]

    return Parser(
        f"{name} {kind} {timeframe}", bodies, read, judge, _SAID_OF_REPLIES, weight=weight, most_said=MOST_QUOTED
    )


_SAID_OF_REPLIES = (
    r"expected |row [0-9]|bar [0-9]|object [0-9]|a candle of |a reply of|Binance|Kraken|Alpaca|Alpha Vantage|CoinGecko"
    r"|TradeStation|symbol"
)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), "a name stands twice"
    return dict(pairs)


def klines_of(body: bytes, order: Sequence[int] = range(11)) -> Answer:
    expected = slow_rows(body, KLINE.kinds)
    assert expected is not None, "read what is wrong"
    return Answer([*zip(*(expected[at] for at in order), strict=True)])  # type: ignore[arg-type]


coin_klines_of = partial(klines_of, order=(0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10))


def kraken_rows(body: bytes) -> Answer:
    value = json.loads(body, parse_int=_Integer, parse_float=_Integer, parse_constant=_no_float)
    assert not [text for text in value["error"] if text[:1] != "W"]
    (rows,) = [rows for name, rows in value["result"].items() if name != "last"]
    plain = [[int(field) if type(field) is _Integer else field for field in row] for row in rows]
    expected = slow_rows(json.dumps(plain).encode(), "iddddxdi")
    assert expected is not None, "read what is wrong"
    opens = [second * 1000 for second in expected[0]]
    last = re.match(r"\d{1,18}", str(value["result"].get("last", "")))
    final_ms = int(last[0]) * 1000 + 1 if last else opens[-1] if opens else FOREVER_MS
    return Answer([*zip(opens, *expected[1:], strict=True)], final_ms)  # type: ignore[arg-type]


def moment_ms(text: str) -> int:
    """A time of RFC 3339."""
    found = re.fullmatch(r"([\d-]{10})[Tt]([\d:]{8})(\.\d{1,9})?(?:[Zz]|([+-])(\d\d):(\d\d))", text, re.ASCII)
    assert found, text
    moment = dt.datetime.fromisoformat(f"{found[1]} {found[2]}+00:00") - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    offset_ms = int(f"{found[4]}1") * (int(found[5]) * 60 + int(found[6])) * 60_000 if found[4] else 0
    return moment // dt.timedelta(milliseconds=1) + int((found[3] or ".0")[1:].ljust(3, "0")[:3]) - offset_ms


def _any_int(text: str) -> int | None:
    """An integer of any length in a field that is not read."""
    return int(text) if len(text) <= 400 else None


def _json_number(text: Any) -> float:
    assert type(text) in (int, float), text
    return float(text)


def alpaca_rows(body: bytes, symbol: str = "AAPL") -> Answer:
    value = json.loads(body, parse_int=_any_int, parse_constant=_no_float)
    bars = value["bars"]
    if isinstance(bars, dict):
        assert not bars.keys() - {symbol}
        bars = bars.get(symbol)
    assert value.get("symbol") in (None, symbol)
    rows = [
        (moment_ms(bar["t"]), *(_json_number(bar[letter]) for letter in "ohlcv"), bar.get("n", MISSING))
        for bar in bars or ()
    ]
    return Answer(rows, token=value.get("next_page_token") or None)  # type: ignore[arg-type]


def alphavantage_rows(body: bytes, timeframe: str, symbol: str = "IBM") -> Answer:
    value = json.loads(body, object_pairs_hook=_once)
    (zone_name,) = {text for name, text in value["Meta Data"].items() if name.partition(". ")[2] == "Time Zone"}
    zone = ZoneInfo({"US/Eastern": "America/New_York"}.get(zone_name, zone_name))
    assert all(text.upper() == symbol for name, text in value["Meta Data"].items() if name.endswith(". Symbol"))
    rows = []
    for stamp, fields in value[f"Time Series ({'Daily' if timeframe == '1d' else timeframe + 'in'})"].items():
        assert len(stamp) == (10 if timeframe == "1d" else 19)
        opened = dt.datetime.fromisoformat(stamp).replace(tzinfo=zone)
        named = {name.partition(". ")[2]: text for name, text in reversed(fields.items())}
        numbers = [SLOW["d"](named[name]) for name in OHLCV[:4]]
        volume = SLOW["d"](named["volume"]) if "volume" in named and named["volume"] is not None else math.nan
        rows.append((int(opened.timestamp()) * 1000, *numbers, volume))
    return Answer(sorted(rows))  # type: ignore[arg-type]


def coingecko_rows(body: bytes) -> Answer:
    rows = json.loads(body, parse_constant=_no_float)
    assert all(type(row[0]) is int and len(row) == 5 for row in rows)
    assert all(type(value) in (int, float) for row in rows for value in row)
    reference = [(row[0] - 4 * HOUR_MS, *map(float, row[1:]), math.nan) for row in rows]
    return Answer(reference, reference[-1][0] if reference else FOREVER_MS)  # type: ignore[arg-type]


def tradestation_rows(body: bytes) -> Answer:
    rows, final_ms = [], FOREVER_MS
    for bar in json.loads(body, parse_int=_any_int)["Bars"]:
        assert bar["BarStatus"] in ("Open", "Closed")
        numbers = [SLOW["d"](bar[name]) for name in ("Open", "High", "Low", "Close", "TotalVolume")]
        rows.append((moment_ms(bar["TimeStamp"]) - 30 * 60_000, *numbers))
        if bar["BarStatus"] == "Open":
            final_ms = min(final_ms, rows[-1][0])
    return Answer(rows, final_ms)  # type: ignore[arg-type]


# -- other replies of providers ---------------------------------------------------------------------------------------


def funding_parser(name: str, symbol: str) -> Parser:
    funding = find_funding(find_provider(name))
    made = {"symbol": symbol, "fundingTime": NOW_MS + 3, "fundingRate": "-0.00010000", "markPrice": "67000.12345678"}
    bare = {"symbol": symbol, "fundingTime": NOW_MS + 28_800_000, "fundingRate": "0.00012345"}
    span = Span(NOW_MS, NOW_MS + DAY_MS)

    def good() -> list[bytes]:
        return [
            json.dumps([made, bare], separators=(",", ":")).encode(),
            json.dumps([made | {"markPrice": ""}]).encode(),
            b"[]",
        ]

    def judge(body: bytes, records: Candles) -> None:
        rows = json.loads(body, parse_int=_Integer, parse_float=_no_float)
        assert all(row["symbol"] == symbol and type(row["fundingTime"]) is _Integer for row in rows)
        marks = [slow_float(row["markPrice"]) if row.get("markPrice") else math.nan for row in rows]
        reference = [
            (int(row["fundingTime"]), slow_float(row["fundingRate"]), mark)
            for row, mark in zip(rows, marks, strict=True)
        ]
        columns = records.open_ms, records.floats("funding_rate"), records.floats("mark_price")
        got = zip(*(column.tolist() for column in columns), strict=True)
        assert list(map(repr, got)) == list(dict.fromkeys(map(repr, reference)))
        assert all(span.start_ms <= ms < span.end_ms for ms in records.open_ms.tolist())
        assert np.isfinite(columns[1]).all()

    read = lambda body: check_funding(funding.parse(body, symbol), span)  # noqa: E731
    return Parser(f"{name} funding", good, read, judge, "funding|row [0-9]|reply of|Binance|symbol", weight=40)


# -- quotes: of each symbol last price, volume, bid, ask, time, latest time, and why there is none --------------------


def figure(value: Any, *, is_price: bool = True, below_zero: bool = False) -> float | None:
    """A number as a provider writes it; None where it says that there is none."""
    if value is None or value in ("", "-"):
        return None
    assert type(value) in (int, float, str)
    number = float(Decimal(value)) if isinstance(value, str) else float(value)
    assert math.isfinite(number)
    if is_price and number == 0:
        return None
    assert number >= 0 or below_zero, "read what is wrong"
    return number


def _volume(value: Any) -> float | None:
    return figure(value, is_price=False)


def _unix_ms(value: Any, scale: int = 1) -> int | None:
    assert value is None or (type(value) is int and 1_262_304_000_000 <= value * scale < 4_102_444_800_000)
    return None if value is None else value * scale


def _moment(value: Any) -> int | None:
    return None if value in (None, "") else moment_ms(value)


QuoteRows = dict[str, tuple[Any, ...]]


def binance_quotes(value: Any, symbols: Sequence[str], volume: str = "volume") -> QuoteRows:
    rows = [value] if isinstance(value, dict) else value
    return {
        row["symbol"]: (
            figure(row.get("lastPrice")), _volume(row.get(volume)), figure(row.get("bidPrice")),
            figure(row.get("askPrice")), _unix_ms(row.get("closeTime", row.get("time"))),
        )
        for row in rows if row["symbol"] in symbols
    }  # fmt: skip


def binance_book(value: Any, symbols: Sequence[str]) -> QuoteRows:
    rows = [value] if isinstance(value, dict) else value
    return {
        row["symbol"]: (None, None, figure(row.get("bidPrice")), figure(row.get("askPrice")), _unix_ms(row.get("time")))
        for row in rows
        if row["symbol"] in symbols
    }


def kraken_quotes(value: Any, symbols: Sequence[str]) -> QuoteRows:
    assert not [text for text in value["error"] if text[:1] != "W"]
    found = {}
    for name, row in value["result"].items():
        with contextlib.suppress(InputError):
            own = find_provider("kraken").provider_symbol(name, "candles")
            if own in symbols:
                at = {part: [*row.get(part, []), None, None] for part in "cvba"}
                found[own] = (figure(at["c"][0]), _volume(at["v"][1]), figure(at["b"][0]), figure(at["a"][0]), None)
    return found


def alpaca_quotes(value: Any, symbols: Sequence[str], *, is_stock: bool) -> QuoteRows:
    rows, found = value if is_stock else value["snapshots"], {}
    for name in symbols:
        if rows.get(name) is not None:
            trade, quote, day = (rows[name].get(part) or {} for part in ("latestTrade", "latestQuote", "dailyBar"))
            traded, quoted, opened = _moment(trade.get("t")), _moment(quote.get("t")), _moment(day.get("t"))
            volume = _volume(day.get("v"))
            is_today = traded is not None and opened is not None and 0 <= traded - opened < 25 * HOUR_MS
            found[name] = (
                figure(trade.get("p")), volume if is_stock and is_today else None, figure(quote.get("bp")),
                figure(quote.get("ap")), max((ms for ms in (traded, quoted) if ms is not None), default=None),
            )  # fmt: skip
    return found


def alphavantage_stock(value: Any, symbols: Sequence[str]) -> QuoteRows:
    (row,) = [row for name, row in value.items() if name.startswith("Global Quote")]
    if not row:
        return {}
    named = _once([(name.partition(". ")[2], field) for name, field in row.items()])
    assert named["symbol"].upper() == symbols[0]
    day = dt.datetime.fromisoformat(named["latest trading day"]) + dt.timedelta(days=1)
    end_ms = int(day.replace(tzinfo=ZoneInfo("America/New_York")).timestamp()) * 1000
    return {symbols[0]: (figure(named.get("price")), _volume(named.get("volume")), None, None, None, end_ms)}


def alphavantage_rate(value: Any, symbols: Sequence[str]) -> QuoteRows:
    (row,) = [row for name, row in value.items() if name.startswith("Realtime Currency Exchange Rate")]
    named = _once([(name.partition(". ")[2], field) for name, field in row.items()])
    assert f"{named['From_Currency Code']}/{named['To_Currency Code']}".upper() == symbols[0]
    assert named["Time Zone"] == "UTC"
    prices = [figure(named.get(name)) for name in ("Exchange Rate", "Bid Price", "Ask Price")]
    stamp = named.get("Last Refreshed")
    time_ms = None if stamp is None else moment_ms(f"{stamp.replace(' ', 'T', 1)}Z")
    return {symbols[0]: (prices[0], None, *prices[1:], time_ms)}


def coingecko_quotes(value: Any, symbols: Sequence[str]) -> QuoteRows:
    found = {}
    for symbol in symbols:
        coin, currency = symbol.split("/")
        row = value.get(coin, {})
        if currency in row:
            price, traded = figure(row[currency]), _volume(row.get(f"{currency}_24h_vol"))
            volume = None if price is None or traded is None else traded / price
            found[symbol] = (price, volume, None, None, _unix_ms(row.get("last_updated_at"), 1000))
    return found


def tradestation_quotes(value: Any, symbols: Sequence[str]) -> QuoteRows:
    assert "Quotes" in value or "Errors" in value
    found: QuoteRows = {}
    for row in value.get("Quotes", []):
        name = row["Symbol"].upper()
        if name in symbols:
            last, bid, ask = (figure(row.get(part), below_zero=name[0] == "@") for part in ("Last", "Bid", "Ask"))
            volume = _volume(row.get("Volume"))
            found[name] = (last, None if name[0] == "@" else volume, bid, ask, _moment(row.get("TradeTime")))
    for row in value.get("Errors", []):
        said = row.get("Error")
        said = said[:200] if isinstance(said, str) and said else "no reason given"
        if row["Symbol"].upper() in symbols:
            found[row["Symbol"].upper()] = (*[None] * 6, said)
    return found


SLOW_QUOTES: dict[str, Callable[[Any, Sequence[str]], QuoteRows]] = {
    "binance quotes": binance_quotes,
    "binance-us quotes": binance_quotes,
    "binance-um quotes": binance_quotes,
    "binance-um quotes book": binance_book,
    "binance-cm quotes": partial(binance_quotes, volume="baseVolume"),
    "kraken quotes": kraken_quotes,
    "alpaca quotes": partial(alpaca_quotes, is_stock=True),
    "alpaca-crypto quotes": partial(alpaca_quotes, is_stock=False),
    "alphavantage quotes": alphavantage_stock,
    "alphavantage quotes rate": alphavantage_rate,
    "coingecko quotes": coingecko_quotes,
    "tradestation quotes": tradestation_quotes,
}


def quotes_parser(reply: QuoteReply) -> Parser:
    """The quotes of a reply, checked against a reading of each field by itself."""
    family = f"{reply.provider} quotes"
    part = " rate" if "/" in reply.symbols[0] and reply.provider == "alphavantage" else " book" if reply.at else ""
    slow = SLOW_QUOTES[f"{family}{part}".replace("cm quotes book", "um quotes book")]

    def judge(body: bytes, tickers: Any) -> None:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_no_float)
        reference = {key: (*row, *[None] * (7 - len(row))) for key, row in slow(value, reply.symbols).items()}
        got = {one.symbol: (*one[1:7], one.refusal or None) for one in tickers}
        assert len(got) == len(tickers)
        assert {key: repr(row) for key, row in got.items()} == {key: repr(row) for key, row in reference.items()}

    def good() -> list[bytes]:
        return [(SHARED / reply.path).read_bytes() if reply.path else reply.body]

    names = f"{_SAID_OF_REPLIES}|the quotes of|Global Quote|Realtime"
    return Parser(reply.name, good, reply.parse, judge, names, weight=15, most_said=MOST_QUOTED)


def written(name: str, file: str) -> Callable[[], list[bytes]]:
    return lambda: [(TESTS / "replies" / name / f"{file}.body").read_bytes()]


def clock_parser(name: str, field: Callable[[Any], Any]) -> Parser:
    clock = find_provider(name).clock
    assert clock is not None

    def judge(body: bytes, ms: Any) -> None:
        said = field(json.loads(body))
        assert type(said) is int
        assert ms in (said, said * 1000)
        assert 1.3e12 < ms < 4.2e12

    names = r"expected a|Binance|Kraken|symbol|reply of"
    return Parser(f"{name} clock", written(name, "clock"), clock.parse, judge, names, weight=10)


def listing_parser(name: str, reference: Callable[[Any], list[tuple[str, ...]]]) -> Parser:
    """A list of symbols, and the limits with it."""
    listing = find_provider(name).listing
    assert listing is not None

    def good() -> list[bytes]:
        found = written(name, "listing")()
        for body in replies("exchange_info*.json") if name.startswith("binance") else ():
            info = json.loads(body)
            found.append(json.dumps({**info, "symbols": info["symbols"][:1]}, separators=(",", ":")).encode())
        return found

    def judge(body: bytes, found: Any) -> None:
        assert [(one.provider_symbol, one.base, one.quote) for one in found.symbols] == reference(json.loads(body))
        for limit in found.limits:
            assert type(limit.cost) is type(limit.interval_s) is int
            assert 0 <= limit.cost <= 10**9
            assert 0 < limit.interval_s <= 86_400
        for text in (text for one in found.symbols for text in one[:5]):
            assert type(text) is str
            assert text.isprintable()
            assert text[:1] not in tuple("=+-@\t\r")

    names = r"exchangeInfo|AssetPairs|expected |reply of|Binance|Kraken|CoinGecko|symbol"
    return Parser(f"{name} listing", good, listing.parse, judge, names, weight=25)


def binance_symbols(info: Any) -> list[tuple[str, ...]]:
    return [(entry["symbol"], entry["baseAsset"], entry["quoteAsset"]) for entry in info["symbols"]]


def kraken_symbols(value: Any) -> list[tuple[str, ...]]:
    common = {"XBT": "BTC", "XDG": "DOGE"}
    pairs = [(one["altname"], *one["wsname"].split("/", 1)) for one in value["result"].values() if one.get("wsname")]
    return [(own, *(common.get(name, name) for name in two)) for own, *two in pairs]


def coingecko_symbols(coins: Any) -> list[tuple[str, ...]]:
    asked = [coin for coin in coins if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", coin["id"])]
    fine = [
        coin["symbol"][:1].isalnum() and coin["symbol"].isprintable() and len(coin["symbol"]) <= 60 for coin in asked
    ]
    return [
        (f"{coin['id']}/usd", (coin["symbol"] if is_fine else coin["id"]).upper(), "USD")
        for coin, is_fine in zip(asked, fine, strict=True)
    ]


ACTIONS = json.dumps(
    {"corporate_actions": {
        "forward_splits": [{"symbol": "NVDA", "new_rate": 10, "old_rate": 1, "ex_date": "2024-06-10"}],
        "cash_dividends": [
            {"symbol": "NVDA", "rate": 0.04, "ex_date": "2024-03-05"},
            {"symbol": "NVDA", "rate": 0.01, "process_date": "2024-06-11"},
        ],
    }, "next_page_token": "QUFQTHxN"},
    separators=(",", ":"),
).encode()  # fmt: skip


def actions_parser() -> Parser:
    series = Series("alpaca", None, "NVDA", parse_timeframe("1d"), "candles", (("adjustment", "all"), ("feed", "sip")))
    actions = find_provider("alpaca").feed("candles").actions
    assert actions is not None
    call = actions.call(series, NOW_MS)

    def judge(body: bytes, answer: Any) -> None:
        found, following = answer
        value = json.loads(body)
        rows = [(kind, row) for kind, some in value["corporate_actions"].items() for row in some or ()]
        assert len(found) == len(rows)
        for one, (kind, row) in zip(found, rows, strict=True):
            assert one.day in (row.get("ex_date"), row.get("effective_date"), row.get("process_date"))
            assert dt.date.fromisoformat(one.day)
            assert one.terms.startswith(f"{kind} ")
            assert "NVDA" in row.values()
            assert one.terms.isprintable()
            assert one.counts
        assert (following is None) == (not value.get("next_page_token"))

    names = "corporate action|field next_page_token|reply of|Alpaca|symbol|JSON"
    return Parser("alpaca actions", lambda: [ACTIONS], lambda body: actions.parse(call, body, series), judge, names)


def frame_parser(name: str, good: Sequence[bytes], judge: Callable[[bytes, Any], None]) -> Parser:
    """The frames of a provider's streams."""
    streams = find_provider(name).streams
    assert streams is not None
    return Parser(f"{name} frame", lambda: good, streams.parse, judge, "expected a frame of", weight=15)


def token_parser() -> Parser:
    token = find_provider("tradestation").token
    assert token is not None

    def judge(body: bytes, answer: Any) -> None:
        values, seconds = answer
        said = json.loads(body)
        assert dict(values) == {name: said[name] for name in ("access_token", "refresh_token") if said.get(name)}
        assert all(text.isprintable() and text.isascii() for text in values.values())
        assert seconds == said.get("expires_in", 1200)
        assert 0 < seconds <= 86_400

    good = b'{"access_token":"SENTINEL.abc","refresh_token":"SENTINEL.def","token_type":"Bearer","expires_in":1200}'
    return Parser("tradestation token", lambda: [good], token.parse, judge, "access token", secret="SENTINEL")


STATUSES = (400, 401, 403, 404, 408, 418, 422, 429, 451, 500, 503, 200)


def refusal_parser(name: str) -> Parser:
    """What a provider, or its archive, refuses: a status, Retry-After in the first line of the bytes, and the body."""
    provider = find_provider(name)
    refusals = [provider.refuse] + ([provider.archive.refusal] if provider.archive else [])

    def good() -> list[bytes]:
        bodies = [path.read_bytes() for path in sorted((TESTS / "replies" / name).glob("*.refused.body"))]
        bodies += [b'{"code":-1003,"msg":"IP banned until 1717243260000."}', b"<html><body>403</body></html>"]
        return [b"120\n" + body for body in bodies]

    def read(case: bytes) -> list[Exception]:
        line, _, body = case.partition(b"\n")
        after = line.decode("latin-1")
        used = used_weight({"x-mbx-used-weight-1m": after[:12]})
        assert used is None or 0 <= used < 10**10
        return [
            refusal(Reply(status, {"retry-after": after}, body, 0.1), "XYZ", NOW_MS)
            for status in STATUSES
            for refusal in refusals
        ]

    def judge(case: bytes, errors: list[Exception]) -> None:
        for error in errors:
            assert isinstance(error, SourceError | InputError), repr(error)
            refused(error, parser)
            pause_s = getattr(error, "retry_after_s", None)
            assert pause_s is None or 0 <= pause_s <= 1e9

    parser = Parser(f"{name} refusal", good, read, judge, "", errors=(), weight=10, most_said=MOST_QUOTED)
    return parser


def judge_pause(text: bytes, seconds: Any) -> None:
    assert seconds is None or 0 <= seconds <= 1e9


# -- files of the archive ---------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """A file of the archive: what it is of, and its text."""

    name: str
    series: Series
    file: Any
    member: str
    text: bytes


@cache
def kept_files() -> tuple[Kept, ...]:
    day, found = NOW_MS // DAY_MS * DAY_MS, []
    header = b"open_time,open,high,low,close,volume,a,b,c,d,e,ignore\n"
    for provider, kind, micro, first in (
        ("binance", "candles", 1000, b""),
        ("binance-um", "candles", 1, header),
        ("binance-cm", "candles", 1, header),
        ("binance-um", "funding", 1, b"calc_time,funding_interval_hours,last_funding_rate\n"),
    ):
        series = Series(provider, None, "BTCUSDT", parse_timeframe("4h"), kind)
        file = find_file(series, day, monthly=kind == "funding")
        assert file is not None
        rows: list[list[Any]] = [
            [(day + n * 14_400_000) * micro, "1.5", "2.25", "1.00000000", "2", f"{n}.5",
             (day + n * 14_400_000 + 14_399_999) * micro, "3.5", n, "0.5", "0.25", "0"]
            for n in range(6)
        ]  # fmt: skip
        if kind == "funding":
            rows = [[day + n * 28_800_000 + n, 8, f"0.0001{n}"] for n in range(3)]
        member = file.path.rpartition("/")[2].removesuffix(".zip") + ".csv"
        found.append(Kept(f"{provider} {kind}", series, file, member, first + csv_of(rows)))
    return tuple(found)


def zipped(member: str, text: bytes, *, deflate: bool = True) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(member, (2024, 6, 2, 0, 0, 0)), text)
    return buffer.getvalue()


def judge_kept(kept: Kept, text: bytes, candles: Candles) -> None:
    lines = slow_lines(text)
    if not lines:  # a header alone
        assert candles.count == 0
        return
    kinds = "ixd" if kept.series.kind == "funding" else "idddddididdx"[: len(lines[0])]
    expected = slow_csv(text, kinds)
    assert expected is not None, "read what is wrong"
    micro = 1000 if max(len(str(ms)) for ms in expected[0]) == 16 else 1
    for at in (0, 6) if len(expected) > 6 else (0,):
        expected[at] = [ms // micro for ms in expected[at]]
    if kept.series.kind == "funding":
        rows = sorted(set(zip(*expected, strict=True)))
        assert list(zip(candles.open_ms.tolist(), candles.floats("funding_rate").tolist(), strict=True)) == rows
        assert all(kept.file.span.start_ms <= row[0] < kept.file.span.end_ms for row in rows)
        return
    if kept.series.provider == "binance-cm":
        expected = [expected[at] for at in (0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10)]
    judge_table(candles, sorted(zip(*expected, strict=True), key=lambda row: row[0]), kept.file.span)


def judge_zip(kept: Kept, data: bytes, candles: Candles) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [kept.member]
        judge_kept(kept, archive.read(kept.member), candles)


def zip_parsers() -> Iterator[Parser]:
    """Zips, and sound zips of text that is damaged."""
    names = r"BTCUSDT-\w+-2024-06|row [0-9]|expected (?:candles|funding rates|lines) |candle opens|times of the file"
    for kept in kept_files():

        def read(data: bytes, kept: Kept = kept) -> Candles:
            return read_file(data, kept.file, kept.series)

        def read_text(text: bytes, kept: Kept = kept) -> Candles:
            return read_file(zipped(kept.member, text, deflate=False), kept.file, kept.series)

        def zips(kept: Kept = kept) -> list[bytes]:
            return [zipped(kept.member, kept.text, deflate=deflate) for deflate in (True, False)]

        yield Parser(f"zip of {kept.name}", zips, read, partial(judge_zip, kept), names, weight=7)
        texts = lambda kept=kept: [kept.text]  # noqa: E731
        yield Parser(f"CSV in a zip of {kept.name}", texts, read_text, partial(judge_kept, kept), names, weight=7)


CHECKSUM = hashlib.sha256(b"").hexdigest().encode() + b"  BTCUSDT-1h-2024-06-01.zip\n"


def judge_checksum(text: bytes, found: Any) -> None:
    if found is None:
        assert not text.decode("utf-8", "replace").strip()
        return
    assert re.fullmatch("[0-9a-f]{64}", found)
    words = text.lower().split()
    assert words[0] == found.encode()
    assert words[1].lstrip(b"*") == b"btcusdt-1h-2024-06-01.zip"


BUCKET = "data/spot/daily/klines/BTCUSDT/"


@cache
def bucket_seeds() -> tuple[bytes, ...]:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    body = f"<Name>x</Name><Prefix>{BUCKET}</Prefix><Marker></Marker><IsTruncated>%s</IsTruncated>%s</ListBucketResult>"
    keys = "".join(
        f"<Contents><Key>{BUCKET}1d/BTCUSDT-1d-2017-08-{day}.zip</Key><Size>1</Size></Contents>" for day in (17, 18)
    )
    folders = "".join(
        f"<CommonPrefixes><Prefix>{BUCKET}{name}/</Prefix></CommonPrefixes>" for name in ("1d", "1mo", "1h")
    )
    made = [(head + body % ("false", keys)).encode(), (head + body % ("true", folders)).encode()]
    made.append((head + body % ("true", f"<NextMarker>{BUCKET}1d/</NextMarker>{folders}{keys}")).encode())
    return (*made, *(one[:1500] for one in replies("s3_listing")))


def judge_bucket(body: bytes, page: Any) -> None:
    try:
        root = ElementTree.fromstring(re.sub(rb'\sxmlns="[^"]*"', b"", body))
    except ElementTree.ParseError:  # it minds prefixes, which are a part of the name to us
        return

    def texts(*path: str) -> tuple[str, ...]:
        found = [root]
        for name in path:
            found = [child for one in found for child in one if child.tag.rpartition("}")[2].rpartition(":")[2] == name]
        return tuple(one.text or "" for one in found)

    assert page.keys == texts("Contents", "Key")
    assert page.folders == texts("CommonPrefixes", "Prefix")
    assert all(entry.startswith(BUCKET) for entry in (*page.keys, *page.folders))
    assert (page.next_marker is None) == (texts("IsTruncated")[-1] == "false")
    assert page.next_marker is None or page.next_marker > ""
    first_ms = find_first_ms(page.keys)
    assert first_ms is None or first_ms % DAY_MS == 0
    assert all(parse_timeframe(name.replace("mo", "M")) for name in find_intervals(page.folders))


# -- the cache --------------------------------------------------------------------------------------------------------

KEY = "binance||BTCUSDT|1h|candles||1"
SERIES = Series("binance", None, "BTCUSDT", parse_timeframe("1h"))
_BLOCK = np.arange(24, dtype=np.int64).reshape(6, 4) * 1_000_003
_HOLES = Hole(Span(3, 4), HoleState.CONFIRMED, 5), Hole(Span(6, 7), HoleState.CONFIRMED, 8)
ENTRY = Entry(Span(0, 9), 5, _HOLES, Candles(COLUMNS[:6], _BLOCK), (Span(1, 2),))


@cache
def sealed_seeds() -> tuple[bytes, ...]:
    return pack(KEY, ENTRY), pack(KEY, ENTRY, compress=True)


def judge_sealed(data: bytes, entry: Any) -> None:
    """The checksum lets nothing through that was not sealed under the key."""
    assert (entry is not None) == (data in sealed_seeds()) == (unseal(KEY, data) is not None)
    assert entry is None or (entry[:3], entry.candles.block.tolist()) == (ENTRY[:3], _BLOCK.tolist())


def resealed(data: bytes, version: int | None = None) -> bytes:
    """Bytes whose first eight are magic and checksum, with a checksum that fits."""
    rest = data[8:] if version is None else bytes([version]) + data[9:]
    return b"CNDL" + struct.pack("<I", zlib.crc32(rest, zlib.crc32(KEY.encode()))) + rest


_HEAD = struct.Struct("<qqqIIII")


def judge_entry(data: bytes, entry: Any) -> None:
    """A checksum that fits makes an entry of bytes that say it, and a miss of others."""
    if entry is None:
        return
    opened = unseal(KEY, resealed(data))
    assert opened is not None
    head, body = opened
    start, end, stored, rows, _, gaps, _ = _HEAD.unpack_from(head)
    assert (entry.covered, entry.stored_ms, len(entry.holes)) == (Span(start, end), stored, gaps)
    assert entry.candles.block.shape == (len(entry.candles.names), rows)
    assert entry.candles.block.tobytes() == bytes(body)


_COUNTS = struct.Struct("<II")


@cache
def page_heads() -> list[bytes]:
    """The heads of a page without and with what is known of holes."""
    file = PageFile("0123.page", COLUMNS[:6], (1, 2, 3, 4, 5, 6), 8)
    bare = Entry(Span(0, 9), 5, (), Candles(COLUMNS[:6], _BLOCK))
    pages = [EMPTY_PAGE.added(file, {0: one, 1: bare}) for one in (bare, ENTRY)]
    return [unseal(KEY, pack_page(KEY, page))[0] for page in pages]  # type: ignore[index]


def described(head: bytes) -> bytes:
    """What a head says of its files."""
    return head[_COUNTS.size : _COUNTS.size + _COUNTS.unpack_from(head)[0]]


def with_described(text: bytes) -> bytes:
    """A head that says this of its files."""
    head = page_heads()[1]
    size, count = _COUNTS.unpack_from(head)
    return _COUNTS.pack(len(text), count) + text + head[_COUNTS.size + size :]


def unpack_head(head: bytes) -> Any:
    return unpack_page(KEY, seal(KEY, head, b""))


def judge_page(head: bytes, page: Any) -> None:
    if page is None:
        return
    for one in page.chunks.values():
        assert 0 <= one.first_row <= one.first_row + one.rows <= page.files[one.file].rows
    for file in page.files:
        assert type(file.name) is str
        assert all(type(name) is str for name in file.names)
        assert len(file.names) == len(file.checksums)
        assert 0 < file.rows <= 2**17
    assert [[file.name, [*file.names], [*file.checksums], file.rows] for file in page.files] == json.loads(
        described(head)
    )


def document_parser(
    name: str, key: str, good: Any, load: Callable[[CandleCache], Any], judge: Callable[[Any, Any], None]
) -> Parser:
    """A document of the cache, with a checksum that fits: it is what it says, or a miss."""

    def read(text: bytes) -> Any:
        memory = MemoryTier(10**7)
        memory.save(key, seal(key, b"", text, compress=True), 100)
        return load(CandleCache(Store(memory), path=None))

    def judge_text(text: bytes, value: Any) -> None:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = None
        judge(said, value)

    return Parser(name, lambda: [json.dumps(good).encode()], read, judge_text, errors=(), weight=7)


FACTS = {
    "first_ms": 5, "quiet": [[0, 5, "not_listed", 9]], "absent": [["/data/x.zip", 99]],
    "failed": [[1, 2, "boom", 3]], "unverified": [[1, 2, "/data/y.zip"]],
}  # fmt: skip


def judge_facts(said: Any, facts: Any) -> None:
    bare = (facts.first_ms, facts.empty, facts.absent, facts.failed, facts.unverified) == (None, (), (), (), ())
    if not bare:
        reference = {name: list(map(list, said[name])) for name in FACTS if name != "first_ms"}
        assert facts.first_ms == said["first_ms"]
        assert not isinstance(facts.first_ms, bool | float)
        for name, some in zip(reference, (facts.empty, facts.absent, facts.failed, facts.unverified), strict=True):
            got = [[*one[0], *one[1:]] if isinstance(one[0], Span) else [*one] for one in some]
            assert got == reference[name]
            assert all(type(value) in (int, str) for one in got for value in one)
    assert facts.bounds(Span(0, 10), NOW_MS).start_ms >= 0
    facts.is_absent("/data/x.zip", NOW_MS)


LISTED = {
    "limits": [[6000, 60, "weight"]], "symbols": [["BTC/USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True]],
    "stored_s": 1.7e9,
}  # fmt: skip


def judge_listed(said: Any, loaded: Any) -> None:
    if loaded is None:
        return
    listing, age_s = loaded
    assert [[*one[:5]] for one in listing.symbols] == [one[:5] for one in said["symbols"]]
    assert [[*one] for one in listing.limits] == list(said["limits"])
    assert all(type(limit.cost) is type(limit.interval_s) is int for limit in listing.limits)
    assert all(type(text) is str for one in listing.symbols for text in one[:5])
    assert all(type(one.trading) is bool for one in listing.symbols)
    assert math.isfinite(age_s)


KNOWN = {
    "asked_ms": NOW_MS, "listed": [["2024-06-10", "forward_splits {}", True]], "changed_ms": 5, "error": "",
    "used": [[["adjustment", "split"]]],
}  # fmt: skip


def judge_known(said: Any, known: Any) -> None:
    if known is None:
        return
    assert (known.asked_ms, known.changed_ms, known.error) == (said["asked_ms"], said["changed_ms"], said["error"])
    assert [[*one[:2]] for one in known.listed] == [list(one)[:2] for one in said["listed"]]
    assert all(dt.date.fromisoformat(one.day) for one in known.listed)
    assert [[[*pair] for pair in one] for one in known.used] == [list(one) for one in said["used"]]


REVISED = [[NOW_MS, "close", 1.5, 2.5, 1, 2], [NOW_MS + 1, "trades", 3, 4, 1, 2]]


def judge_revised(said: Any, found: Any) -> None:
    # Numbers in quotes are numbers to it.
    reference = [[*one[:2], *map(float, one[2:])] for one in found]
    assert not reference or reference == [[*one[:2], *map(float, one[2:])] for one in said]


def judge_lags(said: Any, lags: Any) -> None:
    assert all(type(ms) is int and ms >= 0 for ms in lags)


def freshness_parser() -> Parser:
    key = f"{SERIES.key}|shelf|0"
    values = np.arange(1_000, dtype="<i8")

    def read(body: bytes) -> Any:
        memory = MemoryTier(10**7)
        memory.save(key, seal(key, b"\0", body), 100)
        return CandleCache(Store(memory), path=None).freshness.load(SERIES, [1, 7, 999])

    def judge(body: bytes, fresh: Any) -> None:
        reference = np.frombuffer(body, "<i8").tolist() if len(body) == 8_000 else [0] * 1_000
        assert fresh == {chunk: reference[chunk] or 1 for chunk in (1, 7, 999)}

    return Parser("record of freshness", lambda: [values.tobytes()], read, judge, errors=(), weight=7)


@cache
def backup() -> bytes:
    """A container of two members, one with a long name."""
    file = io.BytesIO()
    with ContainerWriter(file) as writer:
        writer.add(name_of(KEY), pack(KEY, ENTRY))
        writer.add("x" * 200, b"12345")
        writer.finish({"entries": 1})
    return file.getvalue()


def read_backup(data: bytes) -> Any:
    return read_facts(io.BytesIO(data)), [(one.name, bytes(one.data)) for one in read_members(io.BytesIO(data))]


def judge_backup(data: bytes, found: Any) -> None:
    """Its checksum covers every byte."""
    assert data == backup()
    assert found[1] == [(name_of(KEY), pack(KEY, ENTRY)), ("x" * 200, b"12345")]


VAULT_SERIES = SeriesId("binance", "BTC/USDT", "BTCUSDT", "1h")


def vault_parser(name: str, good: Any, parse: Callable[[bytes, str], Any]) -> Iterator[Parser]:
    """A document of a vault: as it lies there, and with a checksum that fits."""

    def checked(text: bytes) -> bytes:
        try:
            said = {key: value for key, value in json.loads(text).items() if key != "check"}
        except (ValueError, AttributeError, RecursionError):
            return text
        check = zlib.crc32(json.dumps(said, sort_keys=True, ensure_ascii=True).encode())
        return json.dumps(said | {"check": check}).encode()

    def judge(text: bytes, value: Any) -> None:
        assert value == good
        assert json.loads(text) == json.loads(good.to_bytes())

    def read(text: bytes) -> Any:
        return parse(checked(text), "x.json")

    both = (BadFile, InputError)
    yield Parser(name, lambda: [good.to_bytes()], lambda text: parse(text, "x.json"), judge, r"x\.json", both, weight=7)
    yield Parser(f"{name} that fits", lambda: [good.to_bytes()], read, lambda *_: None, r"x\.json", both, weight=7)


VAULT = VaultDocument("csv", entries=(VaultEntry(VAULT_SERIES, "BTC_USDT_1h", NOW_MS),), origins=(("binance", None),))
VAULT_STATE = SeriesState(
    VAULT_SERIES,
    Facts(0, 5, 3, (1, 2), 7, (("adjustment", "raw"),), (Field("timestamp", "open_time", "time"),)),
    (("a", Piece(100, 2, 3, 4, 5, 6, 7)),),
    "a",
)


@cache
def ledger_seeds() -> tuple[bytes, ...]:
    busy = Window(((28_000_000, 40), (28_000_900, 2)), ((28_001_000, 1),), 3, 0, 28_000_500)
    windows = {"weight/60": busy, "requests/300": Window(((5, 7),))}
    full = State(
        windows, 5_000, 1_000, NOW_MS, 120_000, "banned until …", (Limit(6000, 60), Limit(500, 300, "requests")), NOW_MS
    )
    return pack_state(full)[0], pack_state(State())[0]


def judge_ledger(data: bytes, state: Any) -> None:
    again = pack_state(state)[0]
    assert len(again) <= PLACE_BYTES - 24 or len(data) > PLACE_BYTES
    assert (
        unpack_state(again) == state
        or len(data) > PLACE_BYTES
        or len(state.ban_message) > 240
        or len(state.windows) > 16
        or len(again) > 4_000
    )
    for window in state.windows.values():
        assert all(
            count >= 0 for count in (window.back_ms, window.fore_ms, *dict((*window.done, *window.sent)).values())
        )
    assert all(limit.cost >= 0 < limit.interval_s for limit in state.limits)


@cache
def folder() -> Path:
    """A folder for this process."""
    made = tempfile.TemporaryDirectory(prefix="parsers")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def pacing_state() -> SharedState:
    return SharedState(folder(), "binance")


@cache
def pacing_seeds() -> tuple[bytes, ...]:
    """The file after one write and after two."""
    state, found = pacing_state(), []
    for text in (b"first", b"second, longer"):
        with state.locked():
            state.load()
            state.save(text)
        found.append(state.path.read_bytes())
    return tuple(found)


def read_pacing(data: bytes) -> Any:
    state = pacing_state()
    state.path.write_bytes(data)
    with state.locked():
        return state.load()


def judge_pacing(data: bytes, found: Any) -> None:
    assert set(found) <= {b"first", b"second, longer"}


# -- what people write ------------------------------------------------------------------------------------------------


def of_file(name: str, read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Read bytes out of a file of that name."""

    def read_file_of(data: bytes) -> Any:
        path = folder() / name
        path.write_bytes(data)
        return read(str(path))

    return read_file_of


def judge_frame(data: bytes, frame: Any) -> None:
    expected = slow_csv_of_ours(data)
    if expected is None:  # columns of other providers are read too
        return
    reference = dict.fromkeys(zip(*expected.values(), strict=True))
    assert len(frame) == len(reference)
    for at, name in enumerate(expected):
        if name in OHLCV:
            assert list(map(repr, frame[name].tolist())) == [repr(row[at]) for row in reference]


@cache
def importer() -> candle_fetcher.CandleFetcher:
    """A fetcher that sends nothing and keeps all in memory."""
    (folder() / "cache").mkdir()
    return candle_fetcher.CandleFetcher(cache_dir=folder() / "cache", disk_cache_size=0, progress=False, source="cache")


def import_beside(manifest: bytes) -> Any:
    path = folder() / "BTC_USDT_1h_20240229_20240301.csv"
    path.write_bytes(OURS)
    path.with_suffix(".json").write_bytes(manifest)
    return importer().cache.import_file(path)


MANIFEST = json.dumps(
    {"provider": "binance", "origin": None, "symbol": "BTC/USDT", "timeframe": "1h", "kind": "candles",
     "start": "2024-02-29T00:00:00Z", "end": "2024-03-01T00:00:00Z", "settings": {}, "rows": 2, "complete": True}
).encode()  # fmt: skip


def judge_import(data: bytes, done: Any) -> None:
    """The file is of the series that its name says, and so says its manifest, or that is none of ours."""
    assert (done.provider, done.symbol, done.timeframe, done.kind, done.rows) == (
        "binance",
        "BTC/USDT",
        "1h",
        "candles",
        2,
    )
    said = json.loads(data)
    if isinstance(said, dict) and {"provider", "origin", "symbol", "timeframe", "kind", "start", "end"} <= said.keys():
        assert (said["provider"], said["timeframe"], said["kind"], said["origin"]) == ("binance", "1h", "candles", None)


@cache
def exported(ending: str) -> bytes:
    """A file that `export` wrote, with its manifest in it."""
    frame = candle_fetcher.read_csv(of_file("exported.csv", Path)(MORE))
    place = find_place(folder() / f"exported{ending}", None)
    facts = {"provider": "binance", "origin": None, "symbol": "BTC/USDT", "timeframe": "1h", "kind": "candles",
        "rows": len(frame), "settings": {}}  # fmt: skip
    summed = Fingerprint(parse_timeframe("1h"), CHUNK_SLOTS)
    summed.add(candles_of(frame.reset_index()))
    file = TableFile(place.path, place.format, False, None, PLAIN_CSV, False)
    file.write([frame], lambda: facts | {"fingerprint": summed.text})
    return place.path.read_bytes()


def verified(ending: str) -> Callable[[bytes], FileReport]:
    """Check bytes as a file with that ending, against a cache that has nothing."""
    return of_file(f"damaged{ending}", lambda path: check_file(path, lambda *_: None))


def judge_verified(ending: str, data: bytes, report: FileReport) -> None:
    """A file is whole where it says what was written, row for row; without its manifest it has no fingerprint."""
    written = verified(ending)(exported(ending))
    assert written.whole
    assert not report.whole or report.rows == written.rows
    assert not report.whole or report.fingerprint in (None, written.fingerprint)


def table_parsers() -> Iterator[Parser]:
    """The readers of files whose packages are installed."""
    for ending, package in ((".parquet", "pyarrow"), (".arrow", "pyarrow"), (".xlsx", "xlsxwriter")):
        if find_spec(package) is not None:
            yield Parser(f"file {ending}", partial(lambda ending: [exported(ending)], ending), verified(ending),
                partial(judge_verified, ending), rf"damaged\{ending}", (BadFile, InputError), weight=2,
                is_slow=True)  # fmt: skip


DOTENV = (
    b"# settings\nCANDLE_FETCHER_PROVIDER=kraken\nexport CANDLE_FETCHER_TIMEOUT_S='30'\n"
    b'CANDLE_FETCHER_SOURCE="rest" # mine\nOTHER=1\nMAX_RETRIES=3\n'
)


def read_dotenv(data: bytes) -> Any:
    (folder() / ".env").write_bytes(data)
    before, here = dict(os.environ), Path.cwd()
    said = io.StringIO()
    os.chdir(folder())
    try:
        with contextlib.redirect_stderr(said), dotenv(argparse.Namespace(command="fetch", practice=True), Talk()):
            return {name: text for name, text in os.environ.items() if before.get(name) != text}, said.getvalue()
    finally:
        os.chdir(here)
        assert dict(os.environ) == before


def judge_dotenv(data: bytes, answer: Any) -> None:
    """The values are those of lines of the file, and what is said of it is a line."""
    values, said = answer
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "replace").read()  # every line end as LF
    assert all(name.startswith("CANDLE_FETCHER_") for name in values)
    for name, value in values.items():
        assert name.removeprefix("CANDLE_FETCHER_") in text
        assert "\\" in text or value in text
    assert all(line.isprintable() and len(line) <= MOST_SAID for line in said.splitlines())


SYMBOL_FILES = (
    b"market,symbol,earliest_date,available_intervals,um,cm\nspot,BTCUSDT,2017-08-17,\"1m,1h\",BTCUSDT,BTCUSD_PERP\n",
    b"\xef\xbb\xbfsymbol\r\nBTC/USDT\r\nETH-USDT\r\n",
    b"symbol;market\nBTCUSDT;um\nBTCUSD_PERP;cm\n\n",
    b'symbol\tearliest_date\n"BTCUSDT"\t2020-01-01\n',
)  # fmt: skip


def judge_symbols_file(data: bytes, targets: Any) -> None:
    text = data.decode("utf-8-sig")
    first = next(line for line in text.splitlines() if line.strip(' ",;\t'))
    names = {one: [name.strip(' "\r\n').casefold() for name in first.split(one)] for one in ",;\t"}
    separator = next((one for one in names if "symbol" in names[one]), ",")
    cells = {cell.strip() for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row}
    assert targets
    for target in targets:
        assert target.symbol in cells
        assert target.provider in ("binance", "binance-um", "binance-cm")
        inside(find_provider(target.provider).provider_symbol(target.symbol, "candles"))
        with contextlib.suppress(InputError):
            assert target.start() is None or target.start() in cells


def symbol_parser(name: str, *good: str) -> Parser:
    """What is accepted for a symbol can be part of a URL, a path, a key and a file's name, and nothing more."""
    provider = find_provider(name)

    def judge(text: bytes, symbol: str) -> None:
        assert symbol.isprintable()
        assert len(symbol) <= 140
        assert provider.provider_symbol(symbol, "candles") == symbol
        if name.startswith("binance"):
            inside(symbol)
            inside(provider.unified(symbol).replace("/", "", 1))

    def read(text: bytes) -> str:
        return provider.provider_symbol(text.decode("utf-8", "surrogateescape"), "candles")

    return Parser(f"{name} symbol", _texts(*good), read, judge, "symbol|pair|coin|perpetual", (InputError,), weight=5)


def inside(symbol: str) -> None:
    assert re.fullmatch(r"\w{1,70}", symbol), symbol
    series = SERIES._replace(symbol=symbol)
    assert [unquote(field) for field in series.key.split("|")] == ["binance", "", symbol, "1h", "candles", ""]
    file = find_file(series, NOW_MS, monthly=False)
    assert file is not None
    assert file.path.split("/") == ["", "data", "spot", "daily", "klines", symbol, "1h", f"{symbol}-1h-2024-06-01.zip"]
    assert Path(csv_name("binance", symbol, "candles", SERIES.timeframe, Span(0, DAY_MS))).parent == Path()


def judge_instant(text: bytes, ms: Any) -> None:
    words = text.decode("utf-8", "replace")
    numbers = [int(one) for one in re.findall(r"\d+", words)]
    if len(numbers) == 1:
        digits = words.strip()
        if len(digits) in (4, 8):  # a year, or a day without hyphens
            numbers = [int(digits[:4]), int(digits[4:6] or 1), int(digits[6:] or 1)]
        else:
            assert ms == numbers[0]
            return
    # Years, months and days by counting; the zone, which is at the end, moves it by less than a day.
    year, month, day = numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else 1
    days = dt.date(year, month, day).toordinal() - 719_163
    assert -DAY_MS < ms - days * DAY_MS < 2 * DAY_MS
    zone = re.search(r"[T ].*?([+-])(\d\d):?(\d\d)?$", words.strip(), re.IGNORECASE | re.DOTALL)
    clock = (
        numbers[3:] if zone is None else numbers[3 : 3 + len(re.findall(r"\d+", words[: words.rindex(zone[1])])) - 3]
    )
    expected = days * DAY_MS + sum(a * b for a, b in zip(clock[:3], (3_600_000, 60_000, 1_000), strict=False))
    if len(clock) > 3:
        digits = re.findall(r"\d+", words)[6]
        expected += int(digits.ljust(3, "0")[:3])
    if zone is not None:
        minutes = int(zone[2]) * 60 + int(zone[3] or 0)
        expected -= minutes * 60_000 * (1 if zone[1] == "+" else -1)
    assert ms == expected, (ms, expected)


_UNITS = {
    word: seconds
    for seconds, words in (
        (1, "s sec secs second seconds"), (60, "m min mins minute minutes"), (3_600, "h hr hrs hour hours"),
        (86_400, "d day days"), (604_800, "w week weeks"), (30 * 86_400, "mo month months"),
    )
    for word in words.split()
}  # fmt: skip


def slow_timeframe(text: bytes) -> int | None:
    """The length of a timeframe in seconds; None for another text."""
    found = re.fullmatch(rb"([1-9]\d{0,4})([A-Za-z]+)", text)
    word = found[2].decode() if found else ""
    seconds = _UNITS.get("mo" if word == "M" else word.lower(), 0)
    return int(found[1]) * seconds if found and seconds else None


def judge_timeframe(text: bytes, found: Any) -> None:
    assert found.nominal_ms == 1000 * (slow_timeframe(text) or 0)
    assert parse_timeframe(found.name) == found


def refuse_timeframe(text: bytes) -> None:
    assert slow_timeframe(text) is None, "refused what is right"


def judge_root(text: bytes, root: Any) -> None:
    words = text.decode("utf-8", "replace")
    assert root == words.rstrip("/")
    found = re.fullmatch(
        r"(https?)://(\[[0-9A-Fa-f:.%\w]+\]|[^/@?#\[\]]+?)(?::(\d*))?((?:/[!-~]*)?)", root, re.ASCII | re.IGNORECASE
    )
    assert found, root
    assert "@" not in found[2]
    if found[1].lower() == "http":
        assert re.fullmatch(
            r"localhost|127\.\d+\.\d+\.\d+|\[(::1|::ffff:127\.\d+\.\d+\.\d+|[0:]*:0*1)\]", found[2], re.IGNORECASE
        ), root


SETTINGS = (
    ("memory_cache_size", b"256MB"), ("cache_ttl", b"10"), ("compression", b"true"), ("network_threads", b"10"),
    ("timeout_s", b"30"), ("base_urls", b"binance=http://localhost:80"), ("provider_settings", b"alpaca.feed=iex"),
)  # fmt: skip


def setting_parser(name: str, good: bytes) -> Parser:
    """What the environment variable of a setting says."""

    def read(text: bytes) -> Any:
        given = {one: default(value) for one, value in USUAL.items()}
        words = text.decode("utf-8", "replace").replace("\0", "")
        return read_settings(given, {f"CANDLE_FETCHER_{name.upper()}": words})[1]

    def judge(text: bytes, settings: Any) -> None:
        assert settings.memory_cache_size >= 0
        assert 1 <= settings.network_threads <= 256
        assert 0 < settings.timeout_s < 1e12
        assert all(url == check_root(url) for url in settings.base_urls.values())

    return Parser(
        f"setting {name}",
        lambda: [good],
        read,
        judge,
        f"{name}|{name.upper()}|base URL|http to |unknown provider",
        weight=3,
    )


USUAL: dict[str, Any] = {
    "provider": "binance", "cache_dir": "/nowhere", "use_cache": True, "memory_cache_size": "256MB",
    "disk_cache_size": "10GB", "cache_ttl": None, "compression": False, "network_threads": None, "io_threads": None,
    "performance_mode": "standard", "source": "auto", "max_retries": 5, "timeout_s": 30, "budget_share": 1,
    "base_urls": None, "provider_settings": None,
}  # fmt: skip


def base_urls() -> Sequence[bytes]:
    """The first four are taken."""
    return [b"https://api.binance.com", b"http://127.0.0.1:8700/", b"http://[::1]:80/x", b"http://localhost",
            b"http://169.254.169.254", b"https://user:SENTINEL@host/", b"file:///etc/passwd", b"https://host:SENTINEL",
            b"http://127.0.0.1.evil.com"]  # fmt: skip


def _texts(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in texts]


# -- all of them ------------------------------------------------------------------------------------------------------

PARSERS = (
    rows_parser("rows", 100, kline_bodies, KLINE),
    rows_parser("numbers", 110, lambda: [b'[[1,"1.5","0"],[22,"33.125","0"]]', b'[[1,"0.00000001","0"]]',
        b'[[-1,"-2.5","1"]]'], PLAIN),
    Parser("CSV", csv_texts, read_csv_text, partial(judge_columns, slow_klines, KLINE.kinds),
        r"row [0-9]|expected lines", refuse=partial(refuse_rows, slow_klines), weight=100),
    *quick_parsers(),
    Parser("CSV of ours", files_of_people, lambda text: list(read_csv_rows(pieces_of(text))), judge_ours,
        r"row [0-9]|line|header|column", weight=20),
    Parser("CSV of Kraken", lambda: [KRAKEN], lambda text: list(checked_blocks(read_kraken(pieces_of(text)))),
        judge_kraken_file, r"row [0-9]|line|times|a candle of|two candles", weight=10),
    Parser("file of ours", lambda: [OURS, MORE], of_file("mine.csv", candle_fetcher.read_csv), judge_frame,
        r"mine\.csv", (BadFile, InputError), weight=2, is_slow=True),
    *table_parsers(),
    Parser("manifest", lambda: [MANIFEST], import_beside, judge_import, r"BTC_USDT_1h_20240229_20240301", (BadFile,
        InputError), weight=2, is_slow=True),
    candles_parser("binance", "BTCUSDT", "1h", klines_of, weight=30),
    candles_parser("binance-us", "BTCUSD", "1d", klines_of, weight=5),
    candles_parser("binance-um", "BTCUSDT", "1h", klines_of, kind="mark", weight=5),
    candles_parser("binance-cm", "BTCUSD_PERP", "1m", coin_klines_of),
    candles_parser("kraken", "XBTUSD", "1m", kraken_rows),
    candles_parser("alpaca", "AAPL", "1m", alpaca_rows, "adjustment=raw", "feed=sip"),
    candles_parser("alpaca-crypto", "BTC/USD", "1d", partial(alpaca_rows, symbol="BTC/USD")),
    candles_parser("alphavantage", "IBM", "1d", partial(alphavantage_rows, timeframe="1d")),
    candles_parser("alphavantage", "IBM", "5m", partial(alphavantage_rows, timeframe="5m"), case="intraday"),
    candles_parser("coingecko", "bitcoin/usd", "4h", coingecko_rows),
    candles_parser("tradestation", "MSFT", "30m", tradestation_rows, "session=USEQPreAndPost", case="minutes"),
    *map(quotes_parser, REPLIES),
    funding_parser("binance-um", "BTCUSDT"),
    funding_parser("binance-cm", "BTCUSD_PERP"),
    clock_parser("binance", lambda value: value["serverTime"]),
    clock_parser("kraken", lambda value: value["result"]["unixtime"]),
    listing_parser("binance", binance_symbols),
    listing_parser("binance-cm", binance_symbols),
    listing_parser("kraken", kraken_symbols),
    listing_parser("coingecko", coingecko_symbols),
    actions_parser(),
    token_parser(),
    frame_parser("binance", stream_frames.BINANCE, stream_frames.judge_binance),
    frame_parser("binance-cm", stream_frames.BINANCE, partial(stream_frames.judge_binance, fields="ohlcvTnVqQ")),
    frame_parser("kraken", stream_frames.KRAKEN, stream_frames.judge_kraken),
    frame_parser("alpaca", stream_frames.ALPACA, stream_frames.judge_alpaca),
    *map(refusal_parser, ("binance", "kraken", "alpaca", "alphavantage", "coingecko", "tradestation")),
    Parser("Retry-After", _texts("120", "\x1f33", "1.5", "-3", "Wed, 21 Oct 2026 07:28:00 GMT", "1e20",
        "Wed, 21 Oct 2026 07:28 +0100"), lambda text: parse_retry_after(text.decode("latin-1"), NOW_MS / 1000),
        judge_pause, errors=(), weight=30),
    *zip_parsers(),
    Parser("CHECKSUM", lambda: [CHECKSUM], lambda text: find_checksum(text, "BTCUSDT-1h-2024-06-01.zip"),
        judge_checksum, "the CHECKSUM of BTCUSDT-1h-2024-06-01.zip"),
    Parser("bucket", bucket_seeds, lambda body: parse_bucket(body, BUCKET), judge_bucket,
        "listing|entries below|page of", weight=40),
    Parser("entry", sealed_seeds, lambda data: unpack(KEY, data), judge_sealed, errors=(), weight=50),
    Parser("entry of right checksum", sealed_seeds, lambda data: unpack(KEY, resealed(data)), judge_entry, errors=()),
    Parser("entry in memory", sealed_seeds, lambda data: unpack(KEY, data, trusted=True), lambda data, entry: None,
        errors=()),
    Parser("page", page_heads, unpack_head, judge_page, errors=()),
    Parser("files of a page", lambda: [described(page_heads()[1])], lambda text: unpack_head(with_described(text)),
        lambda text, page: judge_page(with_described(text), page), errors=()),
    document_parser("facts", f"{SERIES.key}|facts", FACTS, lambda cache: cache.facts.get(SERIES), judge_facts),
    document_parser("lags", "lags|binance|", [7200000, 3600000], lambda cache: cache.facts.lags(SERIES), judge_lags),
    document_parser("listing", "listing|binance", LISTED, lambda cache: cache.listings.load("binance"), judge_listed),
    document_parser("actions", f"{SERIES._replace(timeframe=parse_timeframe('1d')).key}|actions", KNOWN,
        lambda cache: cache.listings.load_actions(SERIES), judge_known),
    document_parser("revisions", "x|revisions", REVISED, lambda cache: cache.entries.load_revisions("x|revisions"),
        judge_revised),
    freshness_parser(),
    Parser("backup", lambda: [backup()], read_backup, judge_backup, "it|member|backup", (BadFile, InputError)),
    *vault_parser("vault.json", VAULT, VaultDocument.from_bytes),
    *vault_parser("state of a vault", VAULT_STATE, SeriesState.from_bytes),
    Parser("state of pacing", ledger_seeds, unpack_state, judge_ledger, errors=()),
    Parser("file of pacing", pacing_seeds, read_pacing, judge_pacing, errors=(), weight=3, is_slow=True),
    Parser(".env", lambda: [DOTENV], read_dotenv, judge_dotenv, errors=(), weight=2, is_slow=True),
    Parser("file of symbols", lambda: SYMBOL_FILES, of_file("symbols.csv", lambda path: read_symbols_file(path, None,
        "binance")), judge_symbols_file, r"symbols\.csv", (InputError,), weight=7, is_slow=True),
    symbol_parser("binance", "BTC/USDT", "btcusdt", "BTC-USDT", "1000SATS/USDT", "币安人生USDT"),
    symbol_parser("binance-cm", "BTCUSD_PERP", "btc/usd"),
    symbol_parser("kraken", "BTC/USD", "XXBTZUSD"),
    symbol_parser("alpaca", "BRK.B"),
    symbol_parser("alpaca-crypto", "BTC/USD"),
    symbol_parser("alphavantage", "TSCO.LON", "BTC/USD"),
    symbol_parser("coingecko", "bitcoin/usd"),
    symbol_parser("tradestation", "@ES", "BTC/USD"),
    Parser("instant", _texts("2024-01-31", "2024-01-31T12:00Z", "2024-02-29 23:59:59.999+05:30", "1717243200000",
        "0001-01-01"), lambda text: instant_ms(text.decode("utf-8", "replace"), "start"), judge_instant, "start",
        (InputError,), weight=30),
    Parser("timeframe", _texts("1m", "4h", "45m", "1M", "99999d", "1w"),
        lambda text: parse_timeframe(text.decode("utf-8", "replace")), judge_timeframe, "timeframe", (InputError,),
        refuse_timeframe),
    Parser("base URL", base_urls, lambda text: check_root(text.decode("utf-8", "replace")), judge_root,
        "URL|http to ", (InputError,), secret="SENTINEL"),
    *(setting_parser(*one) for one in SETTINGS),
)  # fmt: skip
BY_NAME = {parser.name: parser for parser in PARSERS}


@cache
def recorded_parsers() -> tuple[Parser, ...]:
    """Parsers whose good bytes are real replies, which lie beside the repository."""

    def other(name: str, path: str) -> Parser:
        return BY_NAME[name]._replace(good=lambda: [(SHARED / "recorded" / path).read_bytes()])

    amazon, crypto = partial(alpaca_rows, symbol="AMZN"), partial(alpaca_rows, symbol="BCH/USD")
    microsoft = partial(alphavantage_rows, timeframe="1m", symbol="MSFT")
    return (
        candles_parser(
            "binance", "BTCUSDT", "5m", klines_of, recorded="binance_spot/klines_btcusdt_5m_latest_limit24.json"
        ),
        candles_parser("binance-um", "BTCUSDT", "1d", klines_of, recorded="binance_um/klines_btcusdt_1d_latest5.json"),
        candles_parser(
            "binance-cm", "BTCUSD_PERP", "1M", coin_klines_of, recorded="binance_cm/klines_btcusd_perp_1M_latest5.json"
        ),
        candles_parser("kraken", "XBTUSD", "1m", kraken_rows, recorded="kraken/ohlc_xxbtzusd_1m_four_rows.json"),
        candles_parser(
            "alpaca", "AMZN", "1m", amazon, "adjustment=raw", "feed=sip", recorded="alpaca/stock_bars_amzn_1min.json"
        ),
        candles_parser("alpaca-crypto", "BCH/USD", "1m", crypto, recorded="alpaca/crypto_bars_bchusd_1min.json"),
        candles_parser("alphavantage", "MSFT", "1m", microsoft, recorded="alpha_vantage/intraday_1min_msft_2017.json"),
        candles_parser("coingecko", "bitcoin/usd", "4h", coingecko_rows, recorded="coingecko/ohlc_bitcoin_7d.json"),
        other("binance clock", "binance_spot/server_time.json"),
        other("kraken clock", "kraken/server_time.json"),
        other("binance listing", "binance_spot/exchange_info_2025_first_25_symbols.json"),
        other("binance-cm listing", "binance_cm/exchange_info_2025_first_25_symbols.json"),
        other("kraken listing", "kraken/asset_pairs_subset.json"),
        *map(quotes_parser, RECORDED),
    )
