"""The folder of a disk tier: whose it is, what its files are called, where a damaged one goes, what was warned of.

The folder is not trusted. What has one of our names and is not a plain file (a link, a pipe, a folder) is left alone:
it is not opened, followed, changed or removed. What is removed for its age is what this package made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
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
_ASIDE_NAME = re.compile(rf"{re.escape(ASIDE)}\d{{8}}T\d{{6}}(-wal)?")
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
    check_names(folder)
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
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
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


def check_names(folder: Path) -> None:
    """Raises CacheError where something else than a plain file has the name of one of the database's files."""
    for name in (MARKER, DATABASE, LOG, SHARED_MEMORY):
        found = look_at(folder / name)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise CacheError(f"{folder / name} is not a plain file, and is left alone. Choose another cache_dir")


def look_at(path: Path) -> os.stat_result | None:
    """What lies there under that very name, through no link; None where nothing does, or nothing can be seen."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def is_plain(path: Path) -> bool:
    """Whether a plain file lies there, not a link to one."""
    found = look_at(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def open_plain(path: Path, flags: int) -> int:
    """The descriptor of a plain file, opened with the flags through no link, and without waiting.

    Raises OSError where anything else has the name.
    """
    found = look_at(path)  # for systems that lack the flags; elsewhere these decide
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EPERM, "it is not a plain file", str(path))
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EPERM, "it is not a plain file", str(path))
    return fd


def make_folder(path: Path) -> None:
    """Makes a folder in that of the cache. Raises OSError where something else, or a link to one, has the name."""
    path.mkdir(mode=0o700, exist_ok=True)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise OSError(errno.ENOTDIR, "it is a link", str(path))


def tidy(folder: Path) -> None:
    """Remove what is left of damaged databases that nobody has looked into for a month."""
    now_s = time.time()
    for old in _find_aside(folder):
        found = look_at(old)
        if found is not None and now_s - found.st_mtime > ASIDE_S:
            with contextlib.suppress(OSError):
                old.unlink()


def _find_aside(folder: Path) -> list[Path]:
    """The damaged databases that `move_aside` put there."""
    try:
        return [one for one in folder.glob(f"{ASIDE}*") if _ASIDE_NAME.fullmatch(one.name) and is_plain(one)]
    except OSError:
        return []


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
        found = os.lstat(note)
        if not stat.S_ISREG(found.st_mode):
            return False
        if 0 <= now_s - found.st_mtime < WARN_AGAIN_S:
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
    for old in _find_aside(folder):
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
        found = os.lstat(folder / DATABASE)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def size_bytes(folder: Path) -> int:
    """Bytes of the database and its log."""
    total = 0
    for name in (DATABASE, LOG):
        found = look_at(folder / name)
        total += found.st_size if found is not None else 0
    return total
