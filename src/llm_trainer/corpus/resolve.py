"""From a data set's name to its documents: this machine first, the hub last.

A name is looked up in this order, and the error names every place when none has it:

1. ``builtin``: the standard library of the running Python;
2. a file or folder of that name;
3. ``$LLM_TRAINER_DATA/NAME`` and ``./data/NAME`` (a folder, or a file with a known extension);
4. names given to :func:`~llm_trainer.corpus.factory.register_dataset`;
5. the Hugging Face hub.

A source without a validation split gets one: documents are held out by a hash of their text
(:class:`~llm_trainer.corpus.splits.HoldOut`), so nothing in ``train`` equals anything in ``validation``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.optional import require
from llm_trainer.corpus.decoding import COMPRESSIONS
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.factory import open_registered, registered_datasets
from llm_trainer.corpus.formats import DocumentUnit, ReadOptions
from llm_trainer.corpus.hub import open_hub_dataset
from llm_trainer.corpus.local_sources import BuiltinSource, PathSource
from llm_trainer.corpus.readers import ReadReport
from llm_trainer.corpus.source import SPLIT_ALIASES, Record, RecordsSource, Source
from llm_trainer.corpus.splits import HoldOut, SplitPart, parse_split, plan_hold_out, take_slice

DATA_FOLDER_VARIABLE = "LLM_TRAINER_DATA"
DEFAULT_VALIDATION_FRACTION = 0.05

_FILE_SUFFIXES = (".txt", ".md", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class DatasetHandle:
    """The documents of one split expression; iterate over it as often as needed.

    Attributes:
        name: the data set's name.
        split: the split expression.
        report: what reading skipped, up to date with the latest pass.
    """

    def __init__(self, source: Source, split: str, validation_fraction: float) -> None:
        self._source = source
        self._fraction = validation_fraction
        self.name = source.name
        self.split = split
        self._parts = [_checked_part(source, part, validation_fraction) for part in parse_split(split)]

    @property
    def report(self) -> ReadReport:
        """Counts of the latest pass."""
        return self._source.report

    def __iter__(self) -> Iterator[Document]:
        return chain.from_iterable(self._part_documents(part) for part in self._parts)

    @property
    def description(self) -> str:
        """Where the documents come from and how validation is kept apart, in one line."""
        held_out = any(self._is_derived(part.name) for part in self._parts)
        note = f"; {self._fraction:.3g} of its documents held out by a hash of their text" if held_out else ""
        return f"{self.split} of {self._source.description}{note}"

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the documents change: the identity of a token cache."""
        identities = []
        for part in self._parts:
            own = [self._source.fingerprint(split) for split in self._own_splits(part.name)]
            identities.append([str(part), own, self._fraction if self._is_derived(part.name) else None])
        return fingerprint(identities)

    @property
    def total_bytes(self) -> int | None:
        """Size on disk of the files behind the split, before slices and hold-out; None where nobody knows."""
        names = {split for part in self._parts for split in self._own_splits(part.name)}
        sizes = [self._source.total_bytes(name) for name in names]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def split_documents(self) -> int | None:
        """Number of documents, where it is known without reading them."""
        total = 0
        for part in self._parts:
            counts = [self._source.known_count(split) for split in self._own_splits(part.name)]
            if self._is_derived(part.name) or None in counts:
                return None
            start, stop = part.bounds(sum(count for count in counts if count is not None))
            total += stop - start
        return total

    def with_split(self, split: str) -> DatasetHandle:
        """Another split of the same data set."""
        return DatasetHandle(self._source, split, self._fraction)

    def validation(self, split: str | None = None) -> DatasetHandle:
        """The split to validate on: ``split`` if given, else the source's own validation split or the held-out part."""
        return self.with_split(split or "validation")

    def _part_documents(self, part: SplitPart) -> Iterator[Document]:
        if not self._is_derived(part.name):
            return take_slice(self._own_documents(part.name), part, lambda: self._count_own(part.name))
        # A percentage is a share of the source (whose size the hub publishes); a number counts documents after the
        # hold-out, so that train[:10] gives ten. Either way the side of a document is decided by its text alone.
        raw: Iterable[Document] = self._source.documents("train")
        if part.percent:
            raw = take_slice(raw, part, lambda: self._source.count("train"))
            return self._side(part.name, raw)
        return take_slice(self._side(part.name, raw), part, lambda: self._count_side(part.name))

    def _side(self, name: str, documents: Iterable[Document]) -> Iterator[Document]:
        return self._hold_out.training(documents) if name == "train" else self._hold_out.validation(documents)

    @cached_property
    def _hold_out(self) -> HoldOut:
        return plan_hold_out(self._source.documents("train"), self._fraction)

    def _count_side(self, name: str) -> int:
        return sum(1 for _ in self._side(name, self._source.documents("train")))

    def _own_documents(self, name: str) -> Iterator[Document]:
        return chain.from_iterable(self._source.documents(split) for split in self._own_splits(name))

    def _count_own(self, name: str) -> int:
        return sum(self._source.count(split) for split in self._own_splits(name))

    def _own_splits(self, name: str) -> tuple[str, ...]:
        """The source's own splits behind a name: several for ``all``, ``train`` for a derived validation."""
        if name == "all":
            return self._source.splits
        return (name,) if name in self._source.splits else ("train",)

    def _is_derived(self, name: str) -> bool:
        """Whether the split is one side of a hold-out that we make."""
        return _can_derive(self._source, self._fraction) and name in ("train", "validation")


