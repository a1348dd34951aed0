"""The bucket of Binance's archive: its folders as S3 lists them, and the symbols that spot and futures share.

A page of a listing holds at most 1000 entries, in the order of their bytes. A page that is not the last one names a
marker, after which the next page begins; if it names none, its last entry is the marker. The root element has a Prefix
of its own, which is not a folder. The size of a listing is bounded, and a DTD is refused, since a few bytes of it can
expand to billions.
Sources: Amazon S3 API reference, ListObjects (version 1); recorded listings of data.binance.vision.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.errors import InputError, ProviderRefused, ReplyError
from candle_fetcher.core.faults import too_large, unexpected
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
    """A market as the archive names it, its provider, and the quote asset of the pairs to compare."""

    name: str
    provider: str
    quote: str


# COIN-M quotes only in dollars; USDT is the quote that spot and USDⓈ-M share for every base.
SPOT, UM, CM = Market("spot", "binance", "USDT"), Market("um", "binance-um", "USDT"), Market("cm", "binance-cm", "USD")
MARKETS = (SPOT, UM, CM)


class Page(NamedTuple):
    """A part of a listing: its keys, its folders (each ends in "/"), and the marker of the next part, if any."""

    keys: tuple[str, ...]
    folders: tuple[str, ...]
    next_marker: str | None


def listing_call(prefix: str, marker: str = "", most: int | None = None) -> Call:
    """Return the call for the keys and folders directly below the prefix.

    Only those after the marker, and at most `most` of them.
    """
    params = [("delimiter", "/"), ("prefix", prefix)]
    if marker:
        params.append(("marker", marker))
    if most is not None:
        params.append(("max-keys", str(most)))
    return Call("/", tuple(params))


def parse_listing(body: bytes, prefix: str, marker: str = "") -> Page:
    """Return the page of the listing that begins after `marker`.

    Raises ReplyError where the body is not such a listing, has an entry outside the prefix, or names a marker for the
    next page that is not after its own.
    """
    expected = f"an XML listing of {prefix}"
    if len(body) > _MOST_BYTES:
        raise too_large(body, most_bytes=_MOST_BYTES)
    texts: dict[str, list[str]] = {}
    path: list[str] = []
    text: list[str] = []
    leaf = True  # whether the open element has no child so far

    def start(name: str, attributes: object) -> None:
        nonlocal leaf
        settle()
        leaf = True
        path.append(name)
        if len(path) > _MOST_DEPTH:
            raise unexpected(f"{expected} with at most {_MOST_DEPTH} nested elements", body)

    def end(name: str) -> None:
        nonlocal leaf
        if leaf:
            texts.setdefault("/".join(path), []).append("".join(text))
            text.clear()
        settle()
        leaf = False
        path.pop()

    def settle() -> None:
        # Text beside elements may be a lost part of a key.
        if "".join(text).strip():
            raise unexpected(f"{expected} without text between its elements", body)
        text.clear()

    def refuse(*_: object) -> None:
        raise unexpected(f"{expected} without a DTD", body)

    from xml.parsers import expat  # when used: few do

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text.append, refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise unexpected(expected, body) from error
    is_cut = texts.get(f"{_ROOT}/IsTruncated", [""])[-1]
    if is_cut not in ("true", "false"):
        raise unexpected(f"{expected} with the element IsTruncated", body)
    keys = tuple(texts.get(f"{_ROOT}/Contents/Key", ()))
    folders = tuple(texts.get(f"{_ROOT}/CommonPrefixes/Prefix", ()))
    stray = next((entry for entry in (*keys, *folders) if not entry.startswith(prefix)), None)
    if stray is not None:
        raise ReplyError(f"expected entries below {prefix}, got {stray[:80]!r}")
    if is_cut == "false":
        return Page(keys, folders, None)
    named = texts.get(f"{_ROOT}/NextMarker", [""])[-1]
    next_marker = named or max((*keys, *folders), default="")
    if next_marker <= marker:
        raise ReplyError(
            f"expected the next page of {prefix} to begin after {marker[:80]!r}, got the marker {next_marker[:80]!r}"
        )
    return Page(keys, folders, next_marker)


def refusal(reply: Reply, symbol: str, now_ms: int) -> Exception:
    """Return the error for a status other than 200; 404 means that the host has files but no listing."""
    if reply.status == 404:
        return ProviderRefused("Binance's archive has no listing at its host (status 404)", status=404)
    return ARCHIVE.refusal(reply, symbol, now_ms)


# -- folders of candles -----------------------------------------------------------------------------------------------


def daily_folder(symbol: str) -> str:
    """Return the folder that holds, for each interval of a spot symbol, a folder of daily files."""
    return f"data/spot/daily/klines/{symbol}/"


def find_intervals(folders: Iterable[str]) -> tuple[str, ...]:
    """Return the intervals in the names of the folders, shortest first, as the archive writes them (1mo is 1M)."""
    found: dict[str, Timeframe] = {}
    for folder in folders:
        name = folder.rstrip("/").rpartition("/")[2]
        try:
            found[name] = parse_timeframe(re.sub(r"mo$", "M", name))
        except InputError:
            continue  # another kind of folder
    return tuple(sorted(found, key=lambda name: found[name].nominal_ms))


def find_first_ms(keys: Iterable[str]) -> int | None:
    """Return when the day or month of the oldest zip among the keys begins, in Unix ms; None without a zip."""
    return min((ms for key in keys for ms in _begins_ms(key)), default=None)


def _begins_ms(key: str) -> Iterator[int]:
    match = re.search(r"-(\d{4}-\d\d)(-\d\d)?\.zip$", key, re.ASCII)
    if match:
        try:
            day = dt.datetime.fromisoformat(f"{match[1]}{match[2] or '-01'}")
        except ValueError:
            return
        yield int(day.replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


# -- symbols of a base -------------------------------------------------------------------------------------------------


class Trio(NamedTuple):
    """The ids of one base: its spot pair, and its perpetual futures in USDT and in dollars."""

    spot: str
    um: str
    cm: str


def find_trios(listings: Mapping[Market, Listing]) -> list[Trio]:
    """Return the ids of every base that trades on spot, USDⓈ-M and COIN-M; halted or future symbols do not count.

    Raises ReplyError for an impossible id: ids become parts of paths and cells of spreadsheets.
    """
    spot, um, cm = (_traded(market, listings[market]) for market in MARKETS)
    return [Trio(spot[base], um[base], cm[base]) for base in sorted(spot.keys() & um.keys() & cm.keys())]


def _traded(market: Market, listing: Listing) -> dict[str, str]:
    """Return the traded id of each base. Delivery contracts are left out: their symbol is their id."""
    found = {}
    for one in listing.symbols:
        if one.status == "TRADING" and one.quote == market.quote and one.symbol == f"{one.base}/{one.quote}":
            found[one.base] = _checked(one)
    return found


def _checked(one: Listed) -> str:
    if not _ID.fullmatch(one.provider_symbol):
        raise ReplyError(f"exchangeInfo lists {one.provider_symbol[:80]!r}, which cannot be a symbol of Binance")
    return one.provider_symbol
