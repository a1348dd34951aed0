"""The work of `follow`: when which series is fetched, and what is handed out.

    stream -> take -> Ledger            due -> submit -> work (fetch, compare) -> outputs -> the user's loop

Every candle comes by the door of a fetch once it has settled, so that nothing depends on the stream: a candle is due by
the provider's clock. A series that could not be fetched is tried again for ever, and holds back none but itself.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from candle_fetcher.cache import CandleCache
from candle_fetcher.concurrency import CancelEvent
from candle_fetcher.core.candles import OHLCV
from candle_fetcher.core.errors import (
    About,
    AccessDenied,
    Banned,
    CandleFetcherError,
    CandleFetcherWarning,
    IncompleteData,
    InputError,
    ProviderRefused,
    RateLimited,
    complete_error,
    warn,
)
from candle_fetcher.core.events import Yielded
from candle_fetcher.core.finality import Settling
from candle_fetcher.core.frame import MANIFEST, index_ms, utc_index
from candle_fetcher.core.gap import iso
from candle_fetcher.core.live import CandleUpdate, QuoteUpdate
from candle_fetcher.core.plan import CHUNK_SLOTS, chunk_of, chunk_span
from candle_fetcher.core.ranges import instant_ms
from candle_fetcher.core.spans import Span
from candle_fetcher.live.door import Door, SeriesRequest, candles_of, store_streamed
from candle_fetcher.live.ledger import Ledger, Prices, agrees
from candle_fetcher.live.line import Wires
from candle_fetcher.live.working import Base, Work
from candle_fetcher.providers import Provider

# History is fetched and handed out in pieces of so many chunks of slots.
_PIECE_SLOTS = 100 * CHUNK_SLOTS
# So many frames of one series wait for the user's loop; then nothing more is fetched of it.
_MOST_OUTPUTS = 2
# The pauses after a fetch that brought nothing, and after one that failed, in seconds: they double up to the second.
_EMPTY_S, _FAILED_S = (0.25, 8.0), (0.5, 2.5)
_LONGEST_S = 300.0
# A host that fails is tried again so often.
_PROBE_S = 2.0
# Of each series' budget, the part that comparisons may take.
_SHARE = 0.5
# How often the scheduler looks at the end of the call.
_LOOK_S = 0.5
# Where the time of day falls behind the steady clock by so much between two looks, it was set back.
_SET_BACK_S = 1.0
# The shortest wait for a candle to settle.
_TICK_S = 0.00005
_MOST_TICKS = 200
# Where few series are followed, what was handed out is looked at so long before the next candle is due, so many times.
_FEW_LANES, _EVE_S, _LOOKS = 4, 0.003, 4
# After a candle was handed out, the user's loop gets the interpreter for so long, before candles are looked at again.
_HAND_OVER_S = 0.0005
# After so many seconds, one after the other, a correction is looked for again that REST does not have yet.
_RECALL_S = (5.0, 30.0, 180.0)
# A stream that closes a candle so long after its end is late, which is said once for each series.
_LATE_MS = 30_000


class Caching(Base, Protocol):
    """What a fetcher has for `follow`."""

    @property
    def cache(self) -> CandleCache: ...


class FollowOptions(NamedTuple):
    """The arguments of `follow` that all its series share."""

    timeframe: str
    provider: str | Provider | None = None
    kind: str = "candles"
    include_open: bool = False
    revisions: bool = False
    max_delay_s: float | None = None


@dataclass
class Lane:
    """One followed series: its symbol as it was given, its request, its ledger, and the frames to be handed out."""

    symbol: str
    wanted: SeriesRequest
    ledger: Ledger
    starts_now: bool = False
    outputs: deque[pd.DataFrame] = field(default_factory=deque)
    is_streamed: bool = False
    is_busy: bool = False
    due_ms: float = 0.0  # by the provider's clock
    look_ms: float = math.inf  # when candles that were handed out are read once more, though no other one is due
    recall_ms: float = math.inf  # the same of candles that were corrected long after they were handed out
    recalls: int = 0  # in a row, without seeing the correction
    tries: int = 0  # in a row, without a new candle
    waits_since_s: float | None = None  # since when the next candle is due in vain
    forming_shown: CandleUpdate | None = None
    is_shown: bool = False  # the forming candle waits for the user's loop
    is_live: bool = False  # history is done
    is_late: bool = False  # its stream closes candles late, which was said
    is_clock_doubted: bool = False
    is_prepared: bool = False  # what was handed out was looked at right before the next candle is due
    asked_ms: int = 0  # when the newest request was sent, at the earliest
    problem: Exception | None = None

    def now_ms(self) -> int:
        """Return the provider's clock as far as it is known."""
        return self.wanted.source.estimated_ms()


