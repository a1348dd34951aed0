"""A provider's candles by REST, and the second look.

A hole in a reply is not a fact yet: it is asked for again, alone, and believed when that answer is empty. A look that
brings rows starts the count anew, so short pages, page caps and rows that were late all end in the whole truth.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from candle_fetcher.concurrency import SingleFlight
from candle_fetcher.core.call import Call, Limit, Reply
from candle_fetcher.core.candles import Candles, check, find_holes, iso, join, overlay
from candle_fetcher.core.errors import (
    AccessDenied,
    Banned,
    CandleFetcherError,
    NotOffered,
    RateLimited,
    ReplyError,
    SourceError,
    TransportError,
)
from candle_fetcher.core.expiry import FOREVER_MS
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.keys import Keys
from candle_fetcher.core.plan import chunk_span
from candle_fetcher.core.series import Series
from candle_fetcher.core.spans import ALL_TIME, Span
from candle_fetcher.core.timeframe import DAY_MS, Timeframe, parse_timeframe
from candle_fetcher.providers import Feed, Listing, Provider
from candle_fetcher.providers.base import by_status
from candle_fetcher.sources.asking import Asker, AsOf, Errand, Service
from candle_fetcher.sources.clock import FARTHEST_MS, Heard, Reading, ServerClock, measure, measure_date
from candle_fetcher.sources.keyring import Fixed, Keyring

# When the series begins, given a hole at the start of a span and the candle after it; None where it has not begun.
ListedMs = Callable[[Span, "int | None"], "int | None"]

# How far two clocks of one provider may be apart: a Date header tells the second that has begun.
_HOSTS_MS = 2_000
_MOST_PAGES = 100_000
# A hole of so many slots at an end of what was asked for is more likely a reply that was cut short than an outage.
_LARGE_HOLE = 100
# For how long the request limits are believed.
_LIMITS_S = 3_600.0
_TOKEN_LIMITS = (Limit(30, 60),)


class Answer(NamedTuple):
    """What a source says about a span: its candles, and the holes in it that it confirmed.

    The span may begin later than what was asked for: where the series does, or at `served_ms`, before which the
    provider does not serve its candles. It begins after a hole, too, of which nobody could say whether it lies before
    the listing: `error` says why. `open_ms` is the opening of the first candle of which the reply says that it may
    still change; such candles are left out.
    """

    span: Span
    candles: Candles
    believed: tuple[Span, ...]
    served_ms: int = -FOREVER_MS
    error: SourceError | None = None
    open_ms: int = FOREVER_MS


class Page(NamedTuple):
    """The candles of a reply, and what it says of the time. `made_ms` is when it was made by its Date header: of
    several replies the earliest, None where one does not say. Candles that open at `final_ms` or later may still
    change, by the reply's own word. `is_blank` says that there was no candle in it, for no span at all."""

    candles: Candles
    made_ms: int | None
    heard: Heard
    final_ms: int = FOREVER_MS
    is_blank: bool = False

    @property
    def final(self) -> Candles:
        """The candles that are final by the reply's own word."""
        return self.candles.trim(ALL_TIME.before(self.final_ms))

    @property
    def open_ms(self) -> int:
        """The opening of the first candle that may still change; FOREVER_MS where there is none."""
        rest = self.candles.trim(ALL_TIME.after(self.final_ms))
        return int(rest.open_ms[0]) if rest.count else FOREVER_MS


