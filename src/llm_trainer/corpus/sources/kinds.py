"""What a kind of source is: which files it takes, how a large one is cut into parts, how a part becomes documents.

A reader is tolerant: a record that cannot be used is counted in :class:`~llm_trainer.corpus.losses.Losses` with its
place and its reason, and reading goes on behind it. It raises only when the person has to do something first (a
package to install, a folder without the right to read it).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llm_trainer.common.errors import DataError
from llm_trainer.config.base import Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses


class NoOptions(Settings):
    """The options of a kind that has none."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file that can be read alone: bytes, rows or records, as the kind counts; ``stop`` is exclusive."""

    start: int
    stop: int


@dataclass(frozen=True)
class ReadRequest:
    """How one file is to be read.

    Attributes:
        options: the kind's own options.
        part: the stretch to read; None is the whole file.
        text_column: the column or key of the text, in tabular formats.
        documents: one document a text ``"file"``, a ``"line"``, or ``"auto"``.
        encoding: encoding of text files.
        max_document_chars: a document is never longer: text files are cut at a line border, other records are lost with
            the reason ``"too_large"``. It bounds the memory of a worker.
    """

    options: Settings = field(default_factory=NoOptions)
    part: Part | None = None
    text_column: str = "text"
    documents: Literal["auto", "file", "line"] = "auto"
    encoding: str = "utf-8"
    max_document_chars: int = 4 << 20


Read = Callable[[Path, ReadRequest, Losses], Iterator[Document]]
"""A reader. Its documents carry an ``id`` that is unique inside the file (``""`` where the file is one document), an
empty ``source``, and metadata that JSON can hold; the pipeline puts the names of source and file in front."""


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        name: as in the pipeline file.
        description: one line for people.
        read: see :data:`Read`.
        suffixes: endings of the files that it takes out of a folder, lower case; ``".warc.gz"`` is one. Empty: none,
            the kind has to be named.
        options: the class of its own options.
        cut: (file, bytes of a part) -> the parts of a file; None where a file can only be read from its start.
        folders: whether a path that is a folder is one input (a repository) instead of a place to look for files.
        identity: (path, how it is read) -> what changes when the content does, for inputs that are no files; without
            it, names, sizes and times of all files below a folder count.
    """

    name: str
    description: str
    read: Read
    suffixes: tuple[str, ...] = ()
    options: type[Settings] = NoOptions
    cut: Callable[[Path, int], Sequence[Part]] | None = None
    folders: bool = False
    identity: Callable[[Path, ReadRequest], str] | None = None


# Where each kind is defined, as KIND_<NAME>; imported when it is asked for, so that no kind costs the others anything.
MODULES = {
    "files": "files",
    "html": "html",
    "warc": "warc",
    "wet": "warc",
    "web": "fetch",
    "wikipedia": "wikipedia",
    "git": "git",
    "latex": "latex",
    "pdf": "pdf",
    "epub": "epub",
    "book": "books",
    "stackexchange": "stackexchange",
    "reddit": "reddit",
    "chat": "chats",
    "pile": "pile",
    "dataset": "dataset",
}


def find_kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        DataError: there is none.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        raise DataError(
            f"there is no kind of source called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"use auto or one of {', '.join(MODULES)}",
        )
    module = importlib.import_module(f"llm_trainer.corpus.sources.{MODULES[name]}")
    kind: Kind = getattr(module, f"KIND_{name.upper()}")
    return kind


def kind_of_file(path: Path) -> Kind:
    """The kind for a file in a folder of anything, by the longest suffix that fits; plain files otherwise."""
    name = path.name.lower()
    fitting = [
        (len(suffix), kind.name, kind)
        for kind in map(find_kind, MODULES)
        for suffix in kind.suffixes
        if name.endswith(suffix)
    ]
    return max(fitting)[2] if fitting else find_kind("files")
