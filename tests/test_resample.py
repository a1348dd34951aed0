"""Coarse candles out of fine ones, against a loop over rows and against what the provider itself sends."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import COLUMNS, OHLCV, candles_from
from candle_fetcher.core.errors import InputError
from candle_fetcher.core.resample import base_for, resample
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.providers.binance import SPOT_TIMEFRAMES, TIMEFRAMES, parse_candles

NAMES = COLUMNS[:11]
COIN = (*COLUMNS[:7], "trades", "taker_buy_volume", "base_volume", "taker_buy_base_volume")
DAY = 86_400_000
PAIRS = [
    ("1m", "7m"),
    ("15m", "45m"),
    ("2h", "10h"),
    ("1h", "1d"),
    ("1d", "1w"),
    ("1d", "1M"),
    ("1M", "3M"),
    ("1d", "2d"),
]
few = examples(200)


def candles_at(opens, names, seed):
    """Candles whose sums are exact in any order: every number is a multiple of 1/8."""
    rng = np.random.default_rng(seed)
    low, *inside, high = np.sort(rng.integers(1, 8000, (4, len(opens))), axis=0) / 8
    values = {
        "open_time": opens,
        "close_time": np.array(opens, np.int64) + 59_999,
        "open": inside[0],
        "close": inside[1],
    }
    values |= {"high": high, "low": low, "trades": rng.integers(0, 1000, len(opens))}
    return candles_from(names, [np.asarray(values.get(name, rng.integers(0, 800, len(opens)) / 8)) for name in names])


def by_hand(rows, names, target):
    """The coarse rows, one fine row after the other."""
    made = {}
    for row in rows:
        slot_ms = target.open_ms(target.ordinal(row["open_time"]))
        into = made.get(slot_ms)
        if into is None:
            made[slot_ms] = {**row, "open_time": slot_ms}
            continue
        for name in names[1:]:
            if name in ("close", "close_time"):
                into[name] = row[name]
            elif name in ("high", "low"):
                into[name] = {"high": max, "low": min}[name](into[name], row[name])
            elif name != "open":
                into[name] += row[name]
    return [made[slot_ms] for slot_ms in sorted(made)]


def rows_of(candles):
    columns = [
        (candles.integers(name) if name in ("open_time", "close_time", "trades") else candles.floats(name)).tolist()
        for name in candles.names
    ]
    return [dict(zip(candles.names, values, strict=True)) for values in zip(*columns, strict=True)]


@pytest.mark.slow
@pytest.mark.fault("C13")
@few
@given(data=st.data(), pair=st.sampled_from(PAIRS), names=st.sampled_from([NAMES, COIN, NAMES[:6]]))
def test_coarse_candles_are_those_of_a_loop_over_rows(data, pair, names):
    base, target = map(parse_timeframe, pair)
    first = data.draw(st.integers(-20, 700))
    span = Span(target.open_ms(first), target.open_ms(first + data.draw(st.integers(0, 5))))
    slots = range(base.first_slot(span.start_ms), base.first_slot(span.end_ms))
    there = (
        [slot for slot in slots if data.draw(st.sampled_from([True, True, True, False]))]
        if len(slots) < 60
        else [*slots][1:]
    )
    late = [data.draw(st.sampled_from([0, 0, 894])) for _ in there] if len(there) < 60 else [0] * len(there)
    opens = [base.open_ms(slot) + ms for slot, ms in zip(there, late, strict=True)]
    candles = candles_at(np.array(opens, np.int64), names, data.draw(st.integers(0, 9)))

    made, partial = resample(candles, base, target, span)
    assert made.names == names
    assert rows_of(made) == by_hand(rows_of(candles), names, target)
    lacking = {target.open_ms(target.ordinal(base.open_ms(slot))) for slot in set(slots) - set(there)}
    assert partial == sorted(lacking & set(made.open_ms.tolist()))


def test_candles_outside_the_span_make_no_coarse_ones():
    base, target = parse_timeframe("1m"), parse_timeframe("5m")
    candles = candles_at(np.arange(20) * 60_000, NAMES, 1)
    made, partial = resample(candles, base, target, Span(300_000, 600_000))
    assert made.open_ms.tolist() == [300_000]
    assert partial == []
    assert rows_of(made) == by_hand(rows_of(candles)[5:10], NAMES, target)


def test_a_slot_without_a_fine_candle_has_no_coarse_one_and_is_not_partial():
    base, target = parse_timeframe("1m"), parse_timeframe("5m")
    candles = candles_at(np.array([0, 1, 2, 3, 4, 10, 12]) * 60_000, NAMES, 1)
    made, partial = resample(candles, base, target, Span(0, 1_200_000))
    assert made.open_ms.tolist() == [0, 600_000]
    assert partial == [600_000]


@pytest.mark.fault("B10")
@given(first=st.integers(0, 20_000))
def test_days_make_weeks_that_open_on_monday_and_calendar_months(first):
    days = [first + step for step in range(120)]
    candles = candles_at(np.array(days) * DAY, NAMES[:6], first)
    for name in ("1w", "1M"):
        target = parse_timeframe(name)
        span = Span(target.open_ms(target.first_slot(first * DAY)), target.open_ms(target.ordinal((first + 120) * DAY)))
        made, partial = resample(candles, parse_timeframe("1d"), target, span)
        assert partial == []
        sums = {}
        for day, volume in zip(days, candles.floats("volume").tolist(), strict=True):
            date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
            opened = date.replace(day=1) if name == "1M" else date - dt.timedelta(days=date.weekday())
            if span.start_ms <= day * DAY < span.end_ms:
                sums[opened] = sums.get(opened, 0) + volume
        opened = [dt.date(1970, 1, 1) + dt.timedelta(milliseconds=ms) for ms in made.open_ms.tolist()]
        assert dict(zip(opened, made.floats("volume").tolist(), strict=True)) == sums


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("1s", "90s"), ("1m", "7m"), ("3m", "9m"), ("15m", "45m"), ("30m", "90m"), ("1h", "25h"), ("2h", "10h"),
        ("8h", "16h"), ("12h", "36h"), ("1d", "2d"), ("1d", "6d"), ("1d", "7d"), ("1d", "9d"), ("1w", "2w"),
        ("1w", "3w"), ("1M", "2M"), ("1M", "12M"),
    ],
)  # fmt: skip
def test_the_base_is_the_largest_native_timeframe_that_divides(base, wanted):
    assert base_for(parse_timeframe(wanted), SPOT_TIMEFRAMES, "binance", ("3d",)).name == base


@given(count=st.integers(1, 500), unit=st.sampled_from("smhdwM"))
def test_no_larger_native_timeframe_divides_and_three_days_are_never_a_base(count, unit):
    wanted = parse_timeframe(f"{count}{unit}")
    offered = [parse_timeframe(name) for name in SPOT_TIMEFRAMES]
    base = base_for(wanted, SPOT_TIMEFRAMES, "binance", ("3d",))
    if wanted in offered:
        assert base == wanted
        return
    assert base.name != "3d"
    assert base.divides(wanted)
    assert not any(one.divides(wanted) and one.nominal_ms > base.nominal_ms for one in offered if one.name != "3d")


@pytest.mark.parametrize("name", SPOT_TIMEFRAMES)
def test_a_native_timeframe_is_its_own_base(name):
    assert base_for(parse_timeframe(name), SPOT_TIMEFRAMES, "binance", ("3d",)).name == name


@pytest.mark.parametrize("wanted", ["1s", "90s", "7s"])
def test_what_nothing_native_makes_up_is_an_input_error_that_says_what_there_is(wanted):
    with pytest.raises(InputError, match=f"no candles that make up {wanted}; it offers 1m, 3m"):
        base_for(parse_timeframe(wanted), TIMEFRAMES, "binance-um", ("3d",))


def read_days(shared: Path, name: str):
    rows = {}
    for path in sorted((shared / "market_data/binance_rest/spot/klines/BTCUSDT" / name).glob("*.json")):
        rows |= {row[0]: row for row in json.loads(path.read_bytes())}
    return parse_candles(json.dumps([rows[ms] for ms in sorted(rows)], separators=(",", ":")).encode())


@pytest.mark.fault("B10", "B11")
@pytest.mark.parametrize("name", ["1w", "1M"])
def test_days_of_the_exchange_make_its_own_weeks_and_months(shared, name):
    target = parse_timeframe(name)
    days, sent = read_days(shared, "1d"), read_days(shared, name)
    # The first and the last one are not whole; the week and month of 2018-02-08, an outage, are summed as they are.
    span = Span(int(sent.open_ms[1]), target.open_ms(target.ordinal(int(days.open_ms[-1]))))
    made, partial = resample(days, parse_timeframe("1d"), target, span)
    expected = sent.trim(span)
    assert partial == []
    assert made.open_ms.tolist() == expected.open_ms.tolist()
    for column in OHLCV[:4]:
        assert made.floats(column).tolist() == expected.floats(column).tolist()
    assert made.integers("trades").tolist() == expected.integers("trades").tolist()
    for column in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        pairs = zip(made.floats(column).tolist(), expected.floats(column).tolist(), strict=True)
        assert all(math.isclose(one, other, rel_tol=1e-12) for one, other in pairs)


@pytest.mark.fault("H09")
@given(st.lists(st.floats(0.01, 1e6).map(lambda value: round(value, 8)) | st.just(math.nan), min_size=1, max_size=40))
def test_a_sum_that_lacks_a_value_is_not_known_and_the_others_stay_exact(volumes):
    minutes, target = map(parse_timeframe, ("1m", "5m"))
    opens = np.arange(len(volumes), dtype=np.int64) * 60_000
    prices = [np.full(len(volumes), 2.0)] * 4
    candles = candles_from(NAMES[:6], [opens, *prices, np.array(volumes)])
    made, _ = resample(candles, minutes, target, Span(0, len(volumes) * 60_000))
    runs = [volumes[at : at + 5] for at in range(0, len(volumes), 5)]
    sums = [math.nan if any(map(math.isnan, run)) else float(sum(Decimal(repr(one)) for one in run)) for run in runs]
    assert np.array_equal(made.floats("volume"), sums, equal_nan=True)
