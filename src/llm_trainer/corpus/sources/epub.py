"""EPUB books: a zip of web pages with a reading order (https://www.w3.org/TR/epub-33/)."""

from __future__ import annotations

import codecs
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.archives import ArchiveLimits, read_members
from llm_trainer.corpus.sources.books import BookOptions, strip_gutenberg
from llm_trainer.corpus.sources.books_html import html_text
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

_PAGES = (".xhtml", ".html", ".htm", ".xml", ".opf", ".ncx")
_OBFUSCATION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


_ENCODING = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")


class EpubOptions(ArchiveLimits):
    """Options of EPUB books."""

    gutenberg: bool = BookOptions.model_fields["gutenberg"].default
    """Cut Project Gutenberg's header and licence."""


class _Package(NamedTuple):
    spine: list[str]
    metadata: dict[str, str]


def read_epub(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a book: its pages in reading order, without the table of contents."""
    options = request.options if isinstance(request.options, EpubOptions) else EpubOptions()
    before = losses.total
    files = {member.name: member.data for member in read_members(path, losses, options, _is_wanted)}
    if not files:
        if losses.total == before:
            losses.add("damaged", str(path), "nothing in it")
        return
    if _is_protected(files.get("META-INF/encryption.xml", b"")) or "META-INF/rights.xml" in files:
        losses.add("encrypted", str(path), "its pages are protected (DRM)")
        return
    package = _read_package(files)
    if package is None:
        losses.add("damaged", str(path), "no readable package document (.opf) in it")
        return
    pages, length = [], 0
    for name in package.spine:
        if name not in files:
            losses.add("missing_page", f"{path}:{name}", "the reading order names it, the archive has it not")
            continue
        text = html_text(_decode_page(files[name]))
        length += len(text)
        if text:
            pages.append(text)
    text = "\n\n".join(pages)
    text = strip_gutenberg(text) if options.gutenberg else text
    if not text.strip():
        losses.add("no_text", str(path), f"{len(package.spine)} pages without text")
    elif length > request.max_document_chars:
        losses.add("too_large", str(path), f"{length:,} characters")
    else:
        yield Document(text, "", "", package.metadata)


def _decode_page(data: bytes) -> str:
    """A page by its byte order mark or XML declaration: UTF-8 or UTF-16 by the standard, Latin-1 in old books."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    data = data.removeprefix(codecs.BOM_UTF8)
    declared = _ENCODING.match(data[:200])
    for name in ("utf-8", declared[1].decode("ascii") if declared else "cp1252"):
        try:
            return data.decode(name)
        except (UnicodeError, LookupError):
            continue
    return data.decode("utf-8", "replace")


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(_PAGES)


def _is_protected(encryption: bytes) -> bool:
    """Whether pages are encrypted; fonts that are only scrambled hurt nobody."""
    if not encryption:
        return False
    root = _parse(encryption)
    if root is None:
        return True
    methods = [node.get("Algorithm", "") for node in root.iter() if _tag(node) == "EncryptionMethod"]
    return any(not method.startswith(_OBFUSCATION) for method in methods)


def _read_package(files: Mapping[str, bytes]) -> _Package | None:
    name = _package_name(files)
    root = _parse(files.get(name, b"")) if name else None
    if root is None:
        return None
    folder = posixpath.dirname(name or "")
    pages: dict[str, str] = {}
    for node in root.iter():
        if _tag(node) == "item" and "nav" not in (node.get("properties") or "").split():
            path = posixpath.normpath(posixpath.join(folder, unquote(node.get("href") or "")))
            pages[node.get("id") or ""] = path
    references = [node for node in root.iter() if _tag(node) == "itemref"]
    spine = [pages[node.get("idref") or ""] for node in references if (node.get("idref") or "") in pages]
    contents = {
        posixpath.normpath(posixpath.join(folder, unquote(node.get("href") or "").partition("#")[0]))
        for node in root.iter()
        if _tag(node) == "reference" and node.get("type") in ("toc", "cover")
    }
    kept = [
        page for page in spine if page not in contents and page.lower().endswith((".xhtml", ".html", ".htm", ".xml"))
    ]
    wanted = {"title": "title", "creator": "author", "language": "language", "rights": "license"}
    metadata: dict[str, str] = {}
    for node in root.iter():
        key = wanted.get(_tag(node))
        if key and node.text and node.text.strip():
            metadata.setdefault(key, node.text.strip()[:300])
    return _Package(kept, metadata)


def _package_name(files: Mapping[str, bytes]) -> str | None:
    container = _parse(files.get("META-INF/container.xml", b""))
    if container is not None:
        for node in container.iter():
            if _tag(node) == "rootfile" and node.get("full-path") in files:
                return node.get("full-path")
    return min((name for name in files if name.lower().endswith(".opf")), default=None)


def _parse(data: bytes) -> ElementTree.Element | None:
    """Parse XML without entities of its own: a few lines of them can fill the memory."""
    if not data or b"<!ENTITY" in data:
        return None
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


KIND_EPUB = Kind(
    name="epub",
    description="EPUB books",
    read=read_epub,
    suffixes=(".epub",),
    options=EpubOptions,
)
