"""Memory and cores of this machine, or of the container that this process runs in.

A container sees the memory and the cores of its host; what it may use of them is in the control groups of Linux. The
smaller of both counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# A limit of version 1 that is as good as none.
_NO_LIMIT = 1 << 60


class Limits(NamedTuple):
    """What control groups allow: bytes of memory, those in use, and cores; None where they do not limit it."""

    memory_bytes: int | None = None
    used_bytes: int | None = None
    cores: float | None = None


class Hardware(NamedTuple):
    """Bytes of memory, in all and free, and cores. `memory_by` and `cores_by` name what limits them: "machine" or
    "container"."""

    memory_bytes: int
    free_bytes: int
    memory_by: str
    cores: float
    cores_by: str


def measure_hardware(limits: Limits | None = None) -> Hardware:
    """Return what this process may use, under the limits of its control groups or those given."""
    import psutil  # when used: few do

    limits = read_limits() if limits is None else limits
    memory = psutil.virtual_memory()
    total, free, memory_by = memory.total, memory.available, "machine"
    if limits.memory_bytes is not None and limits.memory_bytes < total:
        left = max(0, limits.memory_bytes - (limits.used_bytes or 0))
        total, free, memory_by = limits.memory_bytes, min(free, left), "container"
    cores, cores_by = float(_cores()), "machine"
    if limits.cores is not None and limits.cores < cores:
        cores, cores_by = limits.cores, "container"
    return Hardware(total, free, memory_by, cores, cores_by)


def _cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def read_limits(root: Path = Path("/")) -> Limits:
    """Return the limits of the control groups of this process and of those that they lie in, version 2 and 1. No file
    of them is needed: without one there is no limit."""
    found = Limits()
    for names, group in _groups(root):
        if not names:  # version 2
            for folder in _folders(root / "sys/fs/cgroup", group):
                used = _memory_in_use(folder, "memory.current", "inactive_file")
                found = _with_memory(found, _number(folder / "memory.max"), used)
                found = _with_cores(found, *_numbers(folder / "cpu.max"))
        if "memory" in names:
            for folder in _folders(root / "sys/fs/cgroup/memory", group):
                used = _memory_in_use(folder, "memory.usage_in_bytes", "total_inactive_file")
                found = _with_memory(found, _number(folder / "memory.limit_in_bytes"), used)
        if "cpu" in names:
            for mount in (",".join(names), "cpu"):
                for folder in _folders(root / "sys/fs/cgroup" / mount, group):
                    quota = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                    found = _with_cores(found, *quota)
    return found


def _groups(root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the controllers and the path of each control group of this process; version 2 names no controllers."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        yield tuple(filter(None, names.split(","))), group


def _folders(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folder of a group and those that it lies in; in a container the mount may begin at the group itself."""
    parts = [part for part in group.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _with_memory(found: Limits, limit: int | None, used: int | None) -> Limits:
    if limit is None or limit >= _NO_LIMIT or limit - (used or 0) >= _left(found):
        return found
    return found._replace(memory_bytes=limit, used_bytes=used)


def _left(found: Limits) -> int:
    return _NO_LIMIT if found.memory_bytes is None else found.memory_bytes - (found.used_bytes or 0)


def _with_cores(found: Limits, quota: int | None = None, period: int | None = None) -> Limits:
    if quota is None or not period or quota <= 0:
        return found
    return found._replace(cores=min(quota / period, found.cores or quota / period))


def _memory_in_use(folder: Path, name: str, reclaimable: str) -> int | None:
    """Return the bytes in use without pages of files, which the kernel drops where memory is needed."""
    used = _number(folder / name)
    if used is None:
        return None
    for line in _text(folder / "memory.stat").splitlines():
        if line.startswith(f"{reclaimable} "):
            with suppress(ValueError):
                return max(0, used - int(line.split()[1]))
    return used


def _number(path: Path) -> int | None:
    """Return the first number in a file; None where there is none, as for the word max."""
    return next(iter(_numbers(path)), None)


def _numbers(path: Path) -> list[int | None]:
    """Return the words of a file as numbers, None for another word."""
    return [int(word) if word.lstrip("-").isdigit() else None for word in _text(path).split()[:2]]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
