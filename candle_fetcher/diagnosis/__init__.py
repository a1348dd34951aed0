"""What may keep a fetch from its candles: checks of the machine, the network, the keys and the cache, for `doctor`.

Each check takes facts and returns a Check, which says what to do. Nothing is changed: the cache is read as it is, and
each server gets one cheap call.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from candle_fetcher.diagnosis.check import Check, as_frame
from candle_fetcher.diagnosis.machine import check_machine
from candle_fetcher.diagnosis.network import check_keys, check_network, list_servers
from candle_fetcher.monitor import PerformanceMonitor
from candle_fetcher.net.transport import Transport
from candle_fetcher.settings import Settings
from candle_fetcher.sources import ArchiveSource, CallScope, RestSource

__all__ = ["Check", "as_frame", "check_keys", "check_machine", "check_network", "diagnose", "list_servers"]

_NETWORK_S = 15.0


def diagnose(
    settings: Settings,
    source: RestSource,
    archive: ArchiveSource | None,
    transport: Transport,
    scope: CallScope,
    *,
    monitor: PerformanceMonitor,
    clock: Callable[[], float],
) -> pd.DataFrame:
    """Return the table of `CandleFetcher.doctor`, with a row for each check."""
    is_offline = settings.source == "cache"
    checks = check_network(
        list_servers(source.provider, source.hosts, None if archive is None else archive.host),
        source,
        transport,
        scope,
        monitor=monitor,
        patience_s=0.0 if is_offline else min(settings.timeout_s, _NETWORK_S) / 3,
        now_s=clock(),
    )
    return as_frame([*checks, *check_keys(source), *check_machine(settings, clock())])
