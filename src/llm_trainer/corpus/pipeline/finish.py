"""Fourth stage, unit by unit: duplicates and contaminated documents go, the rest is counted and made ready to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.dedup.decontaminate import Hit
from llm_trainer.corpus.pipeline import contamination, deduplicate, passages, prepare, select
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.store import Record, RecordWriter, StageFolder, read_array, read_records, write_array
from llm_trainer.corpus.pipeline.tasks import Task, only_one, timed
from llm_trainer.corpus.report.statistics import Statistics
from llm_trainer.tokenizer import Tokenizer, load_tokenizer

STAGE = "finish"
BATCH = 512
BYTES_PER_TOKEN = 4.0
"""Of English text and a vocabulary of some ten thousand tokens; used where no tokenizer is given."""
HITS = "contamination"
CATEGORIES = "categories"


def identity(pipeline: Pipeline, previous: str, benchmarks: str) -> str:
    """Name of this stage's folder."""
    settings = pipeline.decontaminate.to_dict() if pipeline.decontaminate else None
    tokenizer = load_tokenizer(pipeline.tokenizer).fingerprint() if pipeline.tokenizer else None
    return fingerprint([previous, settings, benchmarks, tokenizer])


def finish_unit(task: Task) -> str | None:
    """Finish the documents of a unit; returns its id, or None if another process is at it."""
    folder, unit = task.folders[STAGE], task.unit.id
    with only_one(folder, unit) as mine:
        if not mine:
            return unit if folder.is_done(unit) else None
        statistics = Statistics(conceal=select.conceal)
        hits: list[dict[str, Any]] = []
        records = _unique(task, statistics)
        if task.pipeline.decontaminate is not None:
            records = _clean(records, task.pipeline, folder, statistics, hits)
        categories = _write(task, records, folder, unit, statistics)
        folder.finish(unit, {"statistics": statistics.to_dict(), HITS: hits, CATEGORIES: categories})
    return unit


def _unique(task: Task, statistics: Statistics) -> Iterator[Record]:
    """The documents that are no duplicates, without the passages that stand elsewhere."""
    selected, unit = task.folders[select.STAGE], task.unit.id
    verdicts = deduplicate.read_verdicts(task.folders[deduplicate.STAGE], selected, unit)
    settings = passages.settings_of(task.pipeline)
    cuts = passages.read_spans(task.folders, unit, settings.passes) if settings else {}
    statistics.cluster("near and exact", verdicts.cluster[verdicts.cluster > 1].tolist())
    for number, record in enumerate(read_records(selected.records(unit))):
        verdict = int(verdicts.verdict[number])
        if verdict != deduplicate.KEEP:
            reason = deduplicate.REASONS[verdict]
            statistics.drop(prepare.as_document(record), record["tags"], [reason])
            statistics.duplicate(reason.partition(".")[2], documents=1, size=len(record["text"].encode("utf-8")))
            continue
        if settings and number in cuts and not passages.cut_record(record, cuts[number], settings, statistics):
            continue
        record["validation"] = bool(verdicts.validation[number])
        record["place"] = number
        yield record


def _clean(
    records: Iterator[Record],
    pipeline: Pipeline,
    folder: StageFolder,
    statistics: Statistics,
    hits: list[dict[str, Any]],
) -> Iterator[Record]:
    """The documents without benchmark items; what was hit is listed."""
    decontaminator = contamination.read_index(pipeline, folder)
    while batch := list(islice(records, BATCH)):
        with timed(statistics, "decontaminate"):
            found = decontaminator.hits([record["text"] for record in batch])
        for record, its_hits in zip(batch, found, strict=True):
            if its_hits:
                _count_hits(its_hits, statistics)
                text = decontaminator.clean(record["text"], its_hits)
                outcome = "dropped" if text is None else "cut"
                hits.extend({"document": record["id"], "outcome": outcome, **hit.to_dict()} for hit in its_hits)
                if text is None:
                    names = sorted({hit.benchmark for hit in its_hits})
                    reasons = [f"decontaminate.{name}" for name in names]
                    statistics.drop(prepare.as_document(record), record["tags"], reasons)
                    continue
                record["text"] = text
            yield record


def _count_hits(hits: Sequence[Hit], statistics: Statistics) -> None:
    for benchmark, count in sorted(Counter(hit.benchmark for hit in hits).items()):
        statistics.contaminated(benchmark, documents=1, hits=count)


@lru_cache(maxsize=1)
def _tokenizer(folder: str, stage: Path) -> Tokenizer:
    """The tokenizer, read once in each process; the folder of the stage is named by what it is at the time."""
    del stage
    return load_tokenizer(folder)


def _write(task: Task, records: Iterator[Record], folder: StageFolder, unit: str, statistics: Statistics) -> list[str]:
    """Count tokens, and write records and the numbers by which a mixture chooses; returns the categories by number."""
    columns: dict[str, list[int]] = {"tokens": [], "bytes": [], "validation": [], "place": []}
    categories: list[int] = []
    labels: dict[str, int] = {}  # numbers, because a column of strings is as wide as its longest
    with RecordWriter(folder.records(unit)) as writer:
        while batch := list(islice(records, BATCH)):
            with timed(statistics, "count tokens"):
                tokens = _count_tokens([record["text"] for record in batch], task.pipeline.tokenizer, folder.path)
            for record, count in zip(batch, tokens, strict=True):
                record["tokens"] = count
                split = "validation" if record["validation"] else "train"
                statistics.add(prepare.as_document(record), {**record["tags"], "split": split}, tokens=count)
                for name in ("tokens", "validation", "place"):
                    columns[name].append(record[name])
                columns["bytes"].append(len(record["text"].encode("utf-8")))
                label = str(record["metadata"].get("category") or "")
                categories.append(labels.setdefault(label, len(labels)))
                writer.write(record)
    for name, values in columns.items():
        write_array(folder.array(unit, name), np.array(values, dtype=np.int64))
    write_array(folder.array(unit, "category"), np.array(categories, dtype=np.int32))
    exact = read_array(task.folders[select.STAGE].array(task.unit.id, "exact"))
    write_array(folder.array(unit, "key"), exact[np.array(columns["place"], dtype=np.int64), 0])
    return list(labels)


def _count_tokens(texts: Sequence[str], tokenizer: str | None, stage: Path) -> list[int]:
    """Tokens of each text: counted with a tokenizer, or estimated from its bytes where there is none yet."""
    if tokenizer is None:
        return [max(1, round(len(text.encode("utf-8")) / BYTES_PER_TOKEN)) for text in texts]
    return [len(ids) for ids in _tokenizer(tokenizer, stage).encode_arrays(texts)]
