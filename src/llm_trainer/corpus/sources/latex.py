"""LaTeX: a file, a project in an archive, or arXiv's bulk archives, to readable text with the mathematics left in.

In a folder, a file that another one takes in with ``\\input`` is counted and not given a second time. In an archive the
main file is found as arXiv does: it has ``\\documentclass``, and nothing takes it in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.archives import (
    ARCHIVE_SUFFIXES,
    ArchiveLimits,
    is_tar,
    read_members,
    tar_members,
)
from llm_trainer.corpus.sources.files_columns import normalise_lines
from llm_trainer.corpus.sources.files_stream import read_blocks
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest
from llm_trainer.corpus.sources.latex_macros import MacroBombError
from llm_trainer.corpus.sources.latex_project import (
    Project,
    TooLargeError,
    find_main,
    included_names,
    is_main,
    looks_like_tex,
)
from llm_trainer.corpus.sources.latex_text import latex_title, latex_to_text

_MOST_NEIGHBOURS = 500


class LatexOptions(ArchiveLimits):
    """Options of LaTeX."""

    min_chars: Int = 200
    """Texts shorter than this are left out: what remains of a file of macros or of a picture is no document."""


def read_latex(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The documents of a ``.tex`` file or an archive.

    A file gives one document, an archive with a project one, and an archive of archives (``arXiv_src_0704_001.tar``)
    one for each; their ids are the names of the main files in it.
    """
    options = request.options if isinstance(request.options, LatexOptions) else LatexOptions()
    name = path.name.lower()
    if name.endswith(ARCHIVE_SUFFIXES):
        yield from _read_archive(path, options, request, losses)
        return
    blocks = read_blocks(path, losses, options)
    first = next(blocks, b"")
    if name.endswith(".gz") and is_tar(first[:512]):
        yield from _read_archive(path, options, request, losses)
        return
    data = _limited(first, blocks, 4 * request.max_document_chars)
    if data is None:
        losses.add("too_large", str(path), f"over {4 * request.max_document_chars:,} bytes")
        return
    text = decode_tex(data)
    if name.endswith(".tex") and not is_main(text) and path.name in _taken_in(path.parent):
        losses.add("part_of_another", str(path), "another file of the folder takes it in with \\input")
        return
    project = _FolderProject(path.parent, text, path.name) if name.endswith(".tex") else Project({path.name: text})
    document = _document(project, path.name, "", str(path), options, request, losses)
    if document:
        yield document


def decode_tex(data: bytes) -> str:
    """TeX sources say their encoding in a macro, if at all: UTF-8 if it is that, else Latin-1, which was the custom."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return normalise_lines(text)


def _limited(first: bytes, rest: Iterator[bytes], limit: int) -> bytes | None:
    held = bytearray(first)
    for block in rest:
        held += block
        if len(held) > limit:
            return None
    return bytes(held)


def _read_archive(path: Path, options: LatexOptions, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    files: dict[str, str] = {}
    found = False
    for member in read_members(path, losses, options, _is_wanted):
        if not member.name.lower().endswith(".gz"):
            files[member.name] = decode_tex(member.data)
            continue
        found = True
        yield from _read_submission(member.name, member.data, path, options, request, losses)
    whole = _project_document(files, "", str(path), options, request, losses) if files else None
    if whole:
        yield whole
    elif not files and not found:
        losses.add("no_tex", str(path), "no .tex file in it")


def _is_wanted(name: str) -> bool:
    return name.lower().endswith((".tex", ".ltx", ".gz"))


def _read_submission(
    name: str, data: bytes, path: Path, options: LatexOptions, request: ReadRequest, losses: Losses
) -> Iterator[Document]:
    """One paper of arXiv's bulk archives: a compressed tar, or a single compressed file."""
    where = f"{path}:{name}"
    try:
        decompressor = zlib.decompressobj(wbits=31)
        content = decompressor.decompress(data, options.max_member_bytes)
    except zlib.error as error:
        losses.add("damaged", where, str(error))
        return
    if decompressor.unconsumed_tail:
        losses.add("decompression_bomb", where, f"over {options.max_member_bytes:,} bytes")
        return
    if not decompressor.eof:
        losses.add("damaged", where, "it ends in the middle of its compressed data")
    if is_tar(content[:512]):
        members = tar_members(iter([content]), where, losses, options, _is_wanted)
        files = {member.name: decode_tex(member.data) for member in members if not member.name.endswith(".gz")}
    else:
        files = {name.removesuffix(".gz"): decode_tex(content)}
    document = _project_document(files, name, where, options, request, losses)
    if document:
        yield document


def _project_document(
    files: Mapping[str, str], name: str, where: str, options: LatexOptions, request: ReadRequest, losses: Losses
) -> Document | None:
    main = find_main(files)
    if main is None:
        losses.add("no_tex", where, "no file in it is a LaTeX document")
        return None
    return _document(Project(files), main, f"{name}:{main}".strip(":"), where, options, request, losses)


def _document(
    project: Project, main: str, name: str, where: str, options: LatexOptions, request: ReadRequest, losses: Losses
) -> Document | None:
    if not looks_like_tex(project.text(main) or ""):
        losses.add("not_tex", where, "no LaTeX command in it")
        return None
    try:
        source = project.whole(main, request.max_document_chars)
        text = latex_to_text(source)
    except TooLargeError:
        losses.add("too_large", where, "with the files it takes in")
        return None
    except MacroBombError as error:
        losses.add("macro_bomb", where, str(error))
        return None
    if len(text) < options.min_chars:
        losses.add("no_text", where, f"{len(text)} characters of text")
        return None
    title = latex_title(source)
    return Document(text, name, "", {"title": title} if title else {})


class _FolderProject(Project):
    """Files are read as they are asked for, and only inside the folder of the main file."""

    def __init__(self, folder: Path, text: str, name: str) -> None:
        super().__init__({name: text})
        self._folder = folder

    def text(self, name: str) -> str | None:
        """The content of a file inside the folder; None if there is no such file, or a link leads out of it."""
        known = super().text(name)
        if known is not None:
            return known
        path = self._folder / name
        try:
            inside = path.resolve().is_relative_to(self._folder.resolve())
            if not inside or not path.is_file() or path.stat().st_size > 64 << 20:
                return None
            return decode_tex(path.read_bytes())
        except OSError:
            return None


@lru_cache(maxsize=64)
def _taken_in(folder: Path) -> frozenset[str]:
    """Names of the files of a folder that its main files take in, directly or not."""
    sources = sorted(folder.glob("*.tex"))[:_MOST_NEIGHBOURS]
    texts = {}
    for path in sources:
        try:
            if path.is_file() and path.stat().st_size < 8 << 20:
                texts[path.name] = decode_tex(path.read_bytes())
        except OSError:
            continue
    return frozenset(included_names(texts))


KIND_LATEX = Kind(
    name="latex",
    description="LaTeX files, projects in archives, and arXiv's source archives",
    read=read_latex,
    suffixes=(".tex", ".ltx", ".tex.gz", ".tar", ".tar.gz", ".tgz"),
    options=LatexOptions,
)
