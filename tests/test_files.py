"""Which files of an archive are fetched: properties, against days counted one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.files import File, Lags, choose_files, published_end_ms
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span, merge, subtract
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers.binance_archive import find_file

DAY = 86_400_000
START = 19_723 * DAY  # 2024-01-01
NOW = START + 200 * DAY + 7 * 3_600_000

timeframes = st.sampled_from(["1s", "1m", "5m", "1h", "1d", "3d", "1w", "1M"]).map(parse_timeframe)
instants = st.integers(START // 60_000, (NOW + 5 * DAY) // 60_000).map(lambda minutes: minutes * 60_000)
spans = st.tuples(instants, instants).map(lambda ends: Span(min(ends), max(ends))).filter(bool)
missing = st.lists(spans, min_size=1, max_size=4)
many = st.lists(st.tuples(instants, st.integers(1, 3 * DAY)).map(lambda one: Span(one[0], sum(one))), max_size=60)
lost = st.sets(st.integers(0, 200), max_size=30)
few = examples(200)


def finder(timeframe):
    series = Series("binance", None, "BTCUSDT", timeframe, "candles")
    return lambda ms, monthly: find_file(series, ms, monthly=monthly)


def chosen(spans, timeframe, forced, absent=frozenset()):
    return choose_files(
        spans,
        timeframe,
        finder(timeframe),
        now_ms=NOW,
        rows_per_call=1000,
        is_absent=lambda path: path in absent,
        forced=forced,
    )


def slots(spans, timeframe):
    return sum(timeframe.first_slot(one.end_ms) - timeframe.first_slot(one.start_ms) for one in spans)


def wanted_in(spans, file):
    return [part for one in merge(spans) if (part := one.clip(file.span))]


def by_walking(spans, timeframe, find, absent, rows_per_call, lags, forced):
    """The choice by its rule alone: every file of the spans is looked at."""
    found = []
    for monthly, lag_ms in ((True, lags.monthly_ms), (False, lags.daily_ms)):
        left = [rest for one in merge(spans) for rest in subtract(one, [part for file in found for part in file.parts])]
        days = {at for one in left for at in (*range(one.start_ms, one.end_ms, DAY), one.end_ms - 1)}
        files = {file for at in days if (file := find(at, monthly)) is not None}
        found += [
            file
            for file in files
            if file.span.end_ms + (0 if forced else lag_ms) <= NOW
            and file.path not in absent
            and slots(wanted_in(left, file), timeframe) > (0 if forced else 3 * rows_per_call)
        ]
    return sorted(found, key=lambda file: file.span)


def disputing(find, disputed):
    """The finder, where rows of those days are not taken from a month's file."""

    def found(ms, monthly):
        file = find(ms, monthly)
        return file and file._replace(disputed=tuple(one for one in disputed if monthly and file.span.holds(one)))

    return found


def is_month(file):
    return "/monthly/" in file.path


@few
@given(missing, timeframes, st.booleans())
def test_no_file_comes_twice_and_no_two_overlap(spans, timeframe, forced):
    files = chosen(spans, timeframe, forced)
    assert len({file.path for file in files}) == len(files)
    assert all(one.span.end_ms <= two.span.start_ms for one, two in pairwise(files))


@few
@given(missing, timeframes, st.booleans())
def test_no_file_is_asked_for_before_it_can_be_there(spans, timeframe, forced):
    for file in chosen(spans, timeframe, forced):
        lag = 0 if forced else 1 if is_month(file) else 2
        assert file.span.end_ms + lag * DAY <= NOW


@few
@given(missing, timeframes)
def test_every_file_saves_more_requests_than_it_costs(spans, timeframe):
    for file in chosen(spans, timeframe, forced=False):
        assert slots(wanted_in(spans, file), timeframe) > 3 * 1000


@few
@given(missing, timeframes, st.booleans())
def test_every_file_brings_something_that_is_missing(spans, timeframe, forced):
    for file in chosen(spans, timeframe, forced):
        assert slots(wanted_in(spans, file), timeframe) > 0


@few
@given(missing, timeframes)
def test_where_the_archive_is_all_there_is_its_files_cover_all_that_is_published(spans, timeframe):
    files = chosen(spans, timeframe, forced=True)
    until = Span(0, published_end_ms(finder(timeframe), NOW))
    covered = [file.span for file in files]
    left = [rest for one in merge(spans) for rest in subtract(one.clip(until), covered) if one.clip(until)]
    assert slots(left, timeframe) == 0


