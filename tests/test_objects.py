"""JSON objects as columns: whole columns at a time, value by value, and both the same."""

from __future__ import annotations

import datetime as dt
import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import MISSING
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.text.objects import parse_uniform, read_objects

FIELDS = {"t": "t", "o": "d", "v": "q", "n": "i"}
EPOCH = dt.datetime.fromisoformat("1970-01-01")

times = st.datetimes(EPOCH, EPOCH.replace(year=2099)).map(lambda time: time.replace(microsecond=0))
decimals = st.from_regex(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?", fullmatch=True)
rows = st.tuples(times, decimals, decimals, st.integers(0, 10**12), decimals)


def ms(time):
    return (time - EPOCH) // dt.timedelta(milliseconds=1)


def text_of(made, order):
    """The rows as objects, with the names in that order."""
    lines = []
    for time, price, volume, count, unread in made:
        values = {
            "t": f'"{time.isoformat()}Z"',
            "o": price,
            "v": f'"{volume}"',
            "n": str(count),
            "vw": unread,
            "live": "false",
            "x": '"Q"',
        }
        lines.append("{" + ",".join(f'"{name}":{values[name]}' for name in order) + "}")
    return ",".join(lines).encode()


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        assert found[name].view(np.int64).tolist() == column.view(np.int64).tolist(), name


@pytest.mark.slow
@examples()
@given(made=st.lists(rows, min_size=1, max_size=6), order=st.permutations(["t", "o", "v", "n", "vw", "live", "x"]))
@example([(EPOCH.replace(year=2024, month=2, day=29), "0", "0.1", 0, "0.00000001")], [*"xvnot", "vw", "live"])
def test_alike_objects_are_their_columns_in_whatever_order_the_names_stand(made, order):
    text = text_of(made, order)
    expected = {
        "t": np.array([ms(row[0]) for row in made], np.int64),
        "o": np.array([float(row[1]) for row in made]),
        "v": np.array([float(row[2]) for row in made]),
        "n": np.array([row[3] for row in made], np.int64),
    }
    same(parse_uniform(text, FIELDS), expected)
    same(read_objects(json.loads(b"[" + text + b"]"), FIELDS), expected)


SCRAPS = [*(bytes([byte]) for byte in b'0179.-~eEZT:,"{} \nx'), b"", b"00", b'"o":', b"\x80", b"\xff", b"},{", b"null"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"o":}',
        b'{"o":01}',
        b'{"o":-1}',
        b'{"o":1.}',
        b'{"o":.5}',
        b'{"o":1e5}',
        b'{"o":"1"}',
        b'{"o":null}',
        b'{"o":true}',
        b'{"o": 1}',
        b'{"o":1},',
        b'{"o":1}{"o":2}',
        b'{"o":1},{"n":2}',
        b'{"o":1,"o":2}',
        b'{"o":1},{"o":1,"n":2}',
        b'{"o":1},{"o":"2"}',
        b'{"x":5}',
        b'{"n":1.0,"o":1}',
        b'{"v":1}',
        b'{"\\u006f":1}',
        b'{"t":"2024-02-30T00:00:00Z","o":1}',
        b'{"t":"2024-13-01T00:00:00Z","o":1}',
        b'{"t":"2024-00-01T00:00:00Z","o":1}',
        b'{"t":"0000-01-01T00:00:00Z","o":1}',
        b'{"t":"2024-01-01T24:00:00Z","o":1}',
        b'{"t":"2024-01-01T00:60:00Z","o":1}',
        b'{"t":"2024-01-01T00:00:60Z","o":1}',
        b'{"t":"2024-1-001T00:00:00Z","o":1}',
        b'{"t":"2024-01-01T00:00:00.5Z","o":1}',
        b'{"t":"2024-01-01T00:00:00Z","o":1},{"t":"2024-1-001T00:00:00Z","o":1}',
        b'{"t":"2024-01-01T00:00:00Z","o":1},{"t":"2024-01-01T00:0.:00Z","o":1}',
        b'{"t":"2024-01-01T00:00:00Z","o":1},{"t":"20242024-01-01T00:00:00Z","o":1}',
        b'{"t":"2024-01-01T00:00:00Z","o":1},{"t":"2024~01-01T00:00:00Z","o":1}',
        b'{"o":1,"live":true},{"o":1,"live":false}',
        b'{"o":1,"x":{"y":1}}',
        b'{"o":1,"x":[1]}',
        b'{"o":1\x80}',
        b'{"o":1,"x\n":2}',
        b'{"o":1,"x":"\x00"}',
    ],
)
def test_what_is_in_doubt_is_none(text):
    assert parse_uniform(text, FIELDS) is None


