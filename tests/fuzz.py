"""Hostile input for everything that reads bytes or text it did not write: replies, files, the cache, settings.

    python tests/fuzz.py [--cases N] [--seconds N] [--seed N] [--parser NAME ...]

Each parser (parsers.py) has good bytes and a judge; here they are changed at random, and what comes of them is held to
the same promise as in the table of damage (damage.py). Cases are the same for the same seed. `--cases` (a million
unless given) are shared out by weight; `--seconds` goes on, round by round, for so long. Prints a line for each parser;
exits with 1 where a case failed, 2 for a parser that is not there. Real replies beside the repository are good bytes
too, where they are.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, not an installed package

from damage import DAMAGES
from parsers import BY_NAME, PARSERS, Parser, hold

CASES = 1_000_000
SEED = 20_240_601
# What a failed case is told by: shown whole up to here.
_SHOWN = 2_000

TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"nan", b"1_000", b"-0", b"-0.0", b"1e5", b"1E400", b"1e-400", b"00", b"01",
    b"+1", b".5", b"5.", b"0x1F", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\x0b", "٣".encode(), "１".encode(),
    "−1".encode(), b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x1b[2J", b"null", b"true", b'""', b"[]",
    b"{}", b"[[", b"]]", b'"', b"\\u0031", b"\\ud800", b"9" * 16, b"9" * 17, b"9" * 18, b"9" * 19, b"9" * 400,
    b"9007199254740993", b"9223372036854775807", b"-9223372036854775808", b"18446744073709551616",
    b"0." + b"0" * 30 + b"1", b"1" * 309, b"1" * 17 + b"." + b"1" * 17, b"123456789.123456785", b"179769313486231580",
    b"0.1000000000000000055511151231257827021181583404541015625", b",", b":", b",,", b"/", b"../", b"|", b"%2e", b"=",
    b"@", b"-", b"#", b"?", b"&", b"<!DOCTYPE a>", b"<", b"</Key>", b"<a/>", b"&lt;", b"&#27;", b"&x;",
    b'{"code":-1121,"msg":"Invalid symbol."}', b'"symbol":"BTCUSDT",', b"1717243200000", b"1717243200000000",
)  # fmt: skip
RARE = (b"[" * 3_000, b"9" * 5_000, b'{"a":' * 1_500, b"[" * 100_000, b"\n" * 70_000, b"0," * 40_000)
MARKS = b"0123456789.,:\"'[]{}<>/-+eE_ \r\n\t\\|&%;=\x00\x1b\x80\xff"
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")


def mutate(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """The seed after one to four changes: bytes, cuts, repeats, tokens, numbers, a piece of another seed."""
    data = seed
    for _ in range(1 if rng.random() < 0.6 else rng.randrange(2, 5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(12)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind in (1, 2):
            data = data[:at] + bytes([rng.choice(MARKS)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at + rng.randrange(1, 9) :]
        elif kind == 4:
            data = data[:at] if rng.random() < 0.5 else data[at:]
        elif kind == 5:
            end = at + rng.randrange(1, 60)
            data = data[:end] + data[at:]
        elif kind in (6, 7):
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]
        elif kind in (8, 9):
            data = _renumbered(rng, data, at)
        elif kind == 10:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            data = data[:at] + other[cut : cut + rng.randrange(1, 400)] + (data[at:] if rng.random() < 0.5 else b"")
        elif rng.random() < 0.002:
            data = data[:at] + rng.choice(RARE) + data[at:]
        else:
            end = min(len(data), at + rng.randrange(1, 40))
            data = data[:at] + data[at:end][::-1] + data[end:]
    return data


def _renumbered(rng: random.Random, data: bytes, at: int) -> bytes:
    """The number that follows, written otherwise: still one at times."""
    found = _NUMBER.search(data, at) or _NUMBER.search(data)
    if found is None:
        return data
    kind = rng.randrange(5)
    if kind == 0:
        number = str(rng.getrandbits(rng.randrange(1, 70))).encode()
    elif kind == 1:
        number = f"{rng.getrandbits(rng.randrange(1, 60))}.{rng.randrange(10**8):0{rng.randrange(1, 24)}}".encode()
    elif kind == 2:
        number = rng.choice((b"-", b"0", b"+", b"")) + found[0] + rng.choice((b"", b"e3", b".", b"_0", b" "))
    elif kind == 3:
        number = repr(math.ldexp(rng.random(), rng.randrange(-60, 80))).encode()
    else:
        number = rng.choice(TOKENS)
    return data[: found.start()] + number + data[found.end() :]


def changed(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """The seed after random changes, after some damage of the table, or after both."""
    if rng.random() < 0.05:
        made = list(rng.choice(DAMAGES).make(seed))
        seed = rng.choice(made) if made else seed
        if rng.random() < 0.5:
            return seed
    return mutate(rng, seed, others)


class Tally(NamedTuple):
    """What came of a parser: how many cases, in how many seconds, and the case that failed, if one did."""

    name: str
    cases: int
    seconds: float
    failure: str = ""


def cases_of(parser: Parser, seed: int) -> Iterator[bytes]:
    """The cases of a parser, the good bytes first; the same for the same number."""
    rng = random.Random(f"{seed} {parser.name}")
    seeds = list(parser.good())
    yield from seeds
    while True:
        yield changed(rng, rng.choice(seeds), seeds)


def run(parser: Parser, count: int, seed: int = SEED, *, until_s: float = math.inf) -> Tally:
    """Judges so many cases, or those of the time; ends at the first that fails."""
    began = time.perf_counter()
    done = 0
    for case in itertools.islice(cases_of(parser, seed), count):
        try:
            hold(parser, case)
        except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
            failure = f"{parser.name}, seed {seed}, case {done}: {shown(case)}\n{traceback.format_exc()}"
            return Tally(parser.name, done + 1, time.perf_counter() - began, failure)
        done += 1
        if done % 256 == 0 and time.perf_counter() >= until_s:
            break
    return Tally(parser.name, done, time.perf_counter() - began)


def shown(case: bytes) -> str:
    return repr(case[:_SHOWN]) + (f" … ({len(case):,} bytes)" if len(case) > _SHOWN else "")


def share(parser: Parser, cases: int) -> int:
    """How many of all the cases are of the parser."""
    return -(-cases * parser.weight // sum(one.weight for one in PARSERS))


def table(tallies: Sequence[Tally]) -> str:
    """A line for each parser, and the sum."""
    lines = [f"{'parser':<30} {'cases':>10} {'seconds':>8} {'µs/case':>8}  result"]
    for one in (*tallies, Tally("all", sum(t.cases for t in tallies), sum(t.seconds for t in tallies))):
        each = 1e6 * one.seconds / max(1, one.cases)
        result = "FAILED" if one.failure else "ok"
        lines.append(f"{one.name:<30} {one.cases:>10,} {one.seconds:>8.1f} {each:>8.0f}  {result}")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    words_of = argparse.ArgumentParser(description="Hostile input for every parser, from a fixed seed.")
    words_of.add_argument("--cases", type=int, default=CASES, help="of all parsers in a round; a million unless given")
    words_of.add_argument("--seconds", type=float, help="go on for so long, each round with the next seed")
    words_of.add_argument("--seed", type=int, default=SEED)
    words_of.add_argument("--parser", dest="target", action="append", choices=list(BY_NAME), metavar="NAME")
    chosen = words_of.parse_args(words)
    chosen_parsers = [BY_NAME[name] for name in chosen.target or BY_NAME]
    until_s = time.perf_counter() + chosen.seconds if chosen.seconds else math.inf
    totals = {parser.name: Tally(parser.name, 0, 0.0) for parser in chosen_parsers}
    for seed in itertools.count(chosen.seed):
        for parser in chosen_parsers:
            before = totals[parser.name]
            if before.failure:
                continue
            now = run(parser, share(parser, chosen.cases), seed, until_s=until_s)
            totals[parser.name] = Tally(
                parser.name, before.cases + now.cases, before.seconds + now.seconds, now.failure
            )
        if time.perf_counter() >= until_s or not chosen.seconds:
            break
    print(table(list(totals.values())))
    failures = [one.failure for one in totals.values() if one.failure]
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
