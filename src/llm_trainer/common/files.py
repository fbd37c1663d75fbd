"""Files that are either whole or absent.

A reader must never see half a file, and a machine that loses power must not lose one that was there before. So every
file is written under a temporary name in the same folder, flushed to the disk, and renamed over the target: on POSIX
and on Windows ``os.replace`` is atomic inside one file system. The folder is flushed too, or the rename itself can be
lost (https://lwn.net/Articles/457667/).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from llm_trainer.common.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb", *, encoding: str | None = None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; rename it to ``path`` when the block ends without an exception.

    Args:
        path: the file to make or replace. Its folder is created.
        mode: ``"wb"`` or ``"w"``.
        encoding: for text mode; UTF-8 when left out.

    Raises:
        UserError: the disk is full, or the folder cannot be written. The old file, if any, is untouched.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with explain_os_errors(path):
            text = "b" not in mode
            with os.fdopen(handle, mode, encoding=(encoding or "utf-8") if text else None) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _apply_umask(temporary)
            os.replace(temporary, path)
            fsync_dir(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data``, atomically."""
    with atomic_write(path, "wb") as file:
        file.write(data)


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON; the message names the file.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be JSON that someone meant") from None


def fsync_file(path: str | Path) -> None:
    """Make the content of a file that another library wrote durable."""
    with Path(path).open("rb+") as file:
        os.fsync(file.fileno())


def fsync_dir(path: str | Path) -> None:
    """Make renames inside a folder durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free_space(folder: str | Path, needed: int, *, purpose: str) -> None:
    """Stop before a write that cannot fit.

    Args:
        folder: where the bytes will go; the nearest existing parent is asked.
        needed: bytes.
        purpose: what is about to be written, for the message.
    """
    probe = Path(folder).absolute()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < needed:
        raise UserError(
            f"not enough disk space for {purpose}: {human_bytes(needed)} needed, {human_bytes(free)} free in {probe}",
            hint="free some space, or name another place with --output_dir",
        )


@contextlib.contextmanager
def explain_os_errors(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals about ``path`` into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: could not write {path}",
                hint="free some space and run the same command again (a training run: with --resume); what was saved "
                "before is intact",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"no permission to write {path} ({os.strerror(error.errno)})", hint="choose a folder that you may write"
            ) from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(f"cannot write {path}: {os.strerror(error.errno)}") from None
        raise


def human_bytes(count: float) -> str:
    """``1536`` -> ``'1.5 KB'`` (powers of 1024)."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def _apply_umask(path: Path) -> None:
    """``mkstemp`` makes files for the owner only; give them the permissions an ordinary ``open`` would have."""
    if os.name == "nt":
        return
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
