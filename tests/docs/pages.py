"""What the tests of the documentation read: the pages, their fenced blocks, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    code: str


def page_id(page: Path) -> str:
    """``docs/concepts/model.md``."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*match) for match in _FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """Every ``llm-trainer ...`` that a page shows, in blocks and in running text, as words."""
    shown = [
        line.removeprefix("$ ").removeprefix("source ")
        for block in blocks(page)
        if block.language in ("bash", "console", "text")
        for line in block.code.splitlines()
    ]
    shown += re.findall(r"`([^`\n]+)`", prose(page))
    found = []
    for line in shown:
        match = re.search(r"(?:^|\| |/bin/)llm-trainer( .*)?$", line.partition("  #")[0].strip())
        if match:
            found.append(shlex.split(match[1] or ""))
    return found
