"""One connection of a stream, from its opening to its end, as states without I/O.

    opened -> (login) -> ready -> subscribed -> delivering -> dropped

The owner of the connection gives it what is received and the time, and does what it returns:

| what happens | what follows |
|---|---|
| opened | the login is sent; subscriptions too, unless the provider says when it is ready |
| Ready | the subscriptions are sent, as many channels in a message as fit, as fast as the provider allows |
| Ack, or data of a channel | its subscription stands |
| no ack for `ack_s` | the message is sent again in halves; a channel alone three times, then the connection drops |
| Refusal of a message | its halves are sent, until the one channel is found that is refused |
| Refusal of a channel | it is given up, or asked for again after the time that the provider names |
| Refusal of all | the connection is dropped; for good, if asking again does not help |
| Say | the text is sent before anything else |
| Ending, or the age `lifetime_s` | a successor is wanted; this connection goes on until that one delivers |
| no frame for `ping_s` | a ping is sent |
| no frame for `silence_s` | the connection is dropped |
| no channel is left | the connection is dropped for good |

Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from candle_fetcher.core.errors import TransportError
from candle_fetcher.core.live import Ack, CandleUpdate, Ending, LiveEvent, QuoteUpdate, Ready, Refusal, Say
from candle_fetcher.providers import Channel, Message, Streams

# How often a channel is asked for on one connection without an answer.
_TRIES = 3
# How long a login may take.
_READY_S = 10.0
# A connection was of use after this time, or after the shorter one if it delivered data: only then the next pause is
# the first one again. One that is accepted and closed at once was of no use.
_USEFUL_S, _DELIVERED_S = 30.0, 10.0


class Send(NamedTuple):
    """Send the text."""

    text: str


class Ping(NamedTuple):
    """Send a ping frame."""


class Drop(NamedTuple):
    """End the connection. `again_s`: not before so many seconds there may be another one. `error`: for good."""

    reason: str
    again_s: float | None = None
    error: Exception | None = None


Action = Send | Ping | Drop


class _Sent(NamedTuple):
    """A message under way: the topics without an answer, when it was sent, and how often they were before."""

    topics: tuple[str, ...]
    at_s: float
    tries: int


class Link:
    """The states of one connection with these channels, opened at `now_s`; `login` are the first texts to send.

    refused: the channels that were given up, each with the error; the owner of the link takes them out.
    standing: the topics with a subscription that stands.
    """

    def __init__(self, streams: Streams, channels: Iterable[Channel], now_s: float, login: Sequence[str] = ()) -> None:
        self._streams = streams
        self._channels = {channel.topic: channel for channel in channels}
        self._opened_s = self._heard_s = now_s
        self._pinged_s = now_s
        self._number = 1
        self._is_ready = not streams.waits_for_ready
        self._has_data = False
        self._is_ending = False
        self._texts: deque[str] = deque(login)  # to be sent, as fast as the provider allows
        self._next_text_s = now_s
        self._waiting: list[tuple[tuple[str, ...], int]] = [(tuple(self._channels), 0)]  # topics, and tries before
        self._sent: dict[int, _Sent] = {}
        self._later: list[tuple[float, str]] = []  # when a topic is asked for again
        self.refused: list[tuple[Channel, Exception]] = []
        self.standing: set[str] = set()
        self._doubted: set[str] = set()  # topics that were asked for once more, though they stood

    # -- what is received ---------------------------------------------------------------------------------------------

    def hear(self, now_s: float) -> None:
        """Note a frame of any kind."""
        self._heard_s = now_s

    def receive(self, event: LiveEvent, now_s: float) -> list[Action]:
        """Return what follows from an event."""
        kind = type(event)
        if kind is CandleUpdate or kind is QuoteUpdate:
            self._has_data = True
            if self._sent:
                self._stand((event.topic,))  # type: ignore[union-attr]
            return []
        if isinstance(event, Say):
            return [Send(event.text)]
        if isinstance(event, Ready):
            self._is_ready = True
        elif isinstance(event, Ending):
            self._is_ending = True
        elif isinstance(event, Ack):
            if event.id is not None and event.id in self._sent:
                self._stand(self._sent[event.id].topics)
            self._stand(event.topics)
        elif isinstance(event, Refusal):
            return self._refuse(event, now_s)
        return self.tick(now_s)

    def _stand(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic in self._channels:
                self.standing.add(topic)
        for number, sent in list(self._sent.items()):
            left = tuple(topic for topic in sent.topics if topic not in self.standing)
            if not left:
                del self._sent[number]
            elif left != sent.topics:
                self._sent[number] = sent._replace(topics=left)

    def _refuse(self, refusal: Refusal, now_s: float) -> list[Action]:
        topics = tuple(topic for topic in refusal.topics if topic in self._channels)
        if not topics and refusal.id is not None:
            sent = self._sent.pop(refusal.id, None)
            if sent is None:
                return []
            topics = sent.topics
            if len(topics) > 1 and refusal.again_s is None:
                self._halve(topics, sent.tries)
                return self.tick(now_s)
        elif not topics:
            return [Drop(str(refusal.error), refusal.again_s, None if refusal.again_s is not None else refusal.error)]
        for topic in topics:
            self._forget(topic)
            if refusal.again_s is not None:
                self._later.append((now_s + refusal.again_s, topic))
            else:
                self.refused.append((self._channels.pop(topic), refusal.error))
        return self.tick(now_s)

    def _forget(self, topic: str) -> None:
        """Take the topic out of the messages under way."""
        self.standing.discard(topic)
        for number, sent in list(self._sent.items()):
            if topic in sent.topics:
                left = tuple(one for one in sent.topics if one != topic)
                if left:
                    self._sent[number] = sent._replace(topics=left)
                else:
                    del self._sent[number]

    def _halve(self, topics: tuple[str, ...], tries: int) -> None:
        middle = (len(topics) + 1) // 2
        self._waiting += [(part, tries) for part in (topics[:middle], topics[middle:]) if part]

    # -- what the time brings -----------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Action]:
        """Return what is due by now."""
        streams, actions = self._streams, list[Action]()
        if not self._channels:
            return [Drop("no channel is left", error=TransportError("every subscription was refused"))]
        if now_s - self._heard_s >= streams.silence_s:
            return [Drop(f"silent for {streams.silence_s:g} s")]
        if not self._is_ready and now_s - self._opened_s >= _READY_S:
            return [Drop("the login was not answered")]
        if self._is_ready:
            self._ask_again(now_s)
            lost = self._resend(now_s)
            if lost is not None:
                return [lost]
            self._write(now_s)
        while self._texts and now_s >= self._next_text_s:
            actions.append(Send(self._texts.popleft()))
            self._next_text_s = now_s + 1 / streams.messages_per_s
        if now_s - max(self._heard_s, self._pinged_s) >= streams.ping_s:
            self._pinged_s = now_s
            self._number += 1
            actions.append(Ping() if streams.ping is None else Send(streams.ping(self._number)))
        return actions

    def _ask_again(self, now_s: float) -> None:
        due = tuple(topic for at_s, topic in self._later if at_s <= now_s)
        if due:
            self._later = [(at_s, topic) for at_s, topic in self._later if at_s > now_s]
            self._waiting.append((due, 0))

    def _resend(self, now_s: float) -> Drop | None:
        for number, sent in list(self._sent.items()):
            if now_s - sent.at_s < self._streams.ack_s:
                continue
            del self._sent[number]
            if len(sent.topics) > 1:
                self._halve(sent.topics, sent.tries)
            elif sent.tries + 1 < _TRIES:
                self._waiting.append((sent.topics, sent.tries + 1))
            else:
                return Drop(f"no answer to the subscription of {sent.topics[0]}")
        return None

    def _write(self, now_s: float) -> None:
        """Write the messages for the channels that wait; they count as sent when their turn comes at the latest."""
        waiting, self._waiting = self._waiting, []
        for topics, tries in waiting:
            for message in self._messages([self._channels[topic] for topic in topics if topic in self._channels]):
                turn_s = max(now_s, self._next_text_s) + len(self._texts) / self._streams.messages_per_s
                self._sent[message.id] = _Sent(message.topics, turn_s, tries)
                self._texts.append(message.text)

    def _messages(self, channels: Sequence[Channel]) -> list[Message]:
        if not channels:
            return []
        messages = self._streams.subscribe(channels, self._number)
        most = self._streams.most_message_bytes
        if len(channels) > 1 and any(len(message.text.encode()) > most for message in messages):
            middle = len(channels) // 2
            return [*self._messages(channels[:middle]), *self._messages(channels[middle:])]
        self._number += len(messages)
        return list(messages)

    def due_s(self, now_s: float) -> float:
        """Return when `tick` is due next, unless something is received before."""
        streams = self._streams
        due = [self._heard_s + streams.silence_s, max(self._heard_s, self._pinged_s) + streams.ping_s]
        if not self._is_ready:
            due.append(self._opened_s + _READY_S)
        if self._texts:
            due.append(self._next_text_s)
        if self._waiting and self._is_ready:
            due.append(now_s)
        due += [sent.at_s + streams.ack_s for sent in self._sent.values()]
        due += [at_s for at_s, _ in self._later]
        return max(now_s, min(due))

    # -- questions of the owner ---------------------------------------------------------------------------------------

    def subscribe_again(self, topic: str) -> bool:
        """Ask for the topic once more: the provider says that it stands, but nothing comes. Return False where that was
        done before on this connection."""
        if topic in self._doubted:
            return False
        if topic in self._channels:
            self._doubted.add(topic)
            self._forget(topic)
            self._waiting.append(((topic,), 0))
        return True

    def was_useful(self, now_s: float) -> bool:
        """Return whether the connection was good for something, so that the pause after it is a short one."""
        up_s = now_s - self._opened_s
        return up_s >= (_DELIVERED_S if self._has_data else _USEFUL_S)

    def wants_successor(self, now_s: float) -> bool:
        """Return whether another connection should take over."""
        lifetime_s = self._streams.lifetime_s
        return self._is_ending or (lifetime_s is not None and now_s - self._opened_s >= lifetime_s)

    @property
    def delivers(self) -> bool:
        """Return whether every subscription stands and data has come: an older connection is not needed any more."""
        return self._has_data and self.standing.issuperset(self._channels)
