"""Jupyter notebooks as Markdown: prose as it is, code in fences, results left out."""

from __future__ import annotations

import json
from typing import Any


def notebook_text(content: str) -> str | None:
    """The cells of a notebook (formats 3 and 4); None if it is no notebook or has no text.

    Args:
        content: the JSON of the ``.ipynb`` file.
    """
    try:
        notebook = json.loads(content)
        language = str(notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python"))
        cells = notebook.get("cells")
        if cells is None:
            cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        parts = [_cell(cell, language) for cell in cells]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    return "\n\n".join(part for part in parts if part) or None


def _cell(cell: dict[str, Any], language: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = ("".join(source) if isinstance(source, list) else str(source)).strip("\n")
    if not text.strip():
        return ""
    return f"```{language}\n{text}\n```" if cell.get("cell_type") == "code" else text
