"""Wikipedia dumps: ``pages-articles`` as .xml, .xml.bz2 or multistream .xml.bz2, page by page.

The dump is one XML document of up to a hundred gigabytes. It is not parsed as one: the bytes between ``<page>`` and
``</page>`` are, each page alone, so that a damaged page costs that page, memory is that of one page, and a document
type declaration (the way to bombs of entities) is never seen by the parser: an entity that it would have defined makes
the page invalid. ``<page>`` cannot occur inside a page, because XML text holds no bare ``<``.

A multistream dump is a row of bz2 streams of a hundred pages each (https://meta.wikimedia.org/wiki/Data_dumps/Dump_format).
Their first ten bytes are found by searching, so such a dump is cut between streams and read by several workers.
"""

from __future__ import annotations

import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm_trainer.config.base import Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.kinds import Kind, Part, ReadRequest
from llm_trainer.corpus.sources.wikipedia_stream import find_borders, is_utf8, utf8_blocks
from llm_trainer.corpus.sources.wikitext import clean_wikitext
from llm_trainer.corpus.sources.wikitext_names import CATEGORY_NAMES, DROPPED_SECTIONS, FILE_NAMES, WikiNames

_MAX_PAGE_BYTES = 64 << 20
_HEAD_BYTES = 1 << 20
_NAMESPACE = re.compile(rb'<namespace key="(-?\d{1,9})"[^>]*>([^<]*)</namespace>')
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_BASE = re.compile(rb"<base>([^<]*)</base>")
_LANGUAGE = re.compile(rb'<mediawiki\b[^>]*xml:lang="([\w-]+)"')
_LICENCE = "CC BY-SA 4.0"

