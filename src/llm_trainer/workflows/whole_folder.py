"""A folder that appears whole or not at all, whatever stops the program on the way."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, fsync_dir


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill inside the block, beside ``folder``; at the end it takes its name.

    After an error or Ctrl-C nothing is left of it.

    Args:
        folder: not there yet, or empty.

    Raises:
        UserError: there is something in ``folder``, or it cannot be made.
    """
    require_empty(folder)
    new = [parent for parent in folder.parents if not parent.exists()]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with explain_os_errors(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with explain_os_errors(folder):
            if folder.is_dir():
                folder.rmdir()
            temporary.rename(folder)
            fsync_dir(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            for parent in new:  # the innermost first
                with contextlib.suppress(OSError):
                    parent.rmdir()


def require_empty(folder: Path) -> None:
    """Stop if there is something at ``folder``.

    Raises:
        UserError: it is a file, or a folder with something in it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", hint="name a folder with --output")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty", hint="name another folder with --output")
