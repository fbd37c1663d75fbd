"""A git repository to documents: the files of its last commit, one document a file, each with its licence.

The commit is read through ``git ls-tree`` and ``git cat-file``, not the work tree: the same commit gives the same
documents on every machine, bare repositories work, and nothing that a repository says (hooks, filters, attributes,
commands in its configuration) is carried out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm_trainer.common.files import human_bytes
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources import git_rules
from llm_trainer.corpus.sources.files_columns import normalise_lines
from llm_trainer.corpus.sources.git_commands import git_command, git_environment, run_git
from llm_trainer.corpus.sources.git_languages import language_of
from llm_trainer.corpus.sources.git_licences import PERMISSIVE, Licences, is_licence_file
from llm_trainer.corpus.sources.git_notebooks import notebook_text
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest


class GitOptions(Settings):
    """Which files of a repository are taken."""

    licences: list[str] | Literal["any"] = sorted(PERMISSIVE)
    """SPDX names of the licences that may be used; ``any`` takes everything, also what has none. A repository with
    several licence texts may be used if one of them is in the list (``MIT OR Apache-2.0`` is written as two files)."""
    languages: list[str] | Literal["all"] = "all"
    """Languages to take, as in the table of endings: ``["Python", "Rust"]``."""
    max_file_bytes: Int = 1 << 20
    """Larger files are data, whatever their ending."""
    max_line_length: Int = 1000
    """Longest line of code (StarCoder, section 3.1). Prose such as Markdown has no limit."""
    max_mean_line_length: Int = 100
    """Longest mean line of code (StarCoder)."""
    min_alphanumeric: float = 0.25
    """Least share of letters and digits in code (StarCoder)."""
    vendored: bool = False
    """Whether to keep copies of other projects (``node_modules``, ``vendor``, ``third_party``)."""
    generated: bool = False
    """Whether to keep files that a program wrote."""
    secrets: Literal["drop", "keep"] = "drop"
    """What to do with a file that holds a private key or a token."""
    commit: str = "HEAD"
    """The commit to read: a name or a hash."""


class _Entry(NamedTuple):
    mode: str
    type: str
    oid: str
    size: int
    path: str


def read_repository(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The files of one commit of a local repository, bare or with a work tree; ids are their paths."""
    options = request.options if isinstance(request.options, GitOptions) else GitOptions()
    listing = run_git(path, "ls-tree", "-r", "-l", "-z", "--full-tree", options.commit, "--")
    if isinstance(listing, str):
        losses.add("not_a_repository", str(path), listing)
        return
    commit = commit_of(path, request)
    entries = list(_entries(listing))
    command = git_command(path, "cat-file", "--batch")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=git_environment(path)
    ) as process:
        objects = _Objects(process)
        licences = Licences()
        for entry in entries:
            if entry.type == "blob" and is_licence_file(entry.path) and entry.size <= 1 << 18:
                licences.add(entry.path, (objects.read(entry.oid) or b"").decode("utf-8", "replace"))
        seen: set[str] = set()
        for entry in entries:
            if is_licence_file(entry.path):
                continue
            if entry.path in seen:  # only a tree that was made by hand has two files of one name
                losses.add("same_name", f"{path}:{entry.path}", "another file of the commit has this name")
                continue
            seen.add(entry.path)
            document = _document(entry, objects, licences, options, request, path, losses)
            if document:
                document.metadata["repository"] = path.name.removesuffix(".git")  # type: ignore[index]
                document.metadata["commit"] = commit  # type: ignore[index]
                yield document
        objects.close()


def commit_of(path: Path, request: ReadRequest) -> str:
    """The commit that would be read: what the documents of a repository depend on. ``"no commit"`` if there is none."""
    options = request.options if isinstance(request.options, GitOptions) else GitOptions()
    found = run_git(path, "rev-parse", "--verify", options.commit + "^{commit}")
    return found.decode("ascii").strip() if isinstance(found, bytes) else "no commit"


def _entries(listing: bytes) -> Iterator[_Entry]:
    for line in listing.split(b"\0"):
        if not line:
            continue
        facts, _, name = line.partition(b"\t")
        mode, kind, oid, size = facts.decode("ascii").split()
        yield _Entry(mode, kind, oid, int(size) if size.isdigit() else 0, name.decode("utf-8", "backslashreplace"))


