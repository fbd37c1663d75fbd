"""Texts that come from pages: hyphens at line ends, running headers, page numbers, ligatures, broken paragraphs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
"""Letters that a typesetter joins and a reader does not see."""

_PAGE_NUMBER = re.compile(
    r"^\s*(?:[\[(\-–—]\s*)?(?:p(?:age|g)?\.?\s*)?(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:of|/)\s*\d{1,4})?(?:\s*[\])\-–—])?\s*$",
    re.IGNORECASE,
)
_NUMBERED_EDGE = re.compile(r"^\s*\d{1,4}\s+|\s+\d{1,4}\s*$")
# The word's second half, what stands at it (a comma, a bracket), and the indentation of the line that loses them.
_HYPHEN = re.compile(r"(\w{2,})([-‐\u00ad¬])\n([ \t]*)(\w+)(\S*)[ \t]*")
_SOFT_HYPHEN = re.compile("\u00ad")
_WORD = re.compile(r"\w+(?:[-‐]\w+)*")
_SENTENCE_END = re.compile(r"[.!?:;…][\"'”’»)\]]*$")


def clean_pages(pages: Sequence[str], *, reflow: bool = True) -> str:
    """Join the pages of a book or article to one text.

    Lines at the top or bottom that come back on many pages, and page numbers, are taken out; words that a line end
    cuts are joined; a paragraph that goes on over a page stays one.

    Args:
        pages: the text of every page.
        reflow: whether to join the lines of a paragraph.
    """
    stripped = drop_running_lines([page.translate(LIGATURES) for page in pages])
    text = "\n".join(_join_pages(stripped))
    text = join_hyphens(text)
    return (reflow_lines(text) if reflow else re.sub(r"\n{3,}", "\n\n", text)).strip()


def drop_running_lines(pages: Sequence[str]) -> list[str]:
    """The pages without running headers, footers and page numbers.

    A line counts as running if it is among the first or last two of a page, and (digits aside) stands there on at
    least three pages and a fifth of all.
    """
    lines = [page.strip("\n").split("\n") for page in pages]
    edges: Counter[str] = Counter()
    for page in lines:
        edges.update({_edge_key(line) for line in _edges(page)})
    least = max(3, len(pages) // 5)
    running = {key for key, count in edges.items() if count >= least and key}
    cleaned = []
    for page in lines:
        kept = list(page)
        for edge in (0, -1):
            for _ in range(2):
                while kept and not kept[edge].strip():
                    kept.pop(edge)
                if kept and (_PAGE_NUMBER.match(kept[edge]) or _edge_key(kept[edge]) in running):
                    kept.pop(edge)
        cleaned.append("\n".join(kept))
    return cleaned


def _edges(page: list[str]) -> list[str]:
    filled = [line for line in page if line.strip()]
    return filled[:2] + filled[-2:]


def _edge_key(line: str) -> str:
    return " ".join(_NUMBERED_EDGE.sub(" ", line).lower().split())


def _join_pages(pages: Sequence[str]) -> list[str]:
    """A blank line between two pages only where the first ends a sentence."""
    joined: list[str] = []
    for page in pages:
        text = page.strip("\n")
        if not text.strip():
            continue
        if joined and _SENTENCE_END.search(joined[-1].rstrip()):
            joined.append("")
        joined.append(text)
    return joined


def join_hyphens(text: str, *, typed: bool = False) -> str:
    """Join words that a hyphen at a line end cuts.

    ``exam-\\nple`` becomes ``example``. The hyphen stays where the text writes the word with it elsewhere
    (``well-\\nknown`` beside ``well-known``), or where the second half begins with a capital or a digit.

    Args:
        text: the text.
        typed: whether people typed the text, as Project Gutenberg's volunteers do. They break lines only at hyphens
            that belong to the word, so the hyphen stays unless the text has the word without it.
    """
    if "-\n" not in text and "\u00ad" not in text and "‐\n" not in text and "¬\n" not in text:
        return text
    words = Counter(match[0].lower() for match in _WORD.finditer(text))

    def join(match: re.Match[str]) -> str:
        first, mark, indentation, second, rest = match.groups()
        hyphenated = f"{first}-{second}"
        whole = words[(first + second).lower()]
        meant = words[hyphenated.lower()] > whole or (typed and not whole and mark in "-‐")
        if not second[0].islower() or meant:
            return f"{hyphenated}{rest}\n{indentation}"
        return f"{first}{second}{rest}\n{indentation}"

    text = re.sub(r"\n\n ?(?=\n)", "\n", _HYPHEN.sub(join, text))
    return _SOFT_HYPHEN.sub("", text)


def reflow_lines(text: str) -> str:
    """Join the lines of each paragraph; indented blocks and short lines (verse, tables, headings) stay as they are."""
    return "\n\n".join(
        _reflow(paragraph) for paragraph in re.split(r"\n[ \t]*\n[ \t\n]*", text.strip("\n")) if paragraph.strip()
    )


def _reflow(paragraph: str) -> str:
    lines = [line.rstrip() for line in paragraph.strip("\n").split("\n")]
    if len(lines) == 1:
        return lines[0].strip()
    body = lines[:-1]
    indented = sum(line.startswith(("  ", "\t")) for line in lines[1:])
    mean = sum(len(line.strip()) for line in body) / len(body)
    if indented > len(lines) // 2 or mean < 40:
        return "\n".join(lines)
    return " ".join(line.strip() for line in lines)
