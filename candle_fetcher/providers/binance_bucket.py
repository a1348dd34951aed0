"""The bucket of Binance's archive: what lies in its folders, as S3 lists them, and whose folders are of use together.

A listing holds at most 1000 entries, in the order of their bytes. A cut one names the marker to go on from; where it
does not, its last entry is the marker. The root element has a Prefix of its own, which is no folder. The listing is
foreign input: its size is bounded, and a DTD, with which a few bytes become billions, is refused.
Sources: Amazon S3 API reference, ListObjects (version 1); recorded listings of data.binance.vision.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from xml.parsers import expat

from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.errors import InputError, ProviderRefused, ReplyError
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.providers.base import Listed, Listing
from candle_fetcher.providers.binance_archive import ARCHIVE

NAME = ARCHIVE.name
# A page of 1000 entries is some 350 kB.
_MOST_BYTES = 4 * 2**20
_MOST_DEPTH = 8
_ROOT = "ListBucketResult"
_ID = re.compile(r"\w{1,40}")


class Market(NamedTuple):
    """A market as the archive names it, its provider, and the quote asset of the pairs that are set side by side."""

    name: str
    provider: str
    quote: str


# COIN-M quotes in dollars and nothing else; tethers are what spot and USDⓈ-M have in common for every base.
SPOT, UM, CM = Market("spot", "binance", "USDT"), Market("um", "binance-um", "USDT"), Market("cm", "binance-cm", "USD")
MARKETS = (SPOT, UM, CM)


class Page(NamedTuple):
    """A part of a listing: its keys, its folders (each ends in "/"), and the marker of the next part, if any."""

    keys: tuple[str, ...]
    folders: tuple[str, ...]
    next_marker: str | None


def listing_call(prefix: str, marker: str = "", most: int | None = None) -> Call:
    """Asks for the keys and folders right below the prefix, those after the marker, at most so many."""
    params = [("delimiter", "/"), ("prefix", prefix)]
    if marker:
        params.append(("marker", marker))
    if most is not None:
        params.append(("max-keys", str(most)))
    return Call("/", tuple(params))


def parse_listing(body: bytes, prefix: str, marker: str = "") -> Page:
    """The page that was asked for. Raises ReplyError for what is no listing, of another prefix, or leads nowhere."""
    if len(body) > _MOST_BYTES:
        raise ReplyError(f"a listing of {len(body):,} bytes; a page of it can have {_MOST_BYTES:,} at most")
    texts: dict[str, list[str]] = {}
    path: list[str] = []
    text: list[str] = []
    leaf = True  # whether the element that is open has had no other in it

    def start(name: str, attributes: object) -> None:
        nonlocal leaf
        settle()
        leaf = True
        path.append(name)
        if len(path) > _MOST_DEPTH:
            raise ReplyError(f"expected the listing of a bucket, got elements in elements: {body[:80]!r}")

    def end(name: str) -> None:
        nonlocal leaf
        if leaf:
            texts.setdefault("/".join(path), []).append("".join(text))
            text.clear()
        settle()
        leaf = False
        path.pop()

    def settle() -> None:
        # Text beside elements would be a part of a key that is lost.
        if "".join(text).strip():
            raise ReplyError(f"expected the listing of a bucket, got text between elements: {body[:80]!r}")
        text.clear()

    def refuse(*_: object) -> None:
        raise ReplyError(f"a listing has no DTD, this one does: {body[:80]!r}")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text.append, refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ReplyError(f"expected the XML of a listing, got {body[:80]!r} ({str(error)[:80]})") from error
    is_cut = texts.get(f"{_ROOT}/IsTruncated", [""])[-1]
    if is_cut not in ("true", "false"):
        raise ReplyError(f"expected the listing of a bucket, got {body[:80]!r}")
    keys = tuple(texts.get(f"{_ROOT}/Contents/Key", ()))
    folders = tuple(texts.get(f"{_ROOT}/CommonPrefixes/Prefix", ()))
    stray = next((entry for entry in (*keys, *folders) if not entry.startswith(prefix)), None)
    if stray is not None:
        raise ReplyError(f"a listing of {prefix} has {stray[:80]!r} in it")
    if is_cut == "false":
        return Page(keys, folders, None)
    named = texts.get(f"{_ROOT}/NextMarker", [""])[-1]
    next_marker = named or max((*keys, *folders), default="")
    if next_marker <= marker:
        raise ReplyError(f"a cut listing of {prefix} goes on at {next_marker[:80]!r}, from where it came")
    return Page(keys, folders, next_marker)


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """The error for a status other than 200; where files are served without a listing, it is a 404."""
    if reply.status == 404:
        return ProviderRefused("the archive has no listing there (404)", status=404)
    return ARCHIVE.refusal(reply, symbol, now_ms)


# -- folders of candles -----------------------------------------------------------------------------------------------


def daily_folder(symbol: str) -> str:
    """The folder that holds a folder of daily files for each interval of a spot symbol."""
    return f"data/spot/daily/klines/{symbol}/"


def find_intervals(folders: Iterable[str]) -> tuple[str, ...]:
    """The intervals that the folders are named after, the shortest first, as the archive writes them (1mo is 1M)."""
    found: dict[str, Timeframe] = {}
    for folder in folders:
        name = folder.rstrip("/").rpartition("/")[2]
        try:
            found[name] = parse_timeframe(re.sub(r"mo$", "M", name))
        except InputError:
            continue  # a folder of something else
    return tuple(sorted(found, key=lambda name: found[name].nominal_ms))


def find_first_day(keys: Iterable[str]) -> str | None:
    """The date of the oldest zip of a day among the keys, such as 2017-08-17; None where there is none."""
    return min((day for key in keys for day in _day_of(key)), default=None)


def find_first_ms(keys: Iterable[str]) -> int | None:
    """When the day or month of the oldest zip among the keys begins, in Unix ms; None where there is none."""
    return min((ms for key in keys for ms in _begins_ms(key)), default=None)


def _begins_ms(key: str) -> Iterator[int]:
    match = re.search(r"-(\d{4}-\d\d)(-\d\d)?\.zip$", key, re.ASCII)
    if match:
        try:
            day = dt.datetime.fromisoformat(f"{match[1]}{match[2] or '-01'}")
        except ValueError:
            return
        yield int(day.replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


def _day_of(key: str) -> Iterator[str]:
    match = re.search(r"-(\d{4}-\d\d-\d\d)\.zip$", key, re.ASCII)
    if match:
        try:
            dt.date.fromisoformat(match[1])
        except ValueError:
            return
        yield match[1]


# -- symbols of a base -------------------------------------------------------------------------------------------------


class Trio(NamedTuple):
    """The ids of one base: its pair on spot, and its perpetual futures in USDT and in dollars."""

    spot: str
    um: str
    cm: str


def find_trios(listings: Mapping[Market, Listing]) -> list[Trio]:
    """The pairs of every base that is traded on spot, USDⓈ-M and COIN-M; what is halted, or to come, is not.

    Raises ReplyError for an id that could not be one: it would be part of a path, and a cell of a spreadsheet.
    """
    spot, um, cm = (_traded(market, listings[market]) for market in MARKETS)
    return [Trio(spot[base], um[base], cm[base]) for base in sorted(spot.keys() & um.keys() & cm.keys())]


def _traded(market: Market, listing: Listing) -> dict[str, str]:
    """The traded id of each base. Delivery contracts have an id of their own for a symbol, and are left out."""
    found = {}
    for one in listing.symbols:
        if one.status == "TRADING" and one.quote == market.quote and one.symbol == f"{one.base}/{one.quote}":
            found[one.base] = _checked(one)
    return found


def _checked(one: Listed) -> str:
    if not _ID.fullmatch(one.provider_symbol):
        raise ReplyError(f"exchangeInfo lists a symbol {one.provider_symbol[:80]!r}, which can be none")
    return one.provider_symbol
