"""First stage: files to clean, tagged documents. The expensive one; it depends on no threshold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.pipeline.definition import SourceSettings
from llm_trainer.corpus.pipeline.plan import Input, is_unchanged
from llm_trainer.corpus.pipeline.store import Record, write_records
from llm_trainer.corpus.pipeline.tasks import Task, only_one, timed
from llm_trainer.corpus.report.statistics import Statistics
from llm_trainer.corpus.sources.kinds import Part, find_kind

STAGE = "prepare"
BATCH_CHARS = 1 << 20
BATCH_DOCUMENTS = 512
EMPTY = "clean.empty"
AWAY = ("vanished", "changed", "no_permission", "read_error")
"""Losses that may be none the next time; such a unit is read again by every build."""


def prepare_unit(task: Task) -> str | None:
    """Read, clean and tag the documents of a unit; returns its id, or None if another process is at it."""
    task.prepare_process()
    folder, unit = task.folders[STAGE], task.unit.id
    with only_one(folder, unit) as mine:
        if not mine:
            return unit if folder.is_done(unit) else None
        statistics = Statistics()
        source = task.pipeline.sources[task.unit.source]
        losses = Losses()
        documents = count_entering(read_inputs(source, task.unit.inputs, losses), statistics, source.name)
        cleaners, rules = task.pipeline.cleaners(source.skip), task.pipeline.rules(source.skip)
        tagged = tag_documents(documents, cleaners, rules, statistics)
        write_records(folder.records(unit), (as_record(document, tags) for document, tags in tagged))
        statistics.lose(source.name, losses)
        away = sum(losses.counts.get(reason, 0) for reason in AWAY)
        folder.finish(unit, {"statistics": statistics.to_dict(), "vanished": away})
    return unit


def read_inputs(source: SourceSettings, inputs: Sequence[Input], losses: Losses) -> Iterator[Document]:
    """The documents of some files, with the names of source and file; what is lost on the way is counted."""
    for entry in inputs:
        request = source.request(Part(*entry.part) if entry.part else None)
        try:
            if not is_unchanged(entry):
                losses.add("changed", entry.path, "it is not as it was when the build began; build again to read it")
                continue
            for document in find_kind(entry.kind).read(Path(entry.path), request, losses):
                yield _named(document, source, entry)
            if not is_unchanged(entry):
                losses.add("changed", entry.path, "it changed while it was read; build again to read it whole")
        except FileNotFoundError:
            losses.add("vanished", entry.path, "it was there when the build began")
        except PermissionError as error:
            losses.add("no_permission", entry.path, str(error.strerror))
        except OSError as error:  # a bad sector, a network drive that went away
            losses.add("read_error", entry.path, str(error.strerror or error))


def _named(document: Document, source: SourceSettings, entry: Input) -> Document:
    inside = f":{document.id}" if document.id else ""
    text, metadata = document.text, document.metadata
    if not _is_valid(text):
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    defaults = {"category": source.category, "license": source.license}
    metadata = {**{key: value for key, value in defaults.items() if value}, **metadata}
    return Document(text, f"{source.name}/{entry.name}{inside}", source.name, metadata)


def _is_valid(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair, as some JSON holds, cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def count_entering(documents: Iterator[Document], statistics: Statistics, source: str) -> Iterator[Document]:
    """Count documents as they come, with the time that reading them takes."""
    while True:
        with timed(statistics, "read"):
            document = next(documents, None)
        if document is None:
            return
        statistics.enter(source)
        yield document


def tag_documents(
    documents: Iterator[Document], cleaners: Sequence[Cleaner], rules: Sequence[Filter], statistics: Statistics
) -> Iterator[tuple[Document, Tags]]:
    """Clean documents and tag them, a batch at a time; one that is empty after cleaning is dropped."""
    repairs: Counter[str] = Counter()
    for batch in _batches(documents):
        cleaned = list(_clean(batch, cleaners, repairs, statistics))
        tags: list[Tags] = [{} for _ in cleaned]
        together = Batch(cleaned)
        for rule in rules if cleaned else ():
            with timed(statistics, f"tag {rule.name}"):
                rule.tag(together, tags)
        yield from zip(cleaned, tags)
    statistics.repairs.update(repairs)


def _clean(
    batch: Sequence[Document], cleaners: Sequence[Cleaner], repairs: Counter[str], statistics: Statistics
) -> Iterator[Document]:
    for document in batch:
        before = document
        with timed(statistics, "clean"):
            for cleaner in cleaners:
                text = cleaner.clean(document, repairs)
                if text != document.text:
                    document = dataclasses.replace(document, text=text)
        if document.text.strip():
            yield document
        else:
            statistics.drop(before, {}, [EMPTY])


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Enough text to make NumPy worth while, little enough to stay in the cache of the processor."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def as_record(document: Document, tags: Tags) -> Record:
    """A document as plain data."""
    return {
        "id": document.id,
        "source": document.source,
        "text": document.text,
        "metadata": dict(document.metadata),
        "tags": tags,
    }


def as_document(record: Record) -> Document:
    """The inverse of :func:`as_record`, without the tags."""
    return Document(record["text"], record["id"], record["source"], record["metadata"])
