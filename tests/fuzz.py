"""Hostile input for everything that reads bytes or text it did not write: replies, files, the cache, settings.

    python tests/fuzz.py [--cases N] [--seconds N] [--seed N] [--target NAME ...]

Each target has seeds, a way to change them, and a judge that knows what is right without the code that it judges: what
is accepted must be what a slow reading of the same bytes gives, and what is refused must be refused by the error that
is documented, in one printable line. Cases are the same for the same seed. `--cases` (a million unless given) are
shared out by weight; `--seconds` goes on, round by round, for so long. Prints a line for each target; exits with 1
where a case failed, 2 for a target that is not there. Real replies beside the repository are seeds too, where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime as dt
import hashlib
import io
import itertools
import json
import math
import random
import re
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, not an installed package

from candle_fetcher.cache import CandleCache
from candle_fetcher.cli.symbols_file import read_symbols_file
from candle_fetcher.core.call import Limit, Reply, parse_retry_after
from candle_fetcher.core.candles import COLUMNS, INTEGERS, MISSING, OHLCV, Candles, check
from candle_fetcher.core.entry import Entry, Hole, HoleState, pack, seal, unpack, unseal
from candle_fetcher.core.errors import InputError, ReplyError, SourceError
from candle_fetcher.core.naming import csv_name
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.text.csv import read_rows as read_csv_rows
from candle_fetcher.core.text.rows import Row, iter_csv, parse_rows
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.files.formats import read_kraken
from candle_fetcher.net.budget import State, Window, pack_state, unpack_state
from candle_fetcher.net.roots import check_root
from candle_fetcher.providers import alpaca, find_provider, kraken
from candle_fetcher.providers.binance import parse_candles, parse_clock, parse_listing, refusal, used_weight
from candle_fetcher.providers.binance_archive import find_checksum, find_file, read_file
from candle_fetcher.providers.binance_bucket import find_first_ms, find_intervals
from candle_fetcher.providers.binance_bucket import parse_listing as parse_bucket
from candle_fetcher.providers.binance_funding import parse_funding
from candle_fetcher.providers.binance_klines import KLINE
from candle_fetcher.settings import read_settings
from candle_fetcher.store import MemoryTier, Store
from candle_fetcher.store.shared import PLACE_BYTES, SharedState

CASES = 1_000_000
SEED = 20_240_601
SHARED = ROOT.parent / "shared"
DAY_MS = 86_400_000
NOW_MS = 1_717_243_200_000

# What a failed case is told by: shown whole up to here.
_SHOWN = 2_000
# A message is a line that a person reads.
_MOST_SAID = 600

TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"nan", b"1_000", b"-0", b"-0.0", b"1e5", b"1E400", b"1e-400", b"00", b"01",
    b"+1", b".5", b"5.", b"0x1F", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\x0b", "٣".encode(), "１".encode(),
    "−1".encode(), b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x1b[2J", b"null", b"true", b'""', b"[]",
    b"{}", b"[[", b"]]", b'"', b"\\u0031", b"\\ud800", b"9" * 16, b"9" * 17, b"9" * 18, b"9" * 19, b"9" * 400,
    b"9007199254740993", b"9223372036854775807", b"-9223372036854775808", b"18446744073709551616",
    b"0." + b"0" * 30 + b"1", b"1" * 309, b"1" * 17 + b"." + b"1" * 17, b"123456789.123456785", b"179769313486231580",
    b"0.1000000000000000055511151231257827021181583404541015625", b",", b":", b",,", b"/", b"../", b"|", b"%2e", b"=",
    b"@", b"-", b"#", b"?", b"&", b"<!DOCTYPE a>", b"<", b"</Key>", b"<a/>", b"&lt;", b"&#27;", b"&x;",
    b'{"code":-1121,"msg":"Invalid symbol."}', b'"symbol":"BTCUSDT",', b"1717243200000", b"1717243200000000",
)  # fmt: skip
RARE = (b"[" * 3_000, b"9" * 5_000, b'{"a":' * 1_500, b"[" * 100_000, b"\n" * 70_000, b"0," * 40_000)
MARKS = b"0123456789.,:\"'[]{}<>/-+eE_ \r\n\t\\|&%;=\x00\x1b\x80\xff"
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")


def mutate(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """The seed after one to four changes: bytes, cuts, repeats, tokens, numbers, a piece of another seed."""
    data = seed
    for _ in range(1 if rng.random() < 0.6 else rng.randrange(2, 5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(12)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind in (1, 2):
            data = data[:at] + bytes([rng.choice(MARKS)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at + rng.randrange(1, 9) :]
        elif kind == 4:
            data = data[:at] if rng.random() < 0.5 else data[at:]
        elif kind == 5:
            end = at + rng.randrange(1, 60)
            data = data[:end] + data[at:]
        elif kind in (6, 7):
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]
        elif kind in (8, 9):
            data = _renumbered(rng, data, at)
        elif kind == 10:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            data = data[:at] + other[cut : cut + rng.randrange(1, 400)] + (data[at:] if rng.random() < 0.5 else b"")
        elif rng.random() < 0.002:
            data = data[:at] + rng.choice(RARE) + data[at:]
        else:
            end = min(len(data), at + rng.randrange(1, 40))
            data = data[:at] + data[at:end][::-1] + data[end:]
    return data


def _renumbered(rng: random.Random, data: bytes, at: int) -> bytes:
    """The number that follows, written otherwise: still one at times."""
    found = _NUMBER.search(data, at) or _NUMBER.search(data)
    if found is None:
        return data
    kind = rng.randrange(5)
    if kind == 0:
        number = str(rng.getrandbits(rng.randrange(1, 70))).encode()
    elif kind == 1:
        number = f"{rng.getrandbits(rng.randrange(1, 60))}.{rng.randrange(10**8):0{rng.randrange(1, 24)}}".encode()
    elif kind == 2:
        number = rng.choice((b"-", b"0", b"+", b"")) + found[0] + rng.choice((b"", b"e3", b".", b"_0", b" "))
    elif kind == 3:
        number = repr(math.ldexp(rng.random(), rng.randrange(-60, 80))).encode()
    else:
        number = rng.choice(TOKENS)
    return data[: found.start()] + number + data[found.end() :]


class Target(NamedTuple):
    """What is fuzzed. `weight` is its part in a thousand cases; `change` makes a case of a seed."""

    name: str
    weight: int
    seeds: Callable[[], Sequence[bytes]]
    judge: Callable[[bytes], None]
    change: Callable[[random.Random, bytes, Sequence[bytes]], bytes] = mutate


def refused(error: BaseException, most: int = _MOST_SAID, *, secret: str = "") -> None:
    """A refusal is a line that a person can read, whatever was in what it refuses, and shows no secret."""
    said = str(error)
    assert said.isprintable(), f"not printable: {said!r}"
    assert 0 < len(said) <= most, f"{len(said)} characters: {said[:200]!r}"
    assert not secret or secret not in said


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


# -- replies ----------------------------------------------------------------------------------------------------------


def judge_rows(body: bytes) -> None:
    expected = slow_rows(body, KLINE.kinds)
    try:
        columns = parse_rows(body, KLINE)
    except ReplyError as error:
        refused(error)
        columns = None
    if columns is None:
        assert expected is None, "refused what is right"
        return
    assert expected is not None, "accepted what is wrong"
    same_columns(columns, expected, KLINE.kinds)


PLAIN = Row("i d x")


def judge_plain_rows(body: bytes) -> None:
    """Rows of three fields: more of what there is goes into numbers."""
    expected = slow_rows(body, PLAIN.kinds)
    try:
        columns = parse_rows(body, PLAIN)
    except ReplyError as error:
        refused(error)
        columns = None
    if columns is None:
        assert expected is None, "refused what is right"
        return
    assert expected is not None, "accepted what is wrong"
    same_columns(columns, expected, PLAIN.kinds)


def judge_csv(text: bytes) -> None:
    expected = slow_csv(text, KLINE.kinds)
    size = 1 + zlib.crc32(text) % (len(text) + 2)
    too_long = max(map(len, text.split(b"\n")), default=0) > 2**16 or b"\n" * 2**16 in text
    try:
        blocks = list(iter_csv((text[at : at + size] for at in range(0, len(text), size)), KLINE))
    except ReplyError as error:
        refused(error)
        blocks = None
    if blocks is None:
        assert expected is None or too_long, "refused what is right"
        return
    assert expected is not None, "accepted what is wrong"
    columns = [np.concatenate(parts) for parts in zip(*blocks, strict=True)] or KLINE.empty()
    same_columns(columns, expected, KLINE.kinds)


def files_of_people() -> tuple[bytes, ...]:
    ours = b"timestamp,open,high,low,close,volume"
    rows = b"\n2024-02-29 00:00:00,1,2.5,0.5,1.25,17\n2024-02-29 01:00:00.125,1,2,1,1,0"
    more = b",close_time,trades,base_volume\n1999-12-31 23:00:00,1,2,1,1,,1999-12-31 23:59:59.999,7,1.5\r\n"
    kraken_rows = b"1704067200,42283.5,42554,42261.01,42475.2,1E+1,9\n1704070800,42475,42775,42431,42613,1201.6,31\n"
    return ours + rows + b"\n", ours + more, ours + more + b"2000-01-01 00:00:00,1,2,1,1,3,,,\n", kraken_rows


def judge_files(text: bytes) -> None:
    """A CSV of ours, and one of Kraken, each of the same bytes."""
    size = 1 + zlib.crc32(text) % (len(text) + 2)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    expected = slow_csv_of_ours(text)
    too_long = max(map(len, text.split(b"\n")), default=0) > 2**16
    try:
        blocks = list(read_csv_rows(pieces))
    except (ReplyError, InputError) as error:
        refused(error)
        assert expected is None or too_long, "refused what is right"
    else:
        assert expected is not None, "accepted what is wrong"
        for name, column in expected.items():
            kind = np.int64 if name in INTEGERS else np.float64
            got = [block.integers(name).view(kind) for block in blocks]
            same_columns(got and [np.concatenate(got)], [column], "i" if name in INTEGERS else "d")
    try:
        rows = [row for block in read_kraken(pieces) for row in block.block[[0, 5, 6]].T]
    except ReplyError as error:
        refused(error)
        return
    lines = [line.strip(b"\r\xef\xbb\xbf") for line in text.split(b"\n")]
    fields = [line.split(b",") for line in lines if line[:1].isdigit() or line[:1] == b"-"]
    told = [[int(line[0]) * 1000, float(line[5]), int(line[6])] for line in fields]
    assert [[int(row[0]), float(row[1:2].view(np.float64)[0]), int(row[2])] for row in rows] == told


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


def judge_candles(body: bytes) -> None:
    """What passes the check, too: every row can be a candle, in order, inside the span."""
    span = Span(NOW_MS - DAY_MS, NOW_MS + DAY_MS)
    try:
        candles = check(parse_candles(body), span)
    except (SourceError, InputError) as error:
        refused(error)
        return
    expected = slow_rows(body, KLINE.kinds)
    assert expected is not None, "accepted what is wrong"
    judge_table(candles, expected, span)


def judge_table(candles: Candles, expected: list[list[Any]], span: Span) -> None:
    """Fails unless the candles are the expected columns, each row once, and can be true."""
    rows = list(dict.fromkeys(zip(*expected, strict=True)))
    got = [
        candles.block[at].view(np.int64 if name in INTEGERS else np.float64).tolist()
        for at, name in enumerate(candles.names)
    ]
    assert list(zip(*got, strict=True)) == rows
    opens = [row[0] for row in rows]
    assert opens == sorted(set(opens))
    assert all(span.start_ms <= ms < span.end_ms for ms in opens)
    assert all(can_be(dict(zip(candles.names, row, strict=True))) for row in rows)


@cache
def kraken_bodies() -> tuple[bytes, ...]:
    written = sorted((Path(__file__).parent / "replies" / "kraken").glob("*.body"))
    answers = [path.read_bytes() for path in written if ".refused" not in path.name]
    return (*answers, *answers, *(path.read_bytes() for path in written))


def judge_kraken(body: bytes) -> None:
    """Its candles, its listing, its clock, and what it refuses, each of the same bytes."""
    for parse in (kraken.parse_clock, kraken.parse_listing):
        try:
            answer = parse(body)
        except (SourceError, InputError) as error:
            refused(error)
            continue
        said = json.loads(body)["result"]
        if isinstance(answer, int):
            assert answer == said["unixtime"] * 1000
            continue
        for one in answer.symbols:
            assert any(entry.get("altname") == one.provider_symbol for entry in said.values())
            assert all(text.isprintable() and text[:1].isalnum() for text in one[:5])
    refused(kraken.refusal(Reply(200, {}, body, 0.1), "XBTUSD", NOW_MS))
    span = Span(0, 2**61)
    try:
        candles = check(kraken.parse_candles(body, Series("kraken", None, "XBTUSD", parse_timeframe("1m"))), span)
    except (SourceError, InputError) as error:
        refused(error)
        return
    result = json.loads(body, parse_int=_Integer, parse_float=_no_float, parse_constant=_no_float)["result"]
    (rows,) = [rows for name, rows in result.items() if name != "last"]
    plain = [[int(field) if type(field) is _Integer else field for field in row] for row in rows]
    expected = slow_rows(json.dumps(plain).encode(), "iddddxdi")
    assert expected is not None, "accepted what is wrong"
    judge_table(candles, [[second * 1000 for second in expected[0]], *expected[1:]], span)


@cache
def alpaca_bodies() -> tuple[bytes, ...]:
    folder = Path(__file__).parent / "replies"
    written = sorted([*(folder / "alpaca").glob("*.body"), *(folder / "alpaca-crypto").glob("*.body")])
    answers = [path.read_bytes() for path in written if ".refused" not in path.name]
    return (*answers, *answers, *(path.read_bytes() for path in written))


def judge_alpaca(body: bytes) -> None:
    """Its bars, its page token, and what it refuses, each of the same bytes."""
    refused(alpaca.refusal(Reply(200, {}, body, 0.1), "AAPL", NOW_MS))
    symbol = next((name for name in ("BTC/USD", "SHIB/USD", "SPY", "BRK.B") if f'"{name}"'.encode() in body), "AAPL")
    series = Series("alpaca", None, symbol, parse_timeframe("1d"))
    call = alpaca.call_candles(series, Span(0, 2**40), 1000)
    try:
        candles, more = alpaca.parse_candles(body, series), alpaca.next_call(call, body)
        check(candles, Span(0, 2**61))
    except (SourceError, InputError) as error:
        refused(error)
        return
    said = json.loads(body, parse_float=str, parse_int=str)
    assert (said.get("next_page_token") or None) == (None if more is None else dict(more.params)["page_token"])
    bars = said["bars"].get(symbol) if isinstance(said["bars"], dict) else said["bars"]
    assert candles.count == len(bars or ())
    for at, bar in enumerate(bars or ()):
        for name, letter in zip(("open", "high", "low", "close", "volume"), "ohlcv", strict=True):
            assert float(candles.floats(name)[at]) == float(bar[letter])
        trades = int(candles.integers("trades")[at])
        assert trades == (int(bar["n"]) if "n" in bar else MISSING)
        assert (
            bar["t"][:19].upper() == str(np.datetime64(int(candles.open_ms[at]) // 1000, "s"))
            or bar["t"][-1] not in "zZ"
        )


def written_bodies(name: str) -> Callable[[], tuple[bytes, ...]]:
    def bodies() -> tuple[bytes, ...]:
        written = sorted((Path(__file__).parent / "replies" / name).glob("*.body"))
        answers = [path.read_bytes() for path in written if ".refused" not in path.name]
        return (*answers, *answers, *(path.read_bytes() for path in written))

    return cache(bodies)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), "a name stands twice"
    return dict(pairs)


def _told(name: str, symbol: str, timeframe: str, body: bytes, *settings: tuple[str, str]) -> Candles | None:
    """The candles of the body; None for a refusal, which must be one of ours."""
    provider = find_provider(name)
    refused(provider.refuse(Reply(200, {}, body, 0.1), symbol, NOW_MS))
    series = Series(name, None, symbol, parse_timeframe(timeframe), "candles", settings)
    try:
        return check(provider.feed("candles").parse(body, series), Span(-(2**61), 2**61))
    except (SourceError, InputError) as error:
        refused(error)
        return None


def _same_rows(candles: Candles, rows: list[tuple[float, ...]]) -> None:
    got = [candles.block[at].view(np.int64 if not at else np.float64).tolist() for at in range(6)]
    # NaN is not itself: repr is.
    assert list(map(repr, zip(*got, strict=True))) == list(map(repr, dict.fromkeys(rows)))


def judge_alphavantage(body: bytes) -> None:
    for timeframe in ("1d", "5m"):
        candles = _told("alphavantage", "IBM", timeframe, body)
        if candles is None:
            continue
        value = json.loads(body, object_pairs_hook=_once)
        zone_name = {text for name, text in value["Meta Data"].items() if name.endswith("Time Zone")}
        zone = ZoneInfo("UTC" if zone_name == {"UTC"} else "America/New_York")
        rows = []
        for stamp, fields in value["Time Series (Daily)" if timeframe == "1d" else "Time Series (5min)"].items():
            opened = dt.datetime.fromisoformat(stamp).replace(tzinfo=zone)
            named = {name.partition(". ")[2]: text for name, text in reversed(fields.items())}
            numbers = [SLOW["d"](named[name]) for name in OHLCV[:4]]
            rows.append((int(opened.timestamp()) * 1000, *numbers, SLOW["d"](named.get("volume", "")) or math.nan))
            if named.get("volume") and not SLOW["d"](named["volume"]):
                rows[-1] = (*rows[-1][:5], SLOW["d"](named["volume"]))
        _same_rows(candles, sorted(rows))


def judge_coingecko(body: bytes) -> None:
    try:
        find_provider("coingecko").listing.parse(body)
    except (SourceError, InputError) as error:
        refused(error)
    candles = _told("coingecko", "bitcoin/usd", "4h", body)
    if candles is None:
        return
    rows = json.loads(body)
    assert all(type(row[0]) is int and len(row) == 5 for row in rows)
    assert all(type(value) in (int, float) for row in rows for value in row)
    assert b"NaN" not in body
    _same_rows(candles, [(row[0] - 14_400_000, *map(float, row[1:]), math.nan) for row in rows])


def judge_tradestation(body: bytes) -> None:
    with contextlib.suppress(SourceError):
        values, seconds = find_provider("tradestation").token.parse(body)
        assert values["access_token"].isprintable()
        assert seconds > 0
    candles = _told("tradestation", "MSFT", "30m", body, ("session", "Default"))
    if candles is None:
        return
    rows = []
    for bar in json.loads(body)["Bars"]:
        assert bar["BarStatus"] in ("Open", "Closed")
        ends = dt.datetime.fromisoformat(bar["TimeStamp"].upper().replace("Z", "+00:00")).timestamp()
        numbers = [SLOW["d"](bar[name]) for name in ("Open", "High", "Low", "Close", "TotalVolume")]
        rows.append((int(ends * 1000) - 1_800_000, *numbers))
    _same_rows(candles, rows)


def judge_funding(body: bytes) -> None:
    try:
        records = parse_funding(body, "BTCUSDT")
    except (SourceError, InputError) as error:
        refused(error)
        return
    rows = json.loads(body, parse_int=_Integer)
    assert all(row["symbol"] == "BTCUSDT" for row in rows)
    expected = [[slow_whole(row["fundingTime"]) for row in rows], [slow_float(row["fundingRate"]) for row in rows]]
    same_columns([records.open_ms, records.floats("funding_rate")], expected, "id")
    marks = [slow_float(row["markPrice"]) if row.get("markPrice") else math.nan for row in rows]
    assert records.floats("mark_price").tobytes() == np.array(marks, np.float64).tobytes()


def judge_clock(body: bytes) -> None:
    try:
        ms = parse_clock(body)
    except (SourceError, InputError) as error:
        refused(error)
        return
    assert json.loads(body)["serverTime"] == ms
    assert 1.4e12 < ms < 4.2e12


def judge_listing(body: bytes) -> None:
    try:
        listing = parse_listing(body)
    except (SourceError, InputError) as error:
        refused(error)
        return
    info = json.loads(body)
    assert [one.provider_symbol for one in listing.symbols] == [entry["symbol"] for entry in info["symbols"]]
    for limit in listing.limits:
        assert type(limit.cost) is int
        assert limit.cost >= 0 < limit.interval_s
    for one, entry in zip(listing.symbols, info["symbols"], strict=True):
        assert (one.base, one.quote) == (entry["baseAsset"], entry["quoteAsset"])
        for text in (one.symbol, one.provider_symbol, one.base, one.quote, one.status):
            assert type(text) is str
            assert text.isprintable()
            assert text[:1] not in tuple("=+-@\t\r")


def judge_refusal(case: bytes) -> None:
    """The first bytes are the status and Retry-After, the rest is the body."""
    status = (400, 401, 403, 404, 408, 418, 429, 451, 500, 503, 200)[case[0] % 11] if case else 400
    line, _, body = case[1:].partition(b"\n")
    headers = {"retry-after": line.decode("latin-1"), "x-mbx-used-weight-1m": line[:12].decode("latin-1")}
    for of in (refusal, find_provider("binance").archive.refusal):  # type: ignore[union-attr]
        error = of(Reply(status, headers, body, 0.1), "BTCUSDT", NOW_MS)
        assert isinstance(error, SourceError | InputError), repr(error)
        refused(error)
    used = used_weight(headers)
    assert used is None or 0 <= used < 10**10


def judge_pause(text: bytes) -> None:
    seconds = parse_retry_after(text.decode("latin-1"), NOW_MS / 1000)
    assert seconds is None or 0 <= seconds <= 1e9


# -- files of the archive ---------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    series: Series
    file: Any
    member: str


@cache
def kept_files() -> tuple[tuple[Kept, bytes], ...]:
    """Small files of three kinds, and the text in them."""
    found = []
    day = NOW_MS // DAY_MS * DAY_MS
    for provider, kind, micro, header in (
        ("binance", "candles", 1000, False),
        ("binance-um", "candles", 1, True),
        ("binance-um", "funding", 1, True),
    ):
        series = Series(provider, None, "BTCUSDT", parse_timeframe("4h"), kind)
        file = find_file(series, day, monthly=kind == "funding")
        assert file is not None
        member = file.path.rpartition("/")[2].removesuffix(".zip") + ".csv"
        if kind == "funding":
            rows = [[day + n * 28_800_000 + n, 8, f"0.0001{n}"] for n in range(3)]
            text = b"calc_time,funding_interval_hours,last_funding_rate\n" + csv_of(rows)
        else:
            rows = [
                [(day + n * 14_400_000) * micro, "1.5", "2.25", "1.00000000", "2", f"{n}.5",
                 (day + n * 14_400_000 + 14_399_999) * micro,
                 "3.5", n, "0.5", "0.25", "0"]
                for n in range(6)
            ]  # fmt: skip
            text = (b"open_time,open,high,low,close,volume,a,b,c,d,e,ignore\n" if header else b"") + csv_of(rows)
        found.append((Kept(series, file, member), text))
    return tuple(found)


def zipped(member: str, text: bytes, *, deflate: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(member, (2024, 6, 2, 0, 0, 0)), text)
    return buffer.getvalue()


@cache
def zip_seeds() -> tuple[bytes, ...]:
    """A file each, the number of its kind in front."""
    return tuple(
        bytes([number]) + zipped(kept.member, text, deflate=deflate)
        for number, (kept, text) in enumerate(kept_files())
        for deflate in (True, False)
    )


def change_zip(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Changed bytes of the zip, or a sound zip of changed text or another member."""
    kept, text = kept_files()[seed[0]]
    kind = rng.randrange(10)
    if kind < 4:
        return seed[:1] + mutate(rng, seed[1:], [other[1:] for other in others])
    if kind < 9:
        return seed[:1] + zipped(kept.member, mutate(rng, text, [other for _, other in kept_files()]), deflate=False)
    names = (
        "../x.csv",
        "/etc/passwd",
        kept.member.upper(),
        kept.member + "\0",
        "",
        "a" * 300,
        "\x1b[2J.csv",
        kept.member + "/",
    )
    return seed[:1] + zipped(rng.choice(names), text, deflate=True)


