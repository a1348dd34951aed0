"""A connection's states without a socket: the table of `live/link.py`, row by row, and what holds for any order."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import examples

from candle_fetcher.core.errors import AccessDenied, ProviderRefused, RateLimited, UnknownSymbol
from candle_fetcher.core.live import Ack, CandleUpdate, Ending, Heartbeat, Ready, Refusal, Say
from candle_fetcher.live.link import Drop, Link, Ping, Send
from candle_fetcher.live.pauses import Pauses
from candle_fetcher.providers import Channel, Subscription, find_provider

STREAMS = replace(find_provider("binance").streams, messages_per_s=2.0)
ONE = (Channel("/stream", "btcusdt@kline_1m", "BTCUSDT"),)
MANY = tuple(Channel("/stream", f"s{number}usdt@kline_1m", f"S{number}USDT") for number in range(8))
REFUSED = ProviderRefused("no", status=200)


def link(channels=ONE, streams=STREAMS, login=(), **facts) -> Link:
    return Link(replace(streams, **facts), channels, 0.0, login)


def topics(actions) -> list[list[str]]:
    return [json.loads(action.text)["params"] for action in actions if isinstance(action, Send)]


def data(topic: str) -> CandleUpdate:
    return CandleUpdate(topic, 0, ())


def test_opened_the_subscriptions_are_sent_in_one_message() -> None:
    one = link(MANY)
    assert topics(one.tick(0.0)) == [[channel.topic for channel in MANY]]
    assert one.tick(0.1) == []


def test_nothing_is_subscribed_before_the_provider_is_ready_and_the_login_comes_first() -> None:
    one = link(login=("hello",), waits_for_ready=True)
    assert one.tick(0.0) == [Send("hello")]
    assert one.tick(1.0) == []
    assert topics(one.receive(Ready(), 1.5)) == [["btcusdt@kline_1m"]]
    late = link(login=("hello",), waits_for_ready=True)
    late.hear(9.0)
    assert isinstance(late.tick(10.0)[0], Drop)


def test_messages_are_as_long_and_as_fast_as_the_provider_allows() -> None:
    one = link(MANY, most_message_bytes=120)
    sent = []
    for tenth in range(60):
        for action in one.tick(tenth / 10):
            assert len(action.text.encode()) <= 120
            sent.append(tenth / 10)
    assert len(sent) >= 4
    assert all(later - first >= 0.5 - 1e-9 for first, later in itertools.pairwise(sent))


@pytest.mark.parametrize("answer", [Ack(1), Ack(None, ("btcusdt@kline_1m",)), data("btcusdt@kline_1m")])
def test_an_ack_by_id_or_topic_or_data_makes_a_subscription_stand(answer) -> None:
    one = link()
    one.tick(0.0)
    one.receive(answer, 1.0)
    assert one.standing == {"btcusdt@kline_1m"}
    one.hear(20.0)
    assert topics(one.tick(20.0)) == []


def test_data_before_and_between_acks_changes_nothing() -> None:
    one = link(MANY)
    one.receive(data(MANY[0].topic), 0.0)
    one.tick(0.0)
    one.receive(data(MANY[1].topic), 0.1)
    one.receive(Ack(1), 0.2)
    assert one.delivers


def test_a_message_without_an_ack_is_halved_and_a_channel_alone_asked_for_three_times() -> None:
    one = link(MANY[:2], messages_per_s=100.0)
    asked = []
    for second in range(40):
        one.hear(float(second))
        actions = one.tick(float(second))
        asked += topics(actions)
        drops = [action for action in actions if isinstance(action, Drop)]
        if drops:
            assert "no answer" in drops[0].reason
            break
    assert asked[0] == [channel.topic for channel in MANY[:2]]
    assert asked[1:3] == [[channel.topic] for channel in MANY[:2]]
    assert drops


def test_the_one_channel_that_is_refused_is_found_by_halves() -> None:
    bad = MANY[5].topic
    one = link(MANY, messages_per_s=1000.0)
    waiting = one.tick(0.0)
    now_s = 0.0
    while waiting:
        now_s += 0.01
        action = waiting.pop(0)
        message = json.loads(action.text)
        answer = Refusal(REFUSED, message["id"]) if bad in message["params"] else Ack(message["id"])
        waiting += one.receive(answer, now_s)
        now_s += 0.01
        waiting += one.tick(now_s)
    assert [(channel.topic, error) for channel, error in one.refused] == [(bad, REFUSED)]
    assert one.standing == {channel.topic for channel in MANY} - {bad}


def test_a_refused_topic_is_given_up_and_the_last_one_ends_the_connection_for_good() -> None:
    one = link(MANY[:2])
    one.tick(0.0)
    assert one.receive(Refusal(UnknownSymbol("X", "y"), topics=(MANY[0].topic,)), 0.1) == []
    (drop,) = one.receive(Refusal(UnknownSymbol("X", "y"), topics=(MANY[1].topic,)), 0.2)
    assert isinstance(drop, Drop)
    assert drop.error is not None
    assert len(one.refused) == 2


def test_a_refusal_that_passes_is_asked_for_again_alone_and_later() -> None:
    one = link(MANY[:3])
    one.tick(0.0)
    one.receive(Refusal(RateLimited("too fast"), topics=(MANY[1].topic,), again_s=5.0), 0.1)
    one.receive(Ack(1), 0.2)
    one.hear(4.0)
    assert topics(one.tick(4.0)) == []
    one.hear(5.2)
    assert topics(one.tick(5.2)) == [[MANY[1].topic]]


@pytest.mark.parametrize(("again_s", "lasts"), [(None, True), (20.0, False)])
def test_a_refusal_of_the_connection_ends_it(again_s, lasts) -> None:
    one = link()
    one.tick(0.0)
    error = AccessDenied("no", fix="x")
    assert one.receive(Refusal(error, again_s=again_s), 0.1) == [Drop(str(error), again_s, error if lasts else None)]


def test_what_the_provider_wants_said_is_said_at_once() -> None:
    assert link().receive(Say("pong"), 0.0) == [Send("pong")]


def test_an_announced_end_and_age_want_a_successor_and_the_connection_goes_on() -> None:
    one = link(lifetime_s=100.0, silence_s=1000.0)
    assert not one.wants_successor(99.0)
    assert one.wants_successor(100.0)
    other = link()
    other.receive(Ending("soon"), 0.0)
    assert other.wants_successor(0.1)


def test_a_quiet_connection_is_pinged_and_a_dead_one_dropped() -> None:
    one = link(ping_s=20.0, silence_s=60.0)
    one.tick(0.0)
    one.receive(Ack(1), 0.1)
    one.hear(1.0)
    seen = {second: one.tick(float(second)) for second in range(2, 62)}
    assert [second for second, actions in seen.items() if Ping() in actions] == [21, 41]
    assert isinstance(seen[61][0], Drop)
    alive = link(ping_s=20.0, silence_s=60.0)
    for second in range(300):
        if second % 50 == 0:
            alive.hear(float(second))
            alive.receive(Heartbeat(), float(second))
        assert not any(isinstance(action, Drop) and "silent" in action.reason for action in alive.tick(float(second)))


def test_pings_as_text_are_those_of_the_provider() -> None:
    one = link(ping=lambda number: f"ping {number}", ping_s=5.0)
    one.tick(0.0)
    one.receive(Ack(1), 0.0)
    (action,) = one.tick(5.0)
    assert isinstance(action, Send)
    assert action.text.startswith("ping ")


def test_only_a_connection_that_lasted_makes_the_next_pause_short() -> None:
    one = link()
    one.receive(data(ONE[0].topic), 0.0)
    assert not one.was_useful(9.0)
    assert one.was_useful(10.0)
    assert not link().was_useful(29.0)
    assert link().was_useful(30.0)


def test_pauses_double_up_to_their_cap_obey_the_provider_and_begin_again_after_use() -> None:
    pauses, now_s, waits = Pauses(STREAMS), 0.0, []
    for _ in range(10):
        pauses.failed(now_s, 0.5)
        waits.append(pauses.next_s - now_s)
        now_s = pauses.next_s
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    pauses.failed(now_s, 0.5, 300.0)
    assert pauses.next_s - now_s == 300
    now_s = pauses.next_s
    pauses.lost(now_s, 0.5)
    assert pauses.next_s - now_s == 1
    pauses.tried(now_s + 1)
    assert pauses.next_s >= now_s + 2


EVENTS = st.one_of(
    st.builds(Ack, st.integers(1, 6)),
    st.builds(lambda at: Ack(None, (MANY[at].topic,)), st.integers(0, 7)),
    st.builds(lambda number: Refusal(REFUSED, number), st.integers(1, 6)),
    st.builds(lambda at: Refusal(REFUSED, topics=(MANY[at].topic,)), st.integers(0, 7)),
    st.builds(lambda at: Refusal(REFUSED, topics=(MANY[at].topic,), again_s=3.0), st.integers(0, 7)),
    st.builds(lambda at: data(MANY[at].topic), st.integers(0, 7)),
    st.just(Heartbeat()),
)


@given(st.lists(st.tuples(st.floats(0, 4), st.one_of(st.none(), EVENTS)), max_size=60))
@examples(60)
def test_in_any_order_no_channel_is_lost_and_the_pace_is_kept(steps) -> None:
    one = link(MANY)
    now_s, sent_s = 0.0, []
    given_up: set[str] = set()
    for wait_s, event in steps:
        now_s += wait_s
        one.hear(now_s)
        actions = one.tick(now_s)
        if event is not None and not any(isinstance(action, Drop) for action in actions):
            actions += one.receive(event, now_s)
        given_up |= {channel.topic for channel, _ in one.refused}
        if any(isinstance(action, Drop) for action in actions):
            return
        sent_s += [now_s for action in actions if isinstance(action, Send)]
        assert one.due_s(now_s) >= now_s
    assert all(later - first >= 0.5 - 1e-9 for first, later in itertools.pairwise(sent_s))
    known = set(one.standing) | given_up
    known |= {topic for sent in one._sent.values() for topic in sent.topics}
    known |= {topic for topics_, _ in one._waiting for topic in topics_} | {topic for _, topic in one._later}
    assert known == {channel.topic for channel in MANY}


def test_the_channels_of_each_provider_make_messages_within_its_bounds() -> None:
    for name in ("binance", "binance-us", "binance-um", "binance-cm", "kraken", "alpaca", "alpaca-crypto"):
        provider = find_provider(name)
        streams = provider.streams
        assert streams is not None
        wanted = [Subscription("candles", f"S{number}", "1m") for number in range(400)]
        channels = [channel for one in wanted for channel in streams.channels(one)][: streams.most_channels]
        one = Link(streams, channels, 0.0)
        one.receive(Ready(), 0.0)
        now_s = 0.0
        while now_s < 4:
            texts = [action.text for action in one.tick(now_s) if isinstance(action, Send)]
            assert all(len(text.encode()) <= streams.most_message_bytes for text in texts)
            now_s += 0.25
