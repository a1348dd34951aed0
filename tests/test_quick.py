"""Readers of CSV and of zips in other packages: the bits of ours, or refused as ours refuses it."""

from __future__ import annotations

import functools
import importlib
import io
import random
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st
from runs import FAULT_RUNS, examples

from candle_fetcher.core import checksum
from candle_fetcher.core.errors import ReplyError
from candle_fetcher.core.text import quick
from candle_fetcher.core.text.decimals import Column
from candle_fetcher.core.text.rows import Row, iter_csv, parse_csv
from candle_fetcher.core.unzip import unzip

KLINE = Row(
    "open_time:i open:d high:d low:d close:d volume:d close_time:i quote_volume:d trades:i "
    "taker_buy_volume:d taker_buy_quote_volume:d ignore:x"
)
# The first version of pandas in which read_csv rounds each decimal to the nearest float64.
EXACT_PANDAS = (3, 1)
PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])


@functools.cache
def reader_of(name: str) -> quick.Read:
    """The reader; skips the test where it is not installed, or not exact."""
    if name == "pandas" and PANDAS < EXACT_PANDAS:
        pytest.skip(f"pandas {pd.__version__} rounds some decimals wrongly, and is not used")
    try:
        return quick.READERS[name]()
    except ImportError:
        pytest.skip(f"{name} of the extra `fast` is not installed")


@pytest.fixture(params=list(quick.READERS))
def read(request: pytest.FixtureRequest) -> quick.Read:
    return reader_of(request.param)