class Follower(Work):
    """The lanes of one call of `follow`, which hears its streams."""

    def __init__(self, base: Caching, door: Door, options: FollowOptions, wires: Wires) -> None:
        super().__init__(base)
        self._cache = base.cache
        self._door = door
        self.options = options
        self.wires = wires
        self.lanes: list[Lane] = []
        self._ready: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over ledgers and the flags of lanes
        self._wake = CancelEvent()
        self._probed_s: dict[int, float] = {}  # by source
        self._apart_s = wires.wall_s() - wires.steady_s()
        self.doubt: Callable[[Lane], object] = lambda lane: None  # has a stream checked from which nothing comes

    # -- lanes --------------------------------------------------------------------------------------------------------

    def add(self, symbol: str, wanted: SeriesRequest, start_ms: int | None) -> Lane:
        """Add a series, of which the first candle handed out opens at that time or later; None: the next to close."""
        settling = self._settling(wanted)
        streams = wanted.source.provider.streams
        timeframe = wanted.timeframe
        first_ms = 0 if start_ms is None else timeframe.open_ms(timeframe.first_slot(start_ms))
        ledger = Ledger(settling, first_ms, marks_closed=streams is None or streams.marks_closed)
        lane = Lane(symbol, wanted, ledger, starts_now=start_ms is None)
        self.lanes.append(lane)
        return lane

    def _settling(self, wanted: SeriesRequest) -> Settling:
        corrections = self._cache.facts.corrections(wanted.series)
        settling = wanted.feed.settling(wanted.series, corrections.at(wanted.source.estimated_ms()))
        return settling.of(wanted.timeframe)

    def share_budget(self) -> None:
        """Decide how many closings of a series one comparison is for, so that comparisons stay in a part of the
        provider's budget."""
        for source in {id(lane.wanted.source): lane.wanted.source for lane in self.lanes}.values():
            mine = [lane for lane in self.lanes if lane.wanted.source is source]
            per_s = 0.0
            for lane in mine:
                timeframe = lane.wanted.timeframe
                now_ms = lane.now_ms()
                call = lane.wanted.feed.call(lane.wanted.series, Span(now_ms, now_ms + 1), 3)
                per_s += call.cost * 1000 / timeframe.nominal_ms
            limits = [limit for limit in source.provider.default_limits if limit.kind == "weight"]
            allowed = min((limit.cost / limit.interval_s for limit in limits), default=1.0) * _SHARE
            for lane in mine:
                is_native = lane.wanted.series.timeframe == lane.wanted.timeframe
                if lane.is_streamed and is_native:
                    lane.ledger.every = max(1, -int(-per_s // allowed))

    def prime(self, lane: Lane, *, from_first: bool) -> None:
        """Fetch the newest candle of the lane, so that the provider's clock is known, and find where the lane begins.

        Raises what no waiting heals: an unknown symbol, a missing key, a refusal.
        """
        ledger, timeframe = lane.ledger, lane.wanted.timeframe
        settling = ledger.settling
        end_ms = settling.end_ms(lane.now_ms())
        newest = Span(timeframe.open_ms(timeframe.ordinal(end_ms) - 1), end_ms)
        try:
            self.run_call(lambda: self._fetch(lane, newest))
        except (InputError, AccessDenied, ProviderRefused):
            raise
        except CandleFetcherError:
            self.stats.requests_failed += 1  # it is tried again
        if lane.starts_now:
            ledger.begin(timeframe.floor_ms(settling.over_ms(lane.now_ms())))
        elif from_first:
            options = self.options
            first_ms = self.run_call(lambda: self._door.first_ms(lane.symbol, options.provider, options.kind))
            ledger.begin(timeframe.floor_ms(first_ms))
        lane.is_live = ledger.next_ms >= settling.end_ms(lane.now_ms())
        lane.due_ms = self._next_due_ms(lane)

    # -- the streams --------------------------------------------------------------------------------------------------

    def heard(self, lane: Lane, event: CandleUpdate | QuoteUpdate, now_s: float) -> None:
        """Take an update of a stream."""
        if type(event) is not CandleUpdate:
            return
        ledger, wakes = lane.ledger, False
        with self._lock:
            held = ledger.forming
            if not ledger.hear(event):
                return
            if event.is_closed:
                if not (lane.is_late or event.is_correction or event.open_ms < ledger.heard_from_ms):
                    late_ms = lane.now_ms() - ledger.settling.close_ms(event.open_ms)
                    if late_ms >= _LATE_MS:
                        lane.is_late = True
                        self.tell(_warn_of_late, lane.wanted.label, late_ms / 1000)
                if ledger.doubts(event):
                    now_ms = float(lane.now_ms())
                    if event.open_ms in ledger.corrected:
                        lane.recall_ms, lane.recalls = now_ms, 0
                    else:
                        lane.look_ms = now_ms
                    lane.due_ms = min(lane.due_ms, now_ms)
                    wakes = True
                elif lane.tries or ledger.every > 1:
                    lane.due_ms = min(lane.due_ms, self._next_due_ms(lane))
                    wakes = True
            else:
                self.stats.merged += held is not None and held.open_ms == event.open_ms
            shows = self.options.include_open and not event.is_closed and lane.is_live and not lane.is_shown
            lane.is_shown = lane.is_shown or shows
        if wakes:
            self._wake.set()
        if shows:
            self._ready.put(lane)

    def connected(self, lane: Lane, topic: str, now_s: float) -> None:
        """Note that a stream delivers from now on."""
        with self._lock:
            lane.ledger.connected(lane.now_ms())
            if lane.tries:  # the network is back
                lane.due_ms = min(lane.due_ms, lane.now_ms())
                self._wake.set()

    def disconnected(self, lane: Lane, topic: str, now_s: float) -> None:
        """Note that a stream is lost."""
        with self._lock:
            lane.ledger.disconnected()

    def refused(self, lane: Lane, topic: str, error: Exception) -> None:
        """Note that the candles of a lane come by requests alone."""
        self.disconnected(lane, topic, 0.0)
        lane.ledger.every = 1
        lane.is_streamed = False
        self.tell(_warn_of_polling, lane.wanted.label, error)

    # -- when ---------------------------------------------------------------------------------------------------------

    def _next_due_ms(self, lane: Lane) -> float:
        if lane.is_clock_doubted:
            return -math.inf
        return min(float(lane.ledger.settles_ms()), lane.look_ms, lane.recall_ms)

    def run(self, submit: Callable[[Callable[[], None]], object]) -> None:
        """Hand the lanes that are due to threads, until `stop` is set."""
        while not self.stop.is_set():
            wait_s = self.schedule(submit)
            # The clock has whole milliseconds: the last one is waited for in parts.
            self.wires.wait(self._wake, min(_LOOK_S, max(_TICK_S, wait_s - 0.001)))
            self._wake.clear()

    def schedule(self, submit: Callable[[Callable[[], None]], object]) -> float:
        """Hand over the lanes that are due, and return the seconds until the next one is."""
        wait_s = _LOOK_S
        self._look_at_clocks()
        for lane in self.lanes:
            if lane.is_busy or len(lane.outputs) >= _MOST_OUTPUTS:
                continue
            left_s = (lane.due_ms - lane.now_ms()) / 1000
            if lane.is_live and not lane.is_prepared and len(self.lanes) <= _FEW_LANES:
                left_s -= _EVE_S
            if left_s <= 0:
                lane.is_busy = True
                submit(lambda lane=lane: self.work(lane))  # type: ignore[misc]
            else:
                wait_s = min(wait_s, left_s)
        return wait_s

    def _look_at_clocks(self) -> None:
        """Have the provider's clock read where this machine's was set back: by what is known of it, no candle would be
        due before that time has passed again."""
        before_s, self._apart_s = self._apart_s, self.wires.wall_s() - self.wires.steady_s()
        if before_s - self._apart_s >= _SET_BACK_S:
            for lane in self.lanes:
                lane.is_clock_doubted, lane.due_ms = True, -math.inf

    # -- what ---------------------------------------------------------------------------------------------------------

    def work(self, lane: Lane) -> None:
        """Do what is due of a lane, and note when it is due next."""
        try:
            self.run_call(lambda: self._work(lane))
        except BaseException as error:  # noqa: BLE001 - the user's loop raises what waiting does not heal
            self._note_failure(lane, error)
        finally:
            lane.is_busy = False
            self._wake.set()

    def _work(self, lane: Lane) -> None:
        if lane.is_clock_doubted:
            self._door.read_clock(lane.wanted)
            lane.is_clock_doubted = False
            lane.due_ms = self._next_due_ms(lane)
        if lane.due_ms > lane.now_ms() and not self._prepare(lane):
            return
        ledger, now_ms = lane.ledger, lane.now_ms()
        lane.is_prepared, lane.asked_ms = False, now_ms
        is_settled = now_ms >= ledger.settles_ms()
        is_looked_at, lane.look_ms = lane.look_ms <= now_ms, math.inf
        if is_looked_at and not is_settled:
            lane.due_ms = self._next_due_ms(lane)
            with suppress(CandleFetcherError):  # the next request reads them, too
                # Up to the end of what is stored: only then that counts as read by now.
                end_ms = max(ledger.next_ms, lane.wanted.feed.settling(lane.wanted.series).end_ms(now_ms))
                if self._door.read_again(lane.wanted, Span(ledger.check_from_ms(), end_ms)):
                    self._look_again(lane, now_ms)
        if lane.recall_ms <= now_ms:
            self._read_corrected(lane)
            lane.due_ms = self._next_due_ms(lane)
        if not is_settled and lane.due_ms > now_ms:
            return
        with self._lock:
            streamed = ledger.streamed(now_ms)
        if streamed:
            self._hand_streamed(lane, streamed, now_ms)
            lane.tries, lane.waits_since_s, lane.due_ms = 0, None, self._next_due_ms(lane)
            return
        handed = self._fetch_new(lane)
        if handed and lane.is_live:
            self.wires.wait(self.stop, _HAND_OVER_S)
        self._look_again(lane, now_ms)
        self._note_done(lane, handed)

    def _prepare(self, lane: Lane) -> bool:
        """Look at the candles that were handed out right before the next one is due, and wait for it: what a fetch
        needs lies in the caches of the processor then. Return whether it is due."""
        lane.is_prepared = True
        for tick in range(_MOST_TICKS):
            left_s = (lane.due_ms - lane.now_ms()) / 1000
            if not tick or (tick < _LOOKS and left_s > 0.001):
                with suppress(CandleFetcherError):  # the next candle does not wait; it is looked at again after it
                    self._look_again(lane, lane.asked_ms)
            elif left_s <= 0 or self.wires.wait(self.stop, max(_TICK_S, left_s - 0.001)):
                break
        return lane.due_ms <= lane.now_ms()

    def _fetch_new(self, lane: Lane) -> bool:
        """Fetch what has settled, hand it out, and return whether there was any."""
        ledger = lane.ledger
        while True:
            now_ms = lane.now_ms()
            start_ms, settled_ms = ledger.next_ms, ledger.settled_end_ms(now_ms)
            timeframe = lane.wanted.timeframe
            piece_ms = timeframe.open_ms((timeframe.ordinal(start_ms) // _PIECE_SLOTS + 1) * _PIECE_SLOTS)
            end_ms = min(settled_ms, piece_ms)
            if start_ms >= end_ms:
                lane.is_live = True
                return False
            frame = self._fetch(lane, Span(start_ms, end_ms))
            until_ms = min(end_ms, _end_of(frame, end_ms))
            self._hand_out(lane, frame, until_ms, now_ms)
            lane.is_live = lane.is_live or end_ms == settled_ms
            if len(frame) or until_ms <= start_ms:
                return until_ms > start_ms
            if until_ms >= settled_ms:
                return True

    def _fetch(self, lane: Lane, span: Span, source: str | None = None) -> pd.DataFrame:
        options = self.options
        return self._door.frame(lane.symbol, options.timeframe, options.provider, options.kind, span, source)

    def _read_corrected(self, lane: Lane) -> None:
        """Have candles read once more that were corrected long after they were handed out, as the stream says, and hand
        them out. REST may have the correction later than the stream, so that it is asked again a few times."""
        ledger, timeframe = lane.ledger, lane.wanted.timeframe
        with self._lock:
            said, pause_s = ledger.take_corrected(), _RECALL_S[min(lane.recalls, len(_RECALL_S) - 1)]
            lane.recall_ms = math.inf
        try:
            for chunk in sorted({chunk_of(timeframe, open_ms) for open_ms in said}):
                span = chunk_span(timeframe, chunk).clip(Span(ledger.first_ms, ledger.next_ms))
                known: dict[int, Prices] = {}
                with suppress(CandleFetcherError):
                    known.update(_rows_of(self._fetch(lane, span, "cache")))
                if not self._door.read_again(lane.wanted, span):
                    break
                frame = self._fetch(lane, span)
                # Another follower of the series may have brought the correction into the cache before.
                changed = [
                    open_ms
                    for open_ms, prices in _rows_of(frame)
                    if open_ms in said
                    and (agrees(said[open_ms], prices) or not agrees(known.get(open_ms, prices), prices))
                ]
                self._hand_revised(lane, frame, changed)
                for open_ms in changed:
                    del said[open_ms]
            else:
                lane.recalls += 1
        except CandleFetcherError:
            pass
        if said and lane.recalls <= len(_RECALL_S):
            with self._lock:
                ledger.corrected = said | ledger.corrected
                lane.recall_ms = min(lane.recall_ms, lane.now_ms() + 1000 * pause_s)

    def _hand_out(self, lane: Lane, frame: pd.DataFrame, until_ms: int, asked_ms: int) -> None:
        ledger, was_live = lane.ledger, lane.is_live
        rows = _rows_of(frame)  # before the user's loop can change the frame
        with self._lock:
            found = ledger.compare(rows, asked_ms, until_ms)
            ledger.advance(until_ms)
            stats = self.stats
            stats.candles += len(rows)
            stats.confirmed += found.confirmed
            stats.differing += found.differing
            stats.backfilled += found.unheard if was_live else 0
        if rows:  # once no forming candle can be shown after it
            self._put(lane, frame, "closed", lane.now_ms())
        if was_live and lane.is_streamed and found.unheard:
            self._base.observe(Yielded(lane.wanted.label, "filled", found.unheard, 0.0))

    def _hand_streamed(self, lane: Lane, updates: Sequence[CandleUpdate], now_ms: int) -> None:
        until_s = self._base.clock() + lane.wanted.timeframe.nominal_ms / 1000
        store_streamed(self._cache, lane.wanted, updates, now_ms, until_s)
        frame = _frame_of(updates, lane)
        with self._lock:
            lane.ledger.hand_streamed(updates)
            self.stats.candles += len(updates)
            self.stats.unconfirmed += len(updates)
        lane.is_live = True
        self._put(lane, frame, "closed", now_ms)

    def _look_again(self, lane: Lane, asked_ms: int) -> None:
        """Compare what was handed out lately with what the cache has of it, of requests since `asked_ms`, and hand out
        what changed."""
        ledger = lane.ledger
        start_ms = ledger.check_from_ms()
        if start_ms >= ledger.next_ms:
            return
        frame = self._fetch(lane, Span(start_ms, ledger.next_ms))
        ledger.settling = self._settling(lane.wanted)  # it may be known better now, also by another series
        with self._lock:
            changed, found = ledger.corrections(_rows_of(frame), asked_ms)
            self.stats.confirmed += found.confirmed
            self.stats.differing += found.differing
            self.stats.unconfirmed -= found.confirmed + found.differing
        self._hand_revised(lane, frame, changed)

    def _hand_revised(self, lane: Lane, frame: pd.DataFrame, changed: Sequence[int]) -> None:
        """Hand out the candles of a frame that changed after they were handed out, given their open times."""
        if not changed:
            return
        self.stats.revised += len(changed)
        self._base.observe(Yielded(lane.wanted.label, "revised", len(changed), 0.0))
        if self.options.revisions:
            self._put(lane, frame[np.isin(index_ms(frame), changed)].copy(), "revised", lane.now_ms())

    def _put(self, lane: Lane, frame: pd.DataFrame, kind: str, now_ms: int) -> None:
        """Hand the frame over to the user's loop."""
        if self.options.include_open:
            frame["is_closed"] = True
        if self.options.revisions:
            frame["is_revised"] = kind == "revised"
        lag_s = 0.0
        if lane.is_live and len(frame) and kind == "closed":
            lag_s = max(0, now_ms - lane.ledger.settling.close_ms(int(index_ms(frame)[-1]))) / 1000
            self.stats.note_lag(lag_s)
        lane.outputs.append(frame)
        self._ready.put(lane)
        if kind == "closed" and lane.is_live:
            self._base.observe(Yielded(lane.wanted.label, kind, len(frame), lag_s))

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _note_done(self, lane: Lane, handed: bool) -> None:
        ledger, now_ms = lane.ledger, lane.now_ms()
        lane.problem = None
        if handed or ledger.settles_ms() > now_ms:
            lane.tries, lane.waits_since_s = 0, None
            with self._lock:  # the stream may have doubted a candle meanwhile
                lane.look_ms = min(lane.look_ms, self._look_ms(lane))
                lane.due_ms = self._next_due_ms(lane)
        else:
            self._wait_again(lane, _EMPTY_S)
            if self._is_quiet(lane):  # its row would be late, and the stream would wake the lane
                settling = ledger.settling
                close_ms = settling.slot_close_ms(settling.timeframe.ordinal(ledger.next_ms))
                lane.due_ms = max(lane.due_ms, close_ms + settling.finality.late_rows_ms)
        if ledger.is_silent() and lane.is_streamed:
            self.doubt(lane)

    def _is_quiet(self, lane: Lane) -> bool:
        """Return whether there seems to have been no trade in the next candle: a stream that would have closed it said
        nothing, and without trades there is no candle."""
        ledger = lane.ledger
        is_silent = ledger.heard_from_ms <= ledger.next_ms and ledger.next_ms not in ledger.closings
        return lane.is_streamed and is_silent and not lane.wanted.feed.has_empty_bars

    def _look_ms(self, lane: Lane) -> float:
        """Return when candles that were handed out soon after their close are read once more: once they can be
        confirmed, unless the request for the next candle comes before, or requests are counted by the day."""
        finality = lane.ledger.settling.finality
        if finality.spares_edge or lane.ledger.every > 1 or not lane.ledger.handed:
            return math.inf
        settling = lane.ledger.settling
        look_ms = settling.close_ms(max(lane.ledger.handed)) + settling.confirm_ms
        return look_ms if look_ms < lane.ledger.settles_ms() else math.inf

    def _note_failure(self, lane: Lane, error: BaseException) -> None:
        """Note when a lane is tried again after a fetch that failed. What is no error of the library is raised in the
        user's loop."""
        if isinstance(error, CancelledError) and self.stop.is_set():
            return
        self.stats.requests_failed += 1
        source, now_s = lane.wanted.source, self.wires.steady_s()
        if now_s - self._probed_s.get(id(source), -_PROBE_S) >= _PROBE_S:
            # One lane looks whether a host that failed is back; the others find it closed until it is.
            self._probed_s[id(source)] = now_s
            for host in source.hosts:
                source.gate.ok(host)
        if self._base.is_closed or not isinstance(error, CandleFetcherError):
            self.raise_later(error)
            self.end()
            return
        lane.problem = error
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        self._wait_again(lane, _FAILED_S, None if isinstance(error, Banned) and not asked_s else asked_s)

    def _wait_again(self, lane: Lane, pauses: tuple[float, float], asked_s: float | None = None) -> None:
        first_s, most_s = pauses
        pause_s = min(most_s, first_s * 2.0 ** min(lane.tries, 20)) * (0.75 + self.wires.random() / 2)
        lane.tries += 1
        lane.due_ms = lane.now_ms() + 1000 * max(pause_s, min(asked_s or 0.0, _LONGEST_S))
        now_s, limit_s = self.wires.steady_s(), self.options.max_delay_s
        if lane.waits_since_s is None:
            lane.waits_since_s = now_s
        elif limit_s is not None and now_s - lane.waits_since_s > limit_s:
            lane.waits_since_s = now_s
            problem = lane.problem
            refusals = (problem,) if isinstance(problem, CandleFetcherError) else ()
            why = f": {problem.reason}" if isinstance(problem, CandleFetcherError) else ""
            error = IncompleteData(
                f"{lane.wanted.label} from {iso(lane.ledger.next_ms)} on has not come within {limit_s:g} s{why}",
                refusals=[one for one in refusals if not isinstance(one, IncompleteData)],  # type: ignore[misc]
            )
            error.__cause__ = problem
            wanted = lane.wanted
            complete_error(error, About(wanted.series.provider, wanted.symbol, wanted.timeframe.name))
            self.raise_later(error)

    # -- the user's loop ----------------------------------------------------------------------------------------------

    def next(self, timeout_s: float) -> tuple[str, pd.DataFrame] | None:
        """Return the next frame with its symbol; None where there is none within the time."""
        try:
            lane = self._ready.get(timeout=timeout_s) if timeout_s > 0 else self._ready.get_nowait()
        except queue.Empty:
            return None
        if lane is None:
            return None
        frame = None
        with suppress(IndexError):  # another thread may take the last one
            frame = lane.outputs.popleft()
        if frame is not None:
            if len(lane.outputs) < _MOST_OUTPUTS:
                self._wake.set()
            return lane.symbol, frame
        return self._forming(lane)

    def _forming(self, lane: Lane) -> tuple[str, pd.DataFrame] | None:
        """Return the forming candle, if it is another one than the last shown and no closed one is before it."""
        with self._lock:
            lane.is_shown = False
            update = lane.ledger.forming
            timeframe = lane.wanted.timeframe
            if update is None or update is lane.forming_shown:
                return None
            if timeframe.ordinal(update.open_ms) != timeframe.ordinal(lane.ledger.next_ms):
                return None
            lane.forming_shown = update
        frame = _frame_of([update], lane)
        frame["is_closed"] = False
        if self.options.revisions:
            frame["is_revised"] = False
        return lane.symbol, frame

    def end(self) -> None:
        """Break off what is under way."""
        super().end()
        self._wake.set()
        self._ready.put(None)


def _warn_of_polling(label: str, error: Exception) -> None:
    warn(CandleFetcherWarning(f"{label} does not come by stream ({error}); its candles come by requests"))


def _warn_of_late(label: str, late_s: float) -> None:
    what = f"the stream of {label} closed a candle {late_s:,.0f} s after its end"
    warn(CandleFetcherWarning(f"{what}; candles that are late come by requests, and this is said once"))


def _end_of(frame: pd.DataFrame, end_ms: int) -> int:
    """Return up to where the frame says everything; a hole that may be a late row is not in it."""
    end = frame.attrs.get(MANIFEST, {}).get("end")
    return end_ms if end is None else instant_ms(end, "end")


def _rows_of(frame: pd.DataFrame) -> list[tuple[int, Prices]]:
    """Return the open times and prices of a frame with the columns of `ohlcv`; open times alone of other rows."""
    values: Any = frame.to_numpy() if len(frame.columns) == len(OHLCV) else np.empty((len(frame), 0))
    return list(zip(index_ms(frame).tolist(), map(tuple, values.tolist()), strict=True))


def _frame_of(updates: Sequence[CandleUpdate], lane: Lane) -> pd.DataFrame:
    """Return the candles as a stream says them, with the facts of their series in place of a manifest."""
    wanted = lane.wanted
    candles = candles_of(updates, wanted.feed.columns)
    frame = pd.DataFrame(
        {name: candles.floats(name).copy() for name in OHLCV if name in candles.names},
        index=utc_index(candles.open_ms, "timestamp"),
    )
    series = wanted.series
    facts = {"provider": series.provider, "origin": series.origin, "symbol": wanted.symbol, "kind": series.kind}
    frame.attrs[MANIFEST] = {**facts, "timeframe": wanted.timeframe.name, "rows": len(frame)}
    return frame
