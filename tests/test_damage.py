"""Each parser against each kind of damage: damaged bytes are read as they are, or refused by an error of ours that
names what was read, in one printable line, and within a second."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGES, Damage
from fuzz import shown
from parsers import BY_NAME, PARSERS, SERIES, Answer, Parser, hold, recorded_parsers
from quote_replies import RECORDED

from candle_fetcher.core.errors import ReplyError
from candle_fetcher.providers import all_providers, find_provider

# So many of the damaged bytes of a kind are in every run, and these of parsers that read files.
QUICK, QUICKER = 4, 2
CASES = [
    pytest.param(parser, damage, id=f"{parser.name}: {damage.name}", marks=pytest.mark.fault(*damage.faults))
    for parser in PARSERS
    for damage in DAMAGES
    if next(damage.make(parser.good()[0]), None) is not None
]


def check(parser: Parser, damage: Damage, cases: Iterable[bytes]) -> int:
    """Return how many of the damaged bytes are read."""
    read = 0
    for data in cases:
        try:
            read += hold(parser, data)
        except Exception as error:  # noqa: BLE001 - whatever comes out is what is looked for
            pytest.fail(f"{parser.name}, {damage.name}: {shown(data)}: {type(error).__name__}: {error}")
    return read


def test_good_bytes_are_read() -> None:
    for parser in PARSERS:
        assert hold(parser, parser.good()[0]), parser.name


@pytest.mark.parametrize("name", all_providers())
def test_the_table_has_each_parser_of_a_provider(name: str) -> None:
    """A market of a provider may share its parsers with another one."""
    provider, family = all_providers()[name], name.partition("-")[0]
    found = {tuple(parser.split()[:2]) for parser in BY_NAME}
    assert (name, "candles") in found or (name, "mark") in found
    for part in ("clock", "listing", "funding", "token", "quotes"):
        assert getattr(provider, part) is None or {(name, part), (family, part)} & found, part
    assert provider.streams is None or {(name, "frame"), (family, "frame")} & found
    assert {(name, "refusal"), (family, "refusal")} & found


@pytest.mark.parametrize(("parser", "damage"), CASES)
def test_damaged_bytes_are_read_as_they_are_or_refused_in_a_line(parser: Parser, damage: Damage) -> None:
    cases = list(damage.make(parser.good()[0]))
    most = QUICKER if parser.is_slow else QUICK
    dice = random.Random(f"{parser.name} {damage.name}")
    check(parser, damage, dice.sample(cases, min(most, len(cases))))


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_bytes_damaged_anywhere_are_read_as_they_are_or_refused_in_a_line(parser: Parser) -> None:
    for good in parser.good()[:3]:
        for damage in DAMAGES:
            check(parser, damage, damage.make(good))


@pytest.mark.slow
@pytest.mark.parametrize("at", range(13 + len(RECORDED)))
def test_damaged_real_replies_are_read_as_they_are_or_refused_in_a_line(shared: Path, at: int) -> None:
    parser = recorded_parsers()[at]
    (good, *_) = parser.good()
    assert hold(parser, good)
    for damage in DAMAGES:
        dice, cases = random.Random(damage.name), list(damage.make(good))
        check(parser, damage, dice.sample(cases, min(20, len(cases))))


def test_a_parser_that_is_wrong_is_found() -> None:
    """Each of these mistakes is seen by some kind of damage."""
    candles, clock = BY_NAME["binance candles 1h"], BY_NAME["kraken clock"]

    def unchecked(body: bytes) -> Any:
        return Answer(find_provider("binance").feed("candles").parse(body, SERIES))

    def unguarded(body: bytes) -> Any:
        return json.loads(body)["result"]["unixtime"] * 1000

    def lenient(body: bytes) -> Any:
        with contextlib.suppress(ReplyError):
            return candles.read(body)
        return candles.read(candles.good()[0])

    def talkative(body: bytes) -> Any:
        try:
            return clock.read(body)
        except ReplyError as error:
            raise ReplyError(f"{error}: {body!r}") from error

    for parser, read in ((candles, unchecked), (candles, lenient), (clock, unguarded), (clock, talkative)):
        wrong = parser._replace(read=read)
        with pytest.raises(pytest.fail.Exception):
            for damage in DAMAGES:
                check(wrong, damage, damage.make(parser.good()[0]))
