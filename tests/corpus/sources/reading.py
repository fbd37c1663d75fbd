"""Reading a file with a kind, as the tests do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.kinds import Kind, Part, ReadRequest, find_kind


def read(kind: str | Kind, path: Path, *, part: Part | None = None, **values: Any) -> tuple[list[Document], Losses]:
    """The documents of a file and what was lost; values are options of the kind, or fields of the request."""
    kind = find_kind(kind) if isinstance(kind, str) else kind
    fields = {name: values.pop(name) for name in list(values) if name in ReadRequest.__dataclass_fields__}
    losses = Losses()
    request = ReadRequest(options=kind.options(**values), part=part, **fields)
    return list(kind.read(path, request, losses)), losses


def texts(kind: str, path: Path, **values: Any) -> list[str]:
    """The texts of a file from which nothing was lost."""
    documents, losses = read(kind, path, **values)
    assert losses.counts == {}
    return [document.text for document in documents]
