"""Long passages that occur more than once: found among all documents that are kept, cut out when these are finished.

Texts that fit into memory are searched together with a suffix array. Otherwise each unit writes the hashes of its
windows, and one step goes through them all; both find the same passages. A second pass works on what the first left,
because cutting brings text together that did not stand together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llm_trainer.corpus.dedup.spans import Spans, cut_tokens
from llm_trainer.corpus.dedup.substring import RepeatedText, Windows, collect, resolve
from llm_trainer.corpus.dedup.suffix import BYTES_PER_TOKEN, find_repeats
from llm_trainer.corpus.pipeline import deduplicate, prepare, select
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.plan import Unit
from llm_trainer.corpus.pipeline.store import Record, StageFolder, open_array, read_array, read_records, write_array
from llm_trainer.corpus.pipeline.tasks import Task, only_one
from llm_trainer.corpus.report.statistics import Statistics

REASON = "dedup.passages"
WINDOWS_AT_ONCE = 1 << 22
"""About 250 MB of work memory."""
_CHARS_PER_TOKEN = 2.5
"""Fewer than any language has, so that an estimate of the memory is on the safe side."""


def stage_name(number: int) -> str:
    """The stage of a pass, counted from 0."""
    return f"passages-{number + 1}"


def settings_of(pipeline: Pipeline) -> RepeatedText | None:
    """How passages are searched, if they are."""
    return pipeline.dedup.substring if pipeline.dedup else None


def fits_in_memory(pipeline: Pipeline, units: Sequence[Unit], folders: Mapping[str, StageFolder]) -> bool:
    """Whether the suffix array of all kept texts fits in the memory that the settings allow."""
    settings = settings_of(pipeline)
    if settings is None or settings.method == "windows":
        return False
    size = 0
    for unit in units:
        kept = read_array(folders[deduplicate.STAGE].array(unit.id, "verdict")) == deduplicate.KEEP
        size += int(read_array(folders[select.STAGE].array(unit.id, "bytes"))[kept].sum())
    return settings.method == "suffix_array" or size / _CHARS_PER_TOKEN * BYTES_PER_TOKEN <= settings.memory


def collect_unit(task: Task, number: int) -> str | None:
    """Write the windows of a unit's documents; returns its id, or None if another process is at it."""
    folder, unit = task.folders[stage_name(number)], task.unit.id
    settings = settings_of(task.pipeline)
    assert settings is not None
    with only_one(folder, unit) as mine:
        if not mine:
            return unit if folder.is_done(unit) else None
        texts = list(kept_texts(task.folders, unit, number, settings))
        collect(texts, settings).save(folder.array(unit, "windows"))
        folder.finish(unit, {})
    return unit


def find_all(pipeline: Pipeline, units: Sequence[Unit], folders: Mapping[str, StageFolder], number: int) -> None:
    """Decide which passages go, and write them for each unit."""
    settings = settings_of(pipeline)
    assert settings is not None
    folder = folders[stage_name(number)]
    ordered = deduplicate.rank_order(pipeline, units)
    counts = [len(read_array(folders[deduplicate.STAGE].array(unit.id, "verdict"))) for unit in ordered]
    starts = np.cumsum([0, *counts])
    ranks = [np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
    if fits_in_memory(pipeline, units, folders):
        texts = [text for unit in ordered for text in kept_texts(folders, unit.id, number, settings)]
        found = find_repeats(texts, np.arange(len(texts)), settings.model_copy(update={"method": "suffix_array"}))
        borders = np.searchsorted(found.documents, starts).tolist()
        spans = [
            Spans(found.documents[low:high] - first, found.starts[low:high], found.stops[low:high])
            for low, high, first in zip(borders[:-1], borders[1:], starts.tolist())
        ]
    else:
        windows = [Windows(open_array(folder.array(unit.id, "windows"))) for unit in ordered]
        spans = resolve(windows, ranks, settings, windows_at_once=WINDOWS_AT_ONCE)
    for unit, its_spans in zip(ordered, spans):
        write_array(
            folder.array(unit.id, "spans"), np.stack([its_spans.documents, its_spans.starts, its_spans.stops], axis=1)
        )
    passages = sum(map(len, spans))
    folder.finish(deduplicate.ALL, {"documents": int(starts[-1]), "found": {"passages to cut": passages}})
    for unit in units:  # 16 bytes a token, several times the text itself
        folder.manifest(unit.id).unlink(missing_ok=True)
        folder.array(unit.id, "windows").unlink(missing_ok=True)


def kept_texts(folders: Mapping[str, StageFolder], unit: str, number: int, settings: RepeatedText) -> Iterator[str]:
    """The texts of a unit after the passes before this one, one for each document; ``""`` for what is not kept."""
    verdict = read_array(folders[deduplicate.STAGE].array(unit, "verdict"))
    cuts = read_spans(folders, unit, number)
    for index, record in enumerate(read_records(folders[select.STAGE].records(unit))):
        if verdict[index] != deduplicate.KEEP:
            yield ""
            continue
        text = record["text"]
        for spans in cuts.get(index, ()):
            text = cut_tokens(text, spans, min_tokens=settings.min_tokens)
        yield text


def read_spans(folders: Mapping[str, StageFolder], unit: str, passes: int) -> dict[int, list[list[tuple[int, int]]]]:
    """What to cut out of a unit's documents: number of the document -> for each pass, its stretches of tokens."""
    found: dict[int, list[list[tuple[int, int]]]] = {}
    for number in range(passes):
        spans = read_array(folders[stage_name(number)].array(unit, "spans"))
        for document, start, stop in spans.tolist():
            own = found.setdefault(document, [])
            own += [[] for _ in range(number + 1 - len(own))]
            own[number].append((start, stop))
    return found


def cut_record(
    record: Record, cuts: Sequence[list[tuple[int, int]]], settings: RepeatedText, statistics: Statistics
) -> bool:
    """Cut passages out of a record; returns whether enough is left. What is too short is counted as dropped."""
    before = record["text"]
    text = before
    for spans in cuts:
        text = cut_tokens(text, spans, min_tokens=settings.min_tokens)
    if text == before:
        return True
    removed = len(before.encode("utf-8")) - len(text.encode("utf-8"))
    statistics.duplicate("passages", documents=1, spans=sum(map(len, cuts)), size=removed)
    if len(text.strip()) < max(settings.min_chars, 1):
        statistics.drop(prepare.as_document(record), record["tags"], [REASON])
        return False
    record["text"] = text
    return True
