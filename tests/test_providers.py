"""One contract for every provider. What it must answer lies in tests/replies/<provider>/, worked out by hand:

cases.csv                     the cases: case, kind, the provider's own symbol, timeframe, settings (name=value …);
                              `candles` and `empty` (a reply without candles) are among them
<case>.body, .answer.csv      a reply, and its candles: times in ISO, a field without a value is NaN
<case>.refused.body, .refused.answer.csv   a refusal, and its status and error
symbols.answer.csv            what is given, the kind, the provider's own symbol, the unified one
clock.body, clock.answer.csv, listing.body, listing.answer.csv      where it has a clock, a listing
recorded.csv                  figures of recorded replies, which lie beside the repository
"""

from __future__ import annotations

import csv
import datetime as dt
import functools
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core import errors
from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.candles import COLUMNS, INTEGERS, OHLCV, Candles, check
from candle_fetcher.core.errors import (
    AccessDenied,
    InputError,
    NotOffered,
    ProviderRefused,
    RateLimited,
    SourceError,
    TransportError,
    UnknownSymbol,
)
from candle_fetcher.core.resample import base_for
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import SECOND_MS, parse_timeframe
from candle_fetcher.providers import Feed, Provider, all_providers, find_provider

REPLIES = Path(__file__).parent / "replies"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
NOW_MS = 1_700_000_000_000
EVER = Span(0, 2**61)
NAMES = sorted(all_providers())
FEEDS = [(name, kind) for name in NAMES for kind in all_providers()[name].feeds]

every_provider = pytest.mark.parametrize("name", NAMES)
every_feed = pytest.mark.parametrize(("name", "kind"), FEEDS, ids=map("-".join, FEEDS))


class Case(NamedTuple):
    """A reply, and which candles it is of."""

    name: str
    series: Series
    body: bytes


@functools.cache
def told(name, file):
    with (REPLIES / name / file).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def series_of(name, row):
    chosen = tuple(sorted(tuple(pair.split("=")) for pair in row["settings"].split()))
    return Series(name, None, row["symbol"], parse_timeframe(row["timeframe"]), row["kind"], chosen)


@functools.cache
def cases(name):
    return [
        Case(row["case"], series_of(name, row), (REPLIES / name / f"{row['case']}.body").read_bytes())
        for row in told(name, "cases.csv")
    ]


def case_of(name, wanted="candles"):
    (found,) = [case for case in cases(name) if case.name == wanted]
    return found


def feed_of(name, case):
    return all_providers()[name].feed(case.series.kind)


@functools.cache
def refusals(name):
    return sorted(path.name.removesuffix(".refused.body") for path in (REPLIES / name).glob("*.refused.body"))


def ms_of(text):
    return (dt.datetime.fromisoformat(f"{text}+00:00") - EPOCH) // dt.timedelta(milliseconds=1)


def value_of(column, text):
    if column in ("open_time", "close_time"):
        return ms_of(text)
    return int(text) if column in INTEGERS else float(text or "nan")


def same_bits(candles, names, rows):
    """Whether the candles are those rows, to the last bit."""
    assert candles.names == tuple(names)
    assert candles.count == len(rows)
    for at, name in enumerate(names):
        expected = np.array([row[at] for row in rows], np.int64 if name in INTEGERS else np.float64).view(np.int64)
        assert candles.integers(name).tolist() == expected.tolist(), name


def whole(candles):
    return Span(int(candles.open_ms[0]), int(candles.open_ms[-1]) + 1) if candles.count else Span(0, 0)


def read(feed, body, series):
    """The candles, or the error of ours: anything else fails the test."""
    try:
        candles = feed.parse(body, series)
        assert isinstance(candles, Candles)
        return check(candles, EVER)
    except (SourceError, UnknownSymbol) as error:
        return error


