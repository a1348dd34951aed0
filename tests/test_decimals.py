"""Decimal text and float64 columns: equal to `float`, bit for bit, or an error that names the place."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.errors import InputError, ReplyError
from candle_fetcher.core.text import rows as reader
from candle_fetcher.core.text.formatting import format_rows
from candle_fetcher.core.text.json import load_json
from candle_fetcher.core.text.rows import Row, parse_csv, parse_rows

KLINE = Row(
    "open_time:i open:d high:d low:d close:d volume:d close_time:i quote_volume:d trades:i "
    "taker_buy_volume:d taker_buy_quote_volume:d ignore:x"
)
GOOD = (
    b'[[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,'
    b'"2434.19055334",308,"1756.87402397","28.46694368","0"],'
    b'[1499644800000,"11419.36","9640.7","10000","0","-0.00012",1500249599999,'
    b'"123456789.12345678",0,"0.1","90071992.54740993","17928899.62484339"]]'
)
SPOT = (  # every row with the same marks
    b'[[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,'
    b'"2434.19055334",308,"1756.87402397","28.46694368","0"],'
    b'[1499644800000,"0.01577100","0.80000001","0.01575800","10.01577100","8976.11427815",1500249599999,'
    b'"434.19055334",8,"56.87402397","128.46694368","7"]]'
)


def truth(body):
    """The columns by json and float; None where the body is not a list of rows as declared."""
    try:
        rows = json.loads(body, parse_int=str.encode, parse_float=str.encode, parse_constant=str.encode)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list):
        return None
    for row in rows:
        if not isinstance(row, list) or len(row) != 12:
            return None
        for kind, value in zip(KLINE.kinds, row, strict=True):
            if isinstance(value, bytes) != (kind == "i"):
                return None
            if kind == "i" and not re.fullmatch(rb"-?[0-9]{1,18}", value):
                return None
            if kind != "i" and not (isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value)):
                return None
    return [
        [int(row[field]) if kind == "i" else float(row[field]) for row in rows]
        for field, kind in enumerate(KLINE.kinds)
        if kind != "x"
    ]


def bits(column):
    return np.ascontiguousarray(column).view(np.int64).tolist()


def same(columns, expected):
    assert [column.dtype.kind for column in columns] == ["i" if kind == "i" else "f" for kind in "idddddididd"]
    for column, values in zip(columns, expected, strict=True):
        assert bits(column) == bits(np.array(values, column.dtype))


def fast(body, row=KLINE):
    return reader._read(reader.MARGIN + body + reader.MARGIN, row.kinds, row._json)


def body_of(rows):
    """A compact body of rows of texts."""
    quoted = [
        ",".join(text if kind == "i" else f'"{text}"' for kind, text in zip(KLINE.kinds, row, strict=True))
        for row in rows
    ]
    return f"[{','.join(f'[{row}]' for row in quoted)}]".encode()


def csv_of(rows, line_end="\n"):
    return line_end.join(",".join(row) for row in rows).encode()


def random_decimal(rng):
    if rng.random() < 0.5:  # near the border where a mantissa has 53 bits
        decimal_places = rng.randrange(10)
        digits = f"{rng.randrange(2**52, 2**55):0{decimal_places + 1}}"
        return digits if not decimal_places else f"{digits[:-decimal_places]}.{digits[-decimal_places:]}"
    whole = "".join(rng.choices("0123456789", k=rng.randrange(1, rng.choice([3, 9, 26]))))
    fraction = "".join(rng.choices("0123456789", k=rng.randrange(19)))
    return rng.choice(["", "", "-"]) + whole + (f".{fraction}" if fraction else "")


def random_rows(rng, count, decimal):
    return [
        [str(rng.randrange(10 ** rng.choice([1, 4, 13, 16]))) if kind == "i" else decimal(rng) for kind in KLINE.kinds]
        for _ in range(count)
    ]


def test_rows_of_the_documented_form_become_exact_columns():
    for body in (GOOD, SPOT):
        same(parse_rows(body, KLINE), truth(body))
        assert fast(body) is not None


@pytest.mark.slow(every=4)
@pytest.mark.parametrize("seed", range(40))
def test_both_readers_and_csv_equal_float_bit_for_bit(seed):
    rng = random.Random(seed)
    rows = random_rows(rng, 60, random_decimal)
    body = body_of(rows)
    expected = truth(body)
    assert fast(body) is not None
    same(fast(body), expected)
    same(reader._read_json(body, KLINE), expected)
    same(parse_csv(csv_of(rows), KLINE), expected)


@pytest.mark.parametrize("places", [0, 1, 2, 7, 8, 9, 12, 16, 18])
def test_rows_that_are_all_written_alike_are_exact(places):
    rng = random.Random(places)
    rows = random_rows(rng, 300, lambda rng: f"{rng.randrange(10 ** rng.randrange(1, 17)) / 10**4:.{places}f}")
    same(fast(body_of(rows)), truth(body_of(rows)))


@given(st.integers(0, 10**20), st.integers(0, 18), st.booleans())
@examples(500)
def test_any_mantissa_with_any_decimals_is_exact(mantissa, places, minus):
    digits = f"{mantissa:0{places + 1}}"
    text = "-" * minus + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
    body = f'[["{text}"],["0"]]'.encode()
    (column,) = fast(body, Row("d"))
    assert bits(column) == bits(np.array([float(text), 0.0]))


def test_halfway_decimals_round_to_even():
    texts = [f"{(2**52 + n) * 2 + 1}" for n in range(4)] + [f"{2**51 + n}.{q}" for n in (0, 1) for q in ("25", "75")]
    texts += ["9007199254740993", "4503599627370496.5", "4503599627370497.5", "90071992.54740993", "67108864.00000001"]
    body = f"[{','.join(f'[{chr(34)}{text}{chr(34)}]' for text in texts)}]".encode()
    assert bits(fast(body, Row("d"))[0]) == bits(np.array([float(text) for text in texts]))


@pytest.mark.fault("A09")
@pytest.mark.parametrize("text", ["", "1.", "-.5", "1e5", "9" * 400, "1,5"])
def test_what_is_no_number_is_an_error_naming_row_and_field(text):
    rows = [["1", *["2.5"] * 5, "3", "4.5", "5", "6.5", "7.5", "0"] for _ in range(3)]
    rows[1][4] = text
    with pytest.raises(ReplyError, match=r"row 2, field 5 \(close\)") as caught:
        parse_rows(body_of(rows), KLINE)
    assert len(str(caught.value)) < 400
    with pytest.raises(ReplyError, match="row 2"):
        parse_csv(csv_of(rows), KLINE)


@pytest.mark.parametrize("text", ["1.5", "1" * 19, "null", '"1"', "NaN", "007"])
def test_what_is_no_integer_is_an_error_naming_row_and_field(text):
    rows = [["1", *["2.5"] * 5, "3", "4.5", "5", "6.5", "7.5", "0"] for _ in range(3)]
    rows[2][8] = text
    place = r"row 3, field 9 \(trades\)" if truth_is_json(text) else "JSON list"
    with pytest.raises(ReplyError, match=place):
        parse_rows(body_of(rows), KLINE)
    with pytest.raises(ReplyError, match=r"row 3, field 9 \(trades\)"):
        parse_csv(csv_of(rows), KLINE)


def truth_is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", ["-5", "0", "-0", "1" * 17, "9" * 18, "-" + "9" * 18])
def test_integers_of_up_to_18_digits_are_exact(text):
    (column,) = parse_rows(f"[[{text}]]".encode(), Row("i"))
    assert column.tolist() == [int(text)]


def test_digits_outside_the_quotes_are_not_run_together():
    for wrong in (b'"1"5', b'5"1"', b'"1""5"', b'""15'):
        with pytest.raises(ReplyError):
            parse_rows(b'[[1,"2"],[1,' + wrong + b"]]", Row("i d"))


def test_short_and_long_rows_are_errors_naming_the_field():
    with pytest.raises(ReplyError, match=r"row 2: expected 2 fields, got 1; field 2 \(b\) is missing"):
        parse_rows(b"[[1,2],[1]]".replace(b"2", b'"2"'), Row("a:i b:d"))
    with pytest.raises(ReplyError, match="row 1: expected 2 fields, got 3"):
        parse_rows(b'[[1,"2","3"]]', Row("a:i b:d"))
    with pytest.raises(ReplyError, match="row 2: expected a list of 2 fields, got None"):
        parse_rows(b'[[1,"2"],null]', Row("a:i b:d"))


def test_blanks_between_the_values_change_nothing():
    spaced = json.dumps(json.loads(GOOD), indent=1).encode()
    same(parse_rows(spaced, KLINE), truth(GOOD))


def test_no_rows_are_empty_columns():
    for columns in (
        parse_rows(b"[]", KLINE),
        parse_rows(b" [ ]\n", KLINE),
        parse_csv(b"", KLINE),
        parse_csv(b"a,b\n", KLINE),
    ):
        same(columns, [[]] * 11)


@pytest.mark.slow
def test_csv_may_have_a_mark_a_header_and_either_line_end():
    rows = random_rows(random.Random(1), 9000, lambda rng: f"{rng.random() * 1000:.8f}")  # several blocks
    expected = truth(body_of(rows))
    header = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,x,ignore"
    for text in (
        csv_of(rows),
        csv_of(rows) + b"\n",
        csv_of(rows, "\r\n") + b"\r\n\r\n\n",
        header + b"\n" + csv_of(rows),
        b"\xef\xbb\xbf" + header + b"\r\n" + csv_of(rows, "\r\n"),
        b"\xef\xbb\xbf" + csv_of(rows),
    ):
        same(parse_csv(text, KLINE), expected)


@pytest.mark.slow
def test_csv_errors_count_rows_through_all_blocks():
    lines = csv_of(random_rows(random.Random(1), 9000, lambda rng: f"{rng.random():.8f}")).split(b"\n")
    lines[8000] = b"1,2"
    with pytest.raises(ReplyError, match=r"row 8001: expected 12 fields, got 2; field 3 \(high\) is missing"):
        parse_csv(b"header\n" + b"\n".join(lines), KLINE)
    lines[8000] = b"1"
    with pytest.raises(ReplyError, match="row 8001"):
        parse_csv(b"\n".join(lines), KLINE)


@pytest.mark.slow
@pytest.mark.fault("C09")
def test_blank_lines_in_csv_are_passed_over_wherever_pieces_end():
    text = csv_of(random_rows(random.Random(3), 40, lambda rng: f"{rng.random():.8f}"), "\r\n")
    expected = parse_csv(text, KLINE)
    lines = text.split(b"\r\n")
    for at in (0, 1, 20, 40):
        blank = b"\r\n".join([*lines[:at], b"", b"", *lines[at:]])
        same(parse_csv(blank, KLINE), [column.tolist() for column in expected])
        for size in (1, 2, 7, 100):
            pieces = (blank[start : start + size] for start in range(0, len(blank), size))
            blocks = list(reader.iter_csv(pieces, KLINE))
            same([np.concatenate(column) for column in zip(*blocks, strict=True)], [one.tolist() for one in expected])


@pytest.mark.parametrize("template", ["", "i q", "x", "a:", "i:open", "id"])
def test_a_row_template_that_means_nothing_is_refused(template):
    with pytest.raises(InputError, match="row template"):
        Row(template)


def texts_of(values):
    lines = format_rows(np.zeros(len(values), np.int64), [values]).decode().split("\n")
    assert lines.pop() == ""
    return [line.partition(",")[2] for line in lines]


def awkward_values():
    rng = np.random.default_rng(7)
    any_bits = rng.integers(0, 2**64, 40_000, dtype=np.uint64).view(np.float64)
    sized = 10 ** rng.uniform(-12, 18, 40_000)
    return {
        "bits": any_bits[np.isfinite(any_bits)],
        "prices": np.round(rng.random(40_000) * 10.0 ** rng.integers(0, 6, 40_000), 2),
        "volumes": np.round(rng.exponential(1000, 40_000), 8),
        "large volumes": np.round(rng.exponential(1e9, 40_000), 8),
        "quote volumes": np.round(10 ** rng.uniform(6.5, 12, 40_000), 8),
        "sizes": sized,
        "negative sizes": -sized,
        "rounded sizes": np.round(sized, 3),
        "binary fractions": rng.integers(2**40, 2**53, 40_000) / 2.0 ** rng.integers(0, 30, 40_000),
        "powers": np.concatenate([2.0 ** np.arange(-1074, 1024), 10.0 ** np.arange(-300, 300)]),
        "neighbours": np.nextafter(10.0 ** np.repeat(np.arange(-9, 20), 2), [np.inf, 0] * 29),
        "integers": rng.integers(0, 10**15, 40_000).astype(float),
    }


@pytest.mark.slow
@pytest.mark.fault("F07")
@pytest.mark.parametrize("name", awkward_values())
def test_each_number_is_the_shortest_text_that_reads_back(name):
    values = awkward_values()[name]
    texts = texts_of(values)
    assert bits(np.array([float(text) for text in texts])) == bits(values)
    assert texts == [np.format_float_positional(value, unique=True, trim="-") for value in values]


def test_zeros_missing_values_and_extremes_have_their_texts():
    values = [0.0, -0.0, float("nan"), 1e-07, 1e22, 42283.0, -0.5, 1e7, 9999999.99999999, 1125899906842624.25, 2.0**53]
    texts = ["0", "-0", "", "0.0000001", "10000000000000000000000", "42283", "-0.5", "10000000", "9999999.99999999"]
    assert texts_of(np.array(values)) == [*texts, "1125899906842624.2", "9007199254740992"]
    assert texts_of(np.array([-(2**63), 2**63 - 1, 0, -1, 999, 1000])) == [
        str(-(2**63)),
        str(2**63 - 1),
        "0",
        "-1",
        "999",
        "1000",
    ]


def test_lines_have_utc_times_and_milliseconds_only_where_there_are_any():
    times = np.array([1704067200000, 1518155294789, -1, -62135596800000, 253402300799999, 951782400000])
    lines = format_rows(times, [np.array([42283.58, 0.1, np.nan, -1.0, 1e-9, 3.0]), np.arange(6)])
    assert lines == (
        b"2024-01-01 00:00:00,42283.58,0\n2018-02-09 05:48:14.789,0.1,1\n1969-12-31 23:59:59.999,,2\n"
        b"0001-01-01 00:00:00,-1,3\n9999-12-31 23:59:59.999,0.000000001,4\n2000-02-29 00:00:00,3,5\n"
    )
    assert format_rows(times[:0], [np.zeros(0)]) == b""
    assert format_rows(times[:1], []) == b"2024-01-01 00:00:00\n"
    for outside in (-62135596800001, 253402300800000):
        with pytest.raises(InputError, match="years 1 to 9999"):
            format_rows(np.array([outside]), [])


def test_times_of_every_kind_equal_numpys():
    times = np.random.default_rng(2).integers(-62135596800000, 253402300800000, 30_000)
    times[::2] -= times[::2] % 1000
    texts = [text.replace("T", " ").removesuffix(".000") for text in np.datetime_as_string(times.astype("M8[ms]"))]
    assert format_rows(times, []).decode().splitlines() == texts


def test_a_column_of_another_type_or_length_is_refused():
    for column in (np.zeros(2, np.float32), np.zeros(3), np.zeros((2, 1)), np.zeros(2, np.int32)):
        with pytest.raises(InputError, match="expected float64, int64, bool or ms"):
            format_rows(np.zeros(2, np.int64), [column])


@pytest.mark.slow
@pytest.mark.fault("F07")
def test_pandas_reads_back_the_same_frame():
    rng = np.random.default_rng(5)
    count = 20_000  # several blocks
    times = 1518155294789 + 60_000 * np.arange(count)
    columns = [np.round(rng.random(count) * 10.0**places, 8) for places in (0, 3, 6, 9)] + [rng.random(count)]
    columns[1][::7] = np.nan
    columns[4][::5] = np.frombuffer(struct.pack("<d", 5e-324))[0]
    trades = rng.integers(-5, 10**9, count)
    text = format_rows(times, [*columns, trades])
    frame = pd.read_csv(io.BytesIO(text), header=None, dtype=dict.fromkeys(range(6), str), keep_default_na=False)
    assert (pd.to_datetime(frame[0]).to_numpy().astype("M8[ms]").astype(np.int64) == times).all()
    for name, column in enumerate(columns, 1):
        assert bits(np.array([float(value or "nan") for value in frame[name]])) == bits(column)
    assert (frame[6] == trades).all()


# JSON of another shape


def test_json_is_read_as_it_stands() -> None:
    body = b'{"bars":[{"t":"2024-01-01T00:00:00Z","o":187.15,"n":-12,"x":null,"y":true}],"next":"\\u00fc"}'
    assert load_json(body, "bars") == json.loads(body)
    assert load_json(b"0.1000000000000000055511151231257827", "a number") == 0.1
    assert load_json(b"123456789012345678901234567890", "a number") == 123456789012345678901234567890


@pytest.mark.fault("A08", "A09", "A18")
@pytest.mark.parametrize("digits", [640, 4_300, 0])
@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[1", b"NaN", b'{"a":Infinity}', b"[-Infinity]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xff",
     b"\xef\xbb\xbf[", "[1]".encode("utf-16"), b"9" * 41,
     b'{"a":[' + b"9" * 2_000_000 + b"]}", b"<html>\x1b[2J\r\n" * 99],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_json_is_refused_in_a_line_and_at_once(body: bytes, digits: int) -> None:
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(digits)
    try:
        began = time.monotonic()
        with pytest.raises(ReplyError, match="expected bars, got") as raised:
            load_json(body, "bars")
        assert time.monotonic() - began < 10
    finally:
        sys.set_int_max_str_digits(usual)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400
