"""Data sets by name: those on this machine, those that a person registered, and the hub, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.config.base import Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.resolve import DatasetHandle, open_dataset
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest


class DatasetOptions(Settings):
    """Which part of a data set."""

    split: str = "train"
    """A split, with slices and sums as on the hub: ``train[:1%]``, ``train+test``."""
    config: str | None = None
    """Configuration (subset) of the data set."""


def _open(path: Path, request: ReadRequest) -> DatasetHandle:
    options = request.options
    if not isinstance(options, DatasetOptions):
        raise DataError(f"{path} is a data set; give it the kind 'dataset'")
    return open_dataset(
        path.as_posix(),
        options.config,
        options.split,
        request.text_column,
        encoding=request.encoding,
        documents=request.documents,
        # Every document of the split: what is held out for validation is decided at the end of the pipeline.
        validation_fraction=0.0,
    )


def read_dataset(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The documents of a data set; ``path`` is its name."""
    handle = _open(path, request)
    for document in handle:
        if len(document.text) > request.max_document_chars:
            losses.add("too_large", f"{path}:{document.id}", f"{len(document.text):,} characters")
            continue
        yield Document(document.text, document.id, "", document.metadata)
    report = handle.report
    if report.empty_records:
        losses.add("empty", str(path), f"{report.empty_records:,} records without text", count=report.empty_records)
    for reason, paths in report.skipped.items():
        losses.add(reason.replace(" ", "_"), paths[0], count=len(paths))


KIND_DATASET = Kind(
    name="dataset",
    description="a data set by name: on this machine, registered, or on the hub",
    read=read_dataset,
    options=DatasetOptions,
    identity=lambda path, request: _open(path, request).fingerprint,
)
