"""Small pieces of text for people: durations, moments, and text of unknown origin made safe to show."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path


def format_duration(seconds: float) -> str:
    """``42`` -> ``'42 s'``, ``303`` -> ``'5 min 3 s'``, ``15800`` -> ``'4 h 23 min'``, ``200000`` -> ``'2 d 7 h'``."""
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (smaller, smaller_unit) in pairwise(units):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def format_moment(seconds: float | None) -> str:
    """Unix seconds as ``2025-08-29 02:36 UTC``."""
    if seconds is None:
        return "unknown"
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M} UTC"


def without_home(text: str) -> str:
    """``text`` with the person's home folder written ``~``: reports are shown to others."""
    home = str(Path.home())
    # Only as a whole path component: "/rootfs" does not lie in "/root".
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if len(home) > 1 else text
