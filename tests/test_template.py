"""Rows that match the first row are read at once: the result is what reading row by row gives, or None."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.text.template import match_template

ROW = b'{"t":"2024-03-08","a":"1.25","b":7,"s":"x"},'
SLOW = re.compile(rb'\{"t":"(\d{4}-\d\d-\d\d)","a":"([0-9.]*)","b":([0-9.]*),"s":"x"\},')
VALUES = ((23, 27), (33, 34))
STAMP = (6, 16)


def found(text, last_row_lacks=0, mark=b",", head=b"[" * 8, tail=b"]" * 8):
    body = head + text + tail
    row = text[: text.find(b"},") + 2] if b"}," in text else ROW
    return match_template(body, (len(head), len(head) + len(text)), row, last_row_lacks, VALUES, STAMP, mark)


def test_the_places_of_the_row_are_those_meant():
    assert [ROW[slice(*place)] for place in (*VALUES, STAMP)] == [b"1.25", b"7", b"2024-03-08"]


prices = st.decimals(min_value=0, max_value=10**6, places=2, allow_nan=False).map(
    lambda price: str(price).removesuffix(".00")
)


@examples()
@given(
    rows=st.lists(st.tuples(prices, st.integers(0, 10**9), st.dates()), max_size=9),
    last_row_lacks=st.sampled_from([0, 2]),
    mark=st.sampled_from([b",", b'"']),
)
def test_every_row_is_found_with_its_numbers(rows, last_row_lacks, mark):
    texts = [b'{"t":"%04d-%02d-%02d","a":"%s","b":%d,"s":"x"},' % (day.year, day.month, day.day, price.encode(), number)
             for price, number, day in rows]  # fmt: skip
    text = b"".join([ROW, *texts])
    matched = found(text[: len(text) - last_row_lacks], last_row_lacks, mark)
    assert matched is not None
    assert matched.count == len(rows) + 1
    assert matched.floats([0]).tolist() == [[1.25, *(float(price) for price, _, _ in rows)]]
    assert matched.floats([1, 0]).tolist()[0] == [7.0, *(float(number) for _, number, _ in rows)]
    assert matched.integers([1]).tolist() == [[7, *(number for _, number, _ in rows)]]
    assert matched.integers([0]) is None
    assert matched.are_json([0, 1])
    digits = ["".join(map(str, row)) for row in matched.stamps.tolist()]
    assert digits == ["20240308", *(day.strftime("%Y%m%d").rjust(8, "0") for _, _, day in rows)]


SCRAPS = [b"", b'"', b"0", b"9", b".", b",", b"-", b"/", b":", b" ", b"}", b"{", b"x", b"\xff"]


@examples()
@given(data=st.data())
def test_what_is_not_alike_is_not_found(data):
    text = bytearray(ROW * data.draw(st.integers(1, 4)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(len(ROW), len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(SCRAPS))
    matched = found(bytes(text), mark=data.draw(st.sampled_from([b",", b'"'])))
    if matched is None:
        return
    rows = SLOW.findall(bytes(text))
    assert b"".join(match[0] for match in re.finditer(SLOW, bytes(text))) == bytes(text)
    assert len(rows) == matched.count
    floats = matched.floats([0, 1])
    if floats is not None:
        assert floats.tolist() == [[float(row[1]) for row in rows], [float(row[2]) for row in rows]]


@pytest.mark.parametrize(
    "text", [b"", b"{", ROW[:-1], ROW + ROW[:-1], b'"' * 8, ROW + b"/", ROW.replace(b"1.25", b"1/25")]
)
def test_what_is_no_row_is_not_found(text):
    assert found(text) is None


@pytest.mark.parametrize("number", [b"07", b"7.", b".7", b"00", b"0.", b".", b"7.0.1"])
def test_what_json_does_not_write_is_told(number):
    matched = found(ROW + ROW.replace(b":7,", b":" + number + b","))
    assert matched is None or not matched.are_json([1])


@pytest.mark.parametrize("number", [b"9007199254740992", b"1" * 400])
def test_an_integer_that_is_no_float_is_not_told(number):
    matched = found(ROW + ROW.replace(b":7,", b":" + number + b","))
    assert matched.integers([1]) is None
