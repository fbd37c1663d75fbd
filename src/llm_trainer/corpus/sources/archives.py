"""Members of tar and zip archives, read into memory one by one.

Nothing is ever unpacked to the disk, so that a member called ``../../.bashrc`` has nothing to overwrite; such members
are counted and left out all the same, because an archive that has one is not what it says it is.
"""

from __future__ import annotations

import bz2
import copy
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarFile
from typing import IO, NamedTuple, cast

from llm_trainer.common.files import human_bytes
from llm_trainer.config.base import Int
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_stream import StreamLimits, read_blocks

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


_BROKEN_STREAM = ("unreadable", "damaged", "decompression_bomb")
# LZMA gives up to 7000 bytes for one: 28 MB a step.
_ZIP_STEP = 4 << 10
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")


class ArchiveLimits(StreamLimits):
    """How much of an archive is read."""

    max_members: Int = 100_000
    """Members looked at; an archive with more is read up to there."""
    max_member_bytes: Int = 64 << 20
    """Decompressed size of one member; a larger one is left out."""
    max_total_bytes: Int = 1 << 30
    """Decompressed size of all members that are given."""


class Member(NamedTuple):
    """One file of an archive."""

    name: str
    """Its path in the archive, with ``/``, relative, without ``..``."""
    data: bytes


def read_members(
    path: Path, losses: Losses, limits: ArchiveLimits | None = None, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[Member]:
    """The files of a tar (also compressed) or zip archive, in their order there.

    Args:
        path: the archive; which of the two it is, its first bytes say.
        losses: gets ``damaged``, ``encrypted``, ``unsafe_path``, ``unsafe_link``, ``special_member``, ``too_large``,
            ``too_many_members`` and ``decompression_bomb``.
        limits: how much is read.
        wanted: which names to read; others cost nothing and are not counted.
    """
    limits = limits or ArchiveLimits()
    try:
        with path.open("rb") as file:
            head = file.read(512)
        # A tar whose last member is a zip ends like one, so a zip with something in front has to be no tar.
        is_zip = head.startswith(_ZIP_MAGIC) or (
            path.name.lower().endswith(".zip") and not is_tar(head) and zipfile.is_zipfile(path)
        )
    except OSError as error:
        losses.add("unreadable", str(path), error.strerror or str(error))
        return
    members = (
        _zip_members(path, losses, limits, wanted)
        if is_zip
        else tar_members(read_blocks(path, losses, limits), path, losses, limits, wanted)
    )
    total = 0
    for member in members:
        total += len(member.data)
        if total > limits.max_total_bytes:
            losses.add("decompression_bomb", str(path), f"its members hold over {human_bytes(limits.max_total_bytes)}")
            return
        yield member


def safe_name(name: str) -> str | None:
    """A member's name with ``/`` and without ``.`` parts; None if it points out of the archive."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts or ":" in parts[0] or "\0" in name:
        return None
    return "/".join(parts)


def _zip_members(path: Path, losses: Losses, limits: ArchiveLimits, wanted: Callable[[str], bool]) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        losses.add("damaged", str(path), str(error))
        return
    with archive:
        infos = archive.infolist()
        if len(infos) > limits.max_members:
            losses.add("too_many_members", str(path), f"{len(infos):,}", count=len(infos) - limits.max_members)
        for info in infos[: limits.max_members]:
            if info.is_dir():
                continue
            where = f"{path}:{info.filename}"
            name = safe_name(info.filename)
            if name is None:
                losses.add("unsafe_path", where)
            elif stat.S_ISLNK(info.external_attr >> 16):
                losses.add("unsafe_link", where)
            elif wanted(name):
                data = _zip_data(archive, info, where, losses, limits)
                if data is not None:
                    yield Member(name, data)


def _zip_data(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, losses: Losses, limits: ArchiveLimits
) -> bytes | None:
    if info.flag_bits & 1:
        losses.add("encrypted", where)
        return None
    if info.file_size > limits.max_member_bytes:
        losses.add("too_large", where, human_bytes(info.file_size))
        return None
    try:
        if info.compress_type == zipfile.ZIP_BZIP2:
            return _bzip2_data(archive, info)
        # In steps: one read of a member whose directory lies about its size would decompress all of it first.
        with archive.open(info) as member:
            return b"".join(iter(lambda: member.read(_ZIP_STEP), b""))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        losses.add("damaged", where, str(error))
        return None


def _bzip2_data(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member in bzip2, of which 300 bytes can be 200 MB and which ``zipfile`` decompresses without a limit."""
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    stored.CRC = cast(int, None)  # bzip2 has checksums of its own
    with archive.open(stored) as member:
        compressed = member.read()
    data = bz2.BZ2Decompressor().decompress(compressed, info.file_size + 1)
    if len(data) != info.file_size:
        raise zipfile.BadZipFile("its size is not the one in the directory")
    return data


class _Blocks:
    """Blocks as the file object that tarfile's stream mode asks for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            block = next(self._blocks, b"")
            if not block:
                break
            self._held += block
        given, self._held = self._held[:size], self._held[size:]
        return given


def tar_members(
    blocks: Iterator[bytes], path: Path | str, losses: Losses, limits: ArchiveLimits, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    """The files of a tar stream that is decompressed already; ``path`` is its name in the losses."""
    decompression = [losses.counts.get(reason, 0) for reason in _BROKEN_STREAM]
    stream = _Blocks(blocks)
    try:
        with TarFile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
            for number, info in enumerate(archive):
                if number >= limits.max_members:
                    losses.add("too_many_members", str(path), f"over {limits.max_members:,}")
                    return
                where = f"{path}:{info.name}"
                name = safe_name(info.name)
                if info.isdir():
                    continue
                if name is None:
                    losses.add("unsafe_path", where)
                elif info.issym() or info.islnk():
                    losses.add("unsafe_link", where, f"to {info.linkname}")
                elif not info.isreg():
                    losses.add("special_member", where)
                elif wanted(name):
                    if info.size > limits.max_member_bytes:
                        losses.add("too_large", where, human_bytes(info.size))
                        continue
                    content = archive.extractfile(info)
                    data = content.read() if content else b""
                    if len(data) < info.size:
                        raise tarfile.ReadError("it ends inside a member")
                    yield Member(name, data)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if decompression == [losses.counts.get(reason, 0) for reason in _BROKEN_STREAM]:  # not said there already
            losses.add("damaged", str(path), str(error))


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header: its checksum fits (older tars have no magic)."""
    if len(head) < 512:
        return False
    try:
        written = int(head[148:156].strip(b"\0 ") or b"-1", 8)
    except ValueError:
        return False
    return written == sum(head[:148]) + 8 * 32 + sum(head[156:512])
