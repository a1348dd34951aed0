"""The layout of files of candles: options of a CSV, columns under headers, and numbers with fixed places."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_fetcher import InputError
from candle_fetcher.core.text.formatting import format_fields
from candle_fetcher.files.layout import (
    PLAIN,
    CsvOptions,
    Layout,
    column_set,
    csv_bytes,
    csv_pieces,
    make_layout,
    plain_layout,
    read_columns,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = ("open", "high", "low", "close", "volume")


def frame_of(count: int = 3) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=count, freq="1h", tz="UTC", name="timestamp")
    rows = {name: np.arange(count) * 0.1 + at for at, name in enumerate(NAMES)}
    return pd.DataFrame(rows, index=index)


def test_a_whole_number_that_text_would_round_is_refused() -> None:
    frame = frame_of()
    for values, is_exact in (
        ([1 << 53, None, 1], True),
        ([(1 << 53) + 1, 0, 1], True),
        ([(1 << 53) + 1, None, 1], False),
    ):
        frame["count"] = pd.array(values, dtype="Int64")
        if is_exact:
            assert csv_bytes(frame).splitlines()[0].endswith(f",{values[0]}".encode())
        else:
            with pytest.raises(InputError, match="count has missing values beside whole numbers above"):
                csv_bytes(frame)


# Numbers with fixed places


@given(st.lists(FINITE | st.integers(-(10**6), 10**6).map(lambda n: n / 1024), min_size=1), st.integers(0, 18))
def test_places_are_those_of_python_for_every_number(values: list[float], places: int) -> None:
    lines = format_fields([np.array(values)], places=[places]).decode().splitlines()
    assert lines == [f"{value:.{places}f}" for value in values]


def test_halves_go_to_the_even_digit_by_the_exact_value() -> None:
    halves = [0.5, 1.5, 2.5, -2.5, 0.125, 0.375, 1.005, 2.675, 4503599627370497.5]
    assert format_fields([np.array(halves)], places=[0]).decode().split() == [
        "0", "2", "2", "-2", "0", "0", "1", "3", "4503599627370498",
    ]  # fmt: skip
    assert format_fields([np.array(halves[4:8])], places=[2]).decode().split() == ["0.12", "0.38", "1.00", "2.67"]


@given(st.lists(FINITE, min_size=1))
def test_a_decimal_comma_changes_the_sign_alone(values: list[float]) -> None:
    column = np.array(values)
    plain = format_fields([column, column])
    assert format_fields([column, column], ";", ",") == plain.replace(b",", b";").replace(b".", b",")


# Options


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "#"])
def test_pandas_reads_every_separator_back(separator: str) -> None:
    frame = frame_of(50)
    text = b"".join(csv_pieces([frame], CsvOptions(separator)))
    again = pd.read_csv(io.BytesIO(text), sep=separator, index_col=0, parse_dates=True, dtype=dict.fromkeys(NAMES, str))
    assert again.index.tz_localize("UTC").equals(frame.index)
    assert (again.astype(float).to_numpy() == frame.to_numpy()).all()


def test_a_file_for_half_of_europe() -> None:
    frame = frame_of(2)
    frame.index += pd.Timedelta("5ms")
    frame["close_time"] = pd.DatetimeIndex(["2024-01-01T00:59:59.999Z", pd.NaT])
    frame["trades"] = pd.array([7, None], "Int64")
    frame["is_closed"] = [True, False]
    text = b"".join(csv_pieces([frame], CsvOptions(";", ",", 3))).decode().splitlines()
    assert text == [
        "timestamp;open;high;low;close;volume;close_time;trades;is_closed",
        "2024-01-01 00:00:00,005;0,000;1,000;2,000;3,000;4,000;2024-01-01 00:59:59,999;7;true",
        "2024-01-01 01:00:00,005;0,100;1,100;2,100;3,100;4,100;;;false",
    ]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"separator": ".", "decimal": "."}, "both"),
        ({"separator": ",", "decimal": ","}, "both"),
        *(
            ({"separator": one}, "separator")
            for one in ("", ";;", ".", "-", ":", " ", "0", "e", "_", '"', "\n", "§", 5)
        ),
        *(({"decimal": one}, "decimal") for one in ("", "'", "..", None)),
        *(({"decimals": one}, "decimals") for one in (-1, 19, 1.5, True, "2")),
    ],
)
def test_options_that_make_no_readable_file_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        CsvOptions(**options)  # type: ignore[arg-type]


# Columns


def test_columns_come_in_the_order_of_the_mapping_under_its_headers() -> None:
    layout = make_layout(read_columns({"y": "close", "ds": "timestamp", "{symbol}": "close"}), NAMES, "BTCUSDT")
    assert layout == Layout(("y", "ds", "BTCUSDT"), ("close", "timestamp", "close"))
    text = b"".join(csv_pieces([frame_of(1), frame_of(1)], PLAIN, layout))
    assert text == b"y,ds,BTCUSDT\n" + 2 * b"3,2024-01-01 00:00:00,3\n"
    assert csv_bytes(frame_of(1), PLAIN, layout) == b"3,2024-01-01 00:00:00,3\n"


def test_a_first_field_of_any_kind_begins_a_line() -> None:
    frame = frame_of(2).assign(flag=[True, False], odd=[1e300, -1e-20], lacking=[np.nan, 1], whole=[-5, 5])
    for name in ("flag", "odd", "lacking", "whole"):
        layout = Layout(("a", "b"), (name, "close"))
        lines = csv_bytes(frame, PLAIN, layout).decode().splitlines()
        plain = csv_bytes(frame, PLAIN, plain_layout([name, "close"])).decode().splitlines()
        assert lines == [line.partition(",")[2] for line in plain]


def test_the_sets_of_columns_stay_as_they_are() -> None:
    assert [read_columns(one) for one in ("ohlcv", "all")] == ["ohlcv", "all"]
    assert make_layout("all", NAMES, "BTCUSDT") == plain_layout(NAMES)
    assert column_set(read_columns({"y": "close", "t": "timestamp"})) == "ohlcv"
    assert column_set(read_columns({"n": "trades"})) == "all"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "empty mapping"),
        ({"y": "clsoe"}, "Did you mean 'close'"),
        ({"y": "is_closed"}, "include_open=True"),
        ({"BTCUSDT": "open", "{symbol}": "close"}, "'BTCUSDT' twice"),
        ({"": "close"}, "expected a text"),
        ({"y": 5}, "expected a text"),
        (["close"], "mapping"),
        ("ohlc", "Did you mean 'ohlcv'"),
        ({"a;b": "close"}, "separator"),
        ({"a\nb": "close"}, "line end"),
        ({'"a"': "close"}, "quote"),
    ],
)
def test_columns_that_cannot_be_written_are_refused(columns: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        CsvOptions(";").header(make_layout(read_columns(columns), NAMES, "BTCUSDT"))
