"""One text, with its name and where it came from: what every source yields and everything after it consumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Args:
        text: the text itself, decoded, with ``\\n`` line ends and no byte order mark.
        id: a name that is unique inside its source and the same in every run, for example ``notes/a.txt:17``.
        source: the file, data set or factory that it came from.
        metadata: whatever else the source knows; never needed for training.
    """

    text: str
    id: str
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