class Source:
    """The REST side of one provider. Shared by all threads of a fetcher."""

    def __init__(
        self,
        provider: Provider,
        hosts: tuple[str, ...],
        clock: Callable[[], float],
        *,
        keys: Mapping[str, str] = MappingProxyType({}),
        token_host: str | None = None,
        **how: Any,
    ) -> None:
        self.provider = provider
        self._server_clock = ServerClock(clock)
        self._how = how
        self._token_host = token_host
        self._keyring = Keyring(provider, keys, self._ask_for_token)
        self._asker = Asker(
            Service(
                provider.name,
                hosts,
                provider.default_limits,
                provider.used,
                provider.refuse,
                self._keyring,
                self._keyring.digest,
                _least_limits(provider),
            ),
            clock=self._server_clock,
            **how,
        )
        self.estimated_ms = self._server_clock.estimated_ms
        self.ask = self._asker.ask
        self.budget = self._asker.budget
        self.renew = self._asker.renew
        self._clock_flight: SingleFlight[tuple[Series | None, bool], int] = SingleFlight()
        self._asked_limits_s = -math.inf  # of the steady clock, when the limits were asked for
        self._refused_limits: list[Limit] = []
        self._has_refused = False
        self._warned = False
        self._date_lag_ms = 0  # of the Date headers behind the provider's clock, by the last reply to its request

    def missing_key(self) -> AccessDenied | None:
        """What a request would fail for, where a key is missing; nobody is asked."""
        return self._keyring.missing()

    @property
    def key_names(self) -> list[str]:
        """The names of the keys that there are."""
        return self._keyring.names

    def _ask_for_token(self, call: Call, keys: Keys, parse: Callable[[bytes], Any], stop: threading.Event) -> Any:
        """What is made of the reply of whoever hands out this provider's tokens."""
        token = self.provider.token
        assert token is not None
        assert isinstance(stop, Errand)

        def refuse(reply: Reply, symbol: str, now_ms: int) -> Exception:
            if reply.status not in (400, 401, 403):
                return by_status(token.name, reply, symbol, now_ms)
            return AccessDenied(
                f"{token.name} gave no token (status {reply.status})",
                fix=f"Sign in anew at {self.provider.key_page}, and put what you get into api_keys",
                status=reply.status,
            )

        host = self._token_host or token.host
        service = Service(token.name, (host,), _TOKEN_LIMITS, lambda headers: None, refuse, Fixed(keys))
        return Asker(service, clock=self._server_clock, **self._how).ask(call, parse, stop=stop)

    # -- the provider's clock and limits ------------------------------------------------------------------------

    def now_ms(self, stop: Errand, series: Series | None, *, is_doubted: bool = False) -> int:
        """The provider's clock in Unix ms. It is asked where the last reading is old or `is_doubted`, or this machine's
        clock has been set since.

        Where the provider has none to ask, the Date header of a reply to a call for candles of the series tells.
        """
        known_ms = None if is_doubted else self._server_clock.known_ms()
        if known_ms is not None:
            return known_ms
        if self.provider.clock is None and series is None:
            return self.estimated_ms()
        read = partial(self._server_clock.read, self.provider.name, partial(self._read_clock, series, stop))
        try:
            return self._clock_flight.run((series, is_doubted), read, stop)
        except (TransportError, ReplyError, RateLimited) as error:
            known_ms = None if is_doubted or isinstance(error, Banned) else self._server_clock.lasting_ms()
            if known_ms is None:
                raise
            return known_ms

    def _read_clock(self, series: Series | None, stop: Errand, *, again: bool) -> Reading | None:
        """One reading of the provider's clock; None where its replies do not tell the time. A reply to a call for
        candles that the public call has kept serves too, unless it is asked `again`."""
        clock = self.provider.clock
        if clock is not None:
            heard: list[Heard] = []
            server_ms = self.ask(clock.call, clock.parse, stop=stop, hear=heard.append)
            made_ms = heard[-1].made_ms
            lag_ms = 0 if made_ms is None else server_ms - made_ms
            self._date_lag_ms = lag_ms if lag_ms > _HOSTS_MS else 0
            return measure(server_ms, heard[-1])
        assert series is not None
        feed, timeframe, own_ms = self.provider.feed(series.kind), series.timeframe, self.estimated_ms()
        if feed.first_call is not None:  # without a key
            return measure_date(self._asked(feed, series, feed.first_call(series), ALL_TIME, stop).heard)
        newest = Span(timeframe.open_ms(timeframe.ordinal(own_ms) - 1), own_ms + 1)
        return measure_date(self._page(feed, series, newest, stop, anew=again).heard)

    @property
    def skew_s(self) -> float:
        """How far the provider's clock is ahead of this machine's, in seconds; 0 while it was not asked."""
        return self._server_clock.skew_s

    def warn_once(self) -> bool:
        """True the first time it is called."""
        warned, self._warned = self._warned, True
        return not warned

    @property
    def limits_known(self) -> bool:
        """Whether the request limits have been asked for, here or by another process in the last hour; or cannot be."""
        if self.provider.describe is None or self._asker.limiter.knows_limits():
            return True
        return time.monotonic() - self._asked_limits_s < _LIMITS_S

    def learn_limits(self, symbol: str, stop: Errand) -> None:
        """Reads the request limits, once an hour. Where the provider does not tell, the documented ones stay in force.

        Others who want to know them meanwhile, here and in other processes, wait a while for the answer.
        """
        with self._asker.limiter.asking_limits(stop) as is_my_turn:
            if not is_my_turn or self.limits_known:
                return
            try:
                self.set_limits(self.describe(symbol, stop))
            except (Banned, AccessDenied, CancelledError):
                raise  # the next call has to read them
            except CandleFetcherError:
                pass  # an unknown symbol is for the candles to tell; a failing exchangeInfo is no reason to stop
            self._asked_limits_s = time.monotonic()

    def set_limits(self, listing: Listing) -> None:
        if listing.limits:
            self._refused_limits += self._asker.limiter.set_limits(listing.limits)

    def limits_left(self) -> list[tuple[Limit, int]]:
        """The limits in force, each with what it lets through before its present interval ends."""
        return self._asker.limiter.left()

    def refused_limits(self) -> list[Limit]:
        """Return the provider's limits that are too low to be obeyed; the first time alone."""
        refused, self._refused_limits = self._refused_limits, []
        if not refused or self._has_refused:
            return []
        self._has_refused = True
        return refused

    def describe(self, symbol: str, stop: Errand) -> Listing:
        """What the provider says of the symbol, and its limits; nothing where it says nothing of symbols. Raises
        UnknownSymbol where it lists no such symbol."""
        if self.provider.describe is None:
            return Listing((), ())
        question = self.provider.describe(symbol)
        return self.ask(question.call, question.parse, symbol=symbol, stop=stop)

    def listing(self, stop: Errand) -> Listing:
        """Every symbol that the provider lists. Raises NotOffered where it has no list."""
        question = self.provider.listing
        if question is None:
            raise NotOffered(f"{self.provider.name} has no list of symbols that could be asked for")
        return self.ask(question.call, question.parse, stop=stop)

    # -- candles --------------------------------------------------------------------------------------------------

    def look(
        self,
        series: Series,
        span: Span,
        *,
        again: bool,
        listed_ms: ListedMs,
        stop: Errand,
        within: Span | None = None,
        anew: bool = False,
    ) -> Answer:
        """The truth about a span that one call can answer; see `windows`.

        `again` says that its hole was believed before: then one empty answer is enough. `listed_ms` tells when the
        series begins; the answer's span leaves out what lies before. `within` is a longer span that one call answers
        too, of which the rest will be looked at as well: it is asked for once. `anew` sends a request even where the
        public call has a reply that serves.
        """
        feed = self.provider.feed(series.kind)
        timeframe = series.timeframe
        # A call may take long, and keeps its replies: in one of before then a candle may be forming.
        settling = feed.settling(series)
        page = self._page(feed, series, span, stop, within, since_ms=settling.settles_ms(span.end_ms), anew=anew)
        served_ms = self._served_ms(feed, series, span, stop)
        if served_ms > span.start_ms:
            span = span.after(served_ms)
            if not span:
                return Answer(span, page.candles.trim(span), (), served_ms)
        if not _is_late(page, settling, span, stop):
            page, span = self._settled_page(feed, series, page, span, stop)
            if not span:
                return Answer(span, page.candles.trim(span), (), served_ms)
        candles = page.final
        if again and not candles.count:
            return Answer(span, candles, (span,), served_ms, open_ms=page.open_ms)
        unknown: SourceError | None = None
        if feed.tells_first(series) and served_ms == -FOREVER_MS:
            span, unknown = _listed_part(timeframe, span, candles, listed_ms)
        candles, believed = self._confirm(feed, series, span, page, stop)
        return Answer(span, candles, believed, served_ms, unknown, page.open_ms)

    def _confirm(
        self, feed: Feed, series: Series, span: Span, page: Page, stop: Errand
    ) -> tuple[Candles, tuple[Span, ...]]:
        """Ask for each hole of the span again, alone, and twice for one that a short page may have left. Return the
        candles with what came, and the holes that stayed. Where a slot may have no row, only a reply without any
        candle is doubted: it may be the reply to another request."""
        believed: list[Span] = []
        candles = page.final
        # A hole at the live edge is no fact yet, and asked for again in any case.
        is_blank = page.is_blank and span.start_ms < feed.settling(series).known_ms(self.estimated_ms())
        holes = find_holes(candles.open_ms, series.timeframe, span)
        while holes:
            hole = holes.pop()
            # Where the reply itself says that what it has of the newest slots may still change, another one will, too.
            is_open = hole.end_ms >= span.end_ms and page.final_ms < hole.end_ms
            is_doubted = feed.quiet_rows or (is_blank and hole == span)
            if is_open or not is_doubted:
                believed.append(hole)
                continue
            if not feed.quiet_rows:
                self.renew()
            more = self._page(feed, series, hole, stop, anew=True).final
            if feed.quiet_rows and not more.count and _may_be_cut(hole, span, series.timeframe):
                self.renew()
                more = self._page(feed, series, hole, stop, anew=True).final
            if not more.count:
                believed.append(hole)
                continue
            candles = overlay(candles, more, hole)
            holes += find_holes(more.open_ms, series.timeframe, hole)
        return candles, tuple(sorted(believed))

    def _settled_page(self, feed: Feed, series: Series, page: Page, span: Span, stop: Errand) -> tuple[Page, Span]:
        """What of the page and its span has settled, where the reply was made too early for the whole.

        Either the instant of the call was too late, or the reply is an old one: then it is asked for again.
        """
        now_ms = self._decide_again(series, span, stop, is_dated=page.made_ms is not None)
        settling = feed.settling(series)
        settled_ms = settling.end_ms(now_ms)
        if settled_ms < span.end_ms:
            span = span.before(settled_ms)
            page = page._replace(candles=settling.settled(page.candles, now_ms).trim(span))
        if span and not _is_late(page, settling, span, stop):
            page = self._page(feed, series, span, stop, anew=True)
            if not _is_late(page, settling, span, stop):
                raise ReplyError(
                    f"a reply of {self.provider.name} was made {iso(page.made_ms or 0)}, before the candles until "
                    f"{iso(span.end_ms)} had settled; look for a proxy that stores replies"
                )
        return page, span

    def _decide_again(self, series: Series, span: Span, stop: Errand, *, is_dated: bool) -> int:
        """The provider's clock, read because of a reply that contradicts the call's instant by its date, or has none.

        Where that instant is later, the call goes by this clock from now on.
        """
        as_of = stop.as_of
        now_ms = self.now_ms(stop, series, is_doubted=is_dated and as_of is not None and as_of.is_checked)
        if as_of is None or now_ms < as_of.ms:
            stop.as_of = AsOf(now_ms, self._server_clock.moment().wall_s, is_checked=True)
        else:
            stop.as_of = as_of._replace(is_checked=True)
        if self.provider.feed(series.kind).settling(series).end_ms(now_ms) < span.end_ms:
            stop.doubts_clock = True
        return now_ms

    def page(self, series: Series, span: Span, stop: Errand) -> Page:
        """The candles of a span as the provider has them: checked, and looked at once."""
        feed = self.provider.feed(series.kind)
        pages = [self._page(feed, series, window, stop) for window in windows(feed, series, span)]
        return pages[0] if len(pages) == 1 else _join_pages(pages)

    def _page(
        self,
        feed: Feed,
        series: Series,
        span: Span,
        stop: Errand,
        within: Span | None = None,
        *,
        since_ms: int = -FOREVER_MS,
        anew: bool = False,
    ) -> Page:
        """The reply about the span, checked; where it is part of one that serves other spans too, that one, cut."""
        if not feed.is_whole and within is None:
            return self._whole_page(feed, series, span, stop)
        page = self._reply(feed, series, within or span, stop, since_ms=since_ms, anew=anew)
        return page._replace(candles=page.candles.trim(span))

    def _reply(
        self,
        feed: Feed,
        series: Series,
        span: Span,
        stop: Errand,
        *,
        since_ms: int = -FOREVER_MS,
        anew: bool = False,
    ) -> Page:
        """A reply that serves more than this span: it is asked for once in an errand, but to be had `anew`, or where
        it is older than `since_ms`."""
        call = feed.call(series, span, page_rows(feed, series.timeframe, span))
        return stop.replies.once(
            call,
            lambda: self._whole_page(feed, series, span, stop),
            stop,
            now_ms=self.estimated_ms(),
            since_ms=since_ms,
            anew=anew,
        )

    def _whole_page(self, feed: Feed, series: Series, span: Span, stop: Errand) -> Page:
        """One reply, checked; and what it had no room for: further pages, or two candles off the grid in one slot."""
        rows = page_rows(feed, series.timeframe, span)
        call = feed.call(series, span, rows)
        if feed.next_call is not None:
            return self._pages(feed, feed.next_call, series, call, span, stop)
        if feed.is_whole:
            return self._asked(feed, series, call, ALL_TIME, stop)
        page = self._asked(feed, series, call, span, stop, most=rows)
        candles = page.candles
        if candles.count >= rows and candles.count > len(set(series.timeframe.ordinals(candles.open_ms).tolist())):
            rest = Span(int(candles.open_ms[-1]) + 1, span.end_ms)
            if rest:
                return _join_pages([page, self._whole_page(feed, series, rest, stop)])
        return page

    def _pages(
        self,
        feed: Feed,
        next_call: Callable[[Call, bytes], Call | None],
        series: Series,
        call: Call,
        span: Span,
        stop: Errand,
    ) -> Page:
        """Every page of an answer, from the one that the call asks for on."""
        pages: list[Page] = []
        asked: set[Call] = set()
        more: Call | None = call
        while more is not None:
            if more in asked or len(asked) > _MOST_PAGES:
                raise ReplyError(f"page {len(asked) + 1} of {series.symbol} leads back to a page before")
            asked.add(more)

            def parse(body: bytes, sent: Call = more) -> tuple[Candles, int, Call | None]:
                candles = feed.parse(body, series)
                return check(candles, span), _final_ms(feed, body, candles), next_call(sent, body)

            heard: list[Heard] = []
            candles, final_ms, more = self.ask(more, parse, symbol=series.symbol, stop=stop, hear=heard.append)
            pages.append(self._page_of(candles, heard[-1], final_ms))
        if len(pages) == 1:
            return pages[0]
        joined = _join_pages(pages)
        return joined._replace(candles=check(joined.candles, span))

    def _served_ms(self, feed: Feed, series: Series, span: Span, stop: Errand) -> int:
        """The opening of the oldest candle that the provider serves; -FOREVER_MS where that is its first of all."""
        depth = feed.depth(series)
        if depth is None:
            return -FOREVER_MS
        opens = self._reply(feed, series, span, stop).candles.open_ms
        if len(opens) < depth - 1:  # the newest one may not be sent
            if not len(opens) or not feed.quiet_rows:
                return -FOREVER_MS
            # Rows may be lacking: only what begins well within the depth is the beginning.
            timeframe = series.timeframe
            if int(opens[0]) >= timeframe.open_ms(timeframe.ordinal(self.estimated_ms()) - depth + 2):
                return -FOREVER_MS
        return series.timeframe.floor_ms(int(opens[0]))

    def reach_ms(self, series: Series, now_ms: int) -> int:
        """Nothing that opens before is served any more, whatever is asked; -FOREVER_MS where the depth is no limit."""
        feed = self.provider.feed(series.kind)
        depth = feed.depth(series)
        if depth is None:
            return -FOREVER_MS
        # Where slots may have no row the newest rows reach further back: on no market twice as far.
        slots = depth + 1 if feed.quiet_rows else 2 * depth + 7
        return series.timeframe.open_ms(series.timeframe.ordinal(now_ms) - slots)

    def first_ms(self, series: Series, before: Span, stop: Errand) -> int | None:
        """When the first candle of the series opens; None where none opens after the start of `before`, an empty span.

        Returns a time before `before` where the series is older than it. A provider that answers windows only is asked
        for the window before, then window by window.
        """
        feed = self.provider.feed(series.kind)
        now_ms = self.estimated_ms()
        if not feed.tells_first(series):
            raise NotOffered(f"{self.provider.name} cannot be asked for its first candle of a series")
        if feed.is_whole:
            newest = Span(now_ms, now_ms + 1)
            if self._served_ms(feed, series, newest, stop) > -FOREVER_MS:
                raise NotOffered(
                    f"{self.provider.name} serves only the newest {feed.depth(series)} candles of {series.timeframe}, "
                    "which are not all; it cannot be asked for the first"
                )
            reply = self._reply(feed, series, newest, stop).candles
            return int(reply.open_ms[0]) if reply.count else None
        if feed.first_call is not None:
            call = feed.first_call(series)
            first = self._asked(feed, series, call, ALL_TIME.before(now_ms + DAY_MS), stop, most=1).candles
            return int(first.open_ms[0]) if first.count else None
        probe = series._replace(timeframe=parse_timeframe(feed.probe))
        window_ms = feed.window_ms or 200 * DAY_MS
        since_ms = max(before.start_ms, feed.since_ms)
        if since_ms > feed.since_ms:
            earlier = self._page(feed, probe, Span(since_ms - window_ms, since_ms), stop).candles
            if earlier.count:
                return int(earlier.open_ms[0])
        for start_ms in range(since_ms, now_ms, window_ms):
            day_ms = self._oldest_ms(feed, probe, Span(start_ms, min(start_ms + window_ms, now_ms)), stop)
            if day_ms is not None:
                timeframe = series.timeframe
                slot_ms = timeframe.floor_ms(day_ms)
                day = Span(slot_ms, max(day_ms + DAY_MS, timeframe.close_ms(slot_ms)))
                for window in windows(feed, series, day):
                    first_ms = self._oldest_ms(feed, series, window, stop)
                    if first_ms is not None:
                        return first_ms
                return day_ms
        return None

    def _oldest_ms(self, feed: Feed, series: Series, span: Span, stop: Errand) -> int | None:
        """When the first candle in the span opens; what lies before it has been seen empty, however short a reply
        was."""
        oldest_ms = None
        while span:
            candles = self._page(feed, series, span, stop).candles
            if not candles.count:
                break
            oldest_ms = int(candles.open_ms[0])
            span = Span(span.start_ms, oldest_ms)
        return oldest_ms

    def _asked(
        self, feed: Feed, series: Series, call: Call, span: Span, stop: Errand, *, most: int | None = None
    ) -> Page:
        """The reply's candles, every one of them in the span. More than `most` are those of another request."""
        heard: list[Heard] = []
        final_ms = FOREVER_MS

        def parse(body: bytes) -> Candles:
            nonlocal final_ms
            candles = feed.parse(body, series)
            final_ms = _final_ms(feed, body, candles)
            candles = check(candles, span)
            if most is not None and candles.count > most:
                raise ReplyError(f"{candles.count:,} candles came for a request of {most:,}")
            return candles

        candles = self.ask(call, parse, symbol=series.symbol, stop=stop, hear=heard.append)
        return self._page_of(candles, heard[-1], final_ms)

    def _page_of(self, candles: Candles, heard: Heard, final_ms: int) -> Page:
        made_ms = heard.made_ms
        if made_ms is None or abs(made_ms - self.estimated_ms()) > FARTHEST_MS:
            return Page(candles, None, heard, final_ms, not candles.count)  # a date of another year says nothing
        return Page(candles, made_ms + self._date_lag_ms, heard, final_ms, not candles.count)

    def last_ms(self, series: Series, end_ms: int, stop: Errand) -> int | None:
        """When the newest candle before the end opens; None where the provider has none there, or cannot be asked."""
        feed = self.provider.feed(series.kind)
        if feed.last_call is None:
            return None
        call = feed.last_call(series, end_ms)
        last = self._asked(feed, series, call, ALL_TIME.before(end_ms), stop, most=1).candles
        return int(last.open_ms[-1]) if last.count else None


