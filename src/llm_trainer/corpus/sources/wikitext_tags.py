"""Comments and extension tags of wikitext: what stands between them is not wikitext, so they are taken out first."""

from __future__ import annotations

import html
import re

KEPT_OPEN, KEPT_CLOSE = "\x02", "\x03"
"""Around the number of a piece that is kept as it stands. XML cannot hold these characters, so no dump has them."""

_VERBATIM = frozenset({"nowiki", "pre", "math", "chem", "ce", "syntaxhighlight", "source", "code"})
_DROPPED = frozenset(
    {
        "ref", "gallery", "timeline", "score", "graph", "imagemap", "hiero", "templatedata", "maplink", "mapframe",
        "references", "inputbox", "categorytree", "dynamicpagelist", "templatestyles", "indicator", "charinsert",
        "section", "style", "script", "languages",
    }
)  # fmt: skip
_OPENING = re.compile(r"<(?:!--|([a-zA-Z]+)\b([^<>]*)>)")
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _VERBATIM | _DROPPED}
_KEPT = re.compile(f"{KEPT_OPEN}([0-9]+){KEPT_CLOSE}")
_NEAR = 2000
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def take_out_tags(text: str, kept: list[str]) -> str:
    """Remove comments, references, galleries and the like; put code, formulas and ``<nowiki>`` aside.

    Args:
        text: wikitext.
        kept: receives the pieces put aside; the text holds their numbers (see :func:`put_back`).
    """
    text = _CONTROL.sub("", text) if _CONTROL.search(text) else text
    pieces: list[str] = []
    never_closed: set[str] = set()
    done = position = 0
    while match := _OPENING.search(text, position):
        name = (match[1] or "").lower()
        position = match.end()
        if not name:
            end = text.find("-->", position)
            pieces.append(text[done : match.start()])
            done = position = len(text) if end < 0 else end + 3  # as MediaWiki: an open comment hides all that follows
            continue
        if name not in _CLOSING:
            continue
        if match[2].endswith("/"):
            pieces.append(text[done : match.start()])
            done = position
            continue
        # Looked for once only: ten thousand open tags must not mean ten thousand searches to the end of the text.
        closing = None if name in never_closed else _find_end(text, match[1], position)
        pieces.append(text[done : match.start()])
        done = position
        if closing is None:
            never_closed.add(name)
            continue
        if name in _VERBATIM:
            pieces.append(_put_aside(name, text[position : closing[0]], kept))
        done = position = closing[1]
    pieces.append(text[done:])
    return "".join(pieces)


def _find_end(text: str, name: str, position: int) -> tuple[int, int] | None:
    """Where the closing tag begins and ends; spelt like the opening one, it is found at the speed of a substring.

    That search goes a little way only: to the end of the text, for each of many tags whose ends are spelt otherwise, it
    would cost the square of the length (25 s for a megabyte of ``<REF>a</ref>``).
    """
    exact = f"</{name}>"
    start = text.find(exact, position, position + _NEAR)
    other = _CLOSING[name.lower()].search(text, position, start if start >= 0 else len(text))
    if other:
        return other.span()
    return (start, start + len(exact)) if start >= 0 else None


def put_back(text: str, kept: list[str]) -> str:
    """Replace the numbers by the pieces that were put aside."""
    return _KEPT.sub(lambda match: kept[int(match[1])], text) if kept else text


def _put_aside(name: str, content: str, kept: list[str]) -> str:
    content = html.unescape(content)
    if name in {"math", "chem", "ce"}:
        content = " ".join(content.split())
        content = f"${content}$" if content else ""
    elif name in {"pre", "syntaxhighlight", "source"}:
        stripped = content.strip("\n")
        content = f"\n{stripped}\n" if "\n" in stripped else stripped
    kept.append(content)
    return f"{KEPT_OPEN}{len(kept) - 1}{KEPT_CLOSE}"
