"""Downloads of hundreds of gigabytes over connections that break: resumed, checked, whole or absent.

Bytes go to ``NAME.part``; beside it ``NAME.part.json`` says which version of the file they are of (ETag or
Last-Modified). A download that was interrupted, by the network or by ``kill -9``, goes on behind the last block: the
server is asked for the rest *if it is still that version* (``Range`` and ``If-Range``, RFC 9110, 13.1.5 and 14), and
sends everything from the start if it is not. The file gets its name when its length and checksum are right. Of several
processes that want the same file, one fetches it and the others wait.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.client
import json
import os
import re
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import explain_os_errors, fsync_dir, human_bytes, require_free_space, write_json
from llm_trainer.common.leases import lease
from llm_trainer.corpus.sources.addresses import (
    RefusedAddressError,
    Response,
    UnknownHostError,
    UnreachableError,
    open_url,
)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole file, if known, after every block."""

COMMON_CRAWL = "https://data.commoncrawl.org/"
_BLOCK = 1 << 20
_LIST_BYTES = 256 << 20
_DURABLE_EVERY = 64 << 20
_LENGTHS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 120.0
_LOOK_AGAIN = 0.2  # seconds, while another process downloads the same file
_NAME_BYTES = 150  # file systems take 255; endings are added
_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG})


class _RetryError(Exception):
    """Worth another attempt; ``after`` is how long the server wants us to wait, in seconds."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class _Job:
    """One download, while it runs."""

    url: str
    part: Path
    checked: bool  # whether a checksum will tell if two versions were mixed
    expected: int | None
    allow_private: bool
    timeout: float
    progress: Progress | None
    resumed: bool = False

    @property
    def note(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    url: str,
    folder: str | Path,
    *,
    name: str | None = None,
    checksum: str | None = None,
    expected_bytes: int | None = None,
    allow_private: bool = False,
    allow_files: bool = False,
    retries: int = 6,
    timeout: float = 60.0,
    backoff: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Bring a file here.

    Args:
        url: http or https; ``file://`` where ``allow_files`` says so (the file itself is returned, nothing is copied).
        folder: where to put it; made if need be.
        name: of the file here; the last part of the URL when left out.
        checksum: ``"sha256:HEX"``, ``"sha1:HEX"``, ``"md5:HEX"``, or the digits alone.
        expected_bytes: its length, where it is known.
        allow_private: accept addresses of private networks.
        allow_files: accept ``file://``.
        retries: how many times in a row to try again without receiving a byte.
        timeout: seconds of silence after which a connection is given up.
        backoff: seconds before the first new attempt; doubled with each, up to two minutes.
        progress: see :data:`Progress`.

    Returns:
        The file. One that is there already, and has the checksum and length if those are given, is not asked for again.

    Raises:
        CorruptionError: what came has another checksum or length.
        DataError: the server refuses, or does not answer; what came so far is kept, and the next call goes on there.
        UserError: the disk is full, or the folder cannot be written.
    """
    algorithm = _algorithm(checksum) if checksum else None
    if url.startswith("file:"):
        return _local_file(url, allow_files, algorithm, expected_bytes)
    target = Path(folder) / (name or _name_of(url))
    if target.exists() and not _wrong(target, algorithm, expected_bytes):
        return target
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    job = _Job(url, part, algorithm is not None, expected_bytes, allow_private, timeout, progress)
    while True:
        with lease(target) as mine:
            if mine:
                if not target.exists() or _wrong(target, algorithm, expected_bytes):
                    _bring(job, target, algorithm, retries, backoff)
                return target
        time.sleep(_LOOK_AGAIN)


def _bring(job: _Job, target: Path, algorithm: tuple[str, str] | None, retries: int, backoff: float) -> None:
    """Download what is missing, check it, and give it its name."""
    part, expected = job.part, job.expected
    with explain_os_errors(part):
        _fill(job, retries, backoff)
        problem = _wrong(part, algorithm, expected)
        if problem and job.resumed:  # the first half may be what is wrong
            job.forget()
            _fill(job, retries, backoff)
            problem = _wrong(part, algorithm, expected)
        if problem:
            job.forget()
            raise CorruptionError(f"{job.url}: {problem}", hint="check the checksum; the file may have been replaced")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        job.note.unlink(missing_ok=True)
        fsync_dir(target.parent)


