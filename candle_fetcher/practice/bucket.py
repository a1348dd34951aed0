"""The bucket of the archive as S3 answers: listings by prefix, and the error for a missing key.

Source: Amazon S3 API reference, ListObjects (version 1).
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape

NAME = "data.binance.vision"
XML = "application/xml"
_MOST = 1000
_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'

Tree = Callable[[str], Iterable[str]]  # the names in a folder, in the order of their bytes; folders end in "/"


class BucketEntry(NamedTuple):
    """A key in a listing: its time, ETag and size."""

    modified_ms: int
    etag: str
    size: int


def list_keys(
    tree: Tree, describe: Callable[[str], BucketEntry], params: Mapping[str, str], *, next_marker: bool
) -> bytes:
    """Return the reply to a listing; at most 1000 keys and folders, those after the marker.

    Reads prefix, delimiter (none or "/"), marker and max-keys. With a delimiter a cut listing names the next marker,
    as S3 does, unless `next_marker` is off: then its last entry is the marker, as it is without a delimiter.
    """
    prefix, marker, delimiter = (params.get(name, "") for name in ("prefix", "marker", "delimiter"))
    asked = params.get("max-keys", "")
    most = min(int(asked), _MOST) if asked.isdigit() else _MOST
    found = list(itertools.islice(_walk(tree, "", prefix, marker, folders=delimiter == "/"), most + 1))
    is_cut, found = len(found) > most > 0, found[:most]
    lines = [
        ("Name", NAME),
        ("Prefix", prefix),
        ("Marker", marker),
        *([("NextMarker", found[-1])] if is_cut and delimiter and next_marker else []),
        ("MaxKeys", str(most)),
        *([("Delimiter", delimiter)] if delimiter else []),
        ("IsTruncated", str(is_cut).lower()),
    ]
    parts = [f"<{name}>{escape(text)}</{name}>" for name, text in lines]
    parts += [_contents(key, describe(key)) for key in found if not key.endswith("/")]
    parts += [f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key in found if key.endswith("/")]
    body = "".join(parts)
    return (
        f'{_DECLARATION}<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</ListBucketResult>'
    ).encode()


def no_such_key(key: str) -> bytes:
    """Return the body of a 404."""
    return (
        f"{_DECLARATION}<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message>"
        f"<Key>{escape(key)}</Key><RequestId>7Q2M0T9W1B5Y8C4E</RequestId><HostId>practice</HostId></Error>"
    ).encode()


def _contents(key: str, entry: BucketEntry) -> str:
    when = dt.datetime.fromtimestamp(entry.modified_ms / 1000, dt.timezone.utc)
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{escape(entry.etag, {chr(34): '&quot;'})}</ETag><Size>{entry.size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _walk(tree: Tree, folder: str, prefix: str, marker: str, *, folders: bool) -> Iterator[str]:
    """Yield the keys with the prefix after the marker, in order; of a folder below the prefix, the folder alone."""
    for name in tree(folder):
        path = folder + name
        if not path.endswith("/"):
            if path.startswith(prefix) and path > marker:
                yield path
        elif (path.startswith(prefix) or prefix.startswith(path)) and (path > marker or marker.startswith(path)):
            if not (folders and path.startswith(prefix) and path != prefix):
                yield from _walk(tree, path, prefix, marker, folders=folders)
            elif path != marker and any(_walk(tree, path, prefix, marker, folders=False)):
                yield path