def once(pairs):
    """The object; a name that stands in it twice makes readers differ, and may."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise RecursionError("a name stands twice")
    return dict(pairs)


def json_of(body):
    """What json reads: the value, None where the body is none, and whether that can be told."""
    try:
        return json.loads(body, object_pairs_hook=once), True
    except ValueError:
        return None, True
    except RecursionError:
        return None, False


def spellings(value):
    return [json.dumps(value, separators=(",", ":")).encode(), json.dumps(value, indent=1).encode()]


# -- candles ----------------------------------------------------------------------------------------------------------


@every_provider
def test_each_reply_becomes_the_candles_worked_out_by_hand(name):
    assert {"candles", "empty"} <= {case.name for case in cases(name)}
    for case in cases(name):
        feed, path = feed_of(name, case), REPLIES / name / f"{case.name}.answer.csv"
        header, *lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        assert tuple(header) == feed.columns
        assert bool(lines) == (case.name != "empty")
        candles = feed.parse(case.body, case.series)
        rows = [[value_of(column, text) for column, text in zip(header, line, strict=True)] for line in lines]
        same_bits(candles, header, rows)
        assert check(candles, whole(candles)) is candles


@every_provider
def test_each_case_says_which_series_it_is_of(name):
    provider = all_providers()[name]
    chosen = {setting.name: setting.allowed for setting in provider.settings if setting.is_of_series}
    for case in cases(name):
        series = case.series
        assert provider.provider_symbol(series.symbol, series.kind) == series.symbol
        assert series.timeframe.name in provider.feed(series.kind).timeframes
        assert dict(series.settings).keys() == chosen.keys()
        assert all(value in chosen[setting] for setting, value in series.settings)


@every_provider
def test_whitespace_in_a_reply_is_no_fact(name):
    for case in cases(name):
        value, told_apart = json_of(case.body)
        if value is None or not told_apart:
            continue
        feed = feed_of(name, case)
        candles = feed.parse(case.body, case.series)
        for body in spellings(value):
            again = feed.parse(body, case.series)
            assert (again.names, again.block.tolist()) == (candles.names, candles.block.tolist())


@every_provider
def test_a_body_far_beyond_any_reply_is_refused_unread(name):
    feed, series = feed_of(name, case_of(name)), case_of(name).series
    for body in (b"[" + b"[]," * 3_000_000 + b"[]]", b"{" + b'"a":{},' * 1_500_000 + b'"a":{}}'):
        tracemalloc.start()
        try:
            assert isinstance(read(feed, body, series), Exception)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 50 * 2**20


@every_feed
def test_a_feed_is_whole(name, kind):
    feed = all_providers()[name].feed(kind)
    assert feed.columns[:6] == ("open_time", *OHLCV)
    assert list(feed.columns) == [column for column in COLUMNS if column in feed.columns]
    frames = [parse_timeframe(text) for text in feed.timeframes]
    assert [frame.name for frame in frames] == list(feed.timeframes)
    assert len(set(frames)) == len(frames)
    assert feed.limit >= 1
    assert parse_timeframe(feed.probe) in frames or feed.window_ms is None
    empty = case_of(name, "empty")
    none = feed.parse(empty.body, empty.series._replace(kind=kind))
    assert (none.count, none.names) == (0, feed.columns)
    for timeframe in frames:
        depth = feed.depth(case_of(name).series._replace(kind=kind, timeframe=timeframe))
        assert depth is None or depth >= 1


# -- calls ------------------------------------------------------------------------------------------------------------


def asked(data, name, kind):
    """A feed, a series of it, and a span that one call may ask for, with its candles."""
    feed = all_providers()[name].feed(kind)
    timeframe = parse_timeframe(data.draw(st.sampled_from(feed.timeframes)))
    series = case_of(name).series._replace(kind=kind, timeframe=timeframe)
    rows = data.draw(st.integers(1, min(feed.limit, 3000)))
    start_ms = data.draw(st.integers(max(feed.since_ms, 631_152_000_000), 1_800_000_000_000))
    first = timeframe.first_slot(start_ms)
    span = Span(timeframe.open_ms(first), timeframe.open_ms(first + rows))
    if feed.window_ms is not None:
        span = Span(span.start_ms, min(span.end_ms, span.start_ms + feed.window_ms))
    window = feed.window(series, span.start_ms) if feed.window is not None else None
    if window is not None:
        span = Span(span.start_ms, min(span.end_ms, window.end_ms))
    return feed, series, span, rows


def allowed(call, name, symbol):
    """Whether it is a call as the transport sends it, within the documented budget."""
    provider = all_providers()[name]
    assert isinstance(call, Call)
    assert call.path.startswith("/")
    fields = [*call.params, *call.headers]
    assert all(isinstance(text, str) and text.isprintable() for pair in fields for text in pair)
    assert len({field for field, _ in call.params}) == len(call.params)
    for key in provider.keys:
        assert key.name not in dict(call.params)
        assert key.param == "" or key.param not in dict(call.params)
        assert key.header.lower() not in {field.lower() for field, _ in call.headers} - {""}
    assert all(1 <= call.cost <= limit.cost for limit in provider.default_limits if limit.kind == "weight")
    return symbol in call.path or any(symbol in value for _, value in call.params)


@every_feed
@examples(50)
@given(data=st.data())
def test_a_call_asks_for_no_more_than_the_provider_gives(name, kind, data):
    feed, series, span, rows = asked(data, name, kind)
    call = feed.call(series, span, rows)
    symbol_is_in = allowed(call, name, series.symbol)
    assert symbol_is_in or all(part in str(call) for part in series.symbol.replace("/", "-").split("-"))
    for field in ("limit", "page_limit", "barsback"):
        assert 1 <= int(dict(call.params).get(field, 1)) <= feed.limit
    if feed.first_call is not None:
        allowed(feed.first_call(series), name, series.symbol)
    if feed.last_call is not None:
        allowed(feed.last_call(series, span.end_ms), name, series.symbol)


@every_feed
@examples(50)
@given(data=st.data())
def test_one_reply_that_holds_all_of_a_window_is_asked_for_by_one_call(name, kind, data):
    feed, series, span, rows = asked(data, name, kind)
    if not feed.replies_with_all:
        return
    window = feed.window(series, span.start_ms) if feed.window is not None else None
    if window is not None:
        assert window.start_ms <= span.start_ms < window.end_ms
        assert feed.window(series, window.end_ms - 1) == window
        assert feed.window(series, window.end_ms).start_ms == window.end_ms
        assert feed.call(series, window, feed.limit) == feed.call(series, span, rows)
    elif feed.window_ms is None:
        assert feed.call(series, Span(0, 10**12), 1) == feed.call(series, span, rows)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("A07")
@every_provider
def test_each_refusal_is_the_error_that_the_documentation_means(name, record_property):
    provider, case = all_providers()[name], case_of(name)
    assert "candles" in refusals(name)
    for one in refusals(name):
        (answer,) = told(name, f"{one}.refused.answer.csv")
        body, status = (REPLIES / name / f"{one}.refused.body").read_bytes(), int(answer["status"])
        expected = getattr(errors, answer["error"])
        if status == 200:
            with pytest.raises(expected) as caught:
                feed_of(name, case).parse(body, case.series)
            assert type(caught.value) is expected, one
        else:
            error = provider.refuse(Reply(status, {}, body, 0.0), case.series.symbol, NOW_MS)
            assert type(error) is expected, one
    record_property("runs", len(refusals(name)))


HTML = b"<html><head><title>Error</title></head><body>Please enable cookies.</body></html>"


KINDS_OF_STATUS = {
    **dict.fromkeys((400, 404), (ProviderRefused, UnknownSymbol)),
    **dict.fromkeys((401, 403, 451), (AccessDenied,)),
    429: (RateLimited,),
    **dict.fromkeys((408, 500, 502, 503, 504, 520), (TransportError,)),
}


@every_provider
def test_a_status_without_words_is_the_error_that_http_means(name):
    for (status, kinds), body in itertools.product(KINDS_OF_STATUS.items(), (HTML, b"")):
        error = all_providers()[name].refuse(Reply(status, {}, body, 0.0), "XYZ", NOW_MS)
        assert type(error) in kinds, status


# -- symbols, listing, clock ------------------------------------------------------------------------------------------


@every_provider
def test_every_spelling_of_a_symbol_is_the_provider_s_own(name):
    provider = all_providers()[name]
    for row in told(name, "symbols.answer.csv"):
        own = provider.provider_symbol(row["given"], row["kind"])
        assert (own, provider.unified(own)) == (row["provider_symbol"], row["unified"]), row
        assert provider.provider_symbol(own, row["kind"]) == own
        if "_" not in row["unified"]:
            assert provider.provider_symbol(row["unified"], row["kind"]) == own


@pytest.mark.fault("F04")
@every_provider
def test_what_cannot_be_a_symbol_is_an_input_error_that_shows_it(name):
    for text in (
        "", " ", "../../x", "BTC/USDT/..", "BTC\0USDT", "A" * 300, "BTC/" + "U" * 300, "BTC USDT", "BTC|USDT",
        "BTC&limit=1", "%2e", "BTC\nUSDT", "/USDT", "BTC/", "http://x", "BTC\\USDT", "\ud800", "<b>", 5, None,
        b"BTCUSDT", ["BTCUSDT"],
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            all_providers()[name].provider_symbol(text, "candles")
        assert repr(text)[:60] in str(caught.value)
        assert len(str(caught.value)) < 350


@every_provider
@examples()
@given(text=st.text(max_size=12) | st.text("ABCXZ/-:._0", max_size=9))
def test_any_text_is_a_symbol_that_reads_as_itself_or_an_input_error(name, text):
    provider = all_providers()[name]
    try:
        own = provider.provider_symbol(text, "candles")
    except InputError:
        return
    assert provider.provider_symbol(own, "candles") == own
    assert isinstance(provider.unified(own), str)
    assert own.isprintable()


def questions(name):
    provider = all_providers()[name]
    asks = [("clock", provider.clock), ("listing", provider.listing)]
    return [(file, question) for file, question in asks if question is not None]


@every_provider
def test_clock_and_listing_are_read_as_worked_out_by_hand(name):
    for file, question in questions(name):
        answer, rows = question.parse((REPLIES / name / f"{file}.body").read_bytes()), told(name, f"{file}.answer.csv")
        allowed(question.call, name, "")
        if file == "clock":
            assert answer == ms_of(rows[0]["time"])
            continue
        assert [{field: str(value) for field, value in one._asdict().items()} for one in answer.symbols] == rows
        for one in answer.symbols:
            assert all_providers()[name].provider_symbol(one.provider_symbol, "candles") == one.provider_symbol
            assert all_providers()[name].provider_symbol(one.symbol, "candles") == one.provider_symbol
    if all_providers()[name].describe is not None:
        question = all_providers()[name].describe(case_of(name).series.symbol)
        allowed(question.call, name, "")


# -- what a provider is -----------------------------------------------------------------------------------------------


@every_provider
def test_a_provider_is_whole(name):
    provider = all_providers()[name]
    assert find_provider(name) is provider
    assert find_provider(provider) is provider
    assert isinstance(provider, Provider)
    assert isinstance(provider.feed("candles"), Feed)
    assert provider.name == name
    assert provider.hosts
    assert all(host.startswith("https://") and not host.endswith("/") for host in provider.hosts)
    assert provider.default_limits
    for limit in provider.default_limits:
        assert limit.cost >= 1
        assert limit.interval_s >= 1
        assert limit.kind in ("weight", "requests")
    assert len({key.name for key in provider.keys}) == len(provider.keys)
    assert all(key.environment.isupper() and not (key.header and key.param) for key in provider.keys)
    assert provider.key_page.startswith("https://") if provider.keys else provider.token is None
    assert all(setting.allowed for setting in provider.settings)
    if provider.configure is not None:
        choices = [[(setting.name, value) for value in setting.allowed] for setting in provider.settings]
        for chosen in itertools.product(*choices):
            made = provider.configure(dict(chosen))
            assert isinstance(made, Provider)
            assert made.name == name


@every_provider
def test_what_a_provider_does_not_offer_is_refused_with_what_it_does(name):
    provider = all_providers()[name]
    with pytest.raises(NotOffered, match=f"{name} offers no 'tea' candles; it offers .*candles"):
        provider.feed("tea")
    for kind in {"mark", "index", "premium"} - set(provider.feeds):
        with pytest.raises(NotOffered, match="it offers candles"):
            provider.feed(kind)
    for feed in provider.feeds.values():
        smallest = min(parse_timeframe(text).nominal_ms for text in feed.timeframes)
        if smallest > SECOND_MS:
            with pytest.raises(InputError) as caught:
                base_for(parse_timeframe(f"{smallest // 2 // SECOND_MS}s"), feed.timeframes, name)
            assert f"it offers {', '.join(feed.timeframes)}" in str(caught.value)


@pytest.mark.parametrize("name", ["binanse", "", None, 5, [], {}])
def test_an_unknown_provider_is_an_input_error_with_the_closest_name(name):
    with pytest.raises(InputError, match="unknown provider"):
        find_provider(name)
    with pytest.raises(InputError, match="Did you mean 'binance'"):
        find_provider("binanse")


# -- what was recorded ------------------------------------------------------------------------------------------------


RECORDED = [
    (name, row) for name in NAMES if (REPLIES / name / "recorded.csv").exists() for row in told(name, "recorded.csv")
]


@pytest.mark.parametrize(("name", "row"), RECORDED, ids=lambda value: value["file"] if isinstance(value, dict) else "")
def test_recorded_replies_have_the_figures_that_were_read_off_them(shared, name, row):
    path = shared / row["file"]
    if not path.exists():
        pytest.skip(f"{row['file']} is not among the recorded data beside the repository")
    provider, series, body = all_providers()[name], series_of(name, row), path.read_bytes()
    status = int(row["status"] or 200)
    if row["error"]:
        if status == 200:
            error = read(provider.feed(series.kind), body, series)
        else:
            error = provider.refuse(Reply(status, {}, body, 0.0), series.symbol, NOW_MS)
        assert type(error) is getattr(errors, row["error"])
        return
    candles = provider.feed(series.kind).parse(body, series)
    assert check(candles, whole(candles)) is candles
    assert candles.names == provider.feed(series.kind).columns
    assert candles.count == int(row["rows"])
    if candles.count:
        assert candles.open_ms[[0, -1]].tolist() == [ms_of(row["first"]), ms_of(row["last"])]
        assert candles.floats("close")[-1] == float(row["close"])