@pytest.mark.parametrize(
    "more", ['"Z":1', '"a1":2', '"x":"a-b"', '"x":"a.b"', '"x":"a,b}"', '"\u00e4":2', '"live":true']
)
def test_fields_that_nobody_reads_may_be_called_and_hold_anything(more):
    text = ",".join([f'{{"o":1.5,{more},"t":"2024-01-01T00:00:00Z"}}'] * 3).encode()
    same(parse_uniform(text, FIELDS), {"o": np.full(3, 1.5), "t": np.full(3, 1_704_067_200_000)})


def test_a_field_that_the_objects_lack_has_no_column():
    assert list(parse_uniform(b'{"o":1.5},{"o":2}', FIELDS)) == ["o"]


def test_an_optional_field_that_is_not_there_is_a_value_that_is_lacking():
    found = read_objects([{"o": 1, "n": 3}, {"t": "2024-01-01T00:00:00Z"}], FIELDS, optional=frozenset(FIELDS))
    assert found["n"].tolist() == [3, MISSING]
    assert found["t"].tolist() == [MISSING, 1_704_067_200_000]
    assert found["o"][0] == 1.0
    assert math.isnan(found["o"][1])
    assert np.isnan(found["v"]).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-10T05:00:00Z", 1_710_046_800_000),
        ("2024-03-10T05:00:00.000000000Z", 1_710_046_800_000),
        ("2024-03-10T05:00:00.1239Z", 1_710_046_800_123),
        ("2024-03-10T00:00:00-05:00", 1_710_046_800_000),
        ("2024-03-10t10:30:00.5+05:30", 1_710_046_800_500),
        ("1969-12-31T23:59:59.999z", -1),
    ],
)
def test_a_time_is_read_with_its_fraction_and_offset(text, expected):
    assert read_objects([{"t": text}], {"t": "t"})["t"].tolist() == [expected]


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ({"o": 1}, "expected a list of objects"),
        ([1], "row 1: expected an object with t, o, v, n, got 1"),
        ([{}], "row 1: field t is missing; expected a time such as 2024-01-02T05:00:00Z"),
        ([{"t": 5}], "row 1, field t: expected a time such as 2024-01-02T05:00:00Z, got 5"),
        ([{"t": "2024-02-30T00:00:00Z"}], "row 1, field t: expected a time"),
        ([{"t": "\u0662024-01-01T00:00:00Z"}], "row 1, field t: expected a time"),
        ([{"t": "2024-01-01T00:00:00Z", "o": "1"}], "row 1, field o: expected a number, got '1'"),
        ([{"t": "2024-01-01T00:00:00Z", "o": True}], "row 1, field o: expected a number, got True"),
        (
            [{"t": "2024-01-01T00:00:00Z", "o": 1, "v": 1}],
            "row 1, field v: expected a decimal in quotes, without an exponent, got 1",
        ),
        (
            [{"t": "2024-01-01T00:00:00Z", "o": 1, "v": "1e5"}],
            "row 1, field v: expected a decimal in quotes, without an exponent, got '1e5'",
        ),
        ([{"t": "2024-01-01T00:00:00Z", "o": 1, "v": "1", "n": 1.0}], "row 1, field n: expected an integer, got 1.0"),
        ([{"t": "2024-01-01T00:00:00Z", "o": 1, "v": "1", "n": 10**18}], "row 1, field n: expected an integer"),
    ],
)
def test_what_is_wrong_is_told_by_object_and_field(objects, told):
    with pytest.raises(ReplyError) as caught:
        read_objects(objects, FIELDS)
    assert told in str(caught.value)