def open_dataset(
    name: str | Path | Iterable[Record] | Mapping[str, Iterable[Record]],
    config: str | None = None,
    split: str = "train",
    text_column: str = "text",
    *,
    streaming: bool = True,
    encoding: str = "utf-8",
    documents: DocumentUnit = "auto",
    validation_fraction: float = DEFAULT_VALIDATION_FRACTION,
) -> DatasetHandle:
    """Find a data set and open a split of it.

    Args:
        name: a name, a path, or the data itself: a ``datasets.Dataset`` or ``DatasetDict``, a list of texts or records.
        config: the configuration (subset): a subfolder of a local data set, the ``data_path`` of a registered one.
        split: ``"train"``, ``"validation"``, ``"test"``, ``"all"``, with slices and sums as on the hub:
            ``"train[:1%]"``, ``"train[10:200]"``, ``"train+test"``.
        text_column: the column or key with the text.
        streaming: for the hub: read over the network as needed instead of downloading first.
        encoding: encoding of local text files.
        documents: one document a text ``"file"``, a ``"line"``, or ``"auto"`` (= file).
        validation_fraction: share of documents held out where the source has no validation split; 0 holds out none.

    Raises:
        DataError: nothing of that name anywhere, no such split, or the hub cannot be asked.
    """
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction is a share from 0 up to 1, not {validation_fraction}")
    options = ReadOptions(text_column=text_column, documents=documents, encoding=encoding)
    if isinstance(name, (str, Path)):
        source = _find(str(name), config, options, streaming)
    else:
        source = RecordsSource(name, name=type(name).__name__, text_column=text_column)
    return DatasetHandle(source, split, validation_fraction)


def open_paths(
    paths: Sequence[str | Path],
    split: str = "train",
    text_column: str = "text",
    *,
    encoding: str = "utf-8",
    documents: DocumentUnit = "auto",
    validation_fraction: float = DEFAULT_VALIDATION_FRACTION,
) -> DatasetHandle:
    """Open several files or folders as one data set (``--text PATH...``). Arguments as for :func:`open_dataset`."""
    if not paths:
        raise DataError("no file or folder was given to read", hint="name at least one: --text FILE_OR_FOLDER")
    options = ReadOptions(text_column=text_column, documents=documents, encoding=encoding)
    source = PathSource([Path(path) for path in paths], ", ".join(map(str, paths)), options)
    return DatasetHandle(source, split, validation_fraction)


