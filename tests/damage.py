"""One table of damage for all parsers of the package: what can become of good bytes on a disk, on the wire, or at a
provider. parsers.py has the parsers, test_damage.py holds each of them to one promise."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from candle_fetcher.practice import damage as practice

Bytes = Iterator[bytes]

HTML = b"<!DOCTYPE html>\n<html><head><title>Error</title></head><body>Please enable cookies.</body></html>"
# A token that is a number alone: no part of a word, of a date or of a time of day. Its quotes belong to it.
_NUMBER = re.compile(rb'"?(?<![\w.+-])(?<!\d[-:])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.]|[-:]\d)"?')
_STAMP = re.compile(rb"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d)?")
# What has no other container in it: an object with its name, a list; else a line.
_INNERMOST = re.compile(rb'(?:"[^"{}\[\]]*"\s*:\s*)?(?:\{[^{}\[\]]*\}|\[[^{}\[\]]*\])')
_LINE = re.compile(rb"[^\r\n]+")
_PAIR = re.compile(rb'"[^"{}\[\]]*"\s*:\s*(?:"[^"]*"|[^\s,"{}\[\]]+)')
_TEXT = re.compile(rb'"[^"]*"|>[^<]+<')


# Few levels, with many values in each.
_WIDE = b"1"
for _ in range(6):
    _WIDE = b"[" + b",".join([_WIDE] * 5) + b"]"


class Damage(NamedTuple):
    """A kind of damage: its rows in the table of faults (faults.py), and the damaged bytes for each place of good bytes
    where it applies; none where it does not."""

    name: str
    faults: tuple[str, ...]
    make: Callable[[bytes], Bytes]


def damaged(good: bytes, dice: random.Random, number: int) -> bytes:
    """Return the bytes cut off, without one byte, or with one to three flipped bits, by turns of the number."""
    data = bytearray(good)
    if number % 4 == 0:
        del data[dice.randrange(len(data)) :]
    elif number % 4 == 1:
        del data[dice.randrange(len(data))]
    else:
        for _ in range(number % 3 + 1):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


# -- bytes ------------------------------------------------------------------------------------------------------------


def _spread(count: int, most: int) -> Sequence[int]:
    """Return at most so many indexes below the count, the first and the last among them."""
    return sorted({round(at * (count - 1) / max(1, most - 1)) for at in range(most)}) if count else ()


def _cut(good: bytes) -> Bytes:
    for at in _spread(len(good), 9):
        yield good[:at]
        yield good[at + 1 :]
        yield good[:at] + good[at + len(good) // 3 + 1 :]


def _missing(good: bytes) -> Bytes:
    return (good[:at] + good[at + 1 :] for at in _spread(len(good), 25))


def _flipped(good: bytes) -> Bytes:
    for at in _spread(len(good), 25):
        for bit in (at % 8, 5):
            yield good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]


def _inserted(*texts: bytes) -> Callable[[bytes], Bytes]:
    return lambda good: (good[:at] + text + good[at:] for text in texts for at in _spread(len(good) + 1, 9))


def _whole(*texts: bytes) -> Callable[[bytes], Bytes]:
    return lambda good: iter(texts)


def _recoded(good: bytes) -> Bytes:
    text = good.decode("latin-1")
    yield b"\xef\xbb\xbf" + good
    yield text.encode("utf-16")
    yield text.encode("utf-16-be")
    yield text.encode("utf-32")
    yield b"\xff\xfe" + good


def _followed(good: bytes) -> Bytes:
    return (good + more for more in (b"x", b"]", b"}", b",", b"\0", b"\n\n", b" " * 9, b"\x1a", HTML, good, good[:9]))


def _of_other_type(good: bytes) -> Bytes:
    yield from (b"null", b"true", b"5", b"-1.5", b'"x"', b"[]", b"{}", b"[[]]", b"[{}]", b"[null]", b'{"a":1}')
    if good[:1] in (b"[", b"{"):
        yield from (b"[" + good + b"]", b'{"data":' + good + b"}", json.dumps(good.decode("latin-1")).encode())


def _refusals(good: bytes) -> Bytes:
    """An error object of each provider."""
    for said in ("Invalid symbol.\x1b[2J\r\n" + "x" * 999, "\u202e" * 999):
        yield from map(_as_json, _errors(said))


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def _errors(said: str) -> Sequence[object]:
    return (
        {"code": -1121, "msg": said}, {"code": 42210000, "message": said}, {"error": [f"EQuery:{said}"]},
        {"Error": "BadRequest", "Message": said}, {"Information": said}, {"Note": f"per minute {said}"},
        {"status": {"error_code": 10005, "error_message": said}}, {"code": -1003, "msg": f"until 99{said}"},
        {"error": {"status": {"error_code": 429, "error_message": said}}}, {"error": said}, {"detail": said},
    )  # fmt: skip


def _nested(good: bytes) -> Bytes:
    yield from (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 2_000 + b"]" * 2_000, b"<a>" * 20_000)
    for found in _some(_NUMBER, good, 2):
        yield good[: found.start()] + b"[" * 2_000 + b"1" + b"]" * 2_000 + good[found.end() :]


def _of_other_shape(good: bytes) -> Bytes:
    """JSON with another value, with none, or with one more at a place of it."""
    try:
        value = json.loads(good)
    except ValueError:
        return
    root = [value]
    for at in _spread(len(places := list(_places(root))), 25):
        into, key = places[at]
        kept = into[key]
        for other in (None, [], {}, 5, -1.5, "x", True, [kept], {"x": kept}, [kept, kept]):
            into[key] = other
            yield json.dumps(root[0], separators=(",", ":")).encode()
        into[key] = kept
        if isinstance(into, dict):
            del into[key]
            yield json.dumps(root[0], separators=(",", ":")).encode()
            into[key] = kept
        elif into is not root:
            into.insert(key, None)
            yield json.dumps(root[0], separators=(",", ":")).encode()
            del into[key]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in it that holds a value: the container, and the name or index."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def _of_zip(good: bytes) -> Bytes:
    """A zip that is whole, and not what it should be."""
    if not good.startswith(b"PK") or len(zipfile.ZipFile(io.BytesIO(good)).namelist()) != 1:
        return
    member = zipfile.ZipFile(io.BytesIO(good)).namelist()[0]
    names = (
        "../x.csv",
        "/etc/passwd",
        member.upper(),
        f"{member}\0",
        "",
        "a" * 300,
        "\x1b[2J.csv",
        f"{member}/",
        f"./{member}",
    )
    for how in (
        *map(practice.renamed, names), practice.two_members(), practice.no_members(),
        practice.encrypted(), practice.wrong_crc(), *map(practice.wrong_size, (0, 10, 2**32 - 2)),
        practice.bomb(300_000),
        practice.zip_bytes(lambda data: data + data), practice.zip_bytes(lambda data: b"#!/bin/sh\n" + data),
    ):  # fmt: skip
        assert how.zip is not None
        yield how.zip(good) or b""
    for packing in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", packing) as archive:
            archive.writestr(member, zipfile.ZipFile(io.BytesIO(good)).read(member))
        yield made.getvalue()


# -- numbers ----------------------------------------------------------------------------------------------------------


def _some(pattern: re.Pattern[bytes], good: bytes, most: int = 12) -> list[re.Match[bytes]]:
    """Return the matches of a stretch in the middle: all fields of a row."""
    found = list(pattern.finditer(good))
    first = max(0, (len(found) - most) // 2)
    return found[first : first + most]


def _respelt(*change: Callable[[bytes], bytes]) -> Callable[[bytes], Bytes]:
    """Each number by itself, in its quotes if it has some."""
    return lambda good: (
        good[: found.start(1)] + one(found[1]) + good[found.end(1) :]
        for found in _some(_NUMBER, good)
        for one in change
    )


def _to(*texts: bytes) -> list[Callable[[bytes], bytes]]:
    return [lambda number, text=text: text for text in texts]  # type: ignore[misc]


def _other_values(good: bytes) -> Bytes:
    """Each number, with its quotes, as a value of another type, and with quotes in place of none."""
    for found in _some(_NUMBER, good):
        is_quoted = found[0].startswith(b'"')
        others = [b"null", b"true", b"false", b"[]", b"{}", b'""', b'"x"', b"[1]", b'"\\ud800"']
        for text in (*others, found[1] if is_quoted else b'"' + found[1] + b'"'):
            yield good[: found.start()] + text + good[found.end() :]


def _exchanged(good: bytes) -> Bytes:
    """Two adjoining numbers, each in the place of the other: high below low among them."""
    found = _some(_NUMBER, good)
    for one, other in itertools.pairwise(found):
        between = good[one.end(1) : other.start(1)]
        yield good[: one.start(1)] + other[1] + between + one[1] + good[other.end(1) :]


def _other_unit(good: bytes) -> Bytes:
    """All times, and each, in seconds, in microseconds, negative, after all that there is, and a slot or years off."""
    times = re.compile(rb"(?<![\d.])\d{9,16}(?![\d.])")
    changes: list[Callable[[int], int]] = [
        lambda ms: ms // 1000, lambda ms: ms * 1000, lambda ms: ms * 10**6, lambda ms: -ms, lambda ms: 0,
        lambda ms: ms + 1, lambda ms: ms + 3_600_000, lambda ms: ms - 10**11, lambda ms: ms + 10**11, lambda ms: 2**62,
    ]  # fmt: skip
    for change in changes if times.search(good) else ():
        yield times.sub(lambda found: b"%d" % change(int(found[0])), good)  # noqa: B023
        for found in _some(times, good, 3):
            yield good[: found.start()] + b"%d" % change(int(found[0])) + good[found.end() :]


def _other_stamp(good: bytes) -> Bytes:
    """A time in letters that the calendar does not have, or of another year."""
    for found in _some(_STAMP, good, 3):
        day, rest = found[0][:10], found[0][10:]
        for text in (
            b"1969" + day[4:] + rest, b"9999" + day[4:] + rest, b"0000" + day[4:] + rest, day[:5] + b"13-01" + rest,
            day[:5] + b"02-30" + rest, day[:5] + b"00-00" + rest, day + rest[:1] + b"25:00:00", day + b"T", day[2:],
            day + rest[:1] + b"24:00:00", day + rest[:1] + b"00:60:00", day + rest[:1] + b"00:00", b"01/01/2024", b"",
            day + rest + b"+99:99", day + rest + b".1234567890123", b"-" + day + rest, "٢٠٢٤".encode() + day[4:] + rest,
        ):  # fmt: skip
            yield good[: found.start()] + text + good[found.end() :]


# -- rows and fields --------------------------------------------------------------------------------------------------


def _rows(good: bytes) -> list[re.Match[bytes]]:
    found = [match for match in _INNERMOST.finditer(good) if b"," in match[0] or b":" in match[0]]
    return found if found else [match for match in _LINE.finditer(good) if good[:1] not in b"[{<" and b"," in match[0]]


def _row_of_other_length(good: bytes) -> Bytes:
    """The last row without its first or last field, without any, and with one more."""
    if not (rows := _rows(good)):
        return
    last = rows[-1]
    is_container = last[0].endswith((b"]", b"}"))
    at, end = last.start(), last.end() - is_container
    field = good.rfind(b",", at, end)
    first = max(good.find(opening, at, end) for opening in (b"{", b"[")) + 1 if is_container else at
    second = good.find(b",", first, end) + 1
    if field > 0 and second > 0:
        yield good[:field] + good[end:]
        yield good[:first] + good[second:]
    yield good[:first] + good[end:]
    for more in (b",0", b',"0"', b",", b',"x":0', b',"x"'):
        yield good[:end] + more + good[end:]


def _row_of_other_type(good: bytes) -> Bytes:
    for last in _rows(good)[-1:]:
        named = re.match(rb'"[^"]*"\s*:\s*', last[0]) if last[0].endswith(b"}") else None
        at = last.start() + (named.end() if named else 0)
        for text in (b"null", b"5", b'"x"', b"true", b"[]", b"{}", b"[[1]]", b'{"x":null}', _WIDE):
            yield good[:at] + text + good[last.end() :]


def _rows_in_other_order(good: bytes) -> Bytes:
    """The last two rows exchanged, the last one twice, and one before it once more."""
    for one, other in itertools.pairwise(_rows(good)[-2:]):
        between = good[one.end() : other.start()]
        yield good[: one.start()] + other[0] + between + one[0] + good[other.end() :]
        yield good[: other.end()] + between + other[0] + good[other.end() :]
        yield good[: other.end()] + between + one[0] + good[other.end() :]
        yield good[: one.start()] + good[other.end() :]


def _rows_that_contradict(good: bytes) -> Bytes:
    """The last row twice, with one number of the second changed by its last digit."""
    for one, other in itertools.pairwise(_rows(good)[-2:]):
        between = good[one.end() : other.start()]
        for found in list(_NUMBER.finditer(other[0]))[1:]:
            digit = b"%d" % ((other[0][found.end(1) - 1] + 1) % 10)
            twin = other[0][: found.end(1) - 1] + digit + other[0][found.end(1) :]
            yield good[: other.end()] + between + twin + good[other.end() :]


def _other_names(good: bytes) -> Bytes:
    """A name in an object twice, another one, and none; both orders of the values of the two."""
    for found in _some(_PAIR, good):
        name, colon, value = found[0].partition(b":")
        yield good[: found.start()] + found[0] + b"," + name + colon + b"1" + good[found.end() :]
        yield good[: found.start()] + name + colon + b'"1",' + found[0] + good[found.end() :]
        yield good[: found.start()] + found[0] + b"," + found[0] + good[found.end() :]
        yield good[: found.start()] + b'"x"' + colon + value + good[found.end() :]
        yield (good[: found.start()] + good[found.end() :]).replace(b",,", b",").replace(b"{,", b"{")


def _other_texts(good: bytes) -> Bytes:
    """A text in quotes, or between tags, as one that controls a terminal, ends a line, or leads out of a folder."""
    texts = (
        rb"\u001b[2J\r\n",
        rb"\u0000",
        rb"\ud800",
        rb"\u202e",
        b"=1+1",
        b"../../x",
        b"x" * 5_000,
        b"",
        "\u00e9".encode(),
    )
    for found in _some(_TEXT, good, 9):
        for text in texts:
            yield good[: found.start() + 1] + text + good[found.end() - 1 :]


def _lies() -> tuple[Damage, ...]:
    """What a number can be written as that it is not."""
    lies = [b"1e5", b"1_000", b" 1 ", b"0x1F", b"+1", b"1.", b".5", b"--1", b"1,5", b"", b"-", "٣".encode(), b"1e-400"]
    return (
        Damage("number not finite", ("A09",), _respelt(*_to(b"NaN", b"-Infinity", b"nan", b"inf", b"1e999"))),
        Damage("number spelt otherwise", ("A09",), _respelt(*_to(*lies), lambda number: b"0" + number)),
        Damage("number of another type", ("A08",), _other_values),
        Damage("number negative", ("A09",), _respelt(lambda number: b"-" + number, *_to(b"-0", b"-1"))),
        Damage("number huge", ("A18",), _respelt(*_to(b"9" * 19, b"9" * 400, b"1" + b"0" * 30, b"1e300"))),
        Damage("number very long", ("A18",), _respelt(*_to(b"9" * 5_000, b"0." + b"1" * 5_000))),
        Damage("numbers exchanged", ("A09",), _exchanged),
    )  # fmt: skip


DAMAGES = (
    Damage("cut", ("A01", "A02", "D01"), _cut),
    Damage("byte missing", ("A01",), _missing),
    Damage("bits flipped", ("D02",), _flipped),
    Damage("empty", ("A13",), _whole(b"", b" ", b"\n", b"\r\n\r\n")),
    Damage("HTML", ("A06",), _whole(HTML, b"\xef\xbb\xbf" + HTML, b"<html>", b"<Error><Code>NoSuchKey</Code></Error>")),
    Damage("error object", ("A07", "G03"), _refusals),
    Damage("encoding", ("A08",), _recoded),
    Damage("NUL bytes", ("D10",), lambda good: iter((*_inserted(b"\0")(good), bytes(len(good)), good + bytes(99)))),
    Damage("control characters", ("G03",), _inserted(b"\x1b[31m", b"\r", b"\xff", b"\xe2\x80\xae", b"\x0b")),
    Damage("doubled", ("A10", "A12"), lambda good: iter((good * 2, good + b"\n" + good, good[:99] + good))),
    Damage("followed by garbage", ("A10",), _followed),
    Damage("gzip", ("A04",), lambda good: iter((gzip.compress(good, mtime=0), b"\x1f\x8b" + good))),
    Damage("another JSON type", ("A08",), _of_other_type),
    Damage("JSON of another shape", ("A08",), _of_other_shape),
    Damage("another zip", ("C08",), _of_zip),
    Damage("nested deeply", ("A18",), _nested),
    *_lies(),
    Damage("times in another unit", ("B01", "C10"), _other_unit),
    Damage("times that are none", ("B13", "B14"), _other_stamp),
    Damage("row of another length", ("A08",), _row_of_other_length),
    Damage("row of another type", ("A08",), _row_of_other_type),
    Damage("rows in another order", ("A12",), _rows_in_other_order),
    Damage("rows that contradict", ("A12",), _rows_that_contradict),
    Damage("names", ("A08",), _other_names),
    Damage("texts", ("G03", "F04", "F06"), _other_texts),
)  # fmt: skip
