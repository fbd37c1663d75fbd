"""Members of tar and zip archives, read into memory one by one.

Nothing is ever unpacked to the disk, so that a member called ``../../.bashrc`` has nothing to overwrite; such members
are counted and left out all the same, because an archive that has one is not what it says it is.
"""

from __future__ import annotations

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
        is_zip = zipfile.is_zipfile(path)
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
        # No more than the size in the directory, which was checked, is ever decompressed; a lie fails the checksum.
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        losses.add("damaged", where, str(error))
        return None


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
    stream = _Blocks(blocks)
    before = losses.total
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
        if losses.total == before:  # the decompressor has not said it already
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