def _find(name: str, config: str | None, options: ReadOptions, streaming: bool) -> Source:
    """Look a name up, in the order that the module docstring gives."""
    if not name.strip():
        raise DataError("the name of the data set is empty", hint="use a path, a name, or builtin")
    if name == "builtin":
        return BuiltinSource()
    path = Path(name).expanduser()
    if path.exists():
        return _open_path(path, name, config, options)
    if _looks_like_path(name):
        raise DataError(f"there is no file or folder {name}{_did_you_mean(path)}", hint=f"looked in {Path.cwd()}")
    for folder in _data_folders():
        for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in _FILE_SUFFIXES)):
            if candidate.exists():
                return _open_path(candidate, name, config, options)
    if name in registered_datasets():
        return open_registered(name, config, text_column=options.text_column)
    try:
        return open_hub_dataset(name, config, text_column=options.text_column, streaming=streaming)
    except DataError as error:
        raise DataError(f"{error.message}\n{_places_looked_at(name)}", hint=error.hint) from None


def _open_path(path: Path, name: str, config: str | None, options: ReadOptions) -> Source:
    if config is not None:
        if not (path / config).exists():
            inside = sorted(child.name for child in path.iterdir()) if path.is_dir() else []
            shown = f"; it has {', '.join(inside[:20])}" if inside else ""
            raise DataError(f"{path} has no configuration {config!r} (a subfolder of that name){shown}")
        path = path / config
    saved_by_datasets = (path / "dataset_dict.json").exists() or (
        (path / "state.json").exists() and (path / "dataset_info.json").exists()
    )
    if saved_by_datasets:
        datasets = require("datasets", extra="hf", purpose=f"reading {path}, which save_to_disk() wrote")
        records: Any = datasets.load_from_disk(str(path))
        return RecordsSource(records, name=name, text_column=options.text_column, description=str(path))
    return PathSource([path], name, options)


def _looks_like_path(name: str) -> bool:
    """Whether a person who wrote this means a file, so that a slip of the finger is not sent to the hub."""
    suffixes = {suffix.lower() for suffix in Path(name).suffixes[-2:]}
    return (
        name.startswith(("/", "./", "../", "~"))
        or "\\" in name
        or name.count("/") > 1
        or name.endswith("/")
        or bool(suffixes.intersection([*_FILE_SUFFIXES, *COMPRESSIONS, ".py", ".html", ".rst"]))
    )


def _did_you_mean(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist)"
    close = difflib.get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _data_folders() -> list[Path]:
    configured = os.environ.get(DATA_FOLDER_VARIABLE)
    return [*([Path(configured).expanduser()] if configured else []), Path("data")]


def _places_looked_at(name: str) -> str:
    configured = os.environ.get(DATA_FOLDER_VARIABLE)
    variable = f"{configured}/{name}" if configured else f"${DATA_FOLDER_VARIABLE}/{name} (the variable is not set)"
    registered = ", ".join(registered_datasets()) or "none"
    return f"looked for: {Path.cwd() / name}; {variable}; {Path.cwd() / 'data' / name}; registered names ({registered})"


def _can_derive(source: Source, fraction: float) -> bool:
    return fraction > 0 and "validation" not in source.splits and "train" in source.splits


def _checked_part(source: Source, part: SplitPart, fraction: float) -> SplitPart:
    """The part with the split's canonical name; an error that lists the splits if there is no such one."""
    canonical = SPLIT_ALIASES.get(part.name, part.name)
    available = [*source.splits, *(["validation"] if _can_derive(source, fraction) else []), "all"]
    name = part.name if part.name in source.splits else canonical
    if name not in available:
        hint = None
        if name == "validation":
            hint = "set validation_fraction above 0 to hold out documents"
        raise DataError(f"{source.name} has no split {part.name!r}; it has {', '.join(available)}", hint=hint)
    return SplitPart(name, part.start, part.stop, part.percent)
