"""A practice exchange: Binance's REST APIs on a loopback port, so that examples and tests need no internet."""

from candle_fetcher.practice import faults
from candle_fetcher.practice.exchange import PracticeExchange, Request
from candle_fetcher.practice.faults import Fault
from candle_fetcher.practice.limits import Counts

__all__ = ["Counts", "Fault", "PracticeExchange", "Request", "faults"]
