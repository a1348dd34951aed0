"""How many requests to one service are under way at once, and what goes on beside them."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from candle_fetcher.core.call import Call, Reply
from candle_fetcher.core.errors import ProviderRefused
from candle_fetcher.sources.client import Service, ServiceClient
from candle_fetcher.sources.scope import CallScope
from candle_fetcher.sources.wire import Wire


class Exchange:
    """Stands in for the transport: a reply goes out once `together` requests have come in."""

    def __init__(self, together: int = 1) -> None:
        self.together = threading.Barrier(together)
        self.lock = threading.Lock()
        self.sent = self.under_way = self.most = 0
        self.has_second = threading.Event()

    def send(self, root: str, call: Call, **_: Any) -> Reply:
        with self.lock:
            self.sent += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.sent == 2:
                self.has_second.set()
        self.together.wait(timeout=60)
        with self.lock:
            self.under_way -= 1
        return Reply(200, {}, b"[]", 0.0)


def client_of(exchange: Any, at_once: int) -> ServiceClient:
    service = Service("service", ("https://service.invalid",), lambda reply, symbol, ms: ProviderRefused("no"))
    return ServiceClient(service, Wire(exchange, at_once=at_once))


def ask(client: ServiceClient, parse: Any, scope: CallScope | None = None) -> object:
    return client.request(Call("/x", ()), parse, scope=scope or CallScope())[0]


def test_no_more_requests_are_under_way_than_may_be() -> None:
    exchange = Exchange(together=3)
    client = client_of(exchange, 3)
    with ThreadPoolExecutor(9) as pool:
        done = list(pool.map(lambda _: ask(client, len), range(30)))
    assert done == [2] * 30
    assert exchange.most == 3


def test_while_a_reply_is_read_the_next_request_is_on_its_way() -> None:
    exchange = Exchange()
    client = client_of(exchange, 1)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: ask(client, lambda body: exchange.has_second.wait(timeout=60)), range(2)))
    assert done == [True, True]
    assert exchange.most == 1


def test_a_call_that_waits_for_its_turn_can_be_cancelled_and_a_failure_gives_the_turn_on() -> None:
    inside, go = threading.Event(), threading.Event()

    class Slow:
        def send(self, root: str, call: Call, **_: Any) -> Reply:
            inside.set()
            assert go.wait(timeout=60)
            raise CancelledError

    client, scope = client_of(Slow(), 1), CallScope()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, len)
        assert inside.wait(timeout=60)
        second = pool.submit(ask, client, len, scope)
        scope.set()
        with pytest.raises(CancelledError):
            second.result(timeout=60)
        go.set()
        with pytest.raises(CancelledError):
            first.result(timeout=60)
        with pytest.raises(CancelledError):
            ask(client, len)  # it came to be sent
