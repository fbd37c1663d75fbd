"""Data sets on this machine: the built-in text, and files and folders, with splits if their names say so."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, hash_file
from llm_trainer.corpus.builtin import BuiltinSplit, builtin_documents, builtin_summary
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.formats import ReadOptions, format_suffix, is_tabular
from llm_trainer.corpus.readers import ReadReport, list_files, read_with
from llm_trainer.corpus.source import SPLIT_ALIASES, Source

_SPLIT_NAMES = {"train": "train", "validation": "validation", "test": "test", **SPLIT_ALIASES}
_TEXT_SUFFIXES = {".txt", ".text", ".raw", ".tokens", ".md"}

SMALL_FILE_BYTES = 1 << 20
"""Smaller files are identified by their content, larger ones by size and time of change, which costs no reading."""


class BuiltinSource(Source):
    """The standard library of the running interpreter; see :mod:`llm_trainer.corpus.builtin`."""

    splits = ("train", "validation")

    def __init__(self) -> None:
        super().__init__()
        self.name = "builtin"
        self._summary = builtin_summary()
        self.description = self._summary.describe()

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of ``train``, ``validation`` or ``all``."""
        return builtin_documents(cast(BuiltinSplit, split))

    def fingerprint(self, split: str) -> str:
        """Identity of the interpreter's texts and of the rules that chose them."""
        return fingerprint([self._summary.fingerprint, split])

    def total_bytes(self, split: str) -> int:
        """Bytes of text."""
        sizes = {"train": self._summary.train_bytes, "validation": self._summary.held_out_bytes}
        return sizes.get(split, self._summary.bytes)

    def known_count(self, split: str) -> int:
        """Number of documents."""
        held_out = self._summary.held_out_documents
        return {"train": self._summary.documents - held_out, "validation": held_out}.get(split, self._summary.documents)


class PathSource(Source):
    """Files and folders.

    One folder whose children are named ``train*``, ``validation*`` (or ``valid``, ``val``, ``dev``) or ``test*`` has
    those splits; everything else is one split, ``train``.

    Args:
        paths: what to read, in this order.
        name: what the person called it.
        options: how files become documents.

    Raises:
        DataError: one of the paths does not exist.
    """

    def __init__(self, paths: Sequence[Path], name: str, options: ReadOptions) -> None:
        super().__init__()
        self.name = name
        self._options = options
        paths = [path.expanduser() for path in paths]
        for path in paths:
            if not path.exists():
                raise DataError(f"there is no file or folder {path}", hint="check the spelling and the current folder")
        layout = split_layout(paths[0]) if len(paths) == 1 and paths[0].is_dir() else {}
        self._paths = layout or {"train": list(paths)}
        self._root = paths[0] if layout else None
        self.splits = tuple(self._paths)
        shown = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        self.description = f"{shown} (with splits {', '.join(self.splits)})" if layout else shown

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of the split's files; the report counts the latest pass."""
        self.report = ReadReport()
        paths = self._paths[split]
        for path in paths:
            for document in read_with(path, self._options, self.report):
                # Ids are relative to the file or folder they were read from; several of those need its name in front.
                yield document if len(paths) == 1 else dataclasses.replace(document, id=f"{path}/{document.id}")

    def fingerprint(self, split: str) -> str:
        """Names, sizes and contents (small files) or times of change (large ones), and how they are read."""
        files = [[name, *_file_identity(path)] for name, path in self._files(split)]
        return fingerprint([files, dataclasses.asdict(self._options)])

    def total_bytes(self, split: str) -> int:
        """Size on disk of all the files."""
        return sum(path.stat().st_size for _, path in self._files(split))

    def _files(self, split: str) -> Iterator[tuple[str, Path]]:
        """Every file with a name that does not change when the folder moves."""
        for path in self._paths[split]:
            if path.is_dir():
                for file in list_files(path, ReadReport()):
                    yield f"{path.name}/{file.relative_to(path).as_posix()}", file
            else:
                yield path.name, path


def split_layout(folder: Path) -> dict[str, list[Path]]:
    """Which files or subfolders of a folder are which split; ``{}`` if the folder is not laid out in splits.

    It is when something is called train and either something else is called validation or test, or no data is left
    over: a folder of notes with a ``train.txt`` among them is not a data set with one split. Source files do not count
    (``train.py``). The hub's ``data/`` subfolder is looked into.
    """
    layout: dict[str, list[Path]] = {}
    left_over = False
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        suffix = format_suffix(path)
        is_data = path.is_dir() or is_tabular(path) or suffix in _TEXT_SUFFIXES
        words = re.split(r"[._-]", path.name.lower())
        split = next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None) if is_data else None
        if split is not None:
            layout.setdefault(split, []).append(path)
        elif is_data and suffix != ".md":
            left_over = True
    if "train" in layout and (len(layout) > 1 or not left_over):
        return {split: layout[split] for split in ("train", "validation", "test") if split in layout}
    data = folder / "data"
    return split_layout(data) if data.is_dir() and not layout else {}


def _file_identity(path: Path) -> tuple[int, str | int]:
    status = path.stat()
    return status.st_size, hash_file(path) if status.st_size <= SMALL_FILE_BYTES else status.st_mtime_ns
