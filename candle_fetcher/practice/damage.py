"""What can be wrong with a file of the practice archive: pure changes of a zip, of its rows or of its CHECKSUM.

    exchange.archive.spoil("BTCUSDT-1h-2024-03.zip", damage.flip())
    exchange.archive.spoil("BTCUSDT-1h-2024-03.zip", damage.revise(open_ms, close="42000.10"))
    exchange.archive.spoil("1m/", damage.wrong_checksum(), times=2)

A change was either published, and the CHECKSUM is that of the changed zip, or it happened on the way, and the CHECKSUM
is that of the zip as it should be. `Damage.published` and `Damage.on_the_way` turn one into the other.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from candle_fetcher.practice.text import FIELDS

Lines = Sequence[bytes]

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_UNIX_FILE = 0o100644 << 16
_DIGITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_PER_S = tuple(_DIGITS.values())
_UP_TO = tuple(10**11 * per_s for per_s in _PER_S)


class Damage(NamedTuple):
    """What is done to the zip, to the text of the CHECKSUM, or to both; None leaves it alone.

    A function that returns None takes the file away. `follows`: the CHECKSUM is that of the changed zip.
    """

    name: str
    zip: Callable[[bytes], bytes | None] | None = None
    checksum: Callable[[str], str | None] | None = None
    follows: bool = False

    def published(self) -> Damage:
        """Return the same damage with the CHECKSUM of the changed zip."""
        return self._replace(follows=True)

    def on_the_way(self) -> Damage:
        """Return the same damage with the CHECKSUM of the zip as it should be."""
        return self._replace(follows=False)


def gone(_: object) -> None:
    """Take a file away."""
    return


def missing() -> Damage:
    """Take zip and CHECKSUM away: 404, and not listed."""
    return Damage("missing", zip=gone, follows=True)


# CHECKSUM


def missing_checksum() -> Damage:
    """Take the CHECKSUM beside the zip away."""
    return Damage("missing checksum", checksum=gone)


def wrong_checksum() -> Damage:
    """Give the CHECKSUM of other bytes, under the right name."""
    return checksum_text(lambda text: hashlib.sha256(text[:64].encode()).hexdigest() + text[64:])


def checksum_text(change: Callable[[str], str]) -> Damage:
    """Change the text of the CHECKSUM file: `str.upper`, another file's name, CRLF, empty …"""
    return Damage("checksum text", checksum=change)


# Bytes of the zip, on the way


def flip(part: int | float = 0.5) -> Damage:
    """Change one bit of the zip, in the byte at this index (int) or at that part (float)."""

    def change(data: bytes) -> bytes:
        at = part if isinstance(part, int) else int(len(data) * part)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return Damage("flip", zip=change)


def cut(part: int | float = 0.5) -> Damage:
    """End the zip after so many bytes (int) or that part of them (float); Content-Length agrees."""
    return Damage("cut", zip=lambda data: data[: part if isinstance(part, int) else int(len(data) * part)])


def zip_bytes(change: Callable[[bytes], bytes]) -> Damage:
    """Change the zip by any function."""
    return Damage("zip bytes", zip=change)


# The text of the CSV, published


def csv(change: Callable[[bytes], bytes]) -> Damage:
    """Change the text of the CSV: a byte order mark, CRLF, blank lines, a header …"""

    def changed(data: bytes) -> bytes:
        name, text = unpack(data)
        return pack(name, [change(text)])

    return Damage("csv", zip=changed, follows=True)


def rows(change: Callable[[Lines], Iterable[bytes]]) -> Damage:
    """Change the data rows, given and returned without line ends; a header stays."""

    def changed(text: bytes) -> bytes:
        lines = text.splitlines()
        first = 1 if text[:1].isalpha() else 0
        return b"".join(line + b"\n" for line in [*lines[:first], *change(lines[first:])])

    return csv(changed)


def drop(start_ms: int, end_ms: int) -> Damage:
    """Leave out the rows that open in [start_ms, end_ms)."""
    return rows(lambda lines: [line for line in lines if not start_ms <= _open_ms(line) < end_ms])


def revise(open_ms: int, **fields: Any) -> Damage:
    """Give the row that opens then other values, printed as they are: `volume="12.5"`."""
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"unknown field {field!r}; expected one of {', '.join(FIELDS)}")

    def changed(line: bytes) -> bytes:
        if _open_ms(line) != open_ms:
            return line
        values = line.split(b",")
        for field, value in fields.items():
            values[FIELDS.index(field)] = str(value).encode()
        return b",".join(values)

    return rows(lambda lines: [changed(line) for line in lines])