def judge_zip(case: bytes) -> None:
    if not case or case[0] >= len(kept_files()):
        return
    kept, _ = kept_files()[case[0]]
    try:
        candles = read_file(case[1:], kept.file, kept.series)
    except (SourceError, InputError) as error:
        refused(error)
        return
    with zipfile.ZipFile(io.BytesIO(case[1:])) as archive:
        assert archive.namelist() == [kept.member]
        text = archive.read(kept.member)
    lines = slow_lines(text)
    if not lines:  # a header alone
        assert candles.count == 0
        return
    if kept.series.kind == "funding":
        expected = slow_csv(text, "ixd")
        assert expected is not None, "accepted what is wrong"
        micro = 1000 if len(str(expected[0][0])) == 16 else 1
        rows = sorted({(ms // micro, rate) for ms, rate in zip(*expected, strict=True)})
        assert list(zip(candles.open_ms.tolist(), candles.floats("funding_rate").tolist(), strict=True)) == rows
        assert all(math.isfinite(row[1]) for row in rows)
        assert all(kept.file.span.start_ms <= row[0] < kept.file.span.end_ms for row in rows)
        return
    expected = slow_csv(text, "idddddididdx"[: len(lines[0])])
    assert expected is not None, "accepted what is wrong"
    micro = 1000 if max(map(len, (str(ms) for ms in expected[0]))) == 16 else 1
    rows_ = sorted(
        zip(
            *[[v // micro for v in column] if at in (0, 6) else column for at, column in enumerate(expected)],
            strict=True,
        )
    )
    judge_table(candles, [list(column) for column in zip(*rows_, strict=True)], kept.file.span)


def judge_checksum(text: bytes) -> None:
    name = "BTCUSDT-1h-2024-06-01.zip"
    try:
        found = find_checksum(text, name)
    except ReplyError as error:
        refused(error)
        return
    if found is None:
        assert not text.strip()
        return
    assert re.fullmatch("[0-9a-f]{64}", found)
    words = text.lower().split()
    assert words[0] == found.encode()
    assert words[1].lstrip(b"*") == name.lower().encode()


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


def judge_bucket(body: bytes) -> None:
    try:
        page = parse_bucket(body, BUCKET)
    except ReplyError as error:
        refused(error)
        return
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


@cache
def sealed_seeds() -> tuple[bytes, ...]:
    block = np.arange(24, dtype=np.int64).reshape(6, 4) * 1_000_003
    holes = Hole(Span(3, 4), HoleState.CONFIRMED, 5), Hole(Span(6, 7), HoleState.CONFIRMED, 8)
    entry = Entry(Span(0, 9), 5, holes, Candles(COLUMNS[:6], block))
    return (
        pack(KEY, entry),
        pack(KEY, entry, compress=True),
        seal(KEY, b"", b'{"first_ms":1}', compress=True),
        seal(KEY, b"\1", bytes(80)),
        pack(KEY[:-1] + "2", entry),
    )


def judge_sealed(data: bytes) -> None:
    """The checksum lets nothing through that was not sealed under the key."""
    known = [seed for seed in sealed_seeds()[:4] if seed == data]
    assert (unseal(KEY, data) is not None) == bool(known)
    entry = unpack(KEY, data)
    assert entry is None or data in sealed_seeds()[:2]


_HEAD = struct.Struct("<qqqIIII")


def change_entry(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """A sealed entry whose head says what it likes, with a checksum that fits."""
    edges = (0, 1, 2, 4, 63, 2**15, 2**15 - 1, 2**16, 2**31, 2**32 - 1, rng.getrandbits(32))
    times = (0, -1, 2**62, -(2**62), 2**63 - 1, NOW_MS)
    gaps = rng.choice((0, 0, 1, 2, 2**32 - 1))
    head = _HEAD.pack(*rng.choices(times, k=3), rng.choice(edges), rng.choice(edges), gaps, rng.choice((0, 7)))
    head += rng.randbytes(24 * min(gaps, 3))[rng.choice((0, 0, 0, 1)) :]
    return seal(KEY, head, rng.randbytes(8 * rng.choice((0, 1, 4, 8, 15, 30))), compress=rng.random() < 0.3)


def judge_entry(data: bytes) -> None:
    entry = unpack(KEY, data)
    opened = unseal(KEY, data)
    assert opened is not None
    if entry is None:
        return
    head, body = opened
    start, end, stored, rows, _, gaps, _ = _HEAD.unpack_from(head)
    assert (entry.covered, entry.stored_ms, len(entry.holes)) == (Span(start, end), stored, gaps)
    assert entry.candles.block.shape == (len(entry.candles.names), rows)
    assert entry.candles.block.tobytes() == bytes(body)
    assert set(entry.candles.names) <= set(COLUMNS)


SERIES = Series("binance", None, "BTCUSDT", parse_timeframe("1h"))
_DOCUMENTS = {"listing": "listing|binance", "facts": f"{SERIES.key}|facts", "lags": "lags|binance|"}


@cache
def document_seeds() -> tuple[bytes, ...]:
    """Documents as the cache writes them, the name of each in front."""
    listed = [["BTC/USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True]]
    facts = {
        "first_ms": 5, "quiet": [[0, 5, "not_listed", 9]], "absent": [["/data/x.zip", 99]],
        "failed": [[1, 2, "boom", 3]], "unverified": [[1, 2, "/data/y.zip"]],
    }  # fmt: skip
    return (
        b"listing " + json.dumps({"limits": [[6000, 60, "weight"]], "symbols": listed, "stored_s": 1.7e9}).encode(),
        b"facts " + json.dumps(facts).encode(),
        b"facts " + json.dumps(facts | {"first_ms": None, "quiet": []}).encode(),
        b"lags [7200000, 3600000]",
    )


def change_document(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    name, _, text = seed.partition(b" ")
    return name + b" " + mutate(rng, text, [other.partition(b" ")[2] for other in others])


def judge_document(case: bytes) -> None:
    """A document of the cache with a checksum that fits is what it should be, or a miss."""
    name, _, text = case.partition(b" ")
    key = _DOCUMENTS[name.decode()]
    memory = MemoryTier(10**7)
    memory.save(key, seal(key, b"", text, compress=True), 100)
    cache_ = CandleCache(Store(memory), path=None)
    if name == b"lags":
        assert all(type(ms) is int and ms >= 0 for ms in cache_.facts.lags(SERIES))
        return
    if name == b"facts":
        facts = cache_.facts.get(SERIES)
        assert facts.first_ms is None or type(facts.first_ms) is int
        assert facts.bounds(Span(0, 10), NOW_MS).start_ms >= 0
        facts.is_absent("/data/x.zip", NOW_MS)
        return
    loaded = cache_.listings.load("binance")
    if loaded is None:
        return
    listing, age_s = loaded
    assert isinstance(age_s, float)
    assert all(
        type(limit.cost) is type(limit.interval_s) is int and type(limit.kind) is str for limit in listing.limits
    )
    assert all(isinstance(text, str) for one in listing.symbols for text in one[:5])
    assert all(type(one.trading) is bool for one in listing.symbols)


@cache
def ledger_seeds() -> tuple[bytes, ...]:
    busy = Window(((28_000_000, 40), (28_000_900, 2)), ((28_001_000, 1),), 3, 0, 28_000_500)
    windows = {"weight/60": busy, "requests/300": Window(((5, 7),))}
    full = State(
        windows, 5_000, 1_000, NOW_MS, 120_000, "banned until …", (Limit(6000, 60), Limit(500, 300, "requests")), NOW_MS
    )
    return pack_state(full)[0], pack_state(State())[0]


def judge_ledger(data: bytes) -> None:
    state = unpack_state(data)
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
def pacing_folder() -> tuple[tempfile.TemporaryDirectory[str], SharedState]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    return folder, SharedState(Path(folder.name), "binance")


@cache
def pacing_seeds() -> tuple[bytes, ...]:
    """The file after one write and after two."""
    _, state = pacing_folder()
    found = []
    for text in (b"first", b"second, longer"):
        with state.locked():
            state.load()
            state.save(text)
        found.append(state.path.read_bytes())
    return tuple(found)


def judge_pacing(data: bytes) -> None:
    _, state = pacing_folder()
    state.path.write_bytes(data)
    with state.locked():
        found = state.load()
    assert set(found) <= {b"first", b"second, longer"}


# -- what people write ------------------------------------------------------------------------------------------------


@cache
def symbols_folder() -> tuple[tempfile.TemporaryDirectory[str], str]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    return folder, str(Path(folder.name) / "symbols.csv")


SYMBOL_FILES = (
    b"market,symbol,earliest_date,available_intervals,um,cm\nspot,BTCUSDT,2017-08-17,\"1m,1h\",BTCUSDT,BTCUSD_PERP\n",
    b"\xef\xbb\xbfsymbol\r\nBTC/USDT\r\nETH-USDT\r\n",
    b"symbol;market\nBTCUSDT;um\nBTCUSD_PERP;cm\n\n",
    b'symbol\tearliest_date\n"BTCUSDT"\t2020-01-01\n',
)  # fmt: skip


def judge_symbols_file(data: bytes) -> None:
    _, path = symbols_folder()
    Path(path).write_bytes(data)
    try:
        targets = read_symbols_file(path, None, "binance")
    except InputError as error:
        refused(error, most=2_000)
        return
    text = data.decode("utf-8-sig")
    names = {one: [name.strip(' "\r\n').casefold() for name in first_line(text).split(one)] for one in ",;\t"}
    separator = next((one for one in names if "symbol" in names[one]), ",")
    cells = {cell.strip() for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row}
    assert targets
    for target in targets:
        assert target.symbol in cells
        assert target.provider in ("binance", "binance-um", "binance-cm")
        inside(find_provider(target.provider).provider_symbol(target.symbol, "candles"))
        with contextlib.suppress(InputError):
            assert target.start() is None or target.start() in cells


def first_line(text: str) -> str:
    return next(line for line in text.splitlines() if line.strip(' ",;\t'))


def judge_symbol(text: bytes) -> None:
    """What is accepted for a symbol can be part of a URL, a path, a key and a file's name, and nothing more."""
    for name in ("binance", "binance-um", "binance-cm", "binance-us"):
        provider = find_provider(name)
        try:
            symbol = provider.provider_symbol(text.decode("utf-8", "replace"), "candles")
        except InputError as error:
            refused(error, most=2**20)
            continue
        inside(symbol)
        inside(provider.unified(symbol).replace("/", "", 1))


def inside(symbol: str) -> None:
    assert re.fullmatch(r"\w{1,70}", symbol), symbol
    series = SERIES._replace(symbol=symbol)
    assert [unquote(field) for field in series.key.split("|")] == ["binance", "", symbol, "1h", "candles", ""]
    file = find_file(series, NOW_MS, monthly=False)
    assert file is not None
    assert file.path.split("/") == ["", "data", "spot", "daily", "klines", symbol, "1h", f"{symbol}-1h-2024-06-01.zip"]
    assert Path(csv_name("binance", symbol, "candles", SERIES.timeframe, Span(0, DAY_MS))).parent == Path()


def judge_instant(text: bytes) -> None:
    words = text.decode("utf-8", "replace")
    try:
        ms = instant_ms(words, "start")
    except InputError as error:
        refused(error, most=2**20)
        return
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


def judge_timeframe(text: bytes) -> None:
    words = text.decode("utf-8", "replace")
    digits, unit = words[:-1], words[-1:]
    is_one = digits.isascii() and digits.isdigit() and len(digits) <= 5 and digits[0] != "0" and unit in tuple("smhdwM")
    try:
        found = parse_timeframe(words)
    except InputError as error:
        refused(error, most=2**20)
        found = None
    assert (found is not None) == is_one
    if found is None:
        return
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 30 * 86400}
    assert found.nominal_ms == int(digits) * seconds[unit] * 1000
    assert parse_timeframe(found.name) == found


def judge_root(text: bytes) -> None:
    words = text.decode("utf-8", "replace")
    try:
        root = check_root(words)
    except InputError as error:
        refused(error, most=2_000, secret="SENTINEL" if "@" in words else "")
        return
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
    "memory_cache_size", "disk_cache_size", "cache_ttl", "compression", "use_cache", "network_threads", "max_retries",
    "timeout_s", "source", "performance_mode", "base_urls", "cache_dir", "io_threads", "provider", "provider_settings",
)  # fmt: skip


def judge_settings(case: bytes) -> None:
    """A byte names the setting, the rest is what its environment variable says."""
    from candle_fetcher.settings import default

    name = SETTINGS[case[0] % len(SETTINGS)] if case else SETTINGS[0]
    given = {one: default(value) for one, value in USUAL.items()}
    text = case[1:].decode("utf-8", "replace").replace("\0", "")
    try:
        _, settings = read_settings(given, {f"CANDLE_FETCHER_{name.upper()}": text})
    except InputError as error:
        refused(error, most=2**20, secret="SENTINEL" if name == "base_urls" else "")
        return
    assert settings.memory_cache_size >= 0
    assert 1 <= settings.network_threads <= 256
    assert 0 < settings.timeout_s < 1e12
    assert all(url == check_root(url) for url in settings.base_urls.values())


USUAL: dict[str, Any] = {
    "provider": "binance", "cache_dir": "/nowhere", "use_cache": True, "memory_cache_size": "256MB",
    "disk_cache_size": "10GB", "cache_ttl": None, "compression": False, "network_threads": None, "io_threads": None,
    "performance_mode": "standard", "source": "auto", "max_retries": 5, "timeout_s": 30, "base_urls": None,
    "provider_settings": None,
}  # fmt: skip


# -- all of it --------------------------------------------------------------------------------------------------------


def _texts(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in texts]


def _funding() -> Sequence[bytes]:
    made = {"symbol": "BTCUSDT", "fundingTime": NOW_MS + 3, "fundingRate": "-0.00010000", "markPrice": "67000.12345678"}
    bare = {name: value for name, value in made.items() if name != "markPrice"}
    real = [json.dumps(json.loads(body)[:3]).encode() for body in replies("funding_btcusdt*.json")]
    return [
        json.dumps([made, bare], separators=(",", ":")).encode(),
        json.dumps([made | {"markPrice": ""}]).encode(),
        *real,
    ]


@cache
def _listings() -> Sequence[bytes]:
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}
    one = {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}
    coin = {
        "symbol": "BTCUSD_PERP",
        "contractStatus": "TRADING",
        "baseAsset": "BTC",
        "quoteAsset": "USD",
        "contractType": "PERPETUAL",
    }
    made = [
        json.dumps({"rateLimits": [limit], "symbols": [entry]}, separators=(",", ":")).encode() for entry in (one, coin)
    ]
    for body in replies("exchange_info*.json"):
        info = json.loads(body)
        few = {**info, "symbols": info["symbols"][:1]}
        made.append(json.dumps(few, separators=(",", ":")).encode())
    return made


def _refusals() -> Sequence[bytes]:
    codes = (-1121, -1003, -2015, -1000, -4088, 0)
    made = [b"\x05120\n" + json.dumps({"code": code, "msg": f"IP banned until {NOW_MS}."}).encode() for code in codes]
    return [*made, b"\x02\n<html><body>403</body></html>", *(b"\x00\n" + body for body in replies("error_*.json"))]


def _base_urls() -> Sequence[bytes]:
    return [b"https://api.binance.com", b"http://127.0.0.1:8700/", b"http://[::1]:80/x", b"http://localhost", b"http://169.254.169.254",
            b"https://user:SENTINEL@host/", b"file:///etc/passwd", b"https://host:SENTINEL",
            b"http://127.0.0.1.evil.com"]  # fmt: skip


TARGETS = (
    Target("rows", 100, kline_bodies, judge_rows),
    Target(
        "numbers",
        110,
        lambda: [b'[[1,"1.5","0"],[22,"33.125","0"]]', b'[[1,"0.00000001","0"]]', b'[[-1,"-2.5","1"]]'],
        judge_plain_rows,
    ),
    Target("csv", 100, csv_texts, judge_csv),
    Target("files", 20, files_of_people, judge_files),
    Target("candles", 50, kline_bodies, judge_candles),
    Target("funding", 40, _funding, judge_funding),
    Target("kraken", 20, kraken_bodies, judge_kraken),
    Target("alpaca", 20, alpaca_bodies, judge_alpaca),
    Target("alphavantage", 20, written_bodies("alphavantage"), judge_alphavantage),
    Target("coingecko", 20, written_bodies("coingecko"), judge_coingecko),
    Target("tradestation", 20, written_bodies("tradestation"), judge_tradestation),
    Target("clock", 20, _texts(f'{{"serverTime":{NOW_MS}}}', '{"serverTime": 1e12}'), judge_clock),
    Target("listing", 50, _listings, judge_listing),
    Target("refusals", 40, _refusals, judge_refusal),
    Target(
        "pauses",
        30,
        _texts("120", "\x1f33", "1.5", "-3", "Wed, 21 Oct 2026 07:28:00 GMT", "1e20", "Wed, 21 Oct 2026 07:28 +0100"),
        judge_pause,
    ),
    Target("zips", 50, zip_seeds, judge_zip, change_zip),
    Target(
        "checksums",
        20,
        lambda: [hashlib.sha256(b"").hexdigest().encode() + b"  BTCUSDT-1h-2024-06-01.zip\n"],
        judge_checksum,
    ),
    Target("bucket", 40, bucket_seeds, judge_bucket),
    Target("sealed", 50, sealed_seeds, judge_sealed),
    Target("entries", 20, lambda: [b""], judge_entry, change_entry),
    Target("documents", 20, document_seeds, judge_document, change_document),
    Target("ledger", 20, ledger_seeds, judge_ledger),
    Target("pacing", 3, pacing_seeds, judge_pacing),
    Target("symbols file", 7, lambda: SYMBOL_FILES, judge_symbols_file),
    Target(
        "symbols",
        20,
        _texts("BTC/USDT", "btcusdt", "BTCUSD_PERP", "BTC-USDT", "1000SATS/USDT", "币安人生USDT"),
        judge_symbol,
    ),
    Target(
        "instants",
        30,
        _texts("2024-01-31", "2024-01-31T12:00Z", "2024-02-29 23:59:59.999+05:30", "1717243200000", "0001-01-01"),
        judge_instant,
    ),
    Target("timeframes", 20, _texts("1m", "4h", "45m", "1M", "99999d", "1w"), judge_timeframe),
    Target("base urls", 20, _base_urls, judge_root),
    Target(
        "settings",
        20,
        lambda: [
            bytes([n]) + text for n in range(14) for text in (b"256MB", b"10", b"true", b"binance=https://a:SENTINEL@b")
        ],
        judge_settings,
    ),
)


class Tally(NamedTuple):
    """What came of a target: how many cases, in how many seconds, and the case that failed, if one did."""

    target: str
    cases: int
    seconds: float
    failure: str = ""


def cases_of(target: Target, seed: int) -> Iterator[bytes]:
    """The cases of a target, the seeds first; the same for the same number."""
    rng = random.Random(f"{seed} {target.name}")
    seeds = list(target.seeds())
    if target.change is mutate:
        yield from seeds
    while True:
        yield target.change(rng, rng.choice(seeds), seeds)


def run(target: Target, count: int, seed: int = SEED, *, until_s: float = math.inf) -> Tally:
    """Judges so many cases, or those of the time; ends at the first that fails."""
    began = time.perf_counter()
    done = 0
    for case in itertools.islice(cases_of(target, seed), count):
        try:
            target.judge(case)
        except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
            shown = repr(case[:_SHOWN]) + (f" … ({len(case):,} bytes)" if len(case) > _SHOWN else "")
            failure = f"{target.name}, seed {seed}, case {done}: {shown}\n{traceback.format_exc()}"
            return Tally(target.name, done + 1, time.perf_counter() - began, failure)
        done += 1
        if done % 256 == 0 and time.perf_counter() >= until_s:
            break
    return Tally(target.name, done, time.perf_counter() - began)


def share(target: Target, cases: int) -> int:
    """How many of all the cases are of the target."""
    return -(-cases * target.weight // sum(one.weight for one in TARGETS))


def table(tallies: Sequence[Tally]) -> str:
    """A line for each target, and the sum."""
    lines = [f"{'target':<14} {'cases':>10} {'seconds':>8} {'µs/case':>8}  result"]
    for one in (*tallies, Tally("all", sum(t.cases for t in tallies), sum(t.seconds for t in tallies))):
        each = 1e6 * one.seconds / max(1, one.cases)
        lines.append(
            f"{one.target:<14} {one.cases:>10,} {one.seconds:>8.1f} {each:>8.0f}  {'FAILED' if one.failure else 'ok'}"
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Hostile input for every parser, from a fixed seed.")
    parser.add_argument("--cases", type=int, default=CASES, help="of all targets in a round; a million unless given")
    parser.add_argument("--seconds", type=float, help="go on for so long, each round with the next seed")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS], metavar="NAME")
    chosen = parser.parse_args(words)
    targets = [target for target in TARGETS if not chosen.target or target.name in chosen.target]
    until_s = time.perf_counter() + chosen.seconds if chosen.seconds else math.inf
    totals = {target.name: Tally(target.name, 0, 0.0) for target in targets}
    for seed in itertools.count(chosen.seed):
        for target in targets:
            before = totals[target.name]
            if before.failure:
                continue
            now = run(target, share(target, chosen.cases), seed, until_s=until_s)
            totals[target.name] = Tally(
                target.name, before.cases + now.cases, before.seconds + now.seconds, now.failure
            )
        if time.perf_counter() >= until_s or not chosen.seconds:
            break
    print(table(list(totals.values())))
    failures = [one.failure for one in totals.values() if one.failure]
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