class _Objects:
    """Contents by name, from one ``git cat-file --batch`` process: starting one for each file costs 3 ms each."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def read(self, oid: str) -> bytes | None:
        """The content of an object; None if it is missing or damaged."""
        try:
            self._in.write(oid.encode("ascii") + b"\n")
            self._in.flush()
        except OSError:  # git has died over a damaged object
            return None
        header = self._out.readline().split()
        if len(header) != 3:
            return None
        size = int(header[2])
        data = self._out.read(size)
        self._out.read(1)
        return data if len(data) == size else None

    def close(self) -> None:
        """Let the process end."""
        self._in.close()


def _document(
    entry: _Entry,
    objects: _Objects,
    licences: Licences,
    options: GitOptions,
    request: ReadRequest,
    path: Path,
    losses: Losses,
) -> Document | None:
    where = f"{path}:{entry.path}"
    reason, detail = _reason_from_listing(entry, licences, options, request)
    if reason:
        losses.add(reason, where, detail)
        return None
    data = objects.read(entry.oid)
    if data is None:
        losses.add("damaged", where, "the object is missing or broken")
        return None
    language = language_of(entry.path)
    text, reason, detail = _text_of(data, entry.path)
    if text is not None:
        reason, detail = _reason_from_text(text, entry.path, language or "", options)
    if text is None or reason:
        losses.add(reason, where, detail)
        return None
    licence = git_rules.spdx_tag(text) or licences.of(entry.path)
    if options.licences != "any" and not licences.allowed(licence, options.licences):
        losses.add("foreign_licence" if licence else "no_licence", where, licence)
        return None
    metadata: dict[str, Any] = {"path": entry.path, "language": language, "license": licence}
    return Document(text, entry.path, "", metadata)


def _reason_from_listing(
    entry: _Entry, licences: Licences, options: GitOptions, request: ReadRequest
) -> tuple[str, str]:
    """Why a file is not even read: what its entry in the commit says."""
    if entry.type == "commit":
        return "submodule", ""
    if entry.mode == "120000":
        return "symlink", ""
    if not options.vendored and git_rules.is_vendored(entry.path):
        return "vendored", ""
    language = language_of(entry.path)
    if language is None:
        return "not_code", "its ending is not in the table of languages"
    if options.languages != "all" and language not in options.languages:
        return "other_language", language
    if not options.generated and git_rules.is_lock_file(entry.path):
        return "generated", "a lock file"
    if entry.size > min(options.max_file_bytes, 4 * request.max_document_chars):
        return "too_large", human_bytes(entry.size)
    if options.licences != "any" and not licences.found:
        return ("no_licence", "the repository has no licence file") if not licences.files else ("unknown_licence", "")
    return "", ""


def _text_of(data: bytes, path: str) -> tuple[str | None, str, str]:
    if not data.strip():
        return None, "empty", ""
    if b"\0" in data[:8192]:
        return None, "binary", "a NUL byte"
    try:
        text = normalise_lines(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, "invalid_encoding", f"not UTF-8: {error.reason} at byte {error.start}"
    if path.lower().endswith(".ipynb"):
        cells = notebook_text(text)
        return (cells, "", "") if cells else (None, "invalid_notebook", "no cells with text")
    return text, "", ""


def _reason_from_text(text: str, path: str, language: str, options: GitOptions) -> tuple[str, str]:
    if not options.generated and (marker := git_rules.generated_marker(text, path)):
        return "generated", marker
    if options.secrets == "drop" and (kind := git_rules.find_secret(text)):
        return "secret", kind
    if language in git_rules.PROSE:
        return "", ""
    shape = git_rules.line_shape(text)
    if shape.longest > options.max_line_length:
        return "long_line", f"{shape.longest:,} characters"
    if shape.mean > options.max_mean_line_length:
        return "long_mean_line", f"{shape.mean:.0f} characters"
    if shape.alphanumeric < options.min_alphanumeric:
        return "few_alphanumeric", f"{shape.alphanumeric:.0%}"
    return "", ""


KIND_GIT = Kind(
    name="git",
    description="a git repository on this machine, bare or with a work tree",
    read=read_repository,
    options=GitOptions,
    folders=True,
    identity=commit_of,
)
