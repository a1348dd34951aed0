"""When the next connection to a provider may be tried: after pauses that double, with jitter."""

from __future__ import annotations

from candle_fetcher.providers import Streams


class Pauses:
    """The pauses of one root, shared by its connections: a storm of refusals concerns them all.

    Times are seconds of a clock that never goes back. `random` is in [0, 1).
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._failures = 0
        self.next_s = 0.0

    def tried(self, now_s: float) -> None:
        """Note a try."""
        self.next_s = max(self.next_s, now_s + self._streams.spacing_s)

    def failed(self, now_s: float, random: float, asked_s: float | None = None) -> None:
        """Note that a try failed, or that its connection was of no use. `asked_s`: what the provider asks for."""
        streams = self._streams
        pause_s = min(streams.most_pause_s, streams.first_pause_s * 2.0 ** min(self._failures, 30))
        pause_s *= 0.75 + random / 2
        self._failures += 1
        self.next_s = max(self.next_s, now_s + max(pause_s, asked_s or 0.0))

    def lost(self, now_s: float, random: float) -> None:
        """Note that a connection ended that was of use."""
        self._failures = 0
        self.failed(now_s, random)