def segment_urls(
    path_or_url: str | Path,
    *,
    base: str = COMMON_CRAWL,
    allow_private: bool = False,
    allow_files: bool = False,
) -> list[str]:
    """The addresses in a list of archive files, such as Common Crawl's ``warc.paths.gz``.

    Args:
        path_or_url: the list, one file a line, plain or gzip; a path, or a URL.
        base: what relative lines are relative to; a URL ending in ``/``.
        allow_private: accept a list on a private network.
        allow_files: accept ``file://``, for the list and in it.

    Raises:
        DataError: the list cannot be read, is damaged, or is larger than 256 MB.
    """
    text = str(path_or_url)
    try:
        if text.startswith(("http://", "https://")):
            data = _read_list(text, allow_private)
        elif text.startswith("file:"):
            data = _local_file(text, allow_files, None, None).read_bytes()
        else:
            data = Path(path_or_url).read_bytes()
        if data[:2] == b"\x1f\x8b":
            stream = zlib.decompressobj(31)
            data = stream.decompress(data, _LIST_BYTES + 1)
            if not stream.eof and len(data) <= _LIST_BYTES:
                raise gzip.BadGzipFile("it ends early")
        lines = data.decode("utf-8").split("\n")
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{text} is not a list of addresses: {error}", hint="fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {text}: {error.strerror or error}") from None
    if len(data) > _LIST_BYTES:
        raise DataError(f"{text} is too large for a list of addresses (more than {human_bytes(_LIST_BYTES)})")
    return [_listed(text, line.strip(), base, allow_files) for line in lines if line.strip() and line[0] != "#"]


def _listed(name: str, line: str, base: str, allow_files: bool) -> str:
    if line.lower().startswith("file:") and not allow_files:
        raise RefusedAddressError(f"{name} names {line}: files of this machine are not allowed here")
    try:
        return urllib.parse.urljoin(base, line)
    except ValueError as error:
        raise DataError(f"{name} is not a list of addresses: {line[:200]!r}: {error}") from None


def _read_list(url: str, allow_private: bool) -> bytes:
    pieces, total = [], 0
    try:
        with open_url(url, allow_private=allow_private) as response:
            if response.status != 200:
                raise DataError(f"{url} answers with status {response.status}")
            while total <= _LIST_BYTES and (block := response.read(_BLOCK)):
                pieces.append(block)
                total += len(block)
    except http.client.HTTPException as error:
        raise DataError(f"{url} broke off: {error}", hint="try again") from None
    return b"".join(pieces)


