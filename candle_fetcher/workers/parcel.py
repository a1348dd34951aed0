"""Results of workers on this machine: their arrays come as a file, which takes less time than an executor's pipe.

The file lies in the folder of the call (see `marker.py`), is read once, and is removed then.
"""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any, NamedTuple

_LEAST_BYTES = 1 << 16  # fewer are sent by the executor


class Parcel(NamedTuple):
    """A result without its arrays, the file that has these, and the number of bytes of each."""

    head: bytes
    path: str
    sizes: tuple[int, ...]


def pack_value(value: Any, folder: str) -> Any:
    """Return the value as a Parcel; as it is where it has no large arrays, or the folder does not take them."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        if sum(view.nbytes for view in views) < _LEAST_BYTES:
            return value
        path = Path(folder, uuid.uuid4().hex)
        with path.open("xb") as file:
            for view in views:
                file.write(view)
    except Exception:  # noqa: BLE001 - what cannot be pickled, or written, the executor is to send
        return value
    return Parcel(head, str(path), tuple(view.nbytes for view in views))


def unpack_value(parcel: Parcel) -> Any:
    """Return the value, and remove its file. Raises OSError where the file is not what was written."""
    path, buffers = Path(parcel.path), []
    with path.open("rb", buffering=0) as file:
        for size in parcel.sizes:
            buffers.append(bytearray(size))
            if file.readinto(buffers[-1]) != size:
                raise OSError(f"{path} is cut")
    path.unlink()
    return pickle.loads(parcel.head, buffers=buffers)
