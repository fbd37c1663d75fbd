"""What processes that are gone left in a cache's folder."""

from __future__ import annotations

import re
from pathlib import Path

from llm_trainer.common.leases import is_held, lease_path

_HIDDEN = re.compile(
    r"\.((?:chunk-\d+-[0-9a-f]{8}\.tok)|(?:plan|manifest)\.json|packer-[0-9a-f]{8})\.(?:lease|[^.]*\.tmp)"
)


def remove_leftovers(folder: Path) -> None:
    """Delete leases and half-written files of processes that are gone; files of others are left alone."""
    for path in folder.glob(".*"):
        match = _HIDDEN.fullmatch(path.name)
        if match and not is_held(lease_path(folder / match[1])):
            path.unlink(missing_ok=True)
