"""The HTML of books and posts to text: well-meant pages without menus, so that every block counts.

Pages of the web need more (which part is the article?) and go through the HTML kind.
"""

from __future__ import annotations

import re
from html import unescape

_BLOCKS_WORDS = """
p div section article header footer aside main h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table tr blockquote pre hr
figure figcaption body title address center
"""
_BLOCKS = frozenset(_BLOCKS_WORDS.split())
_SILENT_WORDS = """
script style head nav noscript template svg math iframe object select button
"""
_SILENT = frozenset(_SILENT_WORDS.split())
# Ours while a page is read: a line end that is meant, and where code begins and ends.
_PRIVATE = re.compile("[\ue001-\ue003]")
_CODE = re.compile("\ue002([^\ue003]*)(?:\ue003|\\Z)")
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}


_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)([^<>]*)>|<[!?][^<>]*>")


class _TextParser:
    def __init__(self) -> None:
        self._silenced: list[str] = []
        self._pre = 0
        self.parts: list[str] = []
        self._lists: list[int | None] = []
        self._at_item = False  # behind a bullet: a paragraph that begins there stays on its line

    def feed(self, html: str) -> None:
        """Read a page. The standard library's parser takes minutes for a page of broken tags, and fails on some."""
        html = _drop_comments(html)
        position = 0
        while match := _TAG.search(html, position):
            self.handle_data(unescape(html[position : match.start()]))
            position = match.end()
            tag = (match[2] or "").lower()
            if match[1]:
                self.handle_endtag(tag)
            elif tag in ("script", "style"):
                closing = re.compile(rf"</{tag}[^<>]*>", re.IGNORECASE).search(html, position)
                position = closing.end() if closing else len(html)
            elif tag:
                self.handle_starttag(tag, closed=match[3].endswith("/"))
        self.handle_data(unescape(html[position:]))

    def handle_starttag(self, tag: str, *, closed: bool = False) -> None:
        if tag == "body":  # the end of a head may be left out
            self._silenced.clear()
        if tag in _SILENT and not closed:
            self._silenced.append(tag)
        if self._silenced:
            return
        if tag == "br":
            self.parts.append("\n" if self._pre else "\ue001")
        elif tag == "pre":
            self._pre += 1
            self.parts.append("\ue001\ue001\ue002")
        elif tag == "code" and not self._pre:
            self.parts.append("`")
        elif tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
            self.parts.append("\ue001")
        elif tag == "li":
            self.parts.append("\ue001" + self._bullet())
            self._at_item = True
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag in _BLOCKS and not self._pre and not self._at_item:
            self.parts.append("\ue001\ue001" + _HEADINGS.get(tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silenced:
            while self._silenced.pop() != tag:
                continue
            return
        if self._silenced:
            return
        if tag == "pre" and self._pre:
            self._pre -= 1
            self.parts.append("\ue003\ue001\ue001")
        elif tag == "code" and not self._pre:
            self.parts.append("`")
        elif tag in ("ul", "ol"):
            if self._lists:
                self._lists.pop()
            self.parts.append("\ue001")
        elif tag == "tr":
            self.parts.append("\ue001")
        elif tag in _BLOCKS and tag != "li" and not self._pre:
            self.parts.append("\ue001\ue001")

    def handle_data(self, data: str) -> None:
        if self._silenced:
            return
        data = _PRIVATE.sub("", data)
        self._at_item = self._at_item and not data.strip()
        self.parts.append(data if self._pre else re.sub(r"[ \t\r\n]+", " ", data))

    def _bullet(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "- "
        self._lists[-1] += 1
        return f"{self._lists[-1]}. "


def _drop_comments(html: str) -> str:
    pieces = []
    position = 0
    while (start := html.find("<!--", position)) >= 0 and (end := html.find("-->", start + 4)) >= 0:
        pieces.append(html[position:start])
        position = end + 3
    return "".join([*pieces, html[position:]])


def html_text(html: str, *, fences: bool = True) -> str:
    """The text of a page: paragraphs with blank lines between, ``# headings``, ``- items``, code in fences.

    Args:
        html: the page or fragment; nothing in it is an error.
        fences: whether to put preformatted text between lines of three backticks; books set letters and verse so.
    """
    parser = _TextParser()
    parser.feed(html)
    text = "".join(parser.parts).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub("[ \u00a0]*\ue001[ ]*", "\ue001", text)
    text = re.sub("\ue001{3,}", "\ue001\ue001", text)
    text = re.sub("(\ue001|\\A)(#{1,6}) +(?:\ue001+|\\Z)", r"\1", text)  # a heading that was a picture
    text = re.sub("(\ue001|\\A)(#{1,6} |) +", r"\1\2", text)
    text = text.replace("\ue001", "\n")
    return (_CODE.sub(_fence, text) if fences else re.sub("[\ue002\ue003]", "", text)).strip()


def _fence(match: re.Match[str]) -> str:
    code = match[1].strip("\n")
    return f"```\n{code}\n```" if code.strip() else ""
