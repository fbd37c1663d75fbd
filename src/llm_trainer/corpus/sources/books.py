"""Books: plain text or HTML, as Project Gutenberg and scanners give them.

Gutenberg's header, transcriber's credits and licence are not the author's words, and a model that learns them says
them; they are cut at the marks that its volunteers have used since 1991.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from llm_trainer.common.files import human_bytes
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.books_html import html_text
from llm_trainer.corpus.sources.books_ocr import clean_pages, join_hyphens, reflow_lines
from llm_trainer.corpus.sources.files_columns import normalise_lines
from llm_trainer.corpus.sources.files_stream import StreamLimits, format_name, read_blocks
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

# Bounded, and never over a line end: a page of nothing but spaces must not take minutes.
_GAP = r"[ \t]{0,20}"
_NAME = rf"{_GAP}(?:(?:this|the)[ \t]+)?(?:the[ \t]+)?project[ \t]+gutenberg"
_START = re.compile(
    rf"^{_GAP}\*{{2,}}{_GAP}start[ \t]+of{_NAME}(?:(?!\n[ \t]*\n).){{0,400}}?\*{{2,}}[ \t]*$"
    rf"|^{_GAP}\*{{2,}}{_GAP}start[ \t]+of{_NAME}[^\n]*$"
    r"|^\*END\*?[ \t]{0,20}THE SMALL PRINT(?:(?!\n[ \t]*\n).){0,400}?\*END\*[ \t]*$|^\*END[ *]+THE SMALL PRINT![^\n]*$"
    r"|^\*\*\*[ \t]{0,20}START\*{0,3}[ \t]{0,20}OF[ \t]+THE[ \t]+PROJECT[^\n]*$",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_END = re.compile(
    rf"^{_GAP}\*{{2,}}{_GAP}end[ \t]+of{_NAME}"
    rf"|^{_GAP}\*{{0,5}}{_GAP}end[ \t]+of{_NAME}(?:['’]s|[ \t]+e-?(?:text|book)|[ \t]+edition)?\b"
    rf"|^{_GAP}this[ \t]+is[ \t]+the[ \t]+end[ \t]+of{_NAME}"
    rf"|^\*{{3}}{_GAP}THE[ \t]+FULL[ \t]+PROJECT[ \t]+GUTENBERG[ \t]+LICENSE",
    re.IGNORECASE | re.MULTILINE,
)
_CREDIT = re.compile(
    r"^(?:e-?text\s+|this\s+e-?(?:text|book)\s+(?:was\s+)?)?(?:produced|prepared|transcribed|scanned|digitized|created)\s+"
    r"(?:and\s+\w+\s+)?(?:by|from)\b|^(?:updated\s+editions|note:\s+(?:project\s+gutenberg|images\s+of))|"
    r"^an\s+anonymous\s+(?:project\s+gutenberg\s+)?volunteers?\b|"
    r"^\s*(?:html\s+version\s+by|this\s+file\s+was\s+produced\s+from|distributed\s+proofread)",
    re.IGNORECASE,
)
_HEADER_LINE = re.compile(r"project\s+gutenberg|gutenberg\.(?:org|net)", re.IGNORECASE)
_FIELD = re.compile(r"^(Title|Author|Language|Release Date|Translator|Editor):[ \t]*(\S[^\n]*)$", re.MULTILINE)
_LICENCE_LINE = re.compile(r"full\s+(?:terms\s+of\s+the\s+)?project\s+gutenberg(?:-tm|™)?\s+license", re.IGNORECASE)
# How far from its ends a mark may stand: the longest old "small print" has 20,000 characters, the licence 19,000.
_EDGE = 40_000


class BookOptions(StreamLimits):
    """Options of books."""

    gutenberg: bool = True
    """Cut Project Gutenberg's header, credits and licence."""
    ocr: Literal["auto", "on", "off"] = "auto"
    """Clean up what scanning leaves: page headers and numbers, cut words, ligatures. ``auto``: where the text has form
    feeds, which separate scanned pages."""
    reflow: bool = True
    """Join the lines of each paragraph; verse and tables stay."""


