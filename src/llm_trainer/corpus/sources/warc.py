"""Crawl archives: WARC (pages as the crawler got them) and WET (their text, as Common Crawl extracted it).

Records are read by fastwarc (123 MB/s of .warc.gz a core, https://github.com/chatnoir-eu/chatnoir-resiliparse), the
HTTP message by :mod:`warc_http`, the page by :mod:`html`. Every record becomes a document or a count: requests,
metadata and revisits by their type, pages by what was wrong with them. Behind damage, reading goes on at the next
record that can be found. The format is ISO 28500 (https://iipc.github.io/warc-specifications/).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_trainer.common.optional import require
from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.html import HtmlOptions, charset_of, page_document
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest
from llm_trainer.corpus.sources.warc_damage import is_gzip, next_record, open_end
from llm_trainer.corpus.sources.warc_http import parse_response

_SKIP = 1 << 20
_MOST_LIES = 100
"""Records whose length reaches beyond the end of the file, before the file is given up: each costs reading to there."""

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})


class WarcOptions(HtmlOptions):
    """How a crawl archive is read."""

    max_record_bytes: Int = 64 << 20
    """Larger records are lost with the reason ``too_large``; nothing is decompressed beyond this."""


def read_warc(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The pages of a WARC file. Implements :data:`kinds.Read`.

    Ids are the offsets of the records (``offset.n`` where several share one compressed member).

    Reasons of losses: ``record_request``, ``record_metadata``, ``record_warcinfo``, ``record_revisit``,
    ``record_resource``..., ``not_http`` (dns), ``http_status``, ``not_html``, ``no_text``, ``too_large``,
    ``too_complex``, ``truncated``, ``damaged``, ``unreadable``.
    """
    options = request.options if isinstance(request.options, WarcOptions) else WarcOptions()
    for found in _records(path, "response", options.max_record_bytes, losses):
        headers, identifier, block = found.headers, found.identifier, found.block
        place = f"{path.name}:offset {identifier}"
        url = _address(headers.get("WARC-Target-URI"))
        if not (headers.get("Content-Type") or "application/http").lower().startswith("application/http"):
            losses.add("not_http", place, url)
            continue
        response = parse_response(block, options.max_page_bytes)
        if not 200 <= response.status < 300:
            losses.add("http_status", place, f"{response.status} {url}")
        elif response.problem:
            losses.add(response.problem, place, url)
        elif not _is_html(response.mime, response.body):
            losses.add("not_html", place, f"{response.mime or 'no type'} {url}")
        else:
            charset = charset_of(response.headers.get("content-type"))
            document = page_document(
                response.body, identifier, place, options, request.max_document_chars, losses, url=url, charset=charset
            )
            if document:
                described = _metadata(headers, url, response.mime or "text/html")
                yield Document(document.text, identifier, metadata={**described, **document.metadata})


