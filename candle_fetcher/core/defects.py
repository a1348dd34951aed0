"""Versions of other software with a known defect that affects this library, each with its source."""

from __future__ import annotations

import re
from typing import NamedTuple


class Defect(NamedTuple):
    """A defect of all versions of a package before `fixed`.

    says: what can go wrong. fix: what the user can do.
    also_fixed: versions of older series with the fix: 3.50.7 means 3.50.7 and later versions of 3.50.
    contained: whether this library prevents the harm, so that users need not change anything.
    """

    package: str
    fixed: tuple[int, ...]
    says: str
    fix: str
    also_fixed: tuple[tuple[int, ...], ...] = ()
    contained: bool = False


DEFECTS = (
    # sqlite.org/wal.html, "The WAL-reset bug": 3.7.0 to 3.51.2. Two connections that write and checkpoint at the same
    # instant. The threads of one process write one after another (store/disk.py), so that it takes two processes.
    Defect(
        "sqlite",
        (3, 51, 3),
        "two programs that write at the same instant can damage a cache, very rarely (the WAL-reset bug); entries have "
        "checksums, so that candles stay correct and are downloaded again",
        "A Python with SQLite 3.51.3 or newer does not have it",
        also_fixed=((3, 50, 7), (3, 44, 6)),
        contained=True,
    ),
    # GHSA-9hjg-9r4m-mvj7 (CVE-2024-47081), PYSEC-2026-1872: .netrc credentials leak through crafted URLs.
    Defect("requests", (2, 32, 4), "CVE-2024-47081", 'pip install --upgrade "requests>=2.32.4"'),
    # GHSA-mf9v-mfxr-j63j, GHSA-qccp-gfcp-xxvc: unbounded decompression; headers sent on to other hosts.
    Defect(
        "urllib3", (2, 7, 0), "GHSA-mf9v-mfxr-j63j and GHSA-qccp-gfcp-xxvc", 'pip install --upgrade "urllib3>=2.7.0"'
    ),
)
# Defects in all versions of a package that do not matter, because of the way it is used here.
HARMLESS = {
    # CVE-2025-69872 has no fixed release: diskcache unpickles what it reads; store/database.py prevents it.
    "diskcache": "CVE-2025-69872 does not reach this library, which stores no pickles",
}


def find_defect(package: str, version: str) -> Defect | None:
    """Return the known defect that this version of the package has; None where it has none."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    for defect in DEFECTS:
        is_mended = any(numbers[:2] == line[:2] and numbers >= line for line in defect.also_fixed)
        if defect.package == package and numbers < defect.fixed and not is_mended:
            return defect
    return None