@pytest.mark.slow
@few
@given(missing, timeframes.filter(lambda timeframe: timeframe.nominal_ms <= DAY), lost)
def test_what_is_absent_is_not_asked_for_and_days_stand_in_for_a_month(spans, timeframe, days):
    find = finder(timeframe)
    lost = [find(START + day * DAY, day % 3 == 0) for day in days]
    absent = {file.path for file in lost if file is not None}
    files = chosen(spans, timeframe, True, absent)
    assert not absent & {file.path for file in files}
    covered = [file.span for file in files]
    until = Span(0, published_end_ms(find, NOW) // DAY * DAY - 2 * DAY)
    for day in range(0, 200, 7):
        month, one = find(START + day * DAY, True), find(START + day * DAY, False)
        needed = [part for span in merge(spans) if (part := span.clip(one.span).clip(until))]
        published = month is not None and month.span.end_ms <= NOW and month.path not in absent
        if slots(needed, timeframe) and (published or one.path not in absent):
            assert not [rest for part in needed for rest in subtract(part, covered)]


@few
@given(timeframes, instants)
def test_a_file_holds_the_instant_that_it_is_found_by(timeframe, ms):
    for monthly in (True, False):
        file = finder(timeframe)(ms, monthly)
        if file is not None:
            assert file.span.start_ms <= ms < file.span.end_ms
            date = np.datetime64(file.span.start_ms, "ms").astype(f"datetime64[{'M' if monthly else 'D'}]")
            assert file.path.endswith(f"-{date}.zip")


def test_files_are_named_as_the_archive_names_them():
    def path(provider, kind, symbol, timeframe, monthly):
        file = find_file(Series(provider, None, symbol, parse_timeframe(timeframe), kind), START, monthly=monthly)
        return file and file.path

    assert path("binance", "candles", "BTCUSDT", "1M", True) == (
        "/data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-01.zip"
    )
    assert path("binance-um", "mark", "BTCUSDT", "1h", False) == (
        "/data/futures/um/daily/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-01-01.zip"
    )
    assert path("binance-cm", "index", "BTCUSD", "1m", True) == (
        "/data/futures/cm/monthly/indexPriceKlines/BTCUSD/1m/BTCUSD-1m-2024-01.zip"
    )
    assert path("binance", "candles", "BTCUSDT", "1s", True) is None  # for their size
    assert path("binance", "candles", "BTCUSDT", "1w", False) is None  # there are none


def test_nothing_is_found_where_a_provider_has_no_files():
    assert (
        choose_files(
            [Span(START, START + DAY)],
            parse_timeframe("1m"),
            lambda ms, monthly: None,
            now_ms=NOW,
            rows_per_call=1000,
            is_absent=lambda path: False,
            forced=True,
        )
        == []
    )
    assert published_end_ms(lambda ms, monthly: None, NOW) == 0
    assert published_end_ms(lambda ms, monthly: File("x", Span(7, 9)), NOW) == 7


@pytest.mark.slow
@pytest.mark.fault("J25")
@few
@given(
    missing | many,
    timeframes,
    lost,
    st.sampled_from([100, 720, 1000, 1500]),
    st.builds(Lags, st.integers(0, 3 * DAY), st.integers(0, 9 * DAY)),
    st.sets(st.integers(0, 200), max_size=4),
    st.booleans(),
)
def test_the_choice_is_that_of_looking_at_every_file(spans, timeframe, days, rows_per_call, lags, disputed, forced):
    find = finder(timeframe)
    absent = {file.path for day in days if (file := find(START + day * DAY, day % 3 == 0)) is not None}
    find = disputing(find, [Span(START + day * DAY, START + (day + 1) * DAY) for day in sorted(disputed)])
    files = choose_files(
        spans,
        timeframe,
        find,
        now_ms=NOW,
        rows_per_call=rows_per_call,
        is_absent=absent.__contains__,
        read_lags=lambda: lags,
        forced=forced,
    )
    assert files == by_walking(spans, timeframe, find, absent, rows_per_call, lags, forced)


@pytest.mark.fault("J25")
@pytest.mark.parametrize(
    ("timeframe", "days", "most"), [("4h", 200, 0), ("1M", 30_000, 0), ("1h", 3650, 0), ("1m", 120, 8), ("1d", 3650, 0)]
)
def test_no_file_is_looked_at_where_none_can_pay(timeframe, days, most):
    find, looks = finder(parse_timeframe(timeframe)), []
    choose_files(
        [Span(NOW - days * DAY, NOW)],
        parse_timeframe(timeframe),
        lambda ms, monthly: looks.append(ms) or find(ms, monthly),
        now_ms=NOW,
        rows_per_call=1000,
        is_absent=lambda path: False,
    )
    assert len(looks) <= most
