"""The few pieces of HTML that the report is put together from. Text goes through :func:`escape`, always."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llm_trainer.common.files import human_bytes
from llm_trainer.common.web_page import escape
from llm_trainer.monitoring.metrics_file import is_number
from llm_trainer.monitoring.text import without_home


def folded(title: str, values: dict[str, Any]) -> str:
    """A table of nested settings that opens on a click."""
    rows = [(f"<code>{escape(key)}</code>", escape(without_home(value))) for key, value in flatten(values)]
    return f'<details class="panel"><summary>{escape(title)}</summary>{table((), rows)}</details>'


def flatten(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as ``("a.b", "value")``; sizes in bytes for people."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        elif name.endswith("_bytes") and is_number(value):
            yield name, f"{human_bytes(value)} ({value:,})"
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if index in numbers else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    first = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{first}<tbody>{body}</tbody></table>"


def tile(name: str, value: str, note: str) -> str:
    """One headline number with its name above and a remark below."""
    main = " main" if name == "bits per byte" else ""
    return (
        f'<div class="panel tile{main}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )
