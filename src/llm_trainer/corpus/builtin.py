"""Text that is already on the machine: the running interpreter's standard library.

A newcomer has no corpus and perhaps no network, but whoever runs this program has Python, and with it about 10 MB of
carefully written text: sources with their docstrings and comments, the language reference that ``help()`` prints, and
the prose files that ship beside them. No licence question, nothing to download, the same on every run.

What is read, and what is not:

- ``*.py``, ``.txt``, ``.rst``, ``.html`` and ``.md`` of the standard library;
- every entry of ``pydoc_data.topics`` as a document of its own, instead of the file that holds them;
- not the test suites: slim interpreters come without them, so with them the corpus would differ threefold between
  machines, and a small model learns little from 17 MB of assertions (after 0.8 M tokens it stood at 1.58 times the bits
  per byte of ``xz -9e`` with them, at 1.17 times without);
- not ``site-packages`` and ``dist-packages`` (other people's), nor ``sitecustomize`` and ``_sysconfigdata`` (this
  machine's own);
- not the tables: ``encodings/`` except its package file, files marked as generated, and files with fewer than 45
  letters in 100 visible characters (test vectors, character entities);
- not what is no valid UTF-8, nearly empty (under 200 characters), or an exact copy of a file read before.

About 5 % of the bytes are held out, as whole files. Near-copies (:mod:`llm_trainer.corpus.near_copies`) are held out
together or not at all. Which files: groups in the order of a hash of their path, so it changes neither with the order
of the folder nor from run to run.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import human_bytes
from llm_trainer.common.hashing import fingerprint, hash_bytes
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.near_copies import group_near_copies

HELD_OUT_SHARE = 0.05
MIN_HELD_OUT_BYTES = 300_000
"""Below this, bits per byte moves by more than 1 % with the luck of which files were drawn."""

MIN_TOTAL_BYTES = 1_000_000
"""With less text than this even a small model only memorises."""

_RULES_VERSION = 1
_PROSE = {".txt", ".rst", ".html", ".md"}
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "lib-dynload", "test", "tests", "idle_test"}
_GENERATED = re.compile(
    r"gencodec|auto-?generated|automatically generated|(?:is|was) generated (?:by|from)", re.IGNORECASE
)

Kind = Literal["library", "documentation"]
BuiltinSplit = Literal["train", "validation", "all"]


@dataclass(frozen=True, slots=True)
class BuiltinSummary:
    """What the built-in text of this interpreter amounts to; sizes in bytes of UTF-8."""

    python: str
    documents: int
    bytes: int
    train_bytes: int
    held_out_bytes: int
    held_out_documents: int
    by_kind: dict[str, int]
    skipped: dict[str, int]
    fingerprint: str

    def describe(self) -> str:
        """One line for people."""
        kinds = ", ".join(f"{human_bytes(size)} of {kind}" for kind, size in sorted(self.by_kind.items()))
        return (
            f"the standard library of Python {self.python}: {self.documents} documents, {human_bytes(self.bytes)} "
            f"({kinds}); {human_bytes(self.held_out_bytes)} in {self.held_out_documents} documents held out"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One text of the standard library and the side of the split it is on."""

    path: str
    kind: Kind
    text: str
    digest: str
    size: int
    held_out: bool


def builtin_documents(split: BuiltinSplit = "train") -> Iterator[Document]:
    """The documents of the running interpreter's standard library, always in the same order.

    Args:
        split: ``"train"``, ``"validation"`` (the held-out files) or ``"all"``.

    Raises:
        DataError: the interpreter was installed without its sources, or there is no such split.
    """
    if split not in ("train", "validation", "all"):
        raise DataError(f"the built-in text has no split {split!r}", hint="use train, validation or all")
    source = f"python-{_python_version()}"
    for entry in _entries():
        if split == "all" or entry.held_out == (split == "validation"):
            yield Document(entry.text, entry.path, source, {"kind": entry.kind})


def builtin_summary() -> BuiltinSummary:
    """Count the built-in text. Raises what :func:`builtin_documents` raises."""
    entries = _entries()
    by_kind: Counter[str] = Counter()
    for entry in entries:
        by_kind[entry.kind] += entry.size
    held_out = [entry.size for entry in entries if entry.held_out]
    total = sum(by_kind.values())
    return BuiltinSummary(
        python=_python_version(),
        documents=len(entries),
        bytes=total,
        train_bytes=total - sum(held_out),
        held_out_bytes=sum(held_out),
        held_out_documents=len(held_out),
        by_kind=dict(by_kind),
        skipped=dict(_read_library()[1]),
        fingerprint=fingerprint([_RULES_VERSION, [[entry.path, entry.digest, entry.held_out] for entry in entries]]),
    )


