"""PDF files to text, with pypdf; pages then go through the clean-up for scanned books."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_trainer.common.files import human_bytes
from llm_trainer.common.optional import require
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.books_ocr import clean_pages
from llm_trainer.corpus.sources.files_columns import normalise_lines
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest


class PdfOptions(Settings):
    """Options of PDF files."""

    max_file_bytes: Int = 256 << 20
    """Larger files are left out: a PDF is read from its end, so all of it may be needed."""
    max_pages: Int = 5000
    """Pages read of one file."""
    min_chars_per_page: Int = 50
    """A file with less text on a page, on average, is pictures of pages (``scanned``): it needs OCR first."""
    reflow: bool = True
    """Join the lines of each paragraph."""


def read_pdf(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a file.

    Counted are ``encrypted`` files, ``damaged`` files and pages, and ``scanned`` files without text.
    """
    options = request.options if isinstance(request.options, PdfOptions) else PdfOptions()
    pypdf = require("pypdf", extra="data", purpose="reading PDF files")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity of every file
    try:
        size = path.stat().st_size
        if size > options.max_file_bytes:
            losses.add("too_large", str(path), human_bytes(size))
            return
        reader = pypdf.PdfReader(path, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            losses.add("encrypted", str(path), "it needs a password")
            return
        count = len(reader.pages)
    except OSError as error:
        losses.add("unreadable", str(path), error.strerror or str(error))
        return
    except Exception as error:  # noqa: BLE001 - a parser of hostile bytes fails in every way there is
        missing = isinstance(error, ImportError) or "cryptography" in str(error)
        losses.add("encrypted" if missing else "damaged", str(path), str(error))
        return
    pages, damaged, length = [], 0, 0
    for number in range(min(count, options.max_pages)):
        text, problem = _page_text(reader, number)
        if problem:
            damaged += 1
            losses.add("damaged_page", f"{path}:page {number + 1}", problem)
        pages.append(text)
        length += len(text)
        if length > request.max_document_chars:
            losses.add("too_large", str(path), f"over {request.max_document_chars:,} characters")
            return
    if count > options.max_pages:
        losses.add("too_many_pages", str(path), f"{count:,} pages", count=count - options.max_pages)
    if length < options.min_chars_per_page * max(1, len(pages) - damaged):
        if not damaged or length or damaged < len(pages):
            losses.add("scanned", str(path), f"{length} characters on {len(pages)} pages")
        return
    text = clean_pages(pages, reflow=options.reflow)
    if not text:
        losses.add("no_text", str(path), "nothing but page headers and numbers")
        return
    yield Document(text, "", "", {"pages": count} | _facts(reader))


def _page_text(reader: Any, number: int) -> tuple[str, str]:
    try:
        text = reader.pages[number].extract_text() or ""
    except Exception as error:  # noqa: BLE001 - see read_pdf
        return "", str(error) or type(error).__name__
    # Broken font tables give halves of surrogate pairs and control characters.
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\0", "")
    return normalise_lines(text), ""


def _facts(reader: Any) -> dict[str, str]:
    """Title and author, where the file gives them as text."""
    try:
        found = reader.metadata or {}
        values = {"title": found.get("/Title"), "author": found.get("/Author")}
        return {name: str(value).strip()[:300] for name, value in values.items() if value and str(value).strip()}
    except Exception:  # noqa: BLE001 - the text is what matters; a broken dictionary beside it says nothing
        return {}


KIND_PDF = Kind(
    name="pdf",
    description="PDF files with text in them",
    read=read_pdf,
    suffixes=(".pdf",),
    options=PdfOptions,
)