@pytest.fixture(params=[*quick.READERS, "ours"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The reader that the process finds, the others being away."""
    if request.param != "ours":
        reader_of(request.param)
    for name in quick.READERS:
        if name == request.param:
            break
        monkeypatch.setitem(sys.modules, name, None)
    quick.find_reader.cache_clear()
    yield request.param
    quick.find_reader.cache_clear()


def market_rows(count: int, *, decimals: int = 8, signed: bool = False, seed: int = 1) -> list[bytes]:
    """Rows of minutes as the archive writes them; with `signed` as those of the premium index."""
    dice, price, rows = random.Random(seed), 43_000.0, []
    for at in range(count):
        first, price = price, price * (1 + dice.gauss(0, 1e-4))
        values = [first, max(first, price) * 1.0001, min(first, price) * 0.9999, price, dice.expovariate(1 / 30)]
        if signed:
            values = [dice.gauss(0, 1e-3) for _ in range(4)] + [0.0]
        open_ms = 1_704_067_200_000 + at * 60_000
        texts = ",".join(f"{value:.{decimals}f}" for value in values)
        quote = "0,0,0" if signed else f"{values[4] / 2:.{decimals}f},{values[4] * price / 2:.{decimals}f},0"
        rows.append(f"{open_ms},{texts},{open_ms + 59_999},{values[4] * price:.{decimals}f},{at % 97},{quote}".encode())
    return rows


REAL = [
    *market_rows(40),
    *market_rows(10, decimals=2, seed=2),
    *market_rows(10, signed=True, seed=3),
    # A row of 2017, without decimals in some fields, and one of 2025, in microseconds.
    b"1502942400000,4261.48,4313.62,4261.32,4308.83,47.181009,1502945999999,202366.138393,171,35.160503,150952.477943,0",
    b"1735689600000000,93576,93610.93,93537.5,93610.93,8.21827,1735689659999999,768978.62,2631,4.95,463365.5,0",
]


def bits(columns: Any) -> list[bytes]:
    return [np.ascontiguousarray(column).tobytes() for column in columns]


def read_by_ours(text: bytes, row: Row) -> list[bytes] | None:
    """The bits of the columns; None where it is refused. Texts below `LEAST_BYTES` are read by ours alone."""
    assert len(text) < quick.LEAST_BYTES
    try:
        return bits(parse_csv(text, row))
    except ReplyError:
        return None


def same_or_refused(text: bytes, row: Row, read: quick.Read) -> bool:
    """Assert that the reader gives the bits of ours, or leaves the text to it; return whether it read it."""
    found = quick.read_plain(text, row.kinds, read)
    if found is not None:
        ours = read_by_ours(b"h\n" + text, row)  # with a header, for which a letter would be taken
        assert ours is not None, text
        assert bits(found) == ours, text
    return found is not None


# -- decimals ----------------------------------------------------------------------------------------------------------


def hard_decimals(count: int, seed: int) -> list[str]:
    """Decimals of many digits, near and at the middle of two float64, near zero, near the largest."""
    dice, found = random.Random(seed), []
    for at in range(count):
        digits = str(dice.randint(10**16, 10 ** dice.randint(17, 40)))
        point = dice.randint(1, len(digits) - 1)
        exact = Fraction(2 * (dice.getrandbits(52) | 1 << 52) + 1) * Fraction(2) ** dice.randint(-70, 0)
        scale = 70  # so many decimals write it out
        middle = str(exact.numerator * 10**scale // exact.denominator).rjust(scale + 1, "0")
        found.append(
            (
                f"{digits[:point]}.{digits[point:]}",
                f"{middle[:-scale]}.{middle[-scale:]}{dice.choice(('', '0000000001'))}",
                f"{middle[:-scale]}.{middle[-scale : -dice.randint(1, 60)]}",
                f"0.{'0' * dice.randint(0, 330)}{digits}",
                f"{dice.randint(1, 9)}{'0' * dice.randint(0, 300)}",
                f"{digits}.0",
                f"{Decimal(repr(dice.random() * 10 ** dice.randint(-8, 15))):f}",
                f"-{dice.randint(0, 10**9)}.{dice.randint(0, 10**8):08d}",
            )[at % 8]
        )
    return found


def check_decimals(read: quick.Read, count: int, seed: int) -> None:
    texts = ["0.00000001", "123456789012345678.123456789", "9007199254740993", *hard_decimals(count, seed)]
    # After a time, since a row that begins with a zero is left to ours.
    found = quick.read_plain("".join(f"1,{text}\n" for text in texts).encode(), "id", read)
    assert found is not None
    assert found[1].view(np.int64).tolist() == np.array([float(text) for text in texts]).view(np.int64).tolist()


def test_decimals_that_are_hard_to_round_are_those_of_float(read: quick.Read) -> None:
    check_decimals(read, 4_000, seed=1)


@pytest.mark.slow
def test_a_million_of_hard_decimals_are_those_of_float(read: quick.Read) -> None:
    for seed in range(round(50 * FAULT_RUNS)):
        check_decimals(read, 20_000, seed=100 + seed)


def test_pandas_is_used_from_the_version_on_that_is_exact() -> None:
    assert quick.is_exact(quick.read_by_pandas()) == (PANDAS >= EXACT_PANDAS)


def test_a_reader_that_rounds_otherwise_is_not_used() -> None:
    def read(block: bytes, kinds: str) -> list[Column]:
        lines = [line.split(b",") for line in block.splitlines()]
        wrong = [float(line[1]) * (1 + 2**-52) for line in lines]
        return [np.array([int(line[0]) for line in lines]), np.array(wrong)]

    assert not quick.is_exact(read)


# -- real files --------------------------------------------------------------------------------------------------------


def archive_texts(folder: Path) -> Iterator[tuple[str, bytes, Row]]:
    """The text of each file of candles of the archive, without its header."""
    paths = [*(folder / "vision").rglob("*.zip"), *(folder / "vision_csv").rglob("*.csv")]
    for path in sorted(path for path in paths if "fundingRate" not in path.name):
        text = path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(text)) as archive:
                text = archive.read(archive.infolist()[0])
        if text[:1].isalpha():
            text = text.partition(b"\n")[2]
        yield path.name, text, KLINE


def check_real_files(read: quick.Read, shared: Path, *, every: int) -> None:
    texts = list(archive_texts(shared / "market_data"))[::every]
    if not texts:
        pytest.skip("no recorded files of the archive")
    for name, text, row in texts:
        # Ours reads less than LEAST_BYTES at once, so that it is held against the same text.
        lines = text.replace(b"\r\n", b"\n").splitlines(keepends=True)
        pieces = [b"".join(lines[at : at + 500]) for at in range(0, len(lines), 500)]
        for piece in pieces[:: max(1, every // 4)]:
            found = quick.read_plain(piece, row.kinds, read)
            assert found is not None, name
            assert bits(found) == read_by_ours(piece, row), name


def test_some_real_files_are_read_to_the_same_bits(read: quick.Read, shared: Path) -> None:
    check_real_files(read, shared, every=24)


@pytest.mark.slow
def test_each_real_file_is_read_to_the_same_bits(read: quick.Read, shared: Path) -> None:
    check_real_files(read, shared, every=1)


@pytest.mark.parametrize("lines", [market_rows(50), market_rows(50, decimals=2), market_rows(50, signed=True)])
def test_rows_of_each_kind_are_read_and_not_left_to_ours(read: quick.Read, lines: list[bytes]) -> None:
    assert same_or_refused(b"\n".join(lines), KLINE, read)
    assert same_or_refused(b"\n".join(lines) + b"\n", KLINE, read)


# -- damaged text ------------------------------------------------------------------------------------------------------

INSERTED = [
    *(b",", b".", b"-", b"+", b"\n", b"\r", b"\r\n", b"\0", b" ", b"\t", b'"', b"'", b"#", b"_", b"e", b"e5", b"E-7"),
    *(b"0", b"9", b"00", b"-0", b"--", b"..", b",,", b"\n\n", b".5", b"5.", b".000", b"inf", b"nan", b"NA", b"null"),
    *(b"true", b"0x1F", b"1e400", b"9" * 20, b"9" * 400, b"18446744073709551616", "٣".encode(), b"\xef\xbb\xbf"),
    *(b"\xff", b",0", b"0,"),
]


FIELD = st.one_of(
    st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,25})?", fullmatch=True),
    st.from_regex(r"-?[0-9]{0,3}\.?[0-9]{0,3}", fullmatch=True),
    st.sampled_from([text.decode("latin-1") for text in INSERTED]),
    st.text('0123456789.,-\n "eE+x_\r\0', max_size=5),
)


@pytest.mark.parametrize("name", list(quick.READERS))
@examples(400)
@given(lines=st.lists(st.lists(FIELD, min_size=2, max_size=4), min_size=1, max_size=4))
def test_any_fields_are_read_as_ours_reads_them_or_left_to_it(name: str, lines: list[list[str]]) -> None:
    text = "\n".join(",".join(line) for line in lines).encode()
    for template in ("i d", "i d x", "d i"):
        same_or_refused(text, Row(template), reader_of(name))


@pytest.mark.parametrize(
    "field",
    [
        *("", " 1", "1 ", '"1"', "inf", "nan", "-inf", "NA", "null", "0x1F", "1_000", "+1.5", "1e5", "1E-7", ".5"),
        *("5.", "-", "--1", "1-", "1.2.3", "1\r", "1\0", "٣", "-.5", "1" * 400, "1,5", "'1'", "#1", "1;5", "true"),
        *("1,", ",1"),
    ],
)  # fmt: skip
def test_what_is_no_decimal_of_ours_is_read_by_no_other(read: quick.Read, field: str) -> None:
    for at in (0, 3, 6):
        lines = [b"1,0.5,2"] * 7
        lines[at] = f"1,{field},2".encode()
        assert quick.read_plain(b"\n".join(lines), "idi", read) is None


@pytest.mark.parametrize("field", ["1.0", "1.5", "007", "00", "-01", "1" * 19, "-9223372036854775808", "", "1e3", "+1"])
def test_what_is_no_integer_of_ours_is_read_by_no_other(read: quick.Read, field: str) -> None:
    for at in (0, 3, 6):
        lines = [b"1,0.5,2"] * 7
        lines[at] = f"1,0.5,{field}".encode()
        assert quick.read_plain(b"\n".join(lines), "idi", read) is None
        lines[at] = f"{field},0.5,1".encode()
        assert quick.read_plain(b"\n".join(lines), "idi", read) is None


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"\n", b",1", b"1,", b"1,2.", b".5,1", b"1,2-", b"-,1", b"1,-", b"--1,2", b"0,1", b"01,1", b"1,2\n\n"),
        *(b"\n1,2", b"1,2\n,3", b"1,2\n-", b"1,.5\n", b"1,2\r", b"1;2", b"1/2", b"1,2:", b"1,02\n3,4", b"1,2\n03,4"),
        b"1,-02",
    ],
)  # fmt: skip
def test_lines_that_are_not_plain_are_handed_to_no_reader(text: bytes) -> None:
    assert quick.count_fields(text) == 0


def test_plain_lines_have_so_many_fields() -> None:
    assert [quick.count_fields(text) for text in (b"1", b"1,0", b"-1,0.05,-0.1\n2,-0,0", b"1,0\n2,3\n")] == [1, 2, 6, 4]


@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: [*rows, rows[-1]]])
def test_a_reader_that_leaves_out_or_adds_a_row_is_not_believed(change: Any) -> None:
    def read(block: bytes, kinds: str) -> list[Column]:
        rows = change(block.splitlines())
        return [np.array([int(row.split(b",")[0]) for row in rows]), np.ones(len(rows))]

    assert quick.read_plain(b"1,1.0\n2,1.0\n3,1.0\n", "id", read) is None


def test_marks_are_seen_at_the_border_of_each_step(read: quick.Read) -> None:
    """The block is looked at in steps, and a mark in one may adjoin a mark in the next."""
    row = b"1,0.25\n"
    text = row * (2 * quick._STEP_BYTES // len(row) + 2)
    assert quick.count_fields(text) == 2 * text.count(b"\n")
    for border in range(quick._STEP_BYTES - 9, quick._STEP_BYTES + 9):
        for wrong in (b",,", b"..", b",007", b"x", b"-"):
            damaged = bytearray(text)
            damaged[border : border + len(wrong)] = wrong
            assert quick.count_fields(bytes(damaged)) == 0, (border, wrong)


# -- whole texts -------------------------------------------------------------------------------------------------------

LINES = market_rows(12_000)
TEXT = b"\n".join(LINES) + b"\n"
assert len(TEXT) > quick.BLOCK_BYTES


def pieces_of(text: bytes) -> Iterator[bytes]:
    return (text[at : at + 200_000] for at in range(0, len(text), 200_000))


def expected_of(lines: list[bytes]) -> list[bytes]:
    """The bits by ours, which reads short texts alone."""
    parts = [parse_csv(b"\n".join(lines[at : at + 500]), KLINE) for at in range(0, len(lines), 500)]
    return bits(np.concatenate(columns) for columns in zip(*parts, strict=True))


def whole(text: bytes) -> list[bytes]:
    return bits(np.concatenate(columns) for columns in zip(*iter_csv(pieces_of(text), KLINE), strict=True))


@pytest.mark.parametrize("how", ["as it is", "header", "crlf"])
def test_a_text_of_many_blocks_is_the_same_by_each_reader(chosen: str, how: str) -> None:
    found = quick.find_reader()
    assert (found is None) == (chosen == "ours")
    text = {"as it is": TEXT, "header": b"open_time,open\n" + TEXT, "crlf": TEXT.replace(b"\n", b"\r\n")}[how]
    assert whole(text) == expected_of(LINES)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b"1e5", r"row 11,?001, field 2 \(open\): expected a decimal without an exponent, got '1e5'"),
        (b"", r"row 11,?001, field 2 \(open\): expected a decimal without an exponent, got ''"),
        (b"1,2", r"row 11,?001: expected 12 fields, got 13"),
        (b"9" * 400, r"row 11,?001, field 2 \(open\): '9+\.\.\.9+' is too large for a float64"),
    ],
)
def test_an_error_names_the_same_row_by_each_reader(chosen: str, field: bytes, said: str) -> None:
    lines = list(LINES)
    fields = lines[11_000].split(b",")
    lines[11_000] = b",".join([fields[0], field, *fields[2:]])
    with pytest.raises(ReplyError, match=said):
        whole(b"\n".join(lines))


# -- zips --------------------------------------------------------------------------------------------------------------

INFLATERS = ["isal", "zlib"]


@pytest.fixture(params=INFLATERS)
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What unpacks in this process."""
    if request.param == "isal":
        try:
            importlib.import_module("isal.isal_zlib")
        except ImportError:
            pytest.skip("isal of the extra `fast` is not installed")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    checksum.find_zlib.cache_clear()
    assert request.param in checksum.find_zlib().__name__
    yield request.param
    checksum.find_zlib.cache_clear()


def zipped(text: bytes, *, packing: int = zipfile.ZIP_DEFLATED, level: int = 6) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing, compresslevel=level) as archive:
        archive.writestr("a.csv", text)
    return made.getvalue()


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("text", [b"", b"1", TEXT, bytes(3_000_000)], ids=["empty", "a byte", "rows", "zeros"])
def test_a_zip_is_unpacked_in_pieces_that_are_not_large(inflater: str, text: bytes, packing: int) -> None:
    pieces = list(unzip(zipped(text, packing=packing), "a.csv", len(text)))
    assert b"".join(pieces) == text
    assert all(0 < len(piece) <= 1 << 18 for piece in pieces)


def test_zips_that_are_damaged_bring_the_same_text_or_none(inflater: str) -> None:
    text = b"\n".join(market_rows(60))
    good, dice = zipped(text), random.Random(7)
    accepted = 0
    for number in range(600):
        data = damaged(good, dice, number)
        try:
            found = b"".join(unzip(data, "a.csv", 2 * len(text)))
        except ReplyError:
            continue
        accepted += 1  # a time stamp of the zip, and the like
        assert found == text
    assert accepted < 200


def test_a_stream_that_goes_on_is_refused_where_its_size_ends_and_takes_little_memory(inflater: str) -> None:
    """The directory says 1,000 bytes, with their CRC-32, and the stream has a hundred million."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = 100 * (packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)) + packer.flush()
    crc, name = zlib.crc32(bytes(1_000)), b"a.csv"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(stream), 1_000, len(name), 0) + name
    directory = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(stream), 1_000, len(name), 0, 0, 0, 0, 0, 0
    )
    directory += name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local) + len(stream), 0)
    data = local + stream + directory + end
    tracemalloc.start()
    try:
        with pytest.raises(ReplyError, match=r"a\.csv is not whole .*more than the 1,000 bytes"):
            list(unzip(data, "a.csv", 10_000))
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_stream_without_an_end_is_refused(inflater: str) -> None:
    text = b"\n".join(market_rows(60))
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    cut = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)  # all of it, and no last block
    data = bytearray(zipped(text, packing=zipfile.ZIP_STORED))
    at = data.index(text)
    directory = data[at + len(text) :]
    made = data[:at] + cut + directory
    struct.pack_into("<H", made, 8, 8)
    struct.pack_into("<I", made, 18, len(cut))
    central = at + len(cut)
    struct.pack_into("<H", made, central + 10, 8)
    struct.pack_into("<I", made, central + 20, len(cut))
    struct.pack_into("<I", made, made.rindex(b"PK\5\6") + 16, central)
    with pytest.raises(ReplyError, match="not whole"):
        list(unzip(bytes(made), "a.csv", 10**6))
