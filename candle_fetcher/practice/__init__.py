"""A practice exchange: Binance's REST APIs and its public archive on a loopback port, so that no internet is needed.

exchange.py  the server, and what a caller may do to it   archive.py  files, CHECKSUMs and the bucket's listing
faults.py    what can go wrong with a reply               damage.py   what can be wrong with a file of the archive
"""

from candle_fetcher.practice import damage, faults
from candle_fetcher.practice.archive import PracticeArchive, Spoil
from candle_fetcher.practice.damage import Damage
from candle_fetcher.practice.exchange import PracticeExchange, ServedRequest
from candle_fetcher.practice.faults import Fault
from candle_fetcher.practice.limits import Counts

__all__ = [
    "Counts",
    "Damage",
    "Fault",
    "PracticeArchive",
    "PracticeExchange",
    "ServedRequest",
    "Spoil",
    "damage",
    "faults",
]