def _least_limits(provider: Provider) -> Mapping[str, int]:
    """What one question for the limits and the candles of one chunk take, by kind: no limit can be lower."""
    if provider.describe is None or "candles" not in provider.feeds:
        return {}
    feed = provider.feeds["candles"]
    try:
        symbol = provider.provider_symbol("BTC/USDT", "candles")
        series = Series(provider.name, None, symbol, parse_timeframe(feed.timeframes[0]), "candles")
        calls = [provider.describe(symbol).call, *requests_for(feed, series, chunk_span(series.timeframe, 0))]
    except Exception:  # noqa: BLE001 - a provider of another package may have no such symbol
        return {}
    return {"weight": sum(call.cost for call in calls), "requests": len(calls)}


def _final_ms(feed: Feed, body: bytes, candles: Candles) -> int:
    """From where on the candles may still change, by the reply's own word."""
    return FOREVER_MS if feed.final_until is None else feed.final_until(body, candles)


def _is_late(page: Page, settling: Settling, span: Span, stop: Errand) -> bool:
    """Whether the reply was made after everything in the span had settled, as far as can be told.

    Its Date header tells; where there is none, the instant of the call does if the provider's clock was asked for it.
    """
    as_of, needed_ms = stop.as_of, settling.settles_ms(span.end_ms)
    is_due = as_of is not None and as_of.is_checked and needed_ms <= as_of.ms
    if page.made_ms is None:
        return is_due
    return needed_ms <= page.made_ms + (_HOSTS_MS if is_due else 0)


