"""The few pieces of HTML that the report is put together from. Text goes through :func:`escape`, always.

The report shows what strangers wrote on the web. Whatever it says, it must stay text: markup is escaped, control and
direction characters are made visible, and the page's content security policy forbids scripts as a second lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_trainer.common.web_page import escape


def human_count(count: float) -> str:
    """``372_800_000`` -> ``'373M'``, ``4_912_345`` -> ``'4.9M'``."""
    value, unit = float(count), ""
    for larger in ("K", "M", "B", "T"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if abs(value) < 9.95 and unit else f"{value:.0f}{unit}"


def number(value: float | int | None) -> str:
    """A number for a cell: whole ones in full, others to three digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, int) or (value == round(value) and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(part: float, whole: float) -> str:
    """``'12.3 %'``; small shares keep a digit, and nothing that is not zero is shown as 0."""
    share = 100 * part / whole if whole else 0.0
    if not share:
        return "0 %"
    if share < 0.01:
        return "< 0.01 %"
    return f"{share:.1f} %" if share >= 1 else f"{share:.2f} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already, in a panel that scrolls where the page is narrow."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if index in numbers else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    inner = f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="panel scroll">{inner}</div>'


def tile(name: str, value: str, note: str = "") -> str:
    """One headline number with its name above and a remark below."""
    return (
        f'<div class="panel tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def bars(rows: Sequence[tuple[str, float, str]], whole: float | None = None) -> str:
    """(name, value, text behind it) as horizontal bars; ``whole`` is the value of a full bar."""
    longest = whole if whole else max((value for _, value, _ in rows), default=0) or 1
    lines = "".join(
        f'<span class="what">{escape(name)}</span>'
        f'<span class="track"><i style="width:{min(100.0, 100 * value / longest):.2f}%"></i></span>'
        f"<b>{escape(text)}</b>"
        for name, value, text in rows
    )
    return f'<div class="bars">{lines}</div>'


def panel(title: str, inner: str, remark: str = "", *, whole: bool = False) -> str:
    """A box with a heading; ``inner`` is HTML."""
    note = f'<p class="muted">{escape(remark)}</p>' if remark else ""
    return f'<div class="panel{" whole" if whole else ""}"><h3>{escape(title)}</h3>{note}{inner}</div>'


def section(title: str, inner: str, remark: str = "") -> str:
    """A part of the page; nothing if there is nothing in it."""
    if not inner:
        return ""
    note = f'<p class="muted">{escape(remark)}</p>' if remark else ""
    return f"<h2>{escape(title)}</h2>{note}{inner}"
