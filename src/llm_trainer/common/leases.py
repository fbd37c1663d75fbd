"""Who makes which file, when several processes work in one folder, also on several machines that share it.

A lease is a small file that only one process can create. It is a courtesy, not a lock: what is made under it must be
deterministic and written whole, so two processes that made it both would write the same bytes, and only time would be
lost. A lease therefore needs no protocol that could hang: one whose process is gone, or that was not renewed for a
minute, is void. Whoever holds one renews it from a thread, so that it lasts as long as the process runs, however long
the work takes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from llm_trainer.common.files import explain_os_errors

STALE_SECONDS = 60.0
RENEW_SECONDS = 15.0


def lease_path(file: Path) -> Path:
    """The lease of a file of the cache."""
    return file.with_name(f".{file.name}.lease")


@contextlib.contextmanager
def lease(file: Path) -> Iterator[bool]:
    """Try to get the lease of ``file`` for the block; gives whether we have it.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = lease_path(file)
    _remove_if_void(path)
    content = json.dumps({"host": platform.node(), "pid": os.getpid(), "number": uuid.uuid4().hex}).encode()
    with explain_os_errors(file):
        mine = _create(path, content)
    if not mine:  # another process has it
        yield False
        return
    ended = threading.Event()
    try:
        threading.Thread(target=_renew, args=(path, ended), name="lease", daemon=True).start()
        yield True
    finally:
        ended.set()
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content:  # a process that was stopped for long may have lost it to another
                path.unlink()


@contextlib.contextmanager
def packer_at_work(folder: Path) -> Iterator[None]:
    """Say for the block that somebody packs into ``folder``, whatever is being done: who trains on it then waits."""
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        presence = lease(folder / f"packer-{uuid.uuid4().hex[:8]}")
    with presence:
        yield


def is_held(path: Path) -> bool:
    """Whether a lease file belongs to a process that is alive, as far as can be told."""
    try:
        # A clock that was set back would make a lease last for years, so one from the future is as void as an old one.
        if abs(time.time() - path.stat().st_mtime) > STALE_SECONDS:
            return False
        owner = json.loads(path.read_bytes())
        host, pid = owner["host"], int(owner["pid"])
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError, PermissionError):
        return True  # being written this very moment, or by someone else; if not, it is void in a minute
    return host != platform.node() or _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and whose parent has not asked yet does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
    except psutil.AccessDenied:
        return True


def held_leases(folder: Path) -> list[Path]:
    """The leases in a folder whose owners are alive."""
    return [path for path in folder.glob(".*.lease") if is_held(path)]


def others_at_work(folder: Path) -> bool:
    """Whether another process than this one packs into a folder."""
    mine = json.dumps({"host": platform.node(), "pid": os.getpid()}).encode()[:-1] + b","
    for path in held_leases(folder):
        with contextlib.suppress(FileNotFoundError):
            if not path.read_bytes().startswith(mine):
                return True
    return False


def _create(path: Path, content: bytes) -> bool:
    """Make a lease, whole at once: a process may be killed at any moment, and half a lease would not say whose it is.

    Returns:
        Whether it was made; if not, there is one.
    """
    name = path.name.removesuffix(".lease")
    temporary = path.with_name(f"{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return False  # someone took the file for a leftover; the caller will ask again
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        return _create_slowly(path, content)  # a file system without links
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_slowly(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    return True


def _remove_if_void(path: Path) -> None:
    """Delete the lease of a process that is gone, and no other that was made in the meantime."""
    with contextlib.suppress(FileNotFoundError):
        seen = path.stat()
        if not is_held(path) and os.path.samestat(seen, path.stat()):
            path.unlink()


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # someone may have thought us dead: no harm, see above
            os.utime(path)
