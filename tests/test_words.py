"""Words for times and timeframes: each text has one meaning, in Python and on the command line, or is refused with what
is accepted."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher import CandleFetcher, InputError, summary
from candle_fetcher.cli import main
from candle_fetcher.cli.arguments import read_arguments
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.timeframe import Timeframe, parse_timeframe
from candle_fetcher.fetcher.request import read_range
from candle_fetcher.practice import PracticeExchange

NOW_MS = 1_718_452_830_000  # 2024-06-15T12:00:30Z
DAY_MS = 86_400_000
# Each spelling of a unit in lower case, by the seconds of the unit; 0 stands for a month.
UNITS = {
    1: ["s", "sec", "secs", "second", "seconds"],
    60: ["min", "mins", "minute", "minutes"],
    3600: ["h", "hr", "hrs", "hour", "hours"],
    86400: ["d", "day", "days"],
    604800: ["w", "week", "weeks"],
    0: ["mo", "month", "months"],
}
SPELLED = {word: seconds for seconds, words in UNITS.items() for word in words}


def seconds_of(unit: str) -> int | None:
    """The seconds of a unit as it is written; 0 for a month, None where it means nothing."""
    return {"m": 60, "M": 0}.get(unit, SPELLED.get(unit.lower()))


def is_length(frame: Timeframe, count: int, seconds: int) -> bool:
    """Whether the timeframe is that many times the unit; a week is never seven days, and a month no number of days."""
    if seconds == 0:
        return (frame.count, frame.unit) == (count, "M")
    return frame.step_ms == count * seconds * 1000 and (frame.unit == "w") is (seconds == 604800)


def cased(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Each word in every mixture of capitals."""
    return words.flatmap(
        lambda word: st.tuples(*(st.sampled_from([one.lower(), one.upper()]) for one in word)).map("".join)
    )


counts = st.integers(1, 99_999)
units = cased(st.sampled_from([*SPELLED, "m"]))
texts = st.text(max_size=12) | st.from_regex(r"\A[0-9]{0,6} ?[A-Za-z]{0,8}\Z", fullmatch=True)
times = (
    st.sampled_from(["now", "today", "yesterday", "first", "2024", "20240101", "20240230", "1e12", "7w", "tomorrow"])
    | st.from_regex(r"\A[0-9]{1,7}[hdHDwm]?\Z")
    | st.from_regex(r"\A(19|20)[0-9]{2}(-?[01][0-9](-?[0-3][0-9])?)?\Z")
    | st.integers(0, 3 * 10**12).map(str)
    | st.text(max_size=10)
)


def test_no_spelling_of_a_unit_stands_for_two() -> None:
    words = [word for group in UNITS.values() for word in group]
    assert len(words) == len(set(words))
    assert "m" not in words
    assert parse_timeframe("1m") != parse_timeframe("1M")
    assert parse_timeframe("1MIN") == parse_timeframe("1Min") == parse_timeframe("1m")
    assert parse_timeframe("1MO") == parse_timeframe("1M")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1H", "1h"), ("1D", "1d"), ("1W", "1w"), ("30S", "30s"), ("1hour", "1h"), ("4hours", "4h"), ("60m", "1h"),
        ("60min", "1h"), ("1day", "1d"), ("24HOURS", "1d"), ("1min", "1m"), ("1MIN", "1m"), ("15Minutes", "15m"),
        ("1week", "1w"), ("7days", "7d"), ("1mo", "1M"), ("1Month", "1M"), ("3months", "3M"), ("1M", "1M"),
    ],
)  # fmt: skip
def test_a_plain_word_is_a_timeframe(text: str, meant: str) -> None:
    assert parse_timeframe(text).name == meant


@examples()
@given(count=counts, unit=units)
def test_a_count_and_a_unit_mean_the_same_in_any_case(count: int, unit: str) -> None:
    seconds = seconds_of(unit)
    assert seconds is not None
    assert is_length(parse_timeframe(f"{count}{unit}"), count, seconds)


@examples()
@given(text=texts)
def test_what_is_taken_for_a_timeframe_is_a_count_and_a_unit_and_all_else_says_what_is(text: str) -> None:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    seconds = seconds_of(text[len(digits) :])
    is_count = digits.isascii() and digits.isdigit() and len(digits) <= 5 and not digits.startswith("0")
    if is_count and seconds is not None:
        assert is_length(parse_timeframe(text), int(digits), seconds)
        return
    with pytest.raises(InputError, match="expected a count and a unit s, m, h, d, w or M, such as 1m") as caught:
        parse_timeframe(text)
    meant = str(caught.value).partition("Did you mean ")[2].rstrip("?")
    assert not meant or parse_timeframe(meant).name


