"""Every error and warning is raised somewhere, documented on the page of errors, and says what to do."""

from __future__ import annotations

import copy
import datetime as dt
import inspect
import pickle
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from world import World

import candle_fetcher
from candle_fetcher import (
    AccessDenied,
    Banned,
    CacheError,
    CandleFetcher,
    CandleFetcherError,
    CandleFetcherWarning,
    FetchManyError,
    FetchManyOutOfMemory,
    IncompleteData,
    InputError,
    MissingExtra,
    NotOffered,
    OutOfMemory,
    ProviderRefused,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
    UnknownArgument,
    UnknownSymbol,
)
from candle_fetcher.core import errors
from candle_fetcher.core.errors import shown, unknown
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.practice import faults

ROOT = Path(__file__).resolve().parents[1]
KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, CandleFetcherError | CandleFetcherWarning)
]
SPAN = ("1h", "2024-01-01", "2024-01-02")
UNTIL = dt.datetime(2024, 6, 15, 12, 30, tzinfo=dt.timezone.utc)
# What the classes are made of that need more than a message.
FACTS: dict[type, dict[str, Any]] = {
    UnknownSymbol: {"symbol": "BTC/UDST", "provider": "binance", "closest": ("BTC/USDT",)},
    UnknownArgument: {"call": "fetch()", "name": "interval", "allowed": ("timeframe",), "meant": "timeframe"},
    Banned: {"message": "it happened", "until": UNTIL},
    AccessDenied: {"message": "it happened", "fix": "Check api_keys"},
    ProviderRefused: {"message": "it happened", "status": 400},
    FetchManyError: {"frames": {}, "errors": {"BTC/USDT": InputError("start 1 is not before end 0; give another")}},
    FetchManyOutOfMemory: {"frames": {}, "errors": {"BTC/USDT": OutOfMemory("BTC/USDT 1s", 1_000_000)}},
    MissingExtra: {"extra": "arrow", "purpose": "Parquet"},
    OutOfMemory: {"what": "BTC/USDT 1m", "rows": 1_000_000},
}
# Not made by name themselves, but for their branches.
TRUNKS = (SourceError, CandleFetcherWarning)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def made(kind: type) -> Any:
    facts = FACTS.get(kind)
    return kind("it happened") if facts is None else kind(**facts)


def troubleshooting() -> dict[str, list[str]]:
    """The rows of the tables of errors and warnings in the pages: their other cells, by name."""
    text = (ROOT / "candle_fetcher" / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


@pytest.fixture(scope="module")
def used() -> set[str]:
    """The names of the classes that the package makes, raises or hands to `warnings.warn`."""
    found: set[str] = set()
    for path in (ROOT / "candle_fetcher").rglob("*.py"):
        if path.name == "errors.py":
            continue
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"\b([A-Z]\w+)\(", text))
        found.update(*(re.findall(r"\w+", words) for words in re.findall(r"\bwarn\(([^)]*)\)", text)))
    return found


@pytest.mark.slow(only=("CandleFetcherError",))
@each_kind
def test_each_is_raised_somewhere_by_its_own_name(kind: type, used: set[str]) -> None:
    assert kind.__name__ in used or kind in TRUNKS


def test_a_trunk_is_there_to_be_caught() -> None:
    for trunk in TRUNKS:
        assert any(issubclass(kind, trunk) and kind is not trunk for kind in KINDS)


@each_kind
def test_each_can_be_imported_from_the_package_and_is_drawn_in_the_tree(kind: type) -> None:
    assert getattr(candle_fetcher, kind.__name__) is kind
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__ or "")


@each_kind
def test_each_docstring_names_the_attributes(kind: type) -> None:
    assert kind.__doc__
    own = set(re.findall(r"self\.(\w+) = ", inspect.getsource(kind)))
    assert own <= set(re.findall(r"`\.(\w+)`", kind.__doc__)), kind.__doc__
    assert own <= set(vars(made(kind)))


@each_kind
def test_each_message_holds_what_to_do_once(kind: type) -> None:
    error = made(kind)
    assert len(error.fix.split()) >= 2
    assert str(error).count(error.fix) == 1
    assert "\n" not in str(error)
    assert ".." not in str(error)


@each_kind
def test_each_is_in_the_troubleshooting_section_with_what_to_do(kind: type) -> None:
    cells = troubleshooting()[kind.__name__]
    assert all((cells[0], cells[-1])) or kind is CandleFetcherWarning


@each_kind
def test_each_survives_the_way_to_another_process(kind: type) -> None:
    error = made(kind)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert set(vars(again)) == set(vars(error))


def test_the_section_has_no_row_of_something_else() -> None:
    assert set(troubleshooting()) == {kind.__name__ for kind in KINDS}


