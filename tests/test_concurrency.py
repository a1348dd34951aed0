"""Work that several threads want once, turns, and waits that can be cancelled."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from candle_fetcher.concurrency import CancelEvent, SingleFlight, as_done, wait_for
from candle_fetcher.concurrency.pool import ThreadPool

LONG_S = 10.0


def test_threads_that_want_one_value_share_the_call_that_makes_it() -> None:
    flights: SingleFlight[str, object] = SingleFlight()
    begun, go, calls = threading.Event(), threading.Event(), []

    def make() -> object:
        calls.append(1)
        begun.set()
        assert go.wait(LONG_S)
        return object()

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(flights.run, "key", make, CancelEvent())
        assert begun.wait(LONG_S)
        others = [pool.submit(flights.run, "key", make, CancelEvent()) for _ in range(3)]
        with pytest.raises(TimeoutError):
            wait_for(others, CancelEvent(), timeout_s=0.05)
        go.set()
        assert {id(one.result(LONG_S)) for one in others} == {id(first.result(LONG_S))}
    assert calls == [1]
    flights.run("key", make, CancelEvent())
    assert calls == [1, 1]  # the value is not kept


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_is_shared_and_an_interrupted_maker_is_replaced(error: BaseException) -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    is_mine, flight = flights.begin("key")
    assert is_mine
    assert flights.begin("key") == (False, flight)

    def fail() -> str:
        raise error

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(flights.run, "key", lambda: "made by the next", CancelEvent())
        with pytest.raises(TimeoutError):
            wait_for([other], CancelEvent(), timeout_s=0.05)
        with pytest.raises(type(error)):
            flights.make("key", fail, flight)
        if isinstance(error, Exception):
            assert other.exception(LONG_S) is error
        else:
            assert other.result(LONG_S) == "made by the next"


def test_threads_take_turns_and_one_that_is_cancelled_leaves() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    cancelled, inside, most = CancelEvent(), [], []

    def enter(cancel: CancelEvent) -> None:
        with flights.turn("key", cancel):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        with flights.turn("key", CancelEvent()):
            waiting = [pool.submit(enter, CancelEvent()) for _ in range(3)]
            leaving = pool.submit(enter, cancelled)
            cancelled.set()
            assert isinstance(leaving.exception(LONG_S), CancelledError)
            assert not any(one.done() for one in waiting)
            with flights.turn("another key", CancelEvent()):
                pass
        assert [one.result(LONG_S) for one in waiting] == [None] * 3
    assert most == [1, 1, 1]
    with pytest.raises(ValueError, match="mine"), flights.turn("key", CancelEvent()):
        raise ValueError("mine")
    assert flights.begin("key")[0]  # it was given back


def test_futures_come_as_they_are_done_until_the_wait_is_cancelled() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    futures[1].set_result(1)
    stop = CancelEvent()
    coming = as_done(futures, stop)
    assert next(coming) is futures[1]
    futures[0].set_result(0)
    assert next(coming) is futures[0]
    stop.set()
    with pytest.raises(CancelledError):
        next(coming)
    with pytest.raises(CancelledError):
        wait_for(futures, stop)
    assert list(as_done([], stop)) == []


def test_results_of_items_spread_over_threads_come_in_order_and_the_first_error_is_raised() -> None:
    pool = ThreadPool("spread", 4)
    try:
        assert pool.spread(lambda number: number * number, range(1000)) == [number * number for number in range(1000)]
        assert pool.spread(str, []) == []
        done: list[int] = []

        def fail_at_ten(number: int) -> None:
            if number == 10:
                raise ValueError("ten")
            done.append(number)

        with pytest.raises(ValueError, match="ten"):
            pool.spread(fail_at_ten, range(100))
        assert 10 not in done
    finally:
        pool.close(cancels=True)
    with pytest.raises(CancelledError):
        pool.spread(str, [1])
