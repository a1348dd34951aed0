"""What is known of a series beside its candles: how it is stored, and what news does to it."""

from __future__ import annotations

from candle_fetcher.cache import CandleCache
from candle_fetcher.cache.freshness import READ_ENTRY
from candle_fetcher.core.entry import seal, unseal
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.facts import EmptySpan, Facts, FailedSpan, News, Unverified
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import Span
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.store import Store
from candle_fetcher.store.memory import MemoryTier

SERIES = Series("binance", None, "BTCUSDT", parse_timeframe("1h"))
KEY = f"{SERIES.key}|facts"
STORED = (
    b'{"first_ms": 5, "quiet": [[0, 5, "not_listed", 9], [70, 80, "after_delisting", 9]], '
    b'"absent": [["/data/x.zip", 86400008]], "failed": [[10, 20, "boom", 9]], '
    b'"unverified": [[30, 40, "/data/y.zip"]]}'
)
FACTS = Facts(
    first_ms=5,
    empty=(EmptySpan(Span(0, 5), "not_listed", 9), EmptySpan(Span(70, 80), "after_delisting", 9)),
    absent=(("/data/x.zip", 86_400_008),),
    failed=(FailedSpan(Span(10, 20), "boom", 9),),
    unverified=(Unverified(Span(30, 40), "/data/y.zip"),),
)


def test_facts_are_stored_as_lists_that_begin_with_their_span() -> None:
    memory = MemoryTier(10**6)
    memory.save(KEY, seal(KEY, b"", STORED), 1_000)
    cache = CandleCache(Store(memory), path=None)
    assert cache.facts.get(SERIES) == FACTS
    cache.facts.learn(SERIES, News(first_ms=6), 9)
    found = unseal(KEY, memory.load(KEY))
    assert found is not None
    assert bytes(found[1]) == STORED.replace(b'"first_ms": 5', b'"first_ms": 6')


def test_news_replaces_what_was_known_of_the_same_spans() -> None:
    news = News(
        empty=EmptySpan(Span(2, 12), "not_listed", 50),
        failed=[FailedSpan(Span(15, 18), "again", 50)],
        unverified=[Unverified(Span(50, 60), "/data/z.zip")],
        replaced=[Span(35, 45)],
        filled=[Span(19, 99)],
    )
    assert FACTS.learn(news, 50) == Facts(
        first_ms=5,
        empty=(EmptySpan(Span(2, 12), "not_listed", 50), EmptySpan(Span(70, 80), "after_delisting", 9)),
        absent=(("/data/x.zip", 86_400_008),),
        failed=(
            FailedSpan(Span(10, 15), "boom", 9),
            FailedSpan(Span(15, 18), "again", 50),
            FailedSpan(Span(18, 19), "boom", 9),
        ),
        unverified=(Unverified(Span(30, 35), "/data/y.zip"), Unverified(Span(50, 60), "/data/z.zip")),
    )
    assert not FACTS.learn(News(), 86_400_008).absent  # it may be there by then


def test_candles_at_both_ends_of_a_span_contradict_that_it_is_empty() -> None:
    found = FACTS.without_empty(Span(3, 75))
    assert found.first_ms == 3
    assert found.empty == (EmptySpan(Span(0, 3), "not_listed", 9), EmptySpan(Span(75, 80), "after_delisting", 9))


def test_only_what_lies_in_the_span_is_unverified() -> None:
    assert FACTS.unverified_in(Span(0, 30)) == ()
    assert FACTS.unverified_in(Span(0, 31)) == (Span(30, 31),)
    assert FACTS.unverified_in(Span(39, 90)) == (Span(39, 40),)
    assert FACTS.lacks_note_of([Span(25, 45)]) == [Span(25, 30), Span(40, 45)]


def test_until_when_a_chunk_is_fresh_is_stored_each_time_that_it_changes() -> None:
    index = CandleCache(Store(MemoryTier(10**6)), path=None).freshness
    for until_ms in (READ_ENTRY, READ_ENTRY, FOREVER_MS, READ_ENTRY, 5, READ_ENTRY):
        index.save(SERIES, {1: until_ms, 2: READ_ENTRY})
        assert index.load(SERIES, [1, 2]) == {1: until_ms, 2: READ_ENTRY}
    index.save(SERIES, {})