def test_what_to_do_is_behind_the_semicolon_or_that_of_the_class() -> None:
    assert InputError("limit 0 is not allowed; expected 1 or more").fix == "expected 1 or more"
    assert str(InputError("limit 0 is not allowed; expected 1 or more")) == "limit 0 is not allowed; expected 1 or more"
    assert str(InputError("limit 0 is not allowed")) == "limit 0 is not allowed. Correct it and call again"
    assert unknown("source", "rst", ("rest", "auto")).fix == "expected one of rest, auto. Did you mean 'rest'?"
    assert UnknownSymbol("X", "binance").fix == "symbols() lists those of the provider"
    assert str(ReplyError("what came?")) == f"what came? {ReplyError.fix}"


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


HUGE = 10**5_000


@pytest.mark.slow
@pytest.mark.fault("A18")
@pytest.mark.parametrize("digits", [640, 4_300, 0])
def test_a_value_is_shown_on_a_line_whatever_it_is(digits: int) -> None:
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(digits)
    try:
        assert shown(5) == "5"
        assert shown("a\nb") == r"'a\nb'"
        assert shown([1, "x"]) == "[1, 'x']"
        assert shown(pd.DataFrame({"a": [1, 2]})) == "a 0 1 1 2"
        for value in (HUGE, -HUGE, [HUGE], {"x": Unspeakable()}, Unspeakable(), "x" * 10**6, np.arange(10**5)):
            assert 0 < len(shown(value)) < 250
            assert "\n" not in shown(value)
            for refused in (unknown("source", value, ("rest",)), wrong_start(value)):
                assert isinstance(refused, InputError)
                assert len(str(refused)) < 500
    finally:
        sys.set_int_max_str_digits(usual)


def wrong_start(value: Any) -> InputError:
    with pytest.raises(InputError) as raised:
        instant_ms(value, "start")
    return raised.value


def test_a_warning_says_what_to_do_too() -> None:
    for kind in (one for one in KINDS if issubclass(one, CandleFetcherWarning)):
        with pytest.warns(kind) as caught:
            warnings.warn("it happened", kind, stacklevel=1)
        assert str(caught[0].message).startswith("it happened. ")


# -- as they reach a user ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("errors") / "cache") as made:
        yield made


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def closed(fetcher: CandleFetcher) -> None:
    fetcher.close()
    fetcher.symbols()


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(
    ("kind", "fault", "work"),
    [
        (CandleFetcherError, None, closed),
        (InputError, None, lambda fetcher: fetcher.fetch("BTC/USDT", "1x")),
        (InputError, None, lambda fetcher: fetcher.fetch("BTC/USDT", *SPAN, source="rst")),
        (UnknownSymbol, None, lambda fetcher: fetcher.fetch("BTC/UDST", *SPAN)),
        (NotOffered, None, lambda fetcher: fetcher.fetch("BTC/USDT", *SPAN, kind="mark")),
        (TransportError, faults.status(503), lambda fetcher: fetcher.symbols()),
        (RateLimited, faults.rate_limited(900), lambda fetcher: fetcher.symbols()),
        (Banned, faults.banned(1_718_455_000_000), lambda fetcher: fetcher.symbols()),
        (AccessDenied, faults.restricted(), lambda fetcher: fetcher.symbols()),
        (AccessDenied, faults.forbidden(), lambda fetcher: fetcher.fetch("BTC/USDT", *SPAN)),
        (ProviderRefused, faults.status(400, b'{"code":-1104,"msg":"no"}'), lambda fetcher: fetcher.symbols()),
        (ReplyError, faults.html_200(), lambda fetcher: fetcher.symbols()),
        (IncompleteData, faults.status(503), lambda fetcher: fetcher.fetch("BTC/USDT", *SPAN)),
        (IncompleteData, None, lambda fetcher: fetcher.fetch("ETH/USDT", *SPAN, source="cache")),
        (
            IncompleteData,
            None,
            lambda fetcher: fetcher.fetch("BTC/USDT", "1m", "2023-03-24", "2023-03-25", on_gap="raise"),
        ),
        (FetchManyError, None, lambda fetcher: fetcher.fetch_many(["BTC/USDT", "XXX/USDT"], *SPAN)),
    ],
)
def test_what_is_raised_says_what_to_do(
    world: World, kind: type[CandleFetcherError], fault: Any, work: Callable[[CandleFetcher], object]
) -> None:
    failing = [] if fault is None else [world.exchange.fail(fault, times=None)]
    try:
        fetcher = world.fetcher(max_retries=0, cache_dir=world.folder / kind.__name__)
        with pytest.raises(kind) as caught:
            work(fetcher)
    finally:
        for one in failing:
            one.stop()
    assert type(caught.value) is kind
    assert caught.value.fix in str(caught.value)
    assert len(str(caught.value)) < 600


