"""What the memory and the disk know of a span before any source is asked."""

from __future__ import annotations

from collections.abc import Sequence

from candle_fetcher.core.candles import OHLCV, Candles, have_prices
from candle_fetcher.core.entry import UNKNOWN, Entry
from candle_fetcher.core.facts import Facts
from candle_fetcher.core.plan import chunk_span, chunks_of
from candle_fetcher.core.spans import Span
from candle_fetcher.fetcher.gathering.state import Gathering, Provenance
from candle_fetcher.sources import SharedChunk

_FEW_CHUNKS = 16  # more are loaded by several threads


def find_chunks(gathering: Gathering, facts: Facts) -> range:
    """Return the chunks of the span, without its ends that are known to be empty by the facts of this process.

    Where there are any, the facts on disk decide: another process may know better.
    """
    now_ms, span = 0 if gathering.policy.is_offline else gathering.now_ms, gathering.span
    bounds = facts.bounds(span, now_ms)
    if bounds != span:
        bounds = gathering.cache.facts.reload(gathering.series).bounds(span, now_ms)
    return chunks_of(gathering.timeframe, bounds)


def look_up(gathering: Gathering, chunks: Sequence[int]) -> None:
    """Set what is stored of the chunks, and the chunk that the part of the call before this one left."""
    gathering.found = load(gathering, chunks)
    shared = gathering.scope.shared.get(gathering.share_key)
    if shared is not None and shared.chunk in chunks and shared.chunk not in gathering.found:
        # It is not stored, and not asked for twice.
        gathering.put(shared.chunk, shared.tier, shared.entry)
        gathering.provenance[shared.chunk] = [Provenance(*asked) for asked in shared.spans]
    if any(tier == "disk" for tier, _ in gathering.found.values()):
        gathering.cache.facts.reload(gathering.series)  # another process may have stored them, and known more


def load(gathering: Gathering, chunks: Sequence[int]) -> dict[int, tuple[str, Entry]]:
    """Return what is stored of the chunks, with the tier that holds it.

    An entry in memory that lacks something wanted is read from the disk again: another process may have stored more.
    """
    series, cache, policy = gathering.series, gathering.cache, gathering.policy
    columns, may_ask = gathering.feed.columns, policy.refresh or policy.rechecks
    # What is asked for again is merged with all of its columns.
    names = columns[: 1 + len(OHLCV)] if policy.columns == "ohlcv" and have_prices(columns) and not may_ask else None
    run = gathering.resources.pools.io.spread if len(chunks) > _FEW_CHUNKS else map
    found = cache.entries.load(series, chunks, keep=policy.keeps_entries, names=names, run=run, together=not may_ask)
    short = [
        chunk
        for chunk, (tier, entry) in found.items()
        if tier == "memory" and not gathering.is_complete(chunk, entry) and _lacks(gathering, chunk, entry)
    ]
    return found | (cache.entries.reload(series, short) if short else {})


def load_older(gathering: Gathering, chunks: Sequence[int]) -> None:
    """Add what is stored from before the newest candles, which are all that could be asked for again."""
    for chunk, (tier, entry) in load(gathering, chunks).items():
        found = gathering.found.get(chunk)
        if found is None or entry.covered.holds(found[1].covered):
            gathering.put(chunk, tier, entry)


def _lacks(gathering: Gathering, chunk: int, entry: Entry) -> bool:
    """Return whether a part of the wanted span is neither in the entry nor known to be empty, or is to be asked for."""
    borders = chunk_span(gathering.timeframe, chunk)
    wanted = borders.clip(gathering.span)
    if not entry.holes and entry.covered.holds(wanted) and not gathering.policy.rechecks:
        return False
    known = gathering.facts.bounds(wanted, 0 if gathering.policy.is_offline else gathering.now_ms)
    if not entry.covered.holds(known.clip(wanted)):
        return True
    unknown: list[Span] = [hole.span for hole in entry.holes if hole.state in UNKNOWN]
    return any(span.clip(wanted) for span in unknown) or bool(gathering.asks(chunk, entry))


def leave_shared(gathering: Gathering) -> None:
    """Leave the last chunk for the call's next part, where it reaches beyond this one."""
    last = max(gathering.found, default=None)
    if last is not None and chunk_span(gathering.timeframe, last).end_ms > gathering.span.end_ms:
        spans = tuple((one.span, one.source) for one in gathering.provenance.get(last, ()))
        tier, entry = gathering.found[last]
        if gathering.block is not None:  # which is closed up
            entry = entry._replace(candles=Candles(entry.candles.names, entry.candles.block.copy()))
        gathering.scope.shared[gathering.share_key] = SharedChunk(last, tier, entry, spans)