# The template that marks a page as a list of meanings, in large Wikipedias. {{disambiguation needed}} stands behind one
# link of an article.
_DISAMBIGUATION = re.compile(
    r"\{\{\s{0,20}(?:[\w -]{0,60}\bdisambig(?:uation)?\b(?! needed| link| inline)[\w -]{0,60}|"
    r"disambigs?|dab|hndis|geodis|surname|homonymie|"
    r"begriffsklärung|homonimia|desambiguación|desambiguação|desambigua[tç]\w{0,10}|disambigua|неоднозначность|"
    r"многозначност|пояснение|doorverwijspagina|dp|ujednoznacznienie|aimai|曖昧さ回避|消歧义|消歧義|동음이의|توضيح|"
    r"ابهام‌زدایی|פירושונים|förgrening|flertydig|täsmennyssivu|rozcestník|egyért|dezambiguizare|anlam ayrımı|định hướng)"
    r"\s{0,20}(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)


class WikipediaOptions(Settings):
    """How a dump is read."""

    namespaces: list[int] = [0]
    """Namespaces whose pages are kept; 0 holds the articles."""

    title: bool = True
    """Begin each document with the title of its page."""

    disambiguation: bool = False
    """Keep pages that only list the meanings of a word."""

    reference_sections: bool = False
    """Keep sections such as References and External links."""

    markup: bool = False
    """Leave the wikitext as it is."""


@dataclass(frozen=True)
class WikiHead:
    """What the first lines of a dump say.

    Attributes:
        language: of the wiki, for example ``"en"``; ``""`` when not said.
        base: address of a page of the wiki, up to its last slash.
        names: its words for files and categories.
        is_dump: False when the file begins like something else.
    """

    language: str = ""
    base: str = ""
    names: WikiNames = field(default_factory=WikiNames)
    is_dump: bool = True


def read_wikipedia(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The articles of a dump as plain text; see the module's text. Implements :data:`kinds.Read`.

    Reasons of losses: ``namespace``, ``redirect``, ``disambiguation``, ``not_wikitext``, ``empty``, ``invalid_xml``,
    ``too_large``, ``truncated``, ``damaged``, ``unreadable``, ``not_a_dump``.
    """
    options = request.options if isinstance(request.options, WikipediaOptions) else WikipediaOptions()
    head = read_head(path)
    names = WikiNames(
        head.names.files, head.names.categories, frozenset() if options.reference_sections else DROPPED_SECTIONS
    )
    found = head.is_dump
    for place, page in _pages(path, request.part, losses):
        found = True
        fields = _parse_page(page)
        if fields is None:
            losses.add("invalid_xml", place, _beginning(page))
            continue
        reason = _refusal(fields, options)
        if reason:
            losses.add(reason, place, fields["title"])
            continue
        text = fields["text"] if options.markup else clean_wikitext(fields["text"], names)
        if not text.strip():
            losses.add("empty", place, fields["title"])
            continue
        if options.title and fields["title"]:
            text = f"{fields['title']}\n\n{text}"
        if len(text) > request.max_document_chars:
            losses.add("too_large", place, f"{fields['title']}: {len(text)} characters")
            continue
        yield Document(text, fields["id"], metadata=_metadata(fields, head))
    if not found and (request.part is None or request.part.start == 0):
        losses.add("not_a_dump", path.name, "it begins with no <mediawiki> and holds no <page>")


def read_head(path: Path) -> WikiHead:
    """Language, address and namespaces of a dump, from its first megabyte; what is not said there stays general."""
    head = bytearray()
    for _, block in utf8_blocks(path, None, Losses()):
        head += block
        if len(head) >= _HEAD_BYTES or b"</siteinfo>" in head or b"<page>" in head:
            break
    is_dump = not head or b"<mediawiki" in head or b"<page>" in head
    head = head[: max(head.find(b"<page>"), 0) or len(head)]
    spaces: dict[int, str] = {}
    for key, name in _NAMESPACE.findall(head):
        spaces[int(key)] = name.decode("utf-8", "replace").lower().replace(" ", "_")
    base, language = _BASE.search(head), _LANGUAGE.search(head)
    return WikiHead(
        language[1].decode("ascii", "replace") if language else "",
        base[1].decode("utf-8", "replace").rpartition("/")[0] if base else "",
        WikiNames(
            FILE_NAMES | {spaces[key] for key in (6, -2) if key in spaces},
            CATEGORY_NAMES | {spaces[key] for key in (14,) if key in spaces},
        ),
        is_dump,
    )


def cut_wikipedia(path: Path, part_bytes: int) -> Sequence[Part]:
    """Parts of a dump of about ``part_bytes`` that begin where a bz2 stream begins; one if it has one stream."""
    borders = [0, *(find_borders(path, part_bytes) if is_utf8(path) else []), path.stat().st_size]
    return [Part(start, stop) for start, stop in pairwise(borders)]


def _pages(path: Path, part: Part | None, losses: Losses) -> Iterator[tuple[str, bytes]]:
    """``(place, bytes from <page> to </page>)`` of the pages that begin in a part; damaged ones are counted.

    Streams of Wikimedia's own dumps end where a page ends. Other programs cut anywhere, so the last page of a part is
    read to its end in the streams of the next part, which in turn begins with its first ``<page>``.
    """
    window = _Window()
    for where, block in utf8_blocks(path, part, losses):
        window.buffer += block
        yield from window.pages(where, losses)
    if part is not None and part.stop < path.stat().st_size:
        window.border = len(window.buffer)
        rest = Part(part.stop, path.stat().st_size)
        for where, block in utf8_blocks(path, rest, Losses()):
            if window.is_done():
                break
            window.buffer += block
            yield from window.pages(where, losses)
    if window.inside:
        losses.add("truncated", window.place, f"the last page has no end: {_beginning(bytes(window.buffer[:2000]))}")


@dataclass
class _Window:
    """The bytes between the last page that was given out and the last block that was read.

    Attributes:
        buffer: begins with ``<page>`` if ``inside``.
        inside: whether the beginning of a page was seen, and not its end.
        seen: how much of the buffer has been searched; no byte is looked at twice.
        border: pages that begin at or behind it belong to the next part; None while there is no border in the buffer.
        place: where the page began, for people.
    """

    buffer: bytearray = field(default_factory=bytearray)
    inside: bool = False
    seen: int = 0
    border: int | None = None
    place: str = ""

    def is_done(self) -> bool:
        """Whether no page can begin before the border any more."""
        return not self.inside and self.border is not None and self.border <= 0

    def pages(self, where: str, losses: Losses) -> Iterator[tuple[str, bytes]]:
        """The pages that are complete now."""
        while self._find_start(where):
            stop = self.buffer.find(b"</page>", self.seen)
            if stop < 0:
                self.seen = max(len(self.buffer) - 6, 6)
                if len(self.buffer) > _MAX_PAGE_BYTES:
                    losses.add("too_large", self.place, f"a page of more than {_MAX_PAGE_BYTES >> 20} MB of XML")
                    self.inside, self.seen = False, 6
                    continue
                return
            page = bytes(self.buffer[: stop + 7])
            again = page.rfind(b"<page>")
            border = len(page) if self.border is None else self.border
            self._drop(stop + 7)
            self.inside = False
            if again > 0:  # the end of the page before was lost
                count = page.count(b"<page>", 0, min(again, border + 5))
                losses.add("invalid_xml", self.place, _beginning(page), count=count)
                page = page[again:]
            if again < border:  # else the next part begins with it
                yield self.place, page

    def _find_start(self, where: str) -> bool:
        if self.inside:
            return True
        last = len(self.buffer) if self.border is None else min(len(self.buffer), self.border + 5)
        start = self.buffer.find(b"<page>", self.seen, max(last, 0))
        if start < 0:
            self._drop(max(len(self.buffer) - 5, 0))
            return False
        self._drop(start)
        self.inside, self.seen, self.place = True, 6, where
        return True

    def _drop(self, count: int) -> None:
        del self.buffer[:count]
        self.seen = 0
        if self.border is not None:
            self.border -= count


def _beginning(page: bytes) -> str:
    title = re.search(rb"<title>([^<]{0,200})", page)
    return title[1].decode("utf-8", "replace") if title else "a page without a title"


def _parse_page(page: bytes) -> dict[str, Any] | None:
    try:
        root = ElementTree.fromstring(page)
    except (ElementTree.ParseError, ValueError):
        return None
    revisions = root.findall("revision")
    last = revisions[-1] if revisions else root
    fields: dict[str, Any] = {
        "title": (root.findtext("title") or "").strip(),
        "id": (root.findtext("id") or "").strip(),
        "namespace": (root.findtext("ns") or "0").strip(),
        "revision": (last.findtext("id") or "").strip(),
        "date": (last.findtext("timestamp") or "").strip(),
        "model": (last.findtext("model") or "wikitext").strip(),
        "text": last.findtext("text") or "",
        "redirect": root.find("redirect") is not None,
    }
    return fields if fields["id"] and _NUMBER.fullmatch(fields["namespace"]) else None


_REDIRECT = re.compile(r"\s*#\s*\w{3,25}\s*:?\s*\[\[[^\[\]\n]+\]\]")


def _refusal(fields: dict[str, Any], options: WikipediaOptions) -> str | None:
    if int(fields["namespace"]) not in options.namespaces:
        return "namespace"
    if fields["redirect"] or _REDIRECT.match(fields["text"][:500]):
        return "redirect"
    if fields["model"] != "wikitext":
        return "not_wikitext"
    if not options.disambiguation and _DISAMBIGUATION.search(fields["text"]):
        return "disambiguation"
    return None


def _metadata(fields: dict[str, Any], head: WikiHead) -> dict[str, Any]:
    found = {
        "title": fields["title"],
        "url": f"{head.base}/{urllib.parse.quote(fields['title'].replace(' ', '_'))}" if head.base else "",
        "language": head.language,
        "revision": fields["revision"],
        "date": fields["date"],
        "license": _LICENCE,
    }
    return {key: value for key, value in found.items() if value}


KIND_WIKIPEDIA = Kind(
    name="wikipedia",
    description="a Wikipedia dump (pages-articles .xml or .xml.bz2; multistream ones are read by several workers)",
    read=read_wikipedia,
    suffixes=(
        "pages-articles.xml",
        "pages-articles.xml.bz2",
        "pages-articles.xml.gz",
        "pages-articles-multistream.xml.bz2",
    ),
    options=WikipediaOptions,
    cut=cut_wikipedia,
)
