"""A practice exchange: Binance's REST APIs, its streams and its public archive on a loopback port, so that no internet
is needed.

exchange.py  the server, and what a caller may do to it   archive.py  files, CHECKSUMs and the bucket's listing
faults.py    what can go wrong with a reply               damage.py   what can be wrong with a file of the archive
streams.py   connections of streams                       stream_faults.py  what can go wrong with a frame of a stream
"""

from candle_fetcher.practice import damage, faults, stream_faults
from candle_fetcher.practice.archive import PracticeArchive, Spoil
from candle_fetcher.practice.damage import Damage
from candle_fetcher.practice.exchange import PracticeExchange, ServedRequest
from candle_fetcher.practice.faults import Fault
from candle_fetcher.practice.limits import Counts
from candle_fetcher.practice.stream_faults import StreamFault
from candle_fetcher.practice.streams import ClientMessage, PracticeStreams, StreamDialect, StreamSession
from candle_fetcher.practice.websocket import WireMessage

__all__ = [
    "ClientMessage",
    "Counts",
    "Damage",
    "Fault",
    "PracticeArchive",
    "PracticeExchange",
    "PracticeStreams",
    "ServedRequest",
    "Spoil",
    "StreamDialect",
    "StreamFault",
    "StreamSession",
    "WireMessage",
    "damage",
    "faults",
    "stream_faults",
]