def read_wet(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The texts of a WET file. Implements :data:`kinds.Read`.

    Reasons of losses: as :func:`read_warc`, and ``invalid_utf8``.
    """
    options = request.options if isinstance(request.options, WarcOptions) else WarcOptions()
    for found in _records(path, "conversion", options.max_record_bytes, losses):
        headers, identifier, block = found.headers, found.identifier, found.block
        place = f"{path.name}:offset {identifier}"
        try:
            text = block.decode("utf-8").replace("\r\n", "\n").strip()
        except UnicodeDecodeError as error:
            losses.add("invalid_utf8", place, f"byte {error.start} of the record")
            continue
        if not text:
            losses.add("no_text", place)
        elif len(text) > request.max_document_chars:
            losses.add("too_large", place, f"{len(text)} characters of text")
        else:
            metadata = _metadata(headers, _address(headers.get("WARC-Target-URI")), "text/plain")
            languages = (headers.get("WARC-Identified-Content-Language") or "").strip()
            if languages:
                metadata["language"] = languages
            yield Document(text, identifier, metadata=metadata)


def _records(path: Path, wanted: str, max_bytes: int, losses: Losses) -> Iterator[_Found]:
    """The whole records of one type; all others are counted."""
    try:
        file = path.open("rb")
    except OSError as error:
        losses.add("unreadable", path.name, error.strerror or str(error))
        return
    with file:
        archive = _Archive(file, path.name, wanted, max_bytes, losses)
        held: _Found | None = None  # the newest record, until it is known that the file does not end inside it
        for found in archive.records():
            if held:
                yield held
            held = found
        opened = open_end(file, max(archive.last, 0)) if archive.whole else None
        if held and (opened is None or opened > archive.last or held.offset < archive.last):
            yield held
        if opened is None or opened > archive.last:
            archive.count()
        if opened is not None:
            losses.add("truncated", f"{path.name}:offset {opened}", "the file ends in the middle of a record")


@dataclass(frozen=True)
class _Found:
    """A record: where it begins, its name, its headers, and what is in it."""

    offset: int
    identifier: str
    headers: Any
    block: bytes


@dataclass
class _Archive:
    """An archive being read.

    Attributes:
        last: offset of the newest record; -1 before the first.
        whole: whether all of the newest record was there.
    """

    file: BinaryIO
    name: str
    wanted: str
    max_bytes: int
    losses: Losses
    last: int = -1
    whole: bool = True
    _same: int = 0  # records before this one that begin at the same offset, in one compressed member
    _read: int = 0  # records since the last damage
    _inside: bool = False  # whether damage now is damage of the newest record itself
    _behind: int = 0  # damage begins at least so many bytes behind the start of the newest record
    _uncounted: tuple[str, str] | None = None  # the newest record, if it is of another type
    _lies: int = 0  # records that said they were longer than the rest of the file

    def count(self) -> None:
        """Count the newest record if it is of another type."""
        if self._uncounted:
            self.losses.add(*self._uncounted)
        self._uncounted = None

    def records(self) -> Iterator[_Found]:
        """All records of the wanted type; behind damage, from the next record that can be found."""
        begin: int | None = 0
        while begin is not None:
            start = begin
            try:
                yield from self._records_from(start)
                begin = self._behind_end(start)
            except OSError as error:
                self.count()
                if self._read or start == 0:  # else nothing was read since: the same damage goes on
                    where = f"in the record at {self.last}" if self._inside else f"behind {max(self.last, start)}"
                    self.losses.add("damaged", f"{self.name}:{where}", str(error))
                behind = self._behind if self._read and not self._inside else 0
                begin = next_record(self.file, max(self.last, start) + max(behind, 1))
                self.whole = begin is not None

    def _behind_end(self, start: int) -> int | None:
        """Where to go on when the reader has come to an end: it does so, too, at an empty member of a gzip file, and
        when a record says that it is longer than all that follows, which may be other records."""
        behind = None
        if not self.whole:
            self._lies += 1
            behind = next_record(self.file, max(self.last, start) + 1)
            if behind is not None and self._lies > _MOST_LIES:
                self.losses.add("damaged", f"{self.name}:behind {behind}", "too many records of a wrong length")
                return None
        elif is_gzip(self.file):
            behind = next_record(self.file, max(self.last, start) + 1)
        if behind is not None:
            self.count()
            self.whole = True
        return behind

    def _records_from(self, start: int) -> Iterator[_Found]:
        warc = require("fastwarc.warc", extra="data", purpose="reading crawl archives")
        self.file.seek(start)
        self._read = self._behind = 0
        self._inside = False
        every = warc.WarcRecordType.any_type
        for record in warc.ArchiveIterator(self.file, record_types=every, parse_http=False, fsspec_args=False):
            self.count()
            self._read += 1
            self._same = self._same + 1 if record.stream_pos == self.last else 0
            self.last = record.stream_pos
            declared = self._behind = record.content_length or 0
            identifier = f"{self.last}.{self._same}" if self._same else str(self.last)
            place = f"{self.name}:offset {identifier}"
            if str(record.record_type) != self.wanted:
                self._uncounted = (f"record_{record.record_type}", place)
                self.whole = _skip(record.reader) >= declared
                if not self.whole:
                    self._uncounted = ("truncated", place)
            elif declared > self.max_bytes:
                self.losses.add("too_large", place, f"a record of {declared} bytes")
                self.whole = _skip(record.reader) >= declared
            else:
                self._inside = True
                block = record.reader.read()
                self._inside = False
                self.whole = len(block) >= declared
                if self.whole:
                    yield _Found(self.last, identifier, record.headers, block)
                else:
                    self.losses.add("truncated", place, f"{len(block)} of {declared} bytes")


def _skip(reader: Any) -> int:
    """Read over a record; returns the bytes that were there."""
    total = 0
    while block := reader.read(_SKIP):
        total += len(block)
    return total


def _is_html(mime: str, body: bytes) -> bool:
    if mime:
        return mime in _HTML_TYPES
    start = body[:1024].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _address(value: str | None) -> str:
    return (value or "").strip().strip("<>")


def _metadata(headers: Any, url: str, mime: str) -> dict[str, Any]:
    found = {"url": url, "domain": domain_of(url), "date": (headers.get("WARC-Date") or "").strip(), "mime": mime}
    return {key: value for key, value in found.items() if value}


def domain_of(url: str) -> str:
    """The host of an address, lower case, without ``www.``; ``""`` when there is none."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
    except ValueError:  # such as "http://[half"
        return ""
    return host.removeprefix("www.")


KIND_WARC = Kind(
    name="warc",
    description="crawl archives (.warc, .warc.gz): the text of their HTML pages",
    read=read_warc,
    suffixes=(".warc", ".warc.gz", ".warc.zst", ".warc.wat", ".warc.wat.gz"),
    options=WarcOptions,
)
KIND_WET = Kind(
    name="wet",
    description="extracts of crawl archives (.wet, .warc.wet.gz): text as Common Crawl extracted it",
    read=read_wet,
    suffixes=(".wet", ".wet.gz", ".warc.wet.gz", ".warc.wet"),
    options=WarcOptions,
)
