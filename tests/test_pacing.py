"""Retry, Retry-After, the Limiter against simulated exchanges in simulated time, and the HostGate."""

from __future__ import annotations

import heapq
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candle_fetcher.core.call import Limit, parse_retry_after
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.events import Event, Waited
from candle_fetcher.net.pacing import HostGate, Limiter, Retry, State, Window

START_MS = 1_700_000_040_000  # the first instant of a minute
MINUTE_MS = 60_000
NOW_MS = START_MS + 10_000


class World:
    """A clock that only moves when somebody waits, and things that happen on the way."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms
        self.waits: list[float] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, ms: int, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (ms, next(self._numbers), happens))

    def advance(self, ms: int) -> None:
        end = self.now_ms + ms
        while self._events and self._events[0][0] <= end:
            when, _, happens = heapq.heappop(self._events)
            self.now_ms = max(self.now_ms, when)
            happens()
        self.now_ms = end

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.advance(round(seconds * 1000))
        return stop.is_set()


def make(world: World, *limits: Limit, events: list[Event] | None = None) -> Limiter:
    return Limiter(
        provider="fake",
        limits=limits,
        now_ms=lambda: world.now_ms,
        wait=world.wait,
        observe=(lambda event: None) if events is None else events.append,
    )


GO = threading.Event()  # never set


# Retry


def test_waits_double_up_to_a_cap_and_end_with_the_retries() -> None:
    retry = Retry(max_retries=5, base_s=0.5, cap_s=4)
    assert [retry.wait_s(attempt, None, random=1.0) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 4, None]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_gap_is_never_below_half_of_what_was_planned(attempt: int, random: float) -> None:
    planned = Retry(max_retries=10_000).wait_s(attempt, None, random=1.0)
    wait_s = Retry(max_retries=10_000).wait_s(attempt, None, random=random)
    assert planned is not None
    assert wait_s is not None
    assert planned / 2 <= wait_s <= planned <= 30


@pytest.mark.parametrize(("asked_s", "wait_s"), [(7.0, 7.0), (300.0, 300.0), (301.0, None), (float("inf"), None)])
def test_what_the_server_asks_for_wins_unless_it_is_too_long(asked_s: float, wait_s: float | None) -> None:
    assert Retry().wait_s(1, asked_s, random=0.0) == wait_s


def test_a_pause_that_is_already_over_leaves_the_backoff() -> None:
    assert Retry().wait_s(1, 0.0, random=0.0) == 0.25


def test_without_retries_nothing_is_sent_again() -> None:
    assert Retry(max_retries=0).wait_s(1, 1.0, random=0.5) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("86400", 86400.0),
        ("1e20", 1e9),
        ("9" * 400, 1e9),
        (formatdate(1_000_060, usegmt=True), 60.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("Mon, 12 Jan 1970 13:47:40 -0000", 60.0),
        (None, None),
        ("", None),
        ("  ", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1_0", None),
        ("12 s", None),
        ("Mon, 99 Jan 1970 13:47:40 GMT", None),
    ],
)
def test_retry_after_is_read_or_it_is_nothing(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, 1_000_000.0) == seconds


# Limiter: the budget


class Exchange:
    """Counts weight in whole minutes of its own clock; replies after a while, with the used weight."""

    def __init__(self, world: World, *, offset_ms: int = 0, others: int = 0, has_header: bool = True) -> None:
        self.world = world
        self.offset_ms = offset_ms
        self.has_header = has_header
        self.others = others  # spent by another program, in each minute
        self.used: Counter[int] = Counter()

    def send(self, limiter: Limiter, cost: int, there_ms: int, back_ms: int) -> None:
        ticket = limiter.acquire(cost, stop=GO)
        seen: list[int] = []

        def arrive() -> None:
            minute = (self.world.now_ms + self.offset_ms) // MINUTE_MS
            self.used[minute] += cost
            seen.append(self.used[minute] + self.others)

        def reply() -> None:
            limiter.release(ticket, used=seen[0] if self.has_header else None)

        now = self.world.now_ms
        self.world.at(now + there_ms, arrive)
        self.world.at(now + there_ms + back_ms, reply)


@settings(max_examples=40, deadline=None)
@given(
    offset_ms=st.integers(-90, 90),
    begins_ms=st.integers(0, MINUTE_MS),
    has_header=st.booleans(),
    limit=st.sampled_from([10, 60, 600]),
    random=st.randoms(use_true_random=False),
)
def test_a_whole_minute_of_the_exchange_is_never_overdrawn(
    offset_ms: int, begins_ms: int, has_header: bool, limit: int, random: Random
) -> None:
    world = World(START_MS + begins_ms)
    exchange = Exchange(world, offset_ms=offset_ms, has_header=has_header)
    limiter = make(world, Limit(limit, 60))
    for _ in range(limit):
        exchange.send(limiter, random.choice([1, 2, 5]), random.randint(1, 400), random.randint(1, 400))
        world.advance(random.choice([0, 1, 30]))
    world.advance(MINUTE_MS)
    assert max(exchange.used.values()) <= limit


@pytest.mark.parametrize("has_header", [True, False])
def test_a_long_download_uses_nearly_the_whole_limit(has_header: bool) -> None:
    world = World()
    exchange = Exchange(world, has_header=has_header)
    limiter = make(world, Limit(6000, 60))
    for _ in range(9000):
        exchange.send(limiter, 2, 20, 20)
        world.advance(2)
    whole = [exchange.used[minute] for minute in sorted(exchange.used)[1:-1]]
    assert whole
    assert min(whole) >= 0.95 * 6000
    assert max(whole) <= 6000


def test_a_burst_inside_the_budget_goes_out_at_once() -> None:
    world = World(START_MS + 30_000)
    limiter = make(world, Limit(6000, 60), Limit(300_000, 300, "requests"))
    for _ in range(2900):
        limiter.release(limiter.acquire(2, stop=GO))
    assert world.waits == []


def test_a_spent_budget_waits_for_the_next_minute_and_says_so() -> None:
    world = World(START_MS + 30_000)
    events: list[Event] = []
    limiter = make(world, Limit(10, 60), events=events)
    for _ in range(11):
        limiter.release(limiter.acquire(1, stop=GO))
    assert events == [Waited("fake", "budget", 30.1)]
    assert world.now_ms == START_MS + MINUTE_MS + 100


def test_the_used_weight_of_other_programs_counts() -> None:
    world = World()
    limiter = make(world, Limit(100, 60))
    limiter.release(limiter.acquire(1, stop=GO), used=98)
    limiter.acquire(1, stop=GO)
    assert world.waits == [50.1]


def test_a_smaller_number_in_the_header_never_lowers_the_count() -> None:
    world = World()
    limiter = make(world, Limit(100, 60))
    tickets = [limiter.acquire(2, stop=GO) for _ in range(49)]
    for ticket in reversed(tickets):
        limiter.release(ticket, used=2)
    limiter.acquire(1, stop=GO)
    assert world.waits == [50.1]


def test_a_header_of_the_minute_before_does_not_block_the_new_one() -> None:
    world = World(START_MS + 59_990)
    limiter = make(world, Limit(100, 60))
    ticket = limiter.acquire(2, stop=GO)
    world.advance(200)
    limiter.release(ticket, used=100)
    for _ in range(40):
        limiter.release(limiter.acquire(2, stop=GO))
    assert world.waits == []


def test_calls_are_counted_beside_their_weight() -> None:
    world = World(NOW_MS + 500)
    limiter = make(world, Limit(6000, 60), Limit(3, 1, "requests"))
    for _ in range(9):
        limiter.release(limiter.acquire(1, stop=GO))
    assert world.waits == [0.55, 1.0]


def test_a_call_as_large_as_the_limit_can_be_sent() -> None:
    world = World()
    limiter = make(world, Limit(100, 60))
    limiter.release(limiter.acquire(1, stop=GO))
    limiter.release(limiter.acquire(100, stop=GO))
    assert len(world.waits) == 1


def test_a_call_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(RateLimited, match="weight 11 can never be sent; the limit is 10 in 60 s"):
        make(World(), Limit(10, 60)).acquire(11, stop=GO)


def test_a_budget_that_comes_back_tomorrow_is_an_error_not_a_wait() -> None:
    world = World()
    limiter = make(world, Limit(25, 86_400, "requests"))
    for _ in range(25):
        limiter.release(limiter.acquire(1, stop=GO))
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(1, stop=GO)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 300


def test_new_limits_keep_what_was_spent() -> None:
    world = World()
    limiter = make(world, Limit(10, 60))
    for _ in range(5):
        limiter.release(limiter.acquire(1, stop=GO))
    limiter.set_limits([Limit(6, 60)])
    limiter.acquire(1, stop=GO)
    assert world.waits == []
    limiter.acquire(1, stop=GO)
    assert len(world.waits) == 1


def test_tickets_that_never_come_back_block_for_two_minutes_at_most() -> None:
    world = World()
    limiter = make(world, Limit(10, 60))
    for _ in range(20):
        limiter.acquire(1, stop=GO)  # its process died
    assert world.now_ms < START_MS + 3 * MINUTE_MS


@given(st.lists(st.integers(-3_600_000, 3_600_000), min_size=1, max_size=6), st.integers(0, 60_000))
def test_a_clock_that_steps_makes_no_wait_longer_than_a_minute(steps_ms: list[int], begins_ms: int) -> None:
    world = World(START_MS + begins_ms)
    limiter = make(world, Limit(10, 60))
    for step_ms in steps_ms:
        for _ in range(10):
            limiter.release(limiter.acquire(1, stop=GO))
        limiter.hold(20)
        world.now_ms += step_ms
        count = len(world.waits)
        limiter.release(limiter.acquire(1, stop=GO))
        assert max(world.waits[count:], default=0) <= 60.1
        assert len(world.waits) - count <= 3  # the hold, the border, a minute


def test_what_a_limiter_remembers_survives_json() -> None:
    world = World()
    limiter = make(world, Limit(10, 60))
    limiter.acquire(3, stop=GO)
    limiter.hold(5)
    text = json.dumps(limiter.load())
    windows, *rest = json.loads(text)
    assert State({key: Window(*window) for key, window in windows.items()}, *rest) == limiter.load()


# Limiter: holds, bans and stops


def test_a_hold_binds_everybody_and_overlapping_holds_do_not_add_up() -> None:
    world = World()
    events: list[Event] = []
    limiter = make(world, events=events)
    for _ in range(16):  # sixteen threads got a 429
        limiter.hold(30)
        world.advance(10)
    limiter.acquire(1, stop=GO)
    assert world.now_ms == NOW_MS + 150 + 30_100
    assert [event.reason for event in events if isinstance(event, Waited)] == ["hold"]


def test_a_shorter_hold_does_not_end_a_longer_one() -> None:
    world = World()
    limiter = make(world)
    limiter.hold(30)
    limiter.hold(1)
    limiter.acquire(1, stop=GO)
    assert world.now_ms == NOW_MS + 30_100


def test_a_steady_clock_keeps_a_hold_when_the_other_one_jumps() -> None:
    world = World()
    steady = World(5_000)
    limiter = Limiter(
        provider="fake", now_ms=lambda: world.now_ms, steady_ms=lambda: steady.now_ms, wait=steady.wait
    )  # fmt: skip
    limiter.hold(30)
    world.advance(3_600_000)
    limiter.acquire(1, stop=GO)
    assert steady.waits == [30.1]


def test_a_hold_above_five_minutes_is_an_error_not_a_wait() -> None:
    world = World()
    limiter = make(world)
    limiter.hold(float("inf"))
    with pytest.raises(RateLimited):
        limiter.acquire(1, stop=GO)
    limiter = make(world)
    limiter.hold(301)
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(1, stop=GO)
    assert caught.value.retry_after_s == pytest.approx(301.1)
    assert world.waits == []


def test_a_ban_is_an_error_for_everybody_until_it_ends() -> None:
    world = World()
    limiter = make(world, Limit(10, 60))
    limiter.ban(NOW_MS + 120_000, "banned for good reasons")
    for _ in range(3):
        with pytest.raises(Banned, match="good reasons") as caught:
            limiter.acquire(1, stop=GO)
        assert caught.value.until.timestamp() * 1000 == NOW_MS + 120_000
        assert caught.value.retry_after_s == 120
    limiter.ban(NOW_MS + 1, "a shorter one")
    world.advance(119_999)
    with pytest.raises(Banned):
        limiter.acquire(1, stop=GO)
    world.advance(1)
    limiter.acquire(1, stop=GO)


def test_a_stop_ends_a_wait_at_once() -> None:
    limiter = Limiter(provider="fake", now_ms=lambda: START_MS)
    limiter.hold(60)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, 1, stop=stop)
        stop.set()
        with pytest.raises(CancelledError):
            waiting.result(timeout=1)
    with pytest.raises(CancelledError):
        limiter.acquire(1, stop=stop)


def test_threads_share_one_budget() -> None:
    """Sixteen real threads; the clock moves on when all that still work are waiting."""
    lock = threading.Condition()
    now_ms = START_MS
    waiting: dict[int, int] = {}
    working = 16
    spent: Counter[int] = Counter()

    def move_on() -> None:
        nonlocal now_ms
        if waiting and len(waiting) == working:
            now_ms = max(now_ms, min(waiting.values()))
            lock.notify_all()

    def wait(stop: threading.Event, seconds: float) -> bool:
        me = threading.get_ident()
        with lock:
            waiting[me] = now_ms + round(seconds * 1000)
            move_on()
            assert lock.wait_for(lambda: now_ms >= waiting[me], timeout=5)
            del waiting[me]
        return stop.is_set()

    limiter = Limiter(provider="fake", limits=[Limit(100, 60)], now_ms=lambda: now_ms, wait=wait)

    def work() -> None:
        nonlocal working
        for _ in range(30):
            ticket = limiter.acquire(1, stop=GO)
            with lock:
                spent[now_ms // MINUTE_MS] += 1
            limiter.release(ticket)
        with lock:
            working -= 1
            move_on()

    with ThreadPoolExecutor(16) as pool:
        for job in [pool.submit(work) for _ in range(16)]:
            job.result(timeout=20)
    assert sum(spent.values()) == 480
    assert max(spent.values()) <= 100
    assert len(spent) == 5


# HostGate


def test_a_host_that_fails_three_times_in_a_row_is_left_alone_for_a_while() -> None:
    gate = HostGate(failures=3, cool_s=30)
    for _ in range(2):
        gate.failed("a", 100.0)
    gate.ok("a")
    for _ in range(2):
        gate.failed("a", 100.0)
    assert gate.is_open("a", 100.0)
    gate.failed("a", 100.0)
    assert not gate.is_open("a", 129.9)
    assert gate.wait_s("a", 110.0) == 20
    assert gate.is_open("b", 110.0)
    assert gate.is_open("a", 130.0)
    gate.failed("a", 130.0)  # still broken: one look was enough
    assert not gate.is_open("a", 131.0)
    assert gate.wait_s("a", 0.0) == 30  # the clock was set back
    gate.ok("a")
    assert gate.is_open("a", 131.0)
