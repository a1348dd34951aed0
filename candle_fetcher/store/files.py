"""The folder of a disk tier: whose it is, what its files are called, where a damaged one goes, what was warned of."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from candle_fetcher.core.errors import CacheError

DATABASE = "cache.db"
LOG = "cache.db-wal"
SHARED_MEMORY = "cache.db-shm"
MARKER = "candle_fetcher.cache"
ASIDE = f"{DATABASE}.bad-"
WARNED = "warned-"
ASIDE_S = 30 * 86_400.0  # a damaged database that nobody looked into for so long is of no use to anybody
WARN_AGAIN_S = 86_400.0

# SQLite's log needs memory that all its users share, which disks of other machines do not give. 9p is not among them:
# it is also what sandboxes on one machine are made of.
_REMOTE = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs"}
    | {"gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs"}
)
MOUNTS = Path("/proc/self/mountinfo")  # of Linux; elsewhere a path tells, or nothing does


def prepare(folder: Path) -> str:
    """Make the folder where it is missing and mark it as ours; what to warn of, "" for nothing.

    Raises CacheError where it is somebody else's, OSError where it cannot be made.
    """
    marker = folder / MARKER
    if (folder / DATABASE).exists() and not marker.exists():  # in this order: the marker is written first
        raise CacheError(f"{folder / DATABASE} was not written by candle_fetcher. Choose another cache_dir")
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    warning = ""
    if os.name == "posix":
        found = folder.stat()
        if os.geteuid() not in (0, found.st_uid):
            raise CacheError(f"{folder} belongs to another user. Choose another cache_dir")
        if made or not any(folder.iterdir()):
            folder.chmod(0o700)
        elif found.st_mode & stat.S_IWOTH:
            warning = f"{folder} can be written by every user of this machine: chmod 700 it"
    if not marker.exists():
        marker.touch(mode=0o600)
    remote = find_remote(folder)
    if remote:
        raise CacheError(f"{folder} lies on a disk of another machine ({remote}). Choose a cache_dir on this one")
    tidy(folder)
    return warning


def find_remote(folder: Path) -> str:
    """The kind of the file system where the folder lies on another machine's disk; "" where not, or nobody can tell.

    Of proc(5): the third field of a line is the device, the one after the dash is the kind.
    """
    if folder.absolute().drive.startswith("\\\\"):
        return "a network share"
    try:
        device = folder.stat().st_dev
        for line in MOUNTS.read_text("utf-8", "replace").splitlines():
            about, _, mounted = line.partition(" - ")
            if about.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                kind = mounted.split()[0]
                return kind if kind in _REMOTE else ""
    except (OSError, IndexError, AttributeError):
        pass
    return ""


def tidy(folder: Path) -> None:
    """Remove what is left of damaged databases that nobody has looked into for a month."""
    with contextlib.suppress(OSError):
        for old in folder.glob(f"{ASIDE}*"):
            if time.time() - old.stat().st_mtime > ASIDE_S:
                old.unlink(missing_ok=True)


def exists(path: Path) -> bool:
    """Whether something is there that can be reached. Path.exists() raises where a folder above it is closed to us."""
    return os.path.exists(path)  # noqa: PTH110


def is_warned_of(folder: Path, kind: str) -> bool:
    """Whether this kind of trouble was warned of within the last day, by whatever process; from now on it was.

    False too where nothing can be noted in the folder, or it is not ours.
    """
    if not exists(folder / MARKER):
        return False
    note = folder / f"{WARNED}{kind}"
    now_s = time.time()
    try:
        if 0 <= now_s - note.stat().st_mtime < WARN_AGAIN_S:
            return True
        os.utime(note)
    except FileNotFoundError:
        try:
            os.close(os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:  # another process noted it at the same moment
            return True
        except OSError:
            pass
    except OSError:
        pass
    return False


def move_aside(folder: Path) -> str:
    """Keep the damaged database under the name that is returned; of those before it none."""
    for old in folder.glob(f"{ASIDE}*"):
        old.unlink(missing_ok=True)
    bad = f"{ASIDE}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    with contextlib.suppress(FileNotFoundError):
        (folder / DATABASE).replace(folder / bad)
    with contextlib.suppress(FileNotFoundError):
        (folder / LOG).replace(folder / f"{bad}-wal")
    with contextlib.suppress(FileNotFoundError):  # its age counts from now
        os.utime(folder / bad)
    (folder / SHARED_MEMORY).unlink(missing_ok=True)
    return bad


def identify(folder: Path) -> tuple[int, int] | None:
    """What tells one database file from another of the same name; None where there is none."""
    try:
        found = (folder / DATABASE).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def size_bytes(folder: Path) -> int:
    """Bytes of the database and its log."""
    total = 0
    for name in (DATABASE, LOG):
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    return total