def read_book(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a file, with what its header says (title, author, language) in the metadata."""
    options = request.options if isinstance(request.options, BookOptions) else BookOptions()
    held = bytearray()
    for block in read_blocks(path, losses, options):
        held += block
        if len(held) > 4 * request.max_document_chars:
            losses.add("too_large", str(path), f"over {human_bytes(len(held))}")
            return
    text = decode_book(bytes(held), request.encoding)
    if "\0" in text[:8192]:
        losses.add("binary", str(path), "NUL bytes at its start")
        return
    if format_name(path)[0] in (".htm", ".html", ".xhtml"):
        text = html_text(text, fences=False)
        options = options.model_copy(update={"reflow": False})
    metadata = gutenberg_fields(text) if options.gutenberg else {}
    body = clean_book(text, options)
    if not body.strip():
        losses.add("empty", str(path), "nothing but its header and licence" if text.strip() else "no text in it")
    elif len(body) > request.max_document_chars:
        losses.add("too_large", str(path), f"{len(body):,} characters")
    else:
        yield Document(body, "", "", metadata)


def decode_book(data: bytes, encoding: str) -> str:
    """The text of a book; old ones are in the Windows character set, and their headers say so only in words."""
    for name in (encoding, "cp1252"):
        try:
            return normalise_lines(data.decode(name))
        except UnicodeDecodeError:
            continue
    return normalise_lines(data.decode("latin-1"))


def clean_book(text: str, options: BookOptions | None = None) -> str:
    """A book without what is not the author's: see :class:`BookOptions`."""
    options = options or BookOptions()
    if options.gutenberg:
        text = strip_gutenberg(text)
    if options.ocr == "on" or (options.ocr == "auto" and "\f" in text):
        return clean_pages(text.split("\f"), reflow=options.reflow)
    return (reflow_lines(join_hyphens(text, typed=True)) if options.reflow else text).strip()


def strip_gutenberg(text: str) -> str:
    """The book without Project Gutenberg's header and licence; a text without their marks comes back as it is.

    The marks are the lines ``*** START OF THIS PROJECT GUTENBERG EBOOK ...`` and ``*** END OF ...`` (in their many
    spellings), the ``*END*THE SMALL PRINT!`` of the nineties, and ``End of Project Gutenberg's ...``.
    """
    head = text[:_EDGE]
    starts = list(_START.finditer(head))
    begin = starts[-1].end() if starts else 0
    tail_start = max(begin, len(text) - _EDGE)
    tail = text[tail_start:]
    found = _END.search(tail) or _LICENCE_LINE.search(tail)
    end = tail_start + found.start() if found else len(text)
    if not starts and not found:
        return text
    body = text[begin:end]
    if found and found.re is _LICENCE_LINE:
        body = body[: body.rfind("\n") + 1]
    return _drop_credits(body if starts else _drop_header_lines(body))


def _drop_credits(body: str) -> str:
    """The first paragraphs behind the mark often say who typed the book."""
    body = body.lstrip("\n ")
    for _ in range(4):
        paragraph, _, rest = body.partition("\n\n")
        credit = _CREDIT.search(paragraph.strip()) or _HEADER_LINE.search(paragraph)
        if not credit or len(paragraph) > 600:
            break
        body = rest.lstrip("\n ")
    return body.strip("\n")


def _drop_header_lines(body: str) -> str:
    """An old header has no mark: the first paragraphs that name the project or the book's fields."""
    paragraphs = body.lstrip().split("\n\n")
    while len(paragraphs) > 1 and (_HEADER_LINE.search(paragraphs[0]) or _FIELD.search(paragraphs[0])):
        paragraphs.pop(0)
    return "\n\n".join(paragraphs)


def gutenberg_fields(text: str) -> dict[str, str]:
    """Title, author, language and so on, as the header of a Project Gutenberg book gives them."""
    head = text[:5000]
    if not _HEADER_LINE.search(head):
        return {}
    return {match[1].lower().replace(" ", "_"): match[2].strip() for match in _FIELD.finditer(head)}


KIND_BOOK = Kind(
    name="book",
    description="books as text or HTML: Project Gutenberg's header and licence cut, scanned pages cleaned up",
    read=read_book,
    options=BookOptions,
)