@functools.lru_cache(maxsize=1)
def _entries() -> tuple[_Entry, ...]:
    """Read and split once per process: the tokenizer, the cache and the evaluation all ask."""
    texts, _ = _read_library()
    total = sum(len(data) for _, _, data in texts)
    if total < MIN_TOTAL_BYTES:
        raise DataError(
            f"this Python ({sys.executable}) came without most of its sources: only {human_bytes(total)} of text found "
            f"in {', '.join(map(str, _library_roots())) or 'its library folders'}",
            hint="use your own text instead: --text FILE_OR_FOLDER",
        )
    decoded = [data.decode("utf-8") for _, _, data in texts]
    groups = group_near_copies(decoded)
    paths = [path for path, _, _ in texts]
    held_out = _choose_held_out(paths, [len(data) for _, _, data in texts], groups)
    return tuple(
        _Entry(path, kind, text, hash_bytes(data), len(data), group in held_out)
        for (path, kind, data), text, group in zip(texts, decoded, groups, strict=True)
    )


def _choose_held_out(paths: list[str], sizes: list[int], groups: list[int]) -> set[int]:
    """Take groups in hash order until enough bytes are held out.

    A group larger than a quarter of what is wanted is passed over: one huge package would make the held-out text a test
    of that package alone.
    """
    group_sizes: Counter[int] = Counter()
    for size, group in zip(sizes, groups, strict=True):
        group_sizes[group] += size
    wanted = max(HELD_OUT_SHARE * sum(sizes), MIN_HELD_OUT_BYTES)
    chosen: set[int] = set()
    taken = 0
    for group in sorted(group_sizes, key=lambda group: hash_bytes(paths[group].encode("utf-8"))):
        if taken >= wanted:
            break
        if group_sizes[group] <= wanted / 4:
            chosen.add(group)
            taken += group_sizes[group]
    return chosen


@functools.lru_cache(maxsize=1)
def _read_library() -> tuple[list[tuple[str, Kind, bytes]], Counter[str]]:
    """Every usable text as ``(path, kind, UTF-8 bytes)``, sorted by path, and how many files were skipped and why."""
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    kept: list[tuple[str, Kind, bytes]] = []
    candidates = [*_library_files(), *_help_topics()]
    for path, data in sorted(candidates):
        reason = _why_not(path, data)
        digest = hash_bytes(data)
        if reason is None and digest in seen:
            reason = "exact copy"
        if reason is not None:
            skipped[reason] += 1
            continue
        seen.add(digest)
        kept.append((path, "library" if path.endswith(".py") else "documentation", data))
    return kept, skipped


def _why_not(path: str, data: bytes) -> str | None:
    """The reason to skip a file, or None."""
    pure = PurePosixPath(path)
    if path.startswith("encodings/") and path != "encodings/__init__.py":
        return "character table"
    if b"\0" in data:
        return "binary"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    if len(text) < 200:
        return "nearly empty"
    if pure.suffix == ".py" and _GENERATED.search(text[:1000]):
        return "generated"
    visible = "".join(text.split())
    if sum(map(str.isalpha, visible)) < 0.45 * len(visible):
        return "table of numbers or symbols"
    return None


def _library_roots() -> list[Path]:
    """Folders and zip files with the standard library (an embedded Python keeps it in ``python3xx.zip``)."""
    candidates = [Path(sysconfig.get_path("stdlib"))]
    candidates += [Path(entry) for entry in sys.path if re.fullmatch(r"python3\d+\.zip", Path(entry).name)]
    return [path for path in dict.fromkeys(candidates) if path.exists()]


def _library_files() -> Iterator[tuple[str, bytes]]:
    """Every candidate file as ``(path inside the library, bytes)``."""
    for root in _library_roots():
        if root.is_dir():
            yield from _folder_files(root)
        elif zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as archive:
                for name in archive.namelist():
                    if _is_candidate(PurePosixPath(name)):
                        yield name, archive.read(name)


def _folder_files(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT_FOLDERS]
        for name in names:
            path = Path(folder, name)
            inside = PurePosixPath(path.relative_to(root).as_posix())
            if _is_candidate(inside) and path.is_file():
                # Windows checkouts of Python have \r\n; the same text must give the same documents everywhere.
                yield str(inside), path.read_bytes().replace(b"\r\n", b"\n")


def _is_candidate(path: PurePosixPath) -> bool:
    if _LEFT_OUT_FOLDERS.intersection(path.parts) or str(path) == "pydoc_data/topics.py":
        return False
    if path.name.startswith(("_sysconfigdata", "sitecustomize", "usercustomize")):
        return False
    return path.suffix == ".py" or path.suffix in _PROSE


def _help_topics() -> Iterator[tuple[str, bytes]]:
    """The entries that ``help("topic")`` prints: the language reference as plain text."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # slim installations leave it out; the sources alone are still a corpus
        return
    for name, text in topics.items():
        yield f"pydoc_data/topics/{name}", text.encode("utf-8")


def _python_version() -> str:
    return "{}.{}.{}".format(*sys.version_info[:3])