def shift(by_ms: int, first: int = 0, last: int | None = None) -> Damage:
    """Move the times of the rows [first, last) by so much: rows of another day."""

    def moved(line: bytes) -> bytes:
        return _with_times(line, lambda value, per_s: value + by_ms * per_s // 1000)

    return rows(
        lambda lines: [*lines[:first], *map(moved, lines[first:last]), *(lines[last:] if last is not None else [])]
    )


def out_of_order() -> Damage:
    """Put the second half of the rows first."""
    return rows(lambda lines: [*lines[len(lines) // 2 :], *lines[: len(lines) // 2]])


def in_unit(unit: str, first: int = 0) -> Damage:
    """Write the times of the rows from this one on in s, ms, us or ns."""
    if unit not in _DIGITS:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(_DIGITS)}")

    def changed(line: bytes) -> bytes:
        return _with_times(line, lambda value, per_s: value * _DIGITS[unit] // per_s)

    return rows(lambda lines: [*lines[:first], *map(changed, lines[first:])])


def _with_times(line: bytes, change: Callable[[int, int], int]) -> bytes:
    """Return the row with its open and close time changed by a function of the value and its units per second."""
    values = line.split(b",")
    for at in (0, 6) if len(values) > 6 else (0,):
        value = int(values[at])
        values[at] = str(change(value, _per_s(value))).encode()
    return b",".join(values)


def _open_ms(line: bytes) -> int:
    value = int(line.split(b",", 1)[0])
    return value * 1000 // _per_s(value)


def _per_s(value: int) -> int:
    """Return the units per second of a time of this size: 10 digits are s, 13 ms, 16 us, 19 ns."""
    return _PER_S[bisect.bisect_right(_UP_TO, value)]


# The container, published


def renamed(name: str) -> Damage:
    """Give the member another name: of another day, "../evil.csv", "/etc/passwd" …"""
    return _container("renamed", lambda data: pack(name, [unpack(data)[1]]))


def two_members(name: str = "other.csv", text: bytes = b"1,2,3\n") -> Damage:
    """Add a second member after the first."""

    def changed(data: bytes) -> bytes:
        out = io.BytesIO(data)
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr(zipfile.ZipInfo(name), text)
        return out.getvalue()

    return _container("two members", changed)


def no_members() -> Damage:
    """Make the zip empty."""
    return _container("no members", lambda data: _END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 0, 0))


def encrypted() -> Damage:
    """Mark the member as encrypted."""
    return _container("encrypted", lambda data: pack(*_once(data), flags=1))


def wrong_crc() -> Damage:
    """Give the member a wrong CRC."""
    return _container("wrong crc", lambda data: pack(*_once(data), crc_xor=0xFFFF_FFFF))


def wrong_size(size: int) -> Damage:
    """Give the member a wrong size of so many bytes."""
    return _container("wrong size", lambda data: pack(*_once(data), claimed_bytes=size))


def bomb(unpacked_bytes: int = 200_000_000) -> Damage:
    """Make a small zip with a member that unpacks to so many bytes more than its rows."""

    def changed(data: bytes) -> bytes:
        name, text = unpack(data)
        block = b"0" * 1_000_000
        whole, rest = divmod(unpacked_bytes, len(block))
        return pack(name, [text, *[block] * whole, block[:rest]], level=9)

    return _container("bomb", changed)


def _container(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return Damage(name, zip=change, follows=True)


def _once(data: bytes) -> tuple[str, list[bytes]]:
    name, text = unpack(data)
    return name, [text]


# Zips


def unpack(data: bytes) -> tuple[str, bytes]:
    """Name and bytes of the only member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = archive.namelist()
        return name, archive.read(name)


def pack(
    name: str,
    pieces: Iterable[bytes],
    modified_ms: int = 0,
    *,
    level: int = 1,
    flags: int = 0,
    crc_xor: int = 0,
    claimed_bytes: int | None = None,
) -> bytes:
    """Return a zip with one member, made of the pieces one after the other; the same bytes for the same arguments.

    `flags`, `crc_xor` and `claimed_bytes` make it lie about its member.
    """
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed, crc, size = [], 0, 0
    for piece in pieces:
        packed.append(packer.compress(piece))
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    body = b"".join([*packed, packer.flush()])
    member = name.encode()
    when = time.gmtime(max(modified_ms // 1000, 315_532_800))  # zips know no time before 1980
    clock = when.tm_hour << 11 | when.tm_min << 5 | when.tm_sec // 2
    date = (when.tm_year - 1980) << 9 | when.tm_mon << 5 | when.tm_mday
    said = size if claimed_bytes is None else claimed_bytes
    facts = (20, flags, 8, clock, date, crc ^ crc_xor, len(body), said, len(member), 0)
    head = _LOCAL.pack(b"PK\3\4", *facts) + member
    index = _CENTRAL.pack(b"PK\1\2", 0x0314, *facts, 0, 0, 0, _UNIX_FILE, 0) + member
    end = _END.pack(b"PK\5\6", 0, 0, 1, 1, len(index), len(head) + len(body), 0)
    return b"".join((head, body, index, end))
