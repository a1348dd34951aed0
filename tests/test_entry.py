"""Entries come back from their bytes as they were, or not at all."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.candles import COLUMNS, Candles
from candle_fetcher.core.entry import VERSION, Entry, Hole, HoleState, pack, seal, unpack, unseal
from candle_fetcher.core.spans import Span

times = st.integers(-(2**62), 2**62)
keys = st.text(max_size=20)
spans = st.builds(Span, times, times)
# A time of asking is positive: the other numbers stand for the other states.
holes = st.one_of(
    st.builds(Hole, spans, st.just(HoleState.CONFIRMED), st.integers(1, 2**62)),
    st.builds(
        Hole, spans, st.sampled_from([state for state in HoleState if state is not HoleState.CONFIRMED]), st.none()
    ),
)


@st.composite
def entries(draw):
    """Entries of any columns, with any bits in them."""
    names = ("open_time", *(name for name in COLUMNS[1:] if draw(st.booleans())))
    rows = draw(st.integers(0, 6))
    block = np.random.default_rng(draw(st.integers(0, 99))).integers(
        -(2**63), 2**63, (len(names), rows), dtype=np.int64
    )
    found = draw(st.lists(holes, max_size=4))
    unverified = draw(st.lists(spans, max_size=3))
    covered = Span(draw(times), draw(times))
    return Entry(covered, draw(times), tuple(found), Candles(names, block), tuple(unverified))


def same(one, other):
    assert one is not None
    assert one[:3] == other[:3]
    assert isinstance(one.covered, Span)
    assert all(isinstance(hole, Hole) and isinstance(hole.span, Span) for hole in one.holes)
    assert one.unverified == other.unverified
    assert all(isinstance(span, Span) for span in one.unverified)
    assert one.candles.names == other.candles.names
    assert one.candles.block.dtype == np.int64
    assert one.candles.block.tolist() == other.candles.block.tolist()


def small(compress):
    block = np.arange(12, dtype=np.int64).reshape(6, 2)
    entry = Entry(Span(0, 9), 5, (Hole(Span(3, 4), HoleState.CONFIRMED, 5),), Candles(COLUMNS[:6], block))
    return pack("key", entry, compress=compress)


@examples()
@given(key=keys, entry=entries(), compress=st.booleans(), trusted=st.booleans())
def test_an_entry_comes_back_as_it_was_packed(key, entry, compress, trusted):
    same(unpack(key, pack(key, entry, compress=compress), trusted=trusted), entry)


def test_entries_read_the_same_whether_packed_with_or_without_compression():
    plain, dense = small(compress=False), small(compress=True)
    assert plain != dense
    same(unpack("key", plain), unpack("key", dense))


@examples()
@given(entry=entries())
def test_unpacked_candles_share_the_bytes_and_cannot_be_written(entry):
    found = unpack("key", pack("key", entry))
    assert not found.candles.block.flags.writeable


@pytest.mark.fault("D06")
@examples()
@given(key=keys, other=keys, entry=entries(), compress=st.booleans())
def test_an_entry_of_another_key_is_a_miss(key, other, entry, compress):
    if key != other:
        assert unpack(other, pack(key, entry, compress=compress)) is None


@pytest.mark.fault("D02")
@pytest.mark.parametrize("compress", [False, True])
def test_every_single_changed_bit_is_a_miss(compress):
    data = small(compress)
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        assert unpack("key", bytes(bad)) is None
        unpack("key", bytes(bad), trusted=True)  # whatever it says, it does not fail


def resealed(data, version):
    """The bytes as a program of that version would have sealed them, with a checksum that is right."""
    rest = bytearray(data[8:])
    rest[0] = version
    return data[:4] + struct.pack("<I", zlib.crc32(rest, zlib.crc32(b"key"))) + bytes(rest)


@pytest.mark.fault("D06", "D30")
@pytest.mark.parametrize("compress", [False, True])
def test_an_entry_of_another_version_is_a_miss(compress):
    data = small(compress)
    assert resealed(data, VERSION) == data
    for version in (0, VERSION + 1, 255):
        assert unpack("key", resealed(data, version)) is None
        assert unpack("key", resealed(data, version), trusted=True) is None


def test_trusted_bytes_are_spared_the_checksum_and_nothing_else():
    data = small(compress=False)
    changed = data[:-1] + bytes([data[-1] ^ 1])
    assert unpack("key", changed) is None
    assert unpack("key", changed, trusted=True) is not None
    assert unpack("other", data, trusted=True) is not None
    assert unpack("key", b"X" + data[1:], trusted=True) is None
    assert unpack("key", data[:-1], trusted=True) is None


@examples()
@given(key=keys, head=st.binary(max_size=20), body=st.binary(max_size=50), compress=st.booleans())
def test_whatever_is_sealed_is_unsealed_under_the_same_key(key, head, body, compress):
    found = unseal(key, seal(key, head, body, compress=compress))
    assert found is not None
    assert (found[0], bytes(found[1])) == (head, body)


def test_the_state_of_a_hole_is_stored_in_the_place_of_its_time_of_asking():
    holes = (
        Hole(Span(1, 2), HoleState.CONFIRMED, 1_700_000_000_000),
        Hole(Span(3, 4), HoleState.DUE),
        Hole(Span(5, 6), HoleState.BEYOND),
        Hole(Span(7, 8), HoleState.UNASKED),
    )
    entry = Entry(Span(0, 9), 5, holes, Candles(COLUMNS[:2], np.array([[0], [1]], np.int64)), (Span(2, 3),))
    stored = bytes.fromhex(
        "434e444c 84cddb42 01000000 98000000"  # magic, checksum, version and packing, length of the head
        "0000000000000000 0900000000000000 0500000000000000 01000000 03000000 04000000 01000000"
        "0100000000000000 0200000000000000 0068e5cf8b010000"
        "0300000000000000 0400000000000000 0000000000000000"
        "0500000000000000 0600000000000000 ffffffffffffffff"
        "0700000000000000 0800000000000000 feffffffffffffff"
        "0200000000000000 0300000000000000"
        "0000000000000000 0100000000000000"
    )
    assert pack("key", entry) == stored
    same(unpack("key", stored), entry)
