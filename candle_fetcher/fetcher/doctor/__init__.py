"""doctor(): what stands between a fetch and its candles. Each check is facts in, a Check with what to do out.

Nothing is changed: the cache is read as it lies there, and one cheap call goes to each host.
"""

from candle_fetcher.fetcher.doctor.check import Check, as_frame
from candle_fetcher.fetcher.doctor.machine import check_machine
from candle_fetcher.fetcher.doctor.network import check_keys, check_network, list_places

__all__ = ["Check", "as_frame", "check_keys", "check_machine", "check_network", "list_places"]