def readings(text: str) -> list[int]:
    """What the text means by each notation taken alone, with Python's own calendar."""
    word, found = text.strip().lower(), []
    midnight = NOW_MS // DAY_MS * DAY_MS
    found += [{"now": NOW_MS, "today": midnight, "yesterday": midnight - DAY_MS}[word]] if word in (
        "now", "today", "yesterday",
    ) else []  # fmt: skip
    if word[:-1].isdecimal() and len(word) <= 7 and word[-1] in "hd":
        ago_ms = NOW_MS - int(word[:-1]) * (DAY_MS if word[-1] == "d" else 3_600_000)
        found += [ago_ms] if ago_ms >= -62_135_596_800_000 else []  # else it lies before the year 1
    for shape in ("%Y", "%Y%m%d", "%Y-%m", "%Y-%m-%d"):
        if word.isascii() and len(word) == {"%Y": 4, "%Y%m%d": 8, "%Y-%m": 7, "%Y-%m-%d": 10}[shape]:
            try:
                day = dt.datetime.strptime(word, shape).replace(tzinfo=dt.timezone.utc)
            except ValueError:
                continue
            if "-" in word or 1900 <= day.year < 2200:
                found.append(int(day.timestamp()) * 1000)
    if word.isascii() and word.isdigit() and 94_694_400_000 <= int(word) < 253_402_300_800_000:
        found.append(int(word))
    return found


@examples(400)
@example(text="18800D")
@example(text="800000D")
@given(text=times)
def test_a_time_has_one_reading_or_is_refused_with_what_is_expected(text: str) -> None:
    found = readings(text)
    assert len(found) <= 1
    try:
        taken = instant_ms(text, "start", lambda: NOW_MS)
    except InputError:
        with pytest.raises(InputError, match="expected"):
            instant_ms(text, "start", lambda: NOW_MS)
        assert found == []
        return
    if found:
        assert [taken] == found


@examples()
@given(text=times | texts)
def test_the_command_line_hands_on_what_was_typed(text: str) -> None:
    """So that each word means there what it means in Python: the library alone reads it."""
    got = read_arguments(["fetch", "--symbol=BTC/USDT", f"--start={text}", f"--end={text}", f"--timeframe={text}"])
    assert (got.start, got.end, got.timeframe) == (text, text, text)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("7d", "12h"), ("yesterday", "today"), ("yesterday", "now"), ("2024", "20240201"), ("20240101", "2025"),
        ("1704067200000", "2024-02"), ("12h", None), ("7D", "NOW"), ("2024-01-31T12:00+02", "2024-02-01"),
    ],
)  # fmt: skip
def test_a_range_is_the_same_in_python_and_on_the_command_line(
    start: str, end: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [] if end is None else ["--end", end]
    line = ["plan", "BTC/USDT", "1day", "--start", start, *ends, "--json", "--cache-dir", str(tmp_path)]
    with CandleFetcher(cache_dir=tmp_path) as fetcher:
        for _ in range(2):  # once more where a second passed, or a day, in between
            ours = fetcher.plan("BTC/USDT", "1D", start, end)
            assert main(line) == 0
            printed = json.loads(capsys.readouterr().out)
            span = [instant_ms(printed[name], name) for name in ("start", "end")]
            if all(abs(a - b) < 600_000 for a, b in zip(span, ours.span, strict=True)):
                break
        assert all(abs(a - b) < 600_000 for a, b in zip(span, ours.span, strict=True))
        assert printed["timeframe"] == ours.timeframe == "1d"


@pytest.mark.parametrize("wrong", ["7w", "tomorrow", "20240230", "2024-13-01", "1704067200", "99999999999999999"])
def test_both_refuse_a_time_with_the_same_words(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        read_range(wrong, None, now_ms=lambda: NOW_MS)
    assert main(["plan", "BTC/USDT", "--start", wrong, "--cache-dir", str(tmp_path)]) == 2
    assert str(caught.value).split("; ")[0] in capsys.readouterr().err


def test_every_call_that_takes_a_timeframe_takes_its_words(tmp_path: Path) -> None:
    with CandleFetcher(cache_dir=tmp_path, source="cache") as fetcher:
        assert fetcher.plan("BTC/USDT", "4hours", "2024", "20240102").timeframe == "4h"
        assert fetcher.coverage("BTC/USDT", "1Day").empty
        assert fetcher.cache.clear("BTC/USDT", "1hour") == 0
    frame = pd.DataFrame({name: [1.0] for name in ("high", "low", "close", "volume")})
    frame.index = pd.DatetimeIndex(["2024-01-01"], tz="UTC")
    assert summary(frame, timeframe="1hour")["timeframe"] == "1h"


def test_first_is_the_listing_in_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PracticeExchange() as exchange:
        place = ["--base-url", f"binance={exchange.base_urls['binance']}", "--cache-dir", str(tmp_path)]
        assert main(["fetch", "BTC/USDT", "1DAY", "--start", "first", "--limit", "1", *place]) == 0
        printed = capsys.readouterr().out.splitlines()[1].partition(",")[0]
        with CandleFetcher(base_urls=exchange.base_urls, cache_dir=tmp_path, progress=False) as fetcher:
            (first,) = fetcher.fetch("BTC/USDT", "1d", "First", limit=1).index
    assert printed == f"{first:%Y-%m-%d %H:%M:%S}" == "2017-08-17 00:00:00"
    with pytest.raises(InputError, match=r"not understood.*for a start first"):
        read_range(None, "first", now_ms=lambda: NOW_MS)