def _join_pages(pages: list[Page]) -> Page:
    made = [page.made_ms for page in pages]
    known = [made_ms for made_ms in made if made_ms is not None]
    return Page(
        join([page.candles for page in pages]),
        min(known) if len(known) == len(made) else None,
        pages[-1].heard,
        min(page.final_ms for page in pages),
        all(page.is_blank for page in pages),
    )


def _may_be_cut(hole: Span, span: Span, timeframe: Timeframe) -> bool:
    """Whether the hole may be what a short page left out: rows on both sides of it would say that it is not."""
    if hole.start_ms > span.start_ms and hole.end_ms < span.end_ms:
        return False
    return timeframe.first_slot(hole.end_ms) - timeframe.ordinal(hole.start_ms) >= _LARGE_HOLE


def _listed_part(
    timeframe: Timeframe, span: Span, candles: Candles, listed_ms: ListedMs
) -> tuple[Span, SourceError | None]:
    """Return the span from the listing on, where it begins with a hole that may lie before that; without the hole
    where that cannot be found out, and why."""
    holes = find_holes(candles.open_ms, timeframe, span)
    if not holes or holes[0].start_ms > span.start_ms:
        return span, None
    after = Span(holes[0].end_ms, span.end_ms)
    try:
        first_ms = listed_ms(holes[0], int(candles.open_ms[0]) if candles.count else None)
    except SourceError as error:
        if not candles.count:
            raise
        return after, error
    if first_ms is None or first_ms >= after.start_ms:
        return after, None
    if first_ms > span.start_ms:
        return Span(timeframe.floor_ms(first_ms), span.end_ms), None
    return span, None


