"""Checks on this machine: disk space, permissions, cache, leftovers, memory, cores, versions. Nothing is sent."""

from __future__ import annotations

import math
import platform
import shutil
import sqlite3
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from candle_fetcher.core.defects import HARMLESS, find_defect
from candle_fetcher.core.entry import is_of_newer_version, unseal
from candle_fetcher.core.sizes import ROW_BYTES, size_text
from candle_fetcher.diagnosis.check import FAIL, PASS, SKIPPED, Check
from candle_fetcher.hardware import Hardware, measure_hardware
from candle_fetcher.settings import Settings
from candle_fetcher.store.files import DATABASE, size_bytes
from candle_fetcher.store.inspection import Content, FolderAccess, find_access, find_orphans, read_content

# A younger file may still be written to.
_ORPHAN_S = 3_600.0
_EXPORTS = Path("historical_data")
_PACKAGES = ("pandas", "numpy", "requests", "urllib3", "diskcache", "cachetools")


def check_machine(settings: Settings, now_s: float) -> list[Check]:
    """Check disk space, permissions and health of the cache, leftovers of exports, memory, cores, and versions."""
    folder = settings.disk_folder
    checks = []
    if folder is not None:
        access = find_access(folder)
        free = _free_bytes(access.nearest)
        content = read_content(folder, _is_sound)
        checks += [
            judge_space(folder, free, size_bytes(folder), settings.disk_cache_size),
            judge_access(folder, access),
            judge_content(folder, content),
        ]
    else:
        off = "use_cache is off" if not settings.use_cache else "disk_cache_size is 0"
        if settings.cache_dir is None:
            off = "the home folder of this user is not known, and no cache_dir was given"
        checks += [Check(name, "cache", SKIPPED, off) for name in ("disk space", "permissions", "cache entries")]
    aside = []
    if settings.cache_dir is not None:
        aside = find_orphans(settings.cache_dir, pattern=f"{DATABASE}.bad-*", older_s=-math.inf, now_s=now_s)
    parts = find_orphans(_EXPORTS, pattern=".*.part", older_s=_ORPHAN_S, now_s=now_s)
    hardware = measure_hardware()
    checks += [judge_orphans(aside, parts), judge_memory(hardware, settings), judge_cores(hardware, settings)]
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    return checks + [judge_version(name, version) for name, version in {**versions, **_installed()}.items()]


def _is_sound(key: str, data: bytes) -> bool:
    """Return whether the entry is whole; one of a newer version counts as whole."""
    return unseal(key, data) is not None or is_of_newer_version(key, data)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _installed() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def judge_space(folder: Path, free: int | None, used: int, bound: int) -> Check:
    """Check that the disk has room for the cache to grow to its bound."""
    subject = str(folder)
    if free is None:
        return Check("disk space", subject, SKIPPED, "the system does not say how much is free")
    found = f"{size_text(free)} free; the cache has {size_text(used)} of {size_text(bound)}"
    if free >= bound - used:
        return Check("disk space", subject, PASS, found)
    fits_mb = (free + used) * 9 // 10**7
    return Check("disk space", subject, FAIL, found, f"Make room, or set disk_cache_size to {fits_mb}MB, which fits")


def judge_access(folder: Path, access: FolderAccess) -> Check:
    """Check that the cache can be written, and by its owner alone."""
    subject = str(folder)
    other = "another folder: cache_dir, --cache-dir or CANDLE_FETCHER_CACHE_DIR"
    if access.foreign:
        return Check("permissions", subject, FAIL, f"{DATABASE} in it is another program's", f"Choose {other}")
    if not access.owner:
        return Check("permissions", subject, FAIL, "it belongs to another user", f"Choose {other}")
    if access.refusal:
        found = f"no file can be made in {access.nearest}: {access.refusal}"
        return Check("permissions", subject, FAIL, found, f"Make it writable, or choose {other}")
    if access.open_to_all:
        return Check("permissions", subject, FAIL, "every user of this machine can write to it", f"chmod 700 {folder}")
    found = "writable" if access.is_there else f"not there yet, can be made in {access.nearest}"
    return Check("permissions", subject, PASS, found)


def judge_content(folder: Path, content: Content | None) -> Check:
    """Check that the database can be read and its entries are whole."""
    subject = str(folder)
    if content is None:
        return Check("cache entries", subject, PASS, "none yet")
    read = f"{content.read:,} of {content.entries:,} entries read"
    if content.problem:
        fix = "Nothing: the next fetch moves a damaged database aside and starts a new one; or make the folder readable"
        return Check("cache entries", subject, FAIL, f"{read}; the database says: {content.problem}", fix)
    if content.damaged:
        named = ", ".join(content.damaged[:3]) + (", ..." if len(content.damaged) > 3 else "")
        fix = "candle-fetcher cache verify drops them (fetcher.cache.verify()); they are downloaded again when needed"
        return Check("cache entries", subject, FAIL, f"{read}, {len(content.damaged):,} damaged: {named}", fix)
    return Check("cache entries", subject, PASS, f"{read}, all whole")


def judge_orphans(aside: Sequence[Path], parts: Sequence[Path]) -> Check:
    """Check for files left behind: damaged databases moved aside, exports that were cut short."""
    if not aside and not parts:
        return Check("cache orphans", "files", PASS, "none")
    kinds = [
        f"{len(paths):,} {what}, such as {paths[0]}"
        for paths, what in ((aside, "of a damaged database"), (parts, "of exports cut short"))
        if paths
    ]
    return Check("cache orphans", "files", FAIL, "; ".join(kinds), "Remove them: nothing reads them any more")


def judge_memory(hardware: Hardware, settings: Settings) -> Check:
    """Check that the cache in memory has room, and say how many rows a frame may have."""
    subject = f"this {hardware.memory_by}"
    free, bound = hardware.free_bytes, settings.memory_cache_size
    found = f"{size_text(free)} free of {size_text(hardware.memory_bytes)}"
    if settings.use_cache and free < bound:
        fix = (
            f"Close other programs, or set memory_cache_size to {max(1, free // 2 // 10**6)}MB; iter_frames and export "
            "need little memory"
        )
        return Check("memory", subject, FAIL, f"{found}; the cache in memory takes up to {size_text(bound)}", fix)
    rows = free // ROW_BYTES // 100_000 * 100_000 or free // ROW_BYTES
    return Check(
        "memory", subject, PASS, f"{found}: a frame of {rows:,} rows fits, longer ranges by iter_frames or export"
    )


def judge_cores(hardware: Hardware, settings: Settings) -> Check:
    """Say how many cores there are, and how many threads are used."""
    threads = f"{settings.network_threads} network and {settings.io_threads} I/O threads"
    cores = f"{hardware.cores:.3g} core{'' if hardware.cores == 1 else 's'}"
    return Check("cores", f"this {hardware.cores_by}", PASS, f"{cores}; {threads}")


def judge_version(name: str, version: str) -> Check:
    """Check for a known defect of the version that reaches this library."""
    if not version:
        return Check("version", name, FAIL, "not installed", f"pip install {name}")
    defect = find_defect(name, version)
    if defect is not None and defect.contained:
        return Check("version", name, PASS, f"{version}: {defect.says}. {defect.fix}")
    if defect is not None:
        return Check("version", name, FAIL, f"{version}: {defect.says}", defect.fix)
    return Check("version", name, PASS, f"{version}; {HARMLESS[name]}" if name in HARMLESS else version)