def _fill(job: _Job, retries: int, backoff: float) -> None:
    """Try until the part file is whole."""
    failures, received = 0, False
    while True:
        before = job.size
        try:
            _attempt(job)
            return
        except (_RetryError, UnreachableError, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            received = received or job.size > before
            failures = 1 if job.size > before else failures + 1
            # A name that was never known is a mistake, or no network at all: no reason to wait a minute to say so.
            if failures > retries or (isinstance(error, UnknownHostError) and not received):
                raise DataError(
                    f"{job.url} cannot be downloaded: {error}",
                    hint=f"{human_bytes(job.size)} are kept; the same command goes on there",
                ) from None
            after = error.after if isinstance(error, _RetryError) else None
            time.sleep(min(after if after is not None else backoff * 2 ** (failures - 1), _LONGEST_WAIT))


def _attempt(job: _Job) -> None:
    note = _read_note(job)
    start = job.size
    validator = note.get("validator")
    if start and note.get("total") == start:
        return
    headers = {}
    if start and (validator or job.checked):
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    else:
        start = 0
    with open_url(job.url, headers=headers, allow_private=job.allow_private, timeout=job.timeout) as response:
        total = _accept(job, response, start, note)
        if total is not None and total == start and response.status != 200:
            return
        start = start if response.status == 206 else 0
        job.resumed = job.resumed or start > 0
        _receive(job, response, start, total)


def _accept(job: _Job, response: Response, start: int, note: dict[str, Any]) -> int | None:
    """Whether the answer is what was asked for; returns the length of the whole file, if known.

    Raises:
        _RetryError: another attempt may help.
        DataError: none will.
    """
    status = response.status
    if status == 206:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            job.forget()
            raise _RetryError("the server sent another part than it was asked for")
        total = int(found[2]) + 1 if found[3] == "*" else int(found[3])
        # Some servers know ranges and have never heard of If-Range.
        known, etag = note.get("validator"), response.headers.get("etag")
        if note.get("total") not in (None, total) or (etag and str(known).startswith('"') and etag != known):
            job.forget()
            raise _RetryError("the file there has been replaced")
        return total
    if status == 200:
        return _number(response.headers.get("content-length", ""))
    if status == 416:
        if _number(response.headers.get("content-range", "").rpartition("/")[2]) == start:
            return start
        job.forget()
        raise _RetryError("the file there has become shorter")
    if status in _TEMPORARY:
        after = response.headers.get("retry-after", "")
        raise _RetryError(f"status {status}", _number(after))
    raise DataError(f"{job.url} answers with status {status} ({http.client.responses.get(status, 'unknown')})")


def _receive(job: _Job, response: Response, start: int, total: int | None) -> None:
    if job.expected is not None and total is not None and total != job.expected:
        raise CorruptionError(
            f"{job.url} has {total} bytes, not {job.expected}", hint="the file may have been replaced"
        )
    if total is not None:
        require_free_space(job.part.parent, total - start, purpose=job.part.name.removesuffix(".part"))
    # Unbuffered: what a killed process had written is there. The note must never speak of other bytes than are there,
    # so the old ones go before it is written.
    with contextlib.ExitStack() as stack:
        if start:
            file = stack.enter_context(job.part.open("r+b", buffering=0))
        else:
            file = stack.enter_context(job.part.open("wb", buffering=0))
            etag = response.headers.get("etag", "")
            validator = etag if etag and not etag.startswith("W/") else response.headers.get("last-modified")
            write_json(job.note, {"url": job.url, "validator": validator, "total": total})
        file.seek(start)
        there, durable = start, start
        while block := response.read(_BLOCK):
            file.write(block)
            there += len(block)
            if there - durable >= _DURABLE_EVERY:
                os.fsync(file.fileno())
                durable = there
            if job.expected is not None and there > job.expected:
                raise CorruptionError(f"{job.url} sends more than {job.expected} bytes")
            if total is not None and there > total:
                job.forget()
                raise _RetryError(f"the server sends more than the {total} bytes it announced")
            if job.progress:
                job.progress(there, total)
        if total is not None and there < total:
            raise _RetryError(f"the connection ended after {there} of {total} bytes")


def _number(text: str) -> int | None:
    """A number out of a header, where it is one."""
    return int(text) if _NUMBER.fullmatch(text) else None


def _read_note(job: _Job) -> dict[str, Any]:
    """What is known of the bytes in the part file; nothing if the note is missing, damaged or of another URL."""
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("url") == job.url else {}


def _algorithm(checksum: str) -> tuple[str, str]:
    name, colon, digits = checksum.strip().rpartition(":")
    digits = digits.lower()
    name = name.lower() if colon else _LENGTHS.get(len(digits), "")
    if name not in _LENGTHS.values() or not re.fullmatch(r"[0-9a-f]+", digits) or _LENGTHS.get(len(digits)) != name:
        raise DataError(
            f"{checksum!r} is not a checksum", hint="sha256:HEX, sha1:HEX, md5:HEX or sha512:HEX, or the digits alone"
        )
    return name, digits


def _wrong(path: Path, checksum: tuple[str, str] | None, expected_bytes: int | None) -> str | None:
    """What is wrong with a file, as a sentence."""
    size = path.stat().st_size
    if expected_bytes is not None and size != expected_bytes:
        return f"{size} bytes came, not {expected_bytes}"
    if checksum is None:
        return None
    digest = hashlib.new(checksum[0], usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != checksum[1]:
        return f"its {checksum[0]} is {digest.hexdigest()}, not {checksum[1]}"
    return None


def _local_file(url: str, allowed: bool, checksum: tuple[str, str] | None, expected_bytes: int | None) -> Path:
    parts = urllib.parse.urlsplit(url)
    if not allowed:
        raise RefusedAddressError(
            f"{url} is not read: files of this machine are not allowed here", hint="give its path"
        )
    if parts.netloc not in {"", "localhost"}:
        raise RefusedAddressError(f"{url} names a file of another machine")
    path = Path(urllib.request.url2pathname(parts.path))
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    problem = _wrong(path, checksum, expected_bytes)
    if problem:
        raise CorruptionError(f"{path}: {problem}")
    return path


def _name_of(url: str) -> str:
    """The last part of the URL as a name that cannot leave its folder."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rstrip("/").rpartition("/")[2])
    name = re.sub(r"[^\w.+-]", "_", last).lstrip(".")
    return name.encode("utf-8")[-_NAME_BYTES:].decode("utf-8", "ignore") or "index.html"