FACTS_OF = ("provider", "symbol", "timeframe", "span")
RANGE = ("2024-01-01", "2024-01-02")
ISO_RANGE = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z")
WHOLE = ("binance", "BTC/USDT", "1h", ISO_RANGE)
TYPED = ("binance", "BTCUSDT", "1h", None)
RANGED = (*TYPED[:3], ISO_RANGE)
DOWN = faults.status(503)


def first_frame(fetcher: CandleFetcher, *words: Any, **options: Any) -> None:
    next(fetcher.iter_frames(*words, **options))


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(
    ("work", "fault", "kind", "facts"),
    [
        # each call, with a request that is known and a source that fails
        (lambda f: f.fetch("BTCUSDT", *SPAN), DOWN, IncompleteData, WHOLE),
        (lambda f: f.fetch("BTCUSDT", *SPAN), faults.forbidden(), AccessDenied, WHOLE),
        (lambda f: f.fetch("BTCUSDT", *SPAN, on_gap="refetch"), DOWN, IncompleteData, WHOLE),
        (lambda f: f.fetch("BTCUSDT", *SPAN), faults.banned(1_718_455_000_000), Banned, WHOLE),
        (lambda f: first_frame(f, "BTCUSDT", *SPAN), DOWN, IncompleteData, WHOLE),
        (lambda f: f.export("BTCUSDT", *SPAN), DOWN, IncompleteData, WHOLE),
        (lambda f: f.gaps("BTCUSDT", *SPAN), DOWN, IncompleteData, WHOLE),
        (lambda f: f.audit("BTCUSDT", *SPAN), DOWN, IncompleteData, WHOLE),
        (lambda f: f.symbols(), DOWN, TransportError, ("binance", None, None, None)),
        (lambda f: f.symbols(provider="kraken"), DOWN, TransportError, ("kraken", None, None, None)),
        (lambda f: f.first_available("BTCUSDT"), DOWN, TransportError, ("binance", "BTC/USDT", "1m", None)),
        (lambda f: f.fetch_funding("BTCUSDT", *RANGE, provider="binance-um"), DOWN, IncompleteData,
         ("binance-um", "BTC/USDT", None, ISO_RANGE)),
        (lambda f: f.fetch_many(["BTCUSDT"], *SPAN), DOWN, FetchManyError, (None, None, "1h", None)),
        # limits and days: the range of which something could not be had
        (lambda f: f.fetch("BTC/USDT", "1h", end="2024-01-02", limit=24), DOWN, IncompleteData, WHOLE),
        (lambda f: f.fetch("BTC/USDT", "1h", end="2024-01-02", days=1), DOWN, IncompleteData, WHOLE),
        (lambda f: f.fetch("BTC/USDT", *SPAN, source="cache"), None, IncompleteData, WHOLE),
        (lambda f: f.fetch("BTC/USDT", "1m", "2023-03-24", "2023-03-25", on_gap="raise"), None, IncompleteData,
         ("binance", "BTC/USDT", "1m", ("2023-03-24T00:00:00Z", "2023-03-25T00:00:00Z"))),
        (lambda f: f.fetch("BTC/UDST", *SPAN), None, UnknownSymbol, ("binance", "BTC/UDST", "1h", ISO_RANGE)),
        # what is wrong with the call itself, by its arguments
        (lambda f: f.fetch("BTCUSDT", "1h", "2024-01-02", "2024-01-01"), None, InputError, TYPED),
        (lambda f: f.fetch("BTCUSDT", "1h", interval="1h"), None, UnknownArgument, TYPED),
        (lambda f: f.fetch("binance:BTCUSDT", *SPAN, kind="mark"), None, NotOffered, RANGED),
        (lambda f: f.fetch("BTCUSDT", *SPAN, provider="nowhere"), None, InputError, (None, *RANGED[1:])),
        (lambda f: f.iter_frames("BTCUSDT", "1h", rows=0), None, InputError, TYPED),
        (lambda f: f.export("BTCUSDT", *SPAN, format="xls"), None, InputError, TYPED),
        (lambda f: f.plan("BTCUSDT", "1h", *RANGE, source="rst"), None, InputError, RANGED),
        (lambda f: f.plan("BTCUSDT", *SPAN, kind="mark"), None, NotOffered, RANGED),
        (lambda f: f.coverage("BTCUSDT", *SPAN, kind="mark"), None, NotOffered, RANGED),
        (lambda f: f.plan("BTCUSDT", "7x", *RANGE), None, InputError, (*TYPED[:2], "7x", ISO_RANGE)),
        (lambda f: f.gaps("BTCUSDT", "1h"), None, InputError, TYPED),
        (lambda f: f.coverage("BTCUSDT", "1h", days=-1), None, InputError, TYPED),
        (lambda f: f.fetch_funding("BTCUSDT", *RANGE), None, NotOffered, ("binance", "BTCUSDT", None, None)),
        (lambda f: f.doctor(provider="nowhere"), None, InputError, (None, None, None, None)),
        (lambda f: f.cache.clear("kraken:§"), None, InputError, ("kraken", "§", None, None)),
        (lambda f: f.cache.import_file(__file__, "BTC/USDT", "1h", provider="kraken"), None, InputError,
         ("kraken", "BTC/USDT", "1h", None)),
    ],
)  # fmt: skip
def test_an_error_says_which_call_it_ended(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[CandleFetcher], object],
    fault: Any,
    kind: type[CandleFetcherError],
    facts: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    failing = [] if fault is None else [world.exchange.fail(fault, times=None)]
    try:
        with world.fetcher(max_retries=0, cache_dir=tmp_path / "cache") as fetcher, pytest.raises(kind) as caught:
            work(fetcher)
    finally:
        for one in failing:
            one.stop()
    assert tuple(getattr(caught.value, name) for name in FACTS_OF) == facts
    again = pickle.loads(pickle.dumps(caught.value))
    assert tuple(getattr(again, name) for name in FACTS_OF) == facts


