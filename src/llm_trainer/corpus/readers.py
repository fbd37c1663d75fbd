"""Files and folders to documents.

A folder is read in sorted order, so that the same folder gives the same documents in the same order on every machine.
What cannot be used is skipped inside a folder and counted with its reason (:class:`ReadReport`); a file that was named
explicitly is never skipped: it is read or it is an error. A folder with nothing usable is an error, the first one met.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import human_bytes
from llm_trainer.corpus.decoding import BinaryFileError, EncodingError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.formats import DocumentUnit, NoTextError, NotJsonError, ReadOptions, reader_for

# Failures that are ordinary in a folder of mixed files (a tsconfig.json with comments is "not valid JSON"). Other
# damage, such as a truncated archive or a broken line of JSON Lines, is not: it always stops.
_SKIPPABLE = {
    BinaryFileError: "binary",
    EncodingError: "wrong encoding",
    NoTextError: "no text column",
    NotJsonError: "not valid JSON",
}


@dataclass
class ReadReport:
    """What was read and what was left out, and why; filled while the documents are consumed."""

    files: int = 0
    documents: int = 0
    bytes: int = 0
    """Size on disk of the files that were read."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the paths that were skipped for it."""
    empty_records: int = 0
    """Records whose text is null or blank."""

    def skip(self, path: Path, reason: str) -> None:
        """Count a file that was left out."""
        self.skipped.setdefault(reason, []).append(str(path))

    def describe(self) -> str:
        """One line for people, with an example for every reason."""
        parts = [f"{self.documents} documents from {self.files} files ({human_bytes(self.bytes)})"]
        for reason, paths in self.skipped.items():
            parts.append(f"skipped {len(paths)}: {reason} (for example {paths[0]})")
        if self.empty_records:
            parts.append(f"{self.empty_records} empty records")
        return "; ".join(parts)


def read_path(
    path: str | Path,
    *,
    text_column: str = "text",
    documents: DocumentUnit = "auto",
    encoding: str = "utf-8",
    report: ReadReport | None = None,
) -> Iterator[Document]:
    """Read a file or a folder (with its subfolders).

    ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` and ``.parquet`` give one document a record; every other text file gives
    one document, or one a line. Text files over 64 Mi characters are given in pieces that end at a line border.
    ``.gz``, ``.bz2``, ``.xz`` and ``.zst`` are decompressed on the way. Hidden files and folders are skipped.

    Args:
        path: the file or folder.
        text_column: the column or key that holds the text, in tabular formats.
        documents: ``"file"``, ``"line"`` or ``"auto"`` (one document a text file).
        encoding: encoding of the files; bytes that do not fit are an error, never replaced.
        report: counts of what was read and skipped are added to it.

    Raises:
        DataError: nothing there, nothing readable, wrong encoding, missing column, damaged file.
    """
    options = ReadOptions(text_column=text_column, documents=documents, encoding=encoding)
    return read_with(Path(path), options, report if report is not None else ReadReport())


def read_with(path: Path, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    """:func:`read_path` with its options in one object."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"there is no file or folder {path}", hint="check the spelling and the current folder")
    if path.is_dir():
        return _read_folder(path, options, report)
    if not path.is_file():  # a pipe can be read once and would then block for ever
        raise DataError(f"{path} is not a regular file or folder", hint="save the text to a file first")
    return _read_named_file(path, options, report)


def list_files(folder: Path, report: ReadReport) -> Iterator[Path]:
    """Every file under ``folder`` that may be read, sorted by path; the others are counted in ``report``.

    Links to folders are followed, each real folder once: a link to a parent would never end.
    """
    visited: set[tuple[int, int]] = set()

    def walk(current: Path) -> Iterator[Path]:
        status = current.stat()
        if (status.st_dev, status.st_ino) in visited:
            report.skip(current, "link to a folder that is read already")
            return
        visited.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(current), key=lambda entry: entry.name):
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name == "__pycache__":
                report.skip(path, "hidden")
            elif not path.exists():
                report.skip(path, "broken link")
            elif not os.access(path, os.R_OK):
                report.skip(path, "no permission")
            elif path.is_dir():
                yield from walk(path)
            elif not stat.S_ISREG(path.stat().st_mode):
                report.skip(path, "not a regular file")
            else:
                yield path

    yield from walk(folder)


def _read_named_file(path: Path, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    given = False
    for document in _read_file(path, path.name, options, report):
        given = True
        yield document
    if not given:
        raise DataError(f"{path} is empty: there is no text in it")


def _read_folder(folder: Path, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    given = False
    first_error: DataError | None = None
    for path in list_files(folder, report):
        started = False
        try:
            for document in _read_file(path, path.relative_to(folder).as_posix(), options, report):
                started = given = True
                yield document
        except tuple(_SKIPPABLE) as error:
            if started:  # half of the file is in the corpus already: leaving out the rest would be silent loss
                raise
            report.skip(path, _SKIPPABLE[type(error)])
            if first_error is None or isinstance(first_error, BinaryFileError):
                first_error = error
        else:
            if not started:
                report.skip(path, "empty")
    if given:
        return
    if first_error is not None:
        raise first_error
    raise DataError(
        f"there is no text in the folder {folder}"
        + "".join(f"; {len(paths)} skipped: {reason}" for reason, paths in report.skipped.items()),
        hint="put .txt, .md, .json, .jsonl, .csv, .tsv or .parquet files there",
    )


def _read_file(path: Path, name: str, options: ReadOptions, report: ReadReport) -> Iterator[Document]:
    """The non-blank documents of one file."""
    started = False
    for inside, text in reader_for(path)(path, options):
        if not text.strip():
            report.empty_records += 1
            continue
        if not started:
            report.files += 1
            report.bytes += path.stat().st_size
            started = True
        report.documents += 1
        yield Document(text, f"{name}:{inside}" if inside else name, str(path))
