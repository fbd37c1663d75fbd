"""The HTTP message inside a WARC record: status, headers, and the body as the browser would have seen it.

Archives differ in what they did to the body. The standard says: nothing; many crawlers removed the chunks or the
compression and left the header that announces them. So an announcement that the bytes contradict is not believed.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

from llm_trainer.common.optional import require

_READ = 1 << 16
_LONGEST_HEAD = 1 << 18
_MOST_CODINGS = 5


@dataclass(frozen=True)
class HttpResponse:
    """A response.

    Attributes:
        status: 0 when the first line is none of HTTP.
        headers: lower-case names; of several with one name, the last.
        body: without chunks and compression.
        problem: the reason why the body is not usable: ``"too_large"``, ``"damaged"``; ``""`` when it is.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    problem: str = ""

    @property
    def mime(self) -> str:
        """``text/html`` and the like, lower case; ``""`` when not said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_response(raw: bytes, max_bytes: int) -> HttpResponse:
    """Take a stored response apart.

    Args:
        raw: the block of a WARC record of type ``response``.
        max_bytes: a body is never decompressed beyond this.
    """
    # Old crawlers ended lines with \n alone. A block without headers is not cut into millions of them.
    ends = [(raw.find(mark, 0, _LONGEST_HEAD), len(mark)) for mark in (b"\r\n\r\n", b"\n\n")]
    end, width = min((found for found in ends if found[0] >= 0), default=(min(len(raw), _LONGEST_HEAD), 0))
    first, *lines = raw[:end].decode("latin-1").split("\n")
    words = first.split(None, 2)
    known = len(words) >= 2 and words[0].upper().startswith("HTTP/") and words[1].isdigit() and len(words[1]) == 3
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    body, problem = decode_body(raw[end + width :], headers, max_bytes)
    return HttpResponse(int(words[1]) if known else 0, headers, body, problem)


def decode_body(body: bytes, headers: dict[str, str], max_bytes: int) -> tuple[bytes, str]:
    """Undo chunks and compression that the headers announce; returns the body, and a reason if it is not usable."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = dechunk(body)
    codings = headers.get("content-encoding", "").lower().split(",")
    if len(codings) > _MOST_CODINGS:  # nobody packs a page so often; a page that unpacks to itself could go on for ever
        return b"", "damaged"
    for coding in reversed([coding.strip() for coding in codings]):
        problem = ""
        if coding in {"gzip", "x-gzip"} and body[:2] == b"\x1f\x8b":
            body, problem = _inflate(body, 31, max_bytes)
        elif coding == "deflate" and body:
            body, problem = _deflated(body, max_bytes)
        elif coding == "br":
            body, problem = _read_all("BrotliReader", body, max_bytes)
        elif coding == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd":
            body, problem = _read_all("ZstdReader", body, max_bytes)
        if problem:
            return b"", problem
    return body, ""


def dechunk(body: bytes) -> bytes:
    """Put a body in HTTP chunks together (RFC 9112, 7.1); one that does not begin with a chunk is returned as it is.

    Where a chunk in the middle is damaged or the body ends early, what came before it is kept.
    """
    pieces: list[bytes] = []
    position = 0
    while True:
        end = body.find(b"\n", position, position + 200)
        size = body[position:end].partition(b";")[0].strip() if end >= 0 else b""
        if not size or len(size) > 15 or any(digit not in b"0123456789abcdefABCDEF" for digit in size):
            return b"".join(pieces) if pieces else body
        length = int(size, 16)
        if length == 0:
            return b"".join(pieces)
        if not pieces and end + 1 + length > len(body) and length > 1 << 30:
            return body
        pieces.append(body[end + 1 : end + 1 + length])
        position = end + 1 + length
        if position >= len(body):
            return b"".join(pieces)
        position += 2 if body[position : position + 2] == b"\r\n" else 1


def _inflate(body: bytes, wbits: int, max_bytes: int) -> tuple[bytes, str]:
    """Decompress; of gzip all members that follow each other, as browsers do (RFC 1952, 2.2)."""
    pieces: list[bytes] = []
    total, position = 0, 0
    stream = zlib.decompressobj(wbits)
    try:
        while position < len(body):
            block = body[position : position + _READ]
            piece = stream.decompress(block, max_bytes + 1 - total)
            pieces.append(piece)
            total += len(piece)
            if total > max_bytes:
                return b"", "too_large"
            position += len(block) - len(stream.unused_data)
            if stream.eof:
                if wbits != 31 or body[position : position + 2] != b"\x1f\x8b":
                    break
                stream = zlib.decompressobj(wbits)
    except zlib.error:
        return b"", "damaged"
    return b"".join(pieces), ""


def _deflated(body: bytes, max_bytes: int) -> tuple[bytes, str]:
    """``deflate`` means zlib, but servers send bare deflate too, and archives the plain body."""
    for wbits in (15, -15):
        data, problem = _inflate(body, wbits, max_bytes)
        if problem == "too_large" or data:
            return data, problem
    return body, ""


def _read_all(reader: str, body: bytes, max_bytes: int) -> tuple[bytes, str]:
    streams = require("fastwarc.stream_io", extra="data", purpose="reading crawl archives")
    stream = getattr(streams, reader)(io.BytesIO(body), fsspec_args=False)
    pieces: list[bytes] = []
    total = 0
    try:
        while block := stream.read(_READ):
            pieces.append(block)
            total += len(block)
            if total > max_bytes:
                return b"", "too_large"
    except OSError:
        return (b"".join(pieces), "") if pieces else (body, "")
    return b"".join(pieces), ""