@pytest.mark.parametrize("source", ["auto", "rest"])
def test_what_an_error_came_of_says_what_it_was_about_too(world: World, tmp_path: Path, source: str) -> None:
    failing = world.exchange.fail(DOWN, times=None)
    try:
        with world.fetcher(max_retries=0, cache_dir=tmp_path, source=source) as fetcher:
            with pytest.raises(IncompleteData) as caught:
                fetcher.fetch("BTCUSDT", *SPAN)
            with pytest.raises(FetchManyError) as several:
                fetcher.fetch_many(["BTCUSDT", "ETHUSDT"], *SPAN)
    finally:
        failing.stop()
    errors = {
        "BTC/USDT": [caught.value, several.value.errors["BTCUSDT"]],
        "ETH/USDT": [several.value.errors["ETHUSDT"]],
    }
    for symbol, one in [(symbol, one) for symbol, some in errors.items() for one in some]:
        assert isinstance(one, IncompleteData)
        assert one.cause is one.refusals[-1]
        for error in (one, *one.refusals):
            assert tuple(getattr(error, name) for name in FACTS_OF) == ("binance", symbol, *WHOLE[2:])


def test_each_error_of_fetch_many_says_which_symbol_it_is_about(world: World, tmp_path: Path) -> None:
    names = ["BTC/USDT", "ETH/USDT", "kraken:BTC/USD", "alpaca:§"]
    failing = world.exchange.fail(DOWN, times=None)
    try:
        with world.fetcher(max_retries=0, cache_dir=tmp_path) as fetcher, pytest.raises(FetchManyError) as caught:
            fetcher.fetch_many(names, *SPAN)
    finally:
        failing.stop()
    facts = {name: (one.provider, one.symbol) for name, one in caught.value.errors.items()}  # type: ignore[attr-defined]
    assert facts == {
        "BTC/USDT": ("binance", "BTC/USDT"),
        "ETH/USDT": ("binance", "ETH/USDT"),
        "kraken:BTC/USD": ("kraken", "BTC/USD"),
        "alpaca:§": ("alpaca", "§"),
    }


def test_an_error_that_ends_two_calls_says_in_each_what_that_one_was_about() -> None:
    shared, seen = TransportError("no reply", attempts=3), []
    for symbol in ("BTC/USDT", "ETH/USDT", "BTC/USDT"):
        about = errors.About("binance", symbol, "1h")
        with pytest.raises(TransportError) as caught, errors.naming_errors(lambda about=about: about):
            raise shared
        seen.append(caught.value)
    assert [error.symbol for error in seen] == ["BTC/USDT", "ETH/USDT", "BTC/USDT"]
    assert [error.attempts for error in seen] == [3, 3, 3]
    assert seen[0] is seen[2] is shared


@pytest.mark.slow
def test_a_host_out_of_reach_is_told_with_what_to_do(tmp_path: Path) -> None:
    urls = {"binance": nowhere()}
    with CandleFetcher(base_urls=urls, cache_dir=tmp_path) as fetcher, pytest.raises(TransportError) as caught:
        fetcher.symbols()
    assert not caught.value.reached
    assert "candle-fetcher doctor" in str(caught.value)


def test_a_gap_that_was_to_raise_is_told_with_how_to_leave_it(world: World) -> None:
    with world.fetcher() as fetcher, pytest.raises(IncompleteData) as caught:
        fetcher.fetch("BTC/USDT", "1m", "2023-03-24", "2023-03-25", on_gap="raise")
    assert caught.value.fix == "on_gap='leave' lists them instead"


def test_the_cache_says_which_folder_to_choose() -> None:
    assert str(CacheError("c belongs to another user. Choose another cache_dir")).count("Choose another") == 1
