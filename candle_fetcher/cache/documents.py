"""Small documents of the cache, each sealed under its key: JSON, and records of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from candle_fetcher.core.entry import is_of_newer_version, is_of_older_version, seal, unseal
from candle_fetcher.store import Store


class DocumentStore:
    """Documents by key. They are read from disk, where another process may have written them; without a disk tier they
    lie in memory. Shared by threads."""

    def __init__(self, store: Store) -> None:
        self._disk, self._memory = store.disk, store.memory
        self._tier = store.disk or store.memory
        self.transaction = store.transaction

    def load(self, key: str) -> Any:
        """Return the JSON document, None where there is none that is whole."""
        record = self.load_record(key)
        try:
            return None if record is None else json.loads(bytes(record[1]))
        except (ValueError, RecursionError):
            return None

    def save(self, key: str, document: Any) -> bool:
        """Store a JSON document. Return False where it could not be stored."""
        body = json.dumps(document).encode()
        return self.update_record(key, lambda _: (b"", body))

    def load_record(self, key: str) -> tuple[bytes, memoryview] | None:
        """Return head and body of a record, None where there is none that is whole."""
        data = self._tier.load_many((key,)).get(key)
        record = None if data is None else unseal(key, data)
        if data is not None and record is None and not is_of_newer_version(key, data):
            self.warn_of_damage(key, data)
        return record

    def update_record(self, key: str, change: Callable[[memoryview | None], tuple[bytes, bytes]]) -> bool:
        """Store the head and body that `change` returns for the body of the stored record. Return False where they
        could not be stored: a record of a newer version of this package stays as it is.

        To be called in a transaction, where the new body depends on the old one.
        """
        data = self._tier.load_many((key,)).get(key)
        record = None if data is None else unseal(key, data)
        if data is not None and record is None and is_of_newer_version(key, data):
            return False
        head, body = change(None if record is None else record[1])
        sealed = seal(key, head, body, compress=True)
        if self._disk is not None:
            return self._disk.save_many({key: sealed})
        self._memory.save(key, sealed, len(sealed))
        return True

    def warn_of_damage(self, key: str, data: bytes) -> None:
        """Warn that the stored bytes are damaged, unless an older version of this package wrote them."""
        if self._disk is not None and not is_of_older_version(key, data):
            self._disk.warn_of_damage()


def int64(value: Any) -> int:
    """Return the value if it is an integer of 64 bits. Raises ValueError otherwise."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def text(value: Any) -> str:
    """Return the value if it is text. Raises ValueError otherwise."""
    if not isinstance(value, str):
        raise ValueError
    return value
