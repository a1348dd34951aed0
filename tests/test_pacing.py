"""Retry, Retry-After, the Limiter against simulated exchanges in simulated time, and the HostGate."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.call import Limit, parse_retry_after
from candle_fetcher.core.errors import Banned, RateLimited
from candle_fetcher.core.events import Event, Waited
from candle_fetcher.net.budget import State, Window, join_states, pack_state, unpack_state
from candle_fetcher.net.host_gate import HostGate
from candle_fetcher.net.limiter import Limiter
from candle_fetcher.net.retry import Retry

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


@pytest.mark.fault("A19")
def test_waits_double_up_to_a_cap_and_end_with_the_retries() -> None:
    retry = Retry(max_retries=5, base_s=0.5, cap_s=4)
    assert [retry.wait_s(attempt, None, random=1.0) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 4, None]


@pytest.mark.fault("A19")
@examples()
@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_gap_is_never_below_half_of_what_was_planned(attempt: int, random: float) -> None:
    planned = Retry(max_retries=10_000).wait_s(attempt, None, random=1.0)
    wait_s = Retry(max_retries=10_000).wait_s(attempt, None, random=random)
    assert planned is not None
    assert wait_s is not None
    assert planned / 2 <= wait_s <= planned <= 30


@pytest.mark.fault("A22")
@pytest.mark.parametrize(("asked_s", "wait_s"), [(7.0, 7.0), (300.0, 300.0), (301.0, None), (float("inf"), None)])
def test_what_the_server_asks_for_wins_unless_it_is_too_long(asked_s: float, wait_s: float | None) -> None:
    assert Retry().wait_s(1, asked_s, random=0.0) == wait_s


def test_a_pause_that_is_already_over_leaves_the_backoff() -> None:
    assert Retry().wait_s(1, 0.0, random=0.0) == 0.25


def test_without_retries_nothing_is_sent_again() -> None:
    assert Retry(max_retries=0).wait_s(1, 1.0, random=0.5) is None


@pytest.mark.fault("A22")
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


@pytest.mark.slow
@pytest.mark.fault("E07")
@examples(75)
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
    limiter = make(world, Limit(1200, 60))
    for _ in range(1800):
        exchange.send(limiter, 2, 20, 20)
        world.advance(2)
    whole = [exchange.used[minute] for minute in sorted(exchange.used)[1:-1]]
    assert whole
    assert min(whole) >= 0.95 * 1200
    assert max(whole) <= 1200


def test_a_burst_inside_the_budget_goes_out_at_once() -> None:
    world = World(START_MS + 30_000)
    limiter = make(world, Limit(1200, 60), Limit(300_000, 300, "requests"))
    for _ in range(580):
        limiter.release(limiter.acquire(2, stop=GO))
    assert world.waits == []


@pytest.mark.fault("J14")
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
    with pytest.raises(RateLimited, match="allows no request of weight 11; the limit is 10 in 60 s"):
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


@pytest.mark.fault("B04")
@examples()
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
        assert len(world.waits) - count <= 4  # the hold, the border, a minute, one more for what was spent late in it


# Limiter: what it remembers, and who shares it


class Paper:
    """Keeps the State as bytes, for several Limiters, in this process."""

    def __init__(self) -> None:
        self.states: list[bytes] = []
        self.taken: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            yield

    def load(self) -> list[bytes]:
        return self.states

    def save(self, data: bytes) -> None:
        self.states = [data]

    def acquire(self, key: str) -> bool:
        free = key not in self.taken
        self.taken.add(key)
        return free

    def release(self, key: str) -> None:
        self.taken.remove(key)


def make_two(world: World, *limits: Limit, behind_ms: int = 0) -> tuple[Paper, Limiter, Limiter]:
    """Two Limiters that share; the second one's idea of the provider's clock is behind."""

    def one(late_ms: int) -> Limiter:
        return Limiter(
            provider="fake",
            limits=limits,
            now_ms=lambda: world.now_ms - late_ms,
            steady_ms=lambda: world.now_ms,
            shared=paper,
            wait=world.wait,
        )

    paper = Paper()
    return paper, one(0), one(behind_ms)


def test_who_shares_has_one_budget_one_hold_and_one_ban() -> None:
    world = World()
    _, one, other = make_two(world, Limit(10, 60))
    for limiter in (one, other) * 5:
        limiter.release(limiter.acquire(1, stop=GO))
    assert world.waits == []
    other.acquire(1, stop=GO)
    assert world.waits == [50.1]
    one.hold(20)
    other.acquire(1, stop=GO)
    assert world.waits == [50.1, 20.1]
    other.ban(world.now_ms + 90_000, "enough")
    with pytest.raises(Banned, match="enough"):
        one.acquire(1, stop=GO)
    world.advance(90_000)
    one.acquire(1, stop=GO)


def test_what_the_header_reports_to_one_counts_for_the_other() -> None:
    world = World()
    _, one, other = make_two(world, Limit(100, 60))
    one.release(one.acquire(1, stop=GO), used=98)
    other.acquire(1, stop=GO)
    assert world.waits == [50.1]


@pytest.mark.fault("K15")
def test_the_limits_that_one_was_told_bind_the_other() -> None:
    world = World()
    _, one, other = make_two(world, Limit(6000, 60))
    assert not other.knows_limits()
    one.set_limits([Limit(4, 60)])
    assert other.knows_limits()
    for _ in range(4):
        other.release(other.acquire(1, stop=GO))
    assert world.waits == []
    other.acquire(1, stop=GO)
    assert len(world.waits) == 1
    world.advance(3_600_000)
    assert not other.knows_limits()  # but they stay in force
    with pytest.raises(RateLimited, match="the limit is 4"):
        other.acquire(5, stop=GO)


@pytest.mark.slow
@examples()
@given(st.integers(0, 2 * MINUTE_MS), st.integers(0, 90), st.integers(2, 9))
def test_who_is_a_moment_behind_at_a_border_forgets_nothing(begins_ms: int, behind_ms: int, step_ms: int) -> None:
    world = World(START_MS + begins_ms)
    exchange = Exchange(world, has_header=False)
    _, one, other = make_two(world, Limit(60, 60), behind_ms=behind_ms)
    for limiter in (one, other) * 100:
        exchange.send(limiter, 1, 20, 20)
        world.advance(step_ms)
    world.advance(MINUTE_MS)
    assert max(exchange.used.values()) <= 60


class Machine:
    """A clock that may be wrong and may be set, one that begins anew with the machine, and who share them."""

    def __init__(self, world: World, *limits: Limit) -> None:
        self.world = world
        self.limits = limits
        self.set_ms = 0
        self.started_ms = world.now_ms - 10_000_000
        self.paper = Paper()

    def now_ms(self) -> int:
        return self.world.now_ms + self.set_ms

    def limiter(self, ahead_ms: Callable[[], int] = lambda: 0) -> Limiter:
        """One that knows the provider's clock to be ahead of the machine's, or knows nothing of it."""
        return Limiter(
            provider="fake",
            limits=self.limits,
            now_ms=lambda: self.now_ms() + ahead_ms(),
            steady_ms=lambda: self.world.now_ms - self.started_ms,
            machine_ms=self.now_ms,
            shared=self.paper,
            wait=self.world.wait,
        )


@pytest.mark.slow
@pytest.mark.fault("E07", "B03")
@examples(75)
@given(
    begins_ms=st.integers(0, MINUTE_MS),
    ahead_ms=st.one_of(st.sampled_from([45_000, -45_000, 31_000]), st.integers(-90_000, 90_000)),
    set_ms=st.sampled_from([0, 20_000, 45_000, -45_000]),
    random=st.randoms(use_true_random=False),
)
def test_who_does_not_know_the_providers_clock_counts_by_that_of_whoever_does(
    begins_ms: int, ahead_ms: int, set_ms: int, random: Random
) -> None:
    world = World(START_MS + begins_ms)
    exchange = Exchange(world, offset_ms=ahead_ms, has_header=False)
    machine = Machine(world, Limit(60, 60))
    knows = machine.limiter(lambda: ahead_ms - machine.set_ms)
    exchange.send(knows, 1, 20, 20)
    everybody = [knows, machine.limiter(), machine.limiter()]
    for number in range(200):
        if number == 100:
            machine.set_ms = set_ms
            exchange.send(knows, 1, 20, 20)  # it has asked again
        exchange.send(random.choice(everybody), 1, random.randint(1, 50), random.randint(1, 50))
        world.advance(random.choice([0, 1, 30, 200]))
    world.advance(MINUTE_MS)
    assert max(exchange.used.values()) <= 60
    assert max(world.waits) <= 61
    assert len(exchange.used) <= 6


@pytest.mark.fault("B03")
def test_what_was_spent_before_the_providers_clock_was_known_stays_spent() -> None:
    world = World(START_MS + 45_500)
    machine = Machine(world, Limit(10, 60))
    machine.set_ms = -50_000  # by its clock the minute before
    ahead_ms = 0
    one, other = machine.limiter(lambda: ahead_ms), machine.limiter()
    for _ in range(10):
        other.release(other.acquire(1, stop=GO))
    world.advance(1_000)
    ahead_ms = 50_000
    one.acquire(1, stop=GO)
    assert world.waits == [59.001]  # where borders are is uncertain by 50 s: a whole minute after the last one


def test_clocks_that_drift_apart_make_nobody_forget_the_providers() -> None:
    world = World()
    machine = Machine(world, Limit(60, 60))
    everybody = [machine.limiter(), machine.limiter(lambda: 45_000), machine.limiter()]
    for _ in range(40):
        machine.started_ms += 90
        world.advance(1_000)
        for limiter in everybody:
            limiter.release(limiter.acquire(1, stop=GO))
    assert [limiter.now_ms() - machine.now_ms() for limiter in everybody[1:]] == [45_000] * 2


@pytest.mark.fault("B04")
@pytest.mark.parametrize("step_ms", [0, 1_000, 40_000])
def test_a_clock_that_stands_still_or_goes_by_steps_of_its_own_lets_requests_out(step_ms: int) -> None:
    world = World()
    machine = Machine(world, Limit(10, 60))
    steps = itertools.count(START_MS, step_ms) if step_ms else itertools.repeat(START_MS)
    limiter = machine.limiter(lambda: next(steps) - world.now_ms)
    for _ in range(50):
        limiter.release(limiter.acquire(1, stop=GO))
    assert world.now_ms < NOW_MS + 15 * MINUTE_MS


@pytest.mark.fault("B04", "B05")
@pytest.mark.parametrize("away", ["at work", "asleep", "off"])
def test_the_budget_of_a_day_comes_back_wherever_the_machine_was(away: str) -> None:
    day_ms = 86_400_000
    world = World(START_MS // day_ms * day_ms + 72_000_000)
    machine = Machine(world, Limit(25, 86_400, "requests"), Limit(10, 60))
    ahead_ms = 45_000
    limiter = machine.limiter(lambda: ahead_ms)
    for _ in range(25):
        limiter.release(limiter.acquire(1, stop=GO))
    with pytest.raises(RateLimited):
        limiter.acquire(1, stop=GO)
    world.advance(day_ms)
    if away == "at work":
        ahead_ms += 300  # it asks the provider's clock now and then
    elif away == "asleep":
        machine.started_ms += day_ms - MINUTE_MS  # the steady clock stood still
    else:
        machine.started_ms = world.now_ms - 5_000
        limiter = machine.limiter()
    world.waits.clear()
    limiter.release(limiter.acquire(1, stop=GO))
    assert world.waits == []
    assert limiter.now_ms() == machine.now_ms() + (0 if away == "off" else ahead_ms)  # then nobody knows any more


def test_what_a_dead_process_reserved_is_forgotten_with_the_next_interval() -> None:
    world = World()
    _, dead, living = make_two(world, Limit(10, 60))
    for _ in range(5):
        dead.acquire(1, stop=GO)
    for _ in range(5):
        living.release(living.acquire(1, stop=GO))
    assert world.waits == []  # what is left of this minute is there at once
    for _ in range(5):
        living.release(living.acquire(1, stop=GO))
    assert world.waits == [50.1]
    world.advance(MINUTE_MS)
    for _ in range(10):
        living.release(living.acquire(1, stop=GO))
    assert world.waits == [50.1]


def test_a_ticket_counts_though_what_was_remembered_is_lost_meanwhile() -> None:
    world = World()
    paper, one, other = make_two(world, Limit(10, 60))
    ticket = one.acquire(4, stop=GO)
    paper.states = []
    one.release(ticket, used=10)
    other.release(other.acquire(1, stop=GO))
    assert world.waits == [50.1]


def test_limits_are_asked_for_by_one_at_a_time() -> None:
    world = World()
    _, one, other = make_two(world)
    with one.asking_limits(GO):
        world.at(world.now_ms + 3_000, lambda: one._free_asking())
        with other.asking_limits(GO) as is_its_turn:
            assert is_its_turn
            assert 3 <= sum(world.waits) < 3.1
        one._take_asking()


def test_whoever_is_halted_while_asking_for_limits_is_not_waited_for() -> None:
    world = World()
    _, one, other = make_two(world)
    with one.asking_limits(GO) as is_first, other.asking_limits(GO, patience_s=5) as is_second:
        assert (is_first, is_second) == (True, False)
        assert 5 <= sum(world.waits) < 5.1
    stop = threading.Event()
    stop.set()
    with one.asking_limits(GO), pytest.raises(CancelledError), other.asking_limits(stop):
        pass


whole = st.integers(-(2**60), 2**60)
counts = st.integers(0, 2**60)
costs = st.lists(st.tuples(whole, counts), max_size=25).map(tuple)
states = st.builds(
    State,
    windows=st.dictionaries(st.text(max_size=12), st.builds(Window, costs, costs, counts, counts, whole), max_size=20),
    held_until_ms=whole,
    held_ms=counts,
    banned_until_ms=whole,
    ban_ms=counts,
    ban_message=st.text(max_size=500),
    limits=st.lists(st.builds(Limit, counts, st.integers(1, 2**40), st.text(max_size=10)), max_size=4).map(tuple),
    limits_ms=whole,
    ahead_ms=whole,
    boot_ms=whole,
    ban_stated_ms=whole,
)


@pytest.mark.slow
@examples()
@given(states)
def test_what_is_remembered_survives_as_few_bytes(state: State) -> None:
    data, is_whole = pack_state(state)
    assert len(data) <= 4070
    again = unpack_state(data)
    assert pack_state(again) == (data, True)
    assert (again == state) >= is_whole
    assert bool(again.limits) == bool(state.limits)
    assert (again == State()) <= (not state.windows)


def test_a_ban_that_an_older_version_saved_is_obeyed() -> None:
    state = State(banned_until_ms=1_718_453_430_000, ban_ms=600_000, ban_message="banned", boot_ms=5)
    fields = json.loads(pack_state(state)[0])
    assert unpack_state(json.dumps(fields[:10]).encode()) == state


@examples()
@given(
    st.one_of(
        st.binary(),
        st.builds(lambda value: repr(value).encode(), st.lists(whole)),
        states.map(lambda state: pack_state(state)[0]),
    )
)
def test_any_bytes_are_a_state_that_lets_requests_out_in_the_end(data: bytes) -> None:
    world = World()
    paper, one, _ = make_two(world, Limit(10, 60))
    paper.states = [data]
    for _ in range(3):
        with contextlib.suppress(RateLimited):
            one.release(one.acquire(1, stop=GO), used=3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'[{},0,0,0,0,"",[]]',
        b'[{},0,0,0,0,"",[],0]',
        b'[{},0.5,0,0,0,"",[],0,0,0]',
        b'[{},true,0,0,0,"",[],0,0,0]',
        b'[{},0,0,0,0,"",[],0,0,1e9]',
        b'[{"weight/60":[1,5,0,0,0,9]},0,0,0,0,"",[],0,0,0]',
        b'[{"weight/60":[[[1,-5]],[],0,0,0]},0,0,0,0,"",[],0,0,0]',
        b'[{"weight/60":[[[1,5]],[],0,-1,0]},0,0,0,0,"",[],0,0,0]',
        b'[{"weight/60":[[[1,5]],[7],0,0,0]},0,0,0,0,"",[],0,0,0]',
        b'[{"weight/60":[[[1,5]],[],0,0]},9,9,0,0,"",[],0,0,0]'[:-3],
        b'[{},0,0,0,0,"",[[5,0,"weight"]],0,0,0]',
        b"[" * 100_000,
        b"9" * 5_000,
        b"\xff",
    ],
)
def test_bytes_that_are_no_state_are_an_empty_one(data: bytes) -> None:
    assert unpack_state(data) == State()


def test_of_two_states_that_went_apart_the_stricter_parts_count() -> None:
    mine, yours = Window(((7, 5),), ((9, 1),), 40, 0, 3), Window(((7, 5), (8, 2)), (), 0, 30, 4)
    theirs = State({"weight/60": mine, "a/1": Window(((3, 9),))}, 100, 50, 900, 20, "theirs", (Limit(1, 60),), 5)
    ours = State({"weight/60": yours}, 200, 10, 800, 30, "ours", (Limit(2, 60),), 6)
    theirs = theirs._replace(ahead_ms=-45_000, boot_ms=9, ban_stated_ms=910)
    ours = ours._replace(ahead_ms=3, boot_ms=9, ban_stated_ms=810)
    joined = join_states(theirs, ours)
    assert joined == join_states(ours, theirs)
    both = Window(((7, 5), (8, 2)), ((9, 1),), 40, 30, 4)
    assert joined.windows == {"weight/60": both, "a/1": Window(((3, 9),))}
    assert joined[1:] == (200, 10, 900, 20, "theirs", (Limit(2, 60),), 6, -45_000, 9, 910)


def test_costs_that_are_too_many_to_keep_are_put_together_and_none_is_lost() -> None:
    window = Window(tuple((2**40 + ms, 7) for ms in range(500)), tuple((2**40 + ms, 3) for ms in range(500)))
    state = State({f"weight/{number}": window for number in range(9)})
    data = pack_state(state)[0]
    assert len(data) <= 4000
    for kept in unpack_state(data).windows.values():
        assert sum(cost for _, cost in kept.done) == 3500
        assert sum(cost for _, cost in kept.sent) == 1500
        assert (kept.done[-1][0], kept.sent[-1][0]) == (2**40 + 499, 2**40 + 499)


# Limiter: a reading that moves the provider's clock


LIMITS = [Limit(1, 1, "requests"), Limit(10, 1), Limit(10, 60), Limit(200, 60, "requests"), Limit(500, 300)]


def spend(world: World, limiters: list[Limiter], count: int, random: Random) -> list[int]:
    """When requests were counted that went out one after the other: somewhere on their way."""
    counted = []
    for _ in range(count):
        limiter = random.choice(limiters)
        ticket = limiter.acquire(1, stop=GO)
        world.advance(random.choice([0, 5, 300]))
        counted.append(world.now_ms)
        world.advance(random.choice([0, 5, 300]))
        limiter.release(ticket)
        world.advance(random.choice([0, 0, 0, 40, 5_000]))
    return counted


def most_in_an_interval(counted: list[int], limit: Limit, ahead_ms: int, since_ms: int = 0) -> int:
    """The most requests in an interval of a clock that is ahead, of those intervals that end after `since_ms`."""
    interval_ms = limit.interval_s * 1000
    intervals = Counter((ms + ahead_ms) // interval_ms for ms in counted)
    since = (since_ms + ahead_ms) // interval_ms
    return max((count for interval, count in intervals.items() if interval >= since), default=0)


@pytest.mark.slow
@pytest.mark.fault("E07", "B03")
@examples(100)
@given(
    limit=st.sampled_from(LIMITS),
    begins_ms=st.integers(0, MINUTE_MS),
    by_ms=st.one_of(st.integers(-1_500, 1_500), st.integers(-400_000, 400_000)),
    way=st.sampled_from(["reading", "set clock"]),
    random=st.randoms(use_true_random=False),
)
def test_no_interval_is_overdrawn_by_the_clock_of_before_a_reading_or_by_that_of_after(
    limit: Limit, begins_ms: int, by_ms: int, way: str, random: Random
) -> None:
    world = World(START_MS + begins_ms)
    machine = Machine(world, limit)
    ahead_ms = 0
    limiters = [machine.limiter(lambda: ahead_ms), machine.limiter()]
    before = spend(world, limiters, min(limit.cost, 40) * 2, random)
    moved_ms = world.now_ms
    if way == "reading":
        ahead_ms = by_ms
    else:
        by_ms = machine.set_ms = max(-290_000, min(by_ms, 290_000))
    limiters[0].release(limiters[0].acquire(1, stop=GO))
    after = [world.now_ms, *spend(world, limiters, min(limit.cost, 40) * 2, random)]
    interval_ms = limit.interval_s * 1000
    until_ms = moved_ms - moved_ms % interval_ms + interval_ms  # by the clock of before
    assert most_in_an_interval([ms for ms in before + after if ms < until_ms], limit, 0) <= limit.cost
    assert most_in_an_interval(after, limit, by_ms) <= limit.cost
    begun_ms = moved_ms - (moved_ms + by_ms) % interval_ms  # by the clock of after
    already = sum(ms >= begun_ms for ms in before)
    assert most_in_an_interval(before + after, limit, by_ms, moved_ms) <= max(limit.cost, already)


@pytest.mark.slow(every=5)
@pytest.mark.fault("B03")
@pytest.mark.parametrize("random", [Random(number) for number in range(20)])
def test_readings_that_differ_with_every_reply_do_not_make_one_a_second_more(random: Random) -> None:
    """A clock that tells whole seconds is read up to a second late, each time by another part of it."""
    world = World(START_MS + random.randint(0, 999))
    machine = Machine(world, Limit(1, 1, "requests"))
    ahead_ms = 0
    limiter = machine.limiter(lambda: ahead_ms)
    sent, count, most = [world.now_ms], 0.0, 0.0
    for _ in range(60):
        ticket = limiter.acquire(1, stop=GO)
        # As Kraken counts: one more with each request, one less with each second.
        count = max(0.0, count - (world.now_ms - sent[-1]) / 1000) + 1
        most = max(most, count)
        sent.append(world.now_ms)
        world.advance(random.choice([5, 50, 300]))
        ahead_ms = -random.randint(0, 999)
        limiter.release(ticket)
    assert most <= 1.9
    assert 0.97 * 59_000 <= sent[-1] - sent[1] <= 1.4 * 59_000


@pytest.mark.parametrize("by_ms", [-700, -150, 0, 150, 700])
def test_a_reading_that_moves_the_clock_a_little_costs_no_more_than_that(by_ms: int) -> None:
    world = World(START_MS + 59_000)
    machine = Machine(world, Limit(60, 60))
    ahead_ms = 0
    limiter = machine.limiter(lambda: ahead_ms)
    world.advance(3_000)
    for _ in range(59):
        limiter.release(limiter.acquire(1, stop=GO))
        world.advance(500)
    ahead_ms = by_ms
    for _ in range(59):
        limiter.release(limiter.acquire(1, stop=GO))
    assert START_MS + 120_000 <= world.now_ms <= START_MS + 120_100 + abs(by_ms)


# Limiter: holds, bans and stops


@pytest.mark.fault("A20")
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


@pytest.mark.fault("B04", "B05")
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


@pytest.mark.fault("A22")
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


@pytest.mark.fault("A21")
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


def test_a_ban_noted_by_a_clock_far_ahead_ends_when_it_was_long_enough() -> None:
    world = World(NOW_MS + 365 * 86_400_000)
    limiter = make(world)
    limiter.ban(world.now_ms + 120_000, "banned")
    world.now_ms = NOW_MS
    with pytest.raises(Banned) as caught:
        limiter.acquire(1, stop=GO)
    assert caught.value.retry_after_s == 120
    with pytest.raises(Banned):
        limiter.acquire(1, stop=GO)
    world.advance(120_000)
    limiter.acquire(1, stop=GO)


@pytest.mark.fault("A22", "E02")
def test_a_stop_ends_a_wait_at_once() -> None:
    limiter = Limiter(provider="fake", now_ms=lambda: START_MS)
    limiter.hold(60)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, 1, stop=stop)
        stop.set()
        with pytest.raises(CancelledError):
            waiting.result(timeout=10)
    with pytest.raises(CancelledError):
        limiter.acquire(1, stop=stop)


@pytest.mark.fault("E07")
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
            assert lock.wait_for(lambda: now_ms >= waiting[me], timeout=30)
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


# Limiter: pauses of unknown length, and limits that a provider states


@pytest.mark.fault("K14")
@pytest.mark.parametrize("asked_s", [None, 0.0])
def test_a_pause_of_unknown_length_lasts_until_the_interval_ends_and_from_the_third_on_for_two(
    asked_s: float | None,
) -> None:
    world = World(START_MS + 30_000)
    limiter = make(world, Limit(6000, 60), Limit(61_000, 300, "requests"))
    for number in range(5):
        before = limiter.acquire(1, stop=GO)
        limiter.release(before)
        for _ in range(8):  # as many threads are refused at once
            limiter.pause(asked_s)
        limiter.answered(before)  # it was sent before the refusal, and its answer came after it
        began_ms = world.now_ms
        after = limiter.acquire(1, stop=GO)
        limiter.release(after)
        waited_ms = world.now_ms - began_ms
        assert waited_ms == (MINUTE_MS - began_ms % MINUTE_MS if number < 2 else 2 * MINUTE_MS) + 100
    limiter.answered(after)
    limiter.pause(asked_s)
    assert limiter.load().held_ms <= MINUTE_MS + 100


@pytest.mark.fault("K14")
def test_a_pause_of_known_length_is_as_long_as_that_however_often_it_is_asked_for() -> None:
    world = World()
    limiter = make(world, Limit(6000, 60))
    for _ in range(4):
        limiter.pause(7.0)
        limiter.acquire(1, stop=GO)
        assert world.waits[-1] == 7.1


@pytest.mark.fault("K14")
@pytest.mark.parametrize(
    ("limits", "longest_s"),
    [((), 1.0), ((Limit(1, 1, "requests"),), 1.0), ((Limit(1, 1), Limit(25, 86_400)), 1.0), ((Limit(500, 300),), 300)],
)
def test_a_pause_of_unknown_length_goes_by_the_intervals_that_can_be_waited_for(
    limits: tuple[Limit, ...], longest_s: float
) -> None:
    world = World()
    limiter = make(world, *limits)
    limiter.pause(None)
    assert 0 < limiter.load().held_ms <= longest_s * 1000 + 100


@pytest.mark.fault("K14", "A22")
def test_no_pause_and_no_ban_is_believed_for_ever() -> None:
    world = World()
    limiter = make(world, Limit(10, 60))
    limiter.pause(1e9)
    with pytest.raises(RateLimited):
        limiter.acquire(1, stop=GO)
    world.advance(86_400_000 + 100)
    limiter.acquire(1, stop=GO)
    limiter.ban(world.now_ms + 400 * 86_400_000, "banned for a year and more")
    with pytest.raises(Banned):
        limiter.acquire(1, stop=GO)
    world.advance(3 * 86_400_000)
    limiter.acquire(1, stop=GO)


@pytest.mark.fault("J20")
def test_a_clock_before_1970_is_no_ban_and_a_ban_without_words_has_a_message() -> None:
    world = World(-5_000_000)
    limiter = make(world, Limit(10, 60))
    limiter.release(limiter.acquire(1, stop=GO))
    world.now_ms = NOW_MS
    limiter.ban(NOW_MS + 120_000, "")
    with pytest.raises(Banned, match="fake has banned this address until 2023-11-14 22:16:10 UTC"):
        limiter.acquire(1, stop=GO)


@pytest.mark.slow(every=3)
@pytest.mark.fault("K15")
@pytest.mark.parametrize("cost", [0, 1, 21])
@pytest.mark.parametrize("stated_by", ["this", "another", "an older version"])
def test_a_limit_below_what_a_chunk_takes_is_not_obeyed(cost: int, stated_by: str) -> None:
    world = World()
    paper = Paper()
    one, other = (
        Limiter(
            provider="fake",
            limits=[Limit(6000, 60)],
            least={"weight": 22, "requests": 2},
            now_ms=lambda: world.now_ms,
            shared=paper,
            wait=world.wait,
        )
        for _ in range(2)
    )
    if stated_by == "an older version":
        paper.states = [pack_state(State(limits=(Limit(cost, 60),), limits_ms=world.now_ms))[0]]
    else:
        refused = (one if stated_by == "this" else other).set_limits([Limit(cost, 60), Limit(5_000, 300, "requests")])
        assert refused == [Limit(cost, 60)]
        assert one.load().limits == (Limit(5_000, 300, "requests"), Limit(6000, 60))
    for _ in range(100):
        one.release(one.acquire(22, stop=GO))
    assert world.waits == []


@pytest.mark.fault("K15")
@given(st.integers(22, 10**9), st.sampled_from([1, 60, 300]))
def test_a_limit_that_lets_a_chunk_through_is_obeyed(cost: int, interval_s: int) -> None:
    world = World()
    limiter = make(world, Limit(6000, 60))
    limiter._least = {"weight": 22}
    assert limiter.set_limits([Limit(cost, interval_s)]) == []
    limiter.release(limiter.acquire(cost, stop=GO))
    limiter.acquire(1, stop=GO)
    assert 1 <= len(world.waits) <= 2  # two where the interval ends just then


@pytest.mark.fault("K15")
def test_limits_that_are_used_up_do_not_prevent_asking_for_them() -> None:
    world = World()
    _, one, other = make_two(world, Limit(6000, 60))
    one.set_limits([Limit(22, 86_400)])
    one.release(one.acquire(22, stop=GO))
    for limiter in (one, other):
        with pytest.raises(RateLimited):
            limiter.acquire(2, stop=GO)
        with limiter.asking_limits(GO):
            limiter.release(limiter.acquire(20, stop=GO))
    other.set_limits([Limit(6000, 60)])
    one.acquire(2, stop=GO)
    assert world.waits == []
