"""The scope of one public call: its cancellation, its instant, its retries, and the replies that it keeps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import CancelledError, Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from candle_fetcher.concurrency import Cancel, CancelEvent, wait_for
from candle_fetcher.core.call import Call
from candle_fetcher.core.entry import Entry
from candle_fetcher.core.errors import CandleFetcherError, SourceError
from candle_fetcher.core.spans import Span

if TYPE_CHECKING:
    from candle_fetcher.core.files import File
    from candle_fetcher.sources.archive import FileRead
    from candle_fetcher.sources.pages import CandlePage

Kept = TypeVar("Kept")
_KEPT_REPLIES = 32


class ReplyCache(Generic[Kept]):
    """The newest replies of a public call, each under the Call that it answers: so a reply that serves several chunks
    is requested once."""

    def __init__(self) -> None:
        self._asked: OrderedDict[Call, tuple[int, Future[Kept]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, call: Call, send: Callable[[], Kept], cancel: Cancel, *, now_ms: int, since_ms: int, refresh: bool = False
    ) -> Kept:
        """Return the kept reply to the call; that of `send()` where none was requested at `since_ms` or later.

        One thread sends; the other threads wait for its reply, and an error of it is raised in all of them. With
        `refresh` the request is sent in any case. Raises CancelledError once `cancel` is set.
        """
        with self._lock:
            asked_ms, found = self._asked.get(call, (0, None))
            if refresh or asked_ms < since_ms:
                found = None
            if found is None:
                mine: Future[Kept] = Future()
                self._asked[call] = max(now_ms, since_ms), mine
                self._asked.move_to_end(call)
                while len(self._asked) > _KEPT_REPLIES:
                    self._asked.popitem(last=False)
        if found is None:
            try:
                mine.set_result(send())
            except BaseException as error:
                mine.set_exception(error if isinstance(error, CandleFetcherError) else CancelledError())
                raise
            return mine.result()
        wait_for([found], cancel)
        return found.result()


class AsOf(NamedTuple):
    """The instant of a public call: `ms` of the provider's clock, while this machine's clock showed `wall_s`.

    `is_checked` is True where the provider's clock was requested for it.
    """

    ms: int
    wall_s: float
    is_checked: bool = False


class SharedChunk(NamedTuple):
    """A chunk that two pieces of a stream need: its number, the tier it was loaded from, and its entry.

    `spans` were requested in this public call, each with the source that answered.
    """

    chunk: int
    tier: str
    entry: Entry
    spans: tuple[tuple[Span, str], ...]


class CallScope(CancelEvent):
    """The state of one public call. It is its cancel event too: once set, no request is sent for the call.

    as_of: the instant that decides which candles are settled. It is set once, and made earlier where a reply shows that
    it was too late.
    retries: how many requests were sent again.
    clock_error: why the provider's clock could not be read.
    denial: the refusal of this address by the provider, after which the call uses the archive in place of REST.
    warned: the kinds of warnings that were already issued in this call.
    span: the range of the call, once both of its ends are known.
    kept: archive files that reach beyond the span gathered last, for the next piece of a stream.
    replies: the newest replies that serve more than one chunk.
    renewed: the chunks that a refresh has already requested again, by the key of the series. A series has an item here
    once its facts have been dropped.
    shared: the last chunk of the span gathered last, by the key of the series, where it reaches beyond that span.
    """

    as_of: AsOf | None = None
    retries = 0
    clock_error: SourceError | None = None
    denial: SourceError | None = None
    span: Span | None = None
    kept: Mapping[File, FileRead] = MappingProxyType({})

    def __init__(self) -> None:
        super().__init__()
        self.replies: ReplyCache[CandlePage] = ReplyCache()
        self.warned: set[str] = set()
        self.renewed: dict[str, set[int]] = {}
        self.shared: dict[Hashable, SharedChunk] = {}