def page_rows(feed: Feed, timeframe: Timeframe, span: Span) -> int:
    """How many rows to ask for: a row a slot, and not fewer than cost the same."""
    slots = timeframe.first_slot(span.end_ms) - timeframe.ordinal(span.start_ms)
    return min(feed.limit, max(slots, 99))


def windows(feed: Feed, series: Series, span: Span) -> Iterator[Span]:
    """The span in pieces that one call answers, cut at slots: at most `limit` rows and `window_ms` each; where calls
    are for fixed windows, cut at their borders."""
    timeframe, start_ms = series.timeframe, span.start_ms
    while start_ms < span.end_ms:
        slot = timeframe.ordinal(start_ms)
        stop = slot + feed.limit
        if feed.window_ms is not None:
            stop = min(stop, timeframe.ordinal(start_ms + feed.window_ms))
        end_ms = min(timeframe.open_ms(max(stop, slot + 1)), span.end_ms)
        fixed = feed.window(series, start_ms) if feed.window is not None else None
        if fixed is not None:
            end_ms = min(end_ms, fixed.end_ms)
        yield Span(start_ms, end_ms)
        start_ms = end_ms


def requests_for(feed: Feed, series: Series, span: Span) -> list[Call]:
    """The calls that a span costs where nothing is missing in it; for plans."""
    return [
        feed.call(series, window, page_rows(feed, series.timeframe, window)) for window in windows(feed, series, span)
    ]
