"""HTML to text: the main content of a page, without menus, scripts and markup.

Extraction is resiliparse's (https://github.com/chatnoir-eu/chatnoir-resiliparse, 18 MB/s a core with main content);
trafilatura, thirty times slower and stricter, is there for who has installed it. Pages from the web are hostile now
and then, so what makes a parser slow is looked for first.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from llm_trainer.common.errors import UserError
from llm_trainer.common.optional import available, require
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

Extractor = Literal["resiliparse", "trafilatura"]

# Measured on this parser: 100,000 attributes on one tag take 19 s, finding the main content of 10,000 nested elements
# 1.8 s and of 100,000 three minutes; both grow with the square. Real pages have tags of a few dozen attributes and are
# some thirty elements deep.
_MANY_ATTRIBUTES = 5000
_LONG_TAG = 20_000
_DEEP = 600
_DEEP_SELECTOR = ">".join("*" * _DEEP)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
# A value that holds the end of a tag, which does not end its tag. That "=" stands before it keeps the search in step.
_VALUE = re.compile(r"=\s*(?:\"[^\">]*>[^\"]*\"|'[^'>]*>[^']*')")
_SEPARATOR = re.compile(r"[\s/]+")
_TAG_START = re.compile(r"<[a-zA-Z]")
_BLANK_LINES = re.compile(r"\n{3,}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*", re.ASCII)


class HostilePageError(ValueError):
    """A page that is built to make a parser slow."""


class HtmlOptions(Settings):
    """How the text of a page is found."""

    extractor: Extractor = "resiliparse"
    """``trafilatura`` has to be installed, and reads about 1 MB a second."""

    main_content: bool = True
    """Leave out menus, footers and side bars."""

    max_page_bytes: Int = 32 << 20
    """Larger pages are lost with the reason ``too_large``."""


def extract_html(
    data: bytes | str,
    url: str | None = None,
    extractor: Extractor = "resiliparse",
    *,
    main_content: bool = True,
    charset: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """The text of a page.

    Args:
        data: the page; bytes are decoded by ``charset``, else by what the page declares, else by looking at them.
        url: its address, which trafilatura uses.
        extractor: ``"resiliparse"`` or ``"trafilatura"``.
        main_content: leave out what surrounds the content.
        charset: from the HTTP header, where there was one.

    Returns:
        The text (``""`` if the page has none) and what is known of it: ``title``, ``language`` (as declared).

    Raises:
        HostilePageError: parsing would take minutes.
        UserError: the package is not installed.
    """
    page = data if isinstance(data, str) else decode_page(data, charset)
    page = page.replace("\0", "")
    _refuse_hostile_tags(page)
    html = require("resiliparse.parse.html", extra="data", purpose="reading HTML")
    tree = html.HTMLTree.parse(page)
    metadata = _describe(tree)
    if extractor == "trafilatura":
        return _with_trafilatura(page, url, main_content), metadata
    html2text = require("resiliparse.extract.html2text", extra="data", purpose="reading HTML")
    deep = page.count("<") > 2 * _DEEP and _is_deep(tree)
    text = html2text.extract_plain_text(tree, main_content=main_content and not deep)
    lines = str(text).replace("\u00a0", " ").split("\n")
    return _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in lines)).strip(), metadata


def decode_page(data: bytes, charset: str | None = None) -> str:
    """Text of a page, however it says, or does not say, how it is encoded (https://encoding.spec.whatwg.org).

    Bytes that do not fit the declared encoding are tried as UTF-8 and Windows-1252, as browsers do.
    """
    encoding = require("resiliparse.parse.encoding", extra="data", purpose="reading HTML")
    if data.startswith(b"\xef\xbb\xbf"):
        charset = "utf-8"
    name = encoding.map_encoding_to_html5(charset) if charset else None
    if name is None:
        name = encoding.detect_encoding(data, from_html_meta=True) or "utf-8"
    try:
        return str(encoding.bytes_to_str(data, name))
    except LookupError:  # a name that only browsers know
        return str(encoding.bytes_to_str(data, "utf-8"))


def charset_of(content_type: str | None) -> str | None:
    """``text/html; charset=UTF-8`` -> ``UTF-8``."""
    found = _CHARSET.search(content_type) if content_type else None
    return found[1] if found else None


def read_html(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One page, one document. Implements :data:`kinds.Read`.

    Reasons of losses: ``no_text``, ``too_large``, ``too_complex``, ``unreadable``.
    """
    options = request.options if isinstance(request.options, HtmlOptions) else HtmlOptions()
    try:
        with path.open("rb") as file:
            data = file.read(options.max_page_bytes + 1)
    except OSError as error:
        losses.add("unreadable", path.name, error.strerror or str(error))
        return
    document = page_document(data, "", path.name, options, request.max_document_chars, losses)
    if document:
        yield document


def page_document(
    data: bytes,
    identifier: str,
    place: str,
    options: HtmlOptions,
    max_chars: int,
    losses: Losses,
    *,
    url: str | None = None,
    charset: str | None = None,
) -> Document | None:
    """The document of a page, or None and a count of why there is none."""
    if len(data) > options.max_page_bytes:
        losses.add("too_large", place, f"a page of more than {options.max_page_bytes} bytes")
        return None
    try:
        text, metadata = extract_html(data, url, options.extractor, main_content=options.main_content, charset=charset)
    except HostilePageError as error:
        losses.add("too_complex", place, str(error))
        return None
    if not text:
        losses.add("no_text", place, url or "")
        return None
    if len(text) > max_chars:
        losses.add("too_large", place, f"{len(text)} characters of text")
        return None
    return Document(text, identifier, metadata=metadata)


def _refuse_hostile_tags(page: str) -> None:
    if len(page) < _LONG_TAG:
        return
    for piece in _VALUE.sub("=", page).split(">"):
        if len(piece) < _LONG_TAG:
            continue
        start = _TAG_START.search(piece)
        if start and len(_SEPARATOR.findall(_QUOTED.sub("", piece[start.start() :]))) > _MANY_ATTRIBUTES:
            raise HostilePageError(f"a tag with more than {_MANY_ATTRIBUTES} attributes")


def _is_deep(tree: Any) -> bool:
    """Whether elements are nested so deep that looking for the main content would take seconds.

    A selector asks for it in C: 1.2 ms for 9,000 elements, where walking the tree from here takes 26.
    """
    return tree.body is not None and tree.body.query_selector(_DEEP_SELECTOR) is not None


def _describe(tree: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    title = " ".join((tree.title or "").split())
    if title:
        found["title"] = title[:1000]
    root = tree.document.query_selector("html") if tree.document else None
    language = (root.getattr("lang") or root.getattr("xml:lang") or "").strip() if root is not None else ""
    if _LANGUAGE.fullmatch(language):
        found["language"] = language.lower()
    return found


def _with_trafilatura(page: str, url: str | None, main_content: bool) -> str:
    if not available("trafilatura"):
        raise UserError(
            "extractor: trafilatura needs the package 'trafilatura', which is not installed",
            hint="pip install trafilatura, or use extractor: resiliparse",
        )
    trafilatura = importlib.import_module("trafilatura")
    if main_content:
        return (trafilatura.extract(page, url=url, include_comments=False) or "").strip()
    return (trafilatura.html2txt(page) or "").strip()


KIND_HTML = Kind(
    name="html",
    description="web pages as files, one document each: the main content without menus and markup",
    read=read_html,
    suffixes=(".html", ".htm", ".xhtml"),
    options=HtmlOptions,
)
