"""Second stage: the rules decide on the tags, personal data are replaced, and what is kept gets the keys of its text.

Cheap beside the first stage, and the only one that a threshold changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.dedup.exact import exact_keys
from llm_trainer.corpus.filters.base import Filter, Tags
from llm_trainer.corpus.pipeline import prepare
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.store import Record, read_records, write_array, write_records
from llm_trainer.corpus.pipeline.tasks import Task, only_one, timed
from llm_trainer.corpus.privacy import Redaction
from llm_trainer.corpus.report.statistics import Statistics

STAGE = "select"
BATCH = 512


def select_unit(task: Task) -> str | None:
    """Decide, redact and key the documents of a unit; returns its id, or None if another process is at it."""
    folder, unit = task.folders[STAGE], task.unit.id
    with only_one(folder, unit) as mine:
        if not mine:
            return unit if folder.is_done(unit) else None
        statistics = Statistics(conceal=conceal)
        records = read_records(task.folders[prepare.STAGE].records(unit))
        keys = Keys(task.pipeline)
        rules = task.pipeline.rules(task.pipeline.sources[task.unit.source].skip)
        kept = decide(records, rules, task.pipeline.redaction, statistics)
        write_records(folder.records(unit), keys.collect(kept, statistics))
        for name, array in keys.arrays().items():
            write_array(folder.array(unit, name), array)
        folder.finish(unit, {"statistics": statistics.to_dict(), "documents": keys.documents})
    return unit


def decide(
    records: Iterator[Record], rules: Sequence[Filter], redaction: Redaction | None, statistics: Statistics
) -> Iterator[Record]:
    """The records that break no rule, without personal data; the others are counted with all rules that they break."""
    for record in records:
        reasons = broken_rules(record["tags"], rules)
        if reasons:
            statistics.drop(prepare.as_document(record), record["tags"], reasons)
            continue
        if redaction is not None:
            with timed(statistics, "redact"):
                record["text"] = redact(redaction, record["text"], statistics.redactions)
        yield record


def redact(redaction: Redaction, text: str, counts: Counter[str]) -> str:
    """The text without personal data; what was replaced is counted by kind."""
    found: Counter[str] = Counter()
    text = redaction.redact(text, found)
    counts.update({kind.partition(".")[2]: count for kind, count in found.items()})
    return text


def conceal(text: str, counts: Counter[str]) -> str:
    """An excerpt for the report, which others will see: without personal data, whatever the pipeline does with them."""
    return Redaction().redact(text, counts)


def broken_rules(tags: Tags, rules: Sequence[Filter]) -> list[str]:
    """The codes of all rules that a document breaks, in the order of the filters."""
    return [reason for rule in rules for reason in rule.reasons(tags)]


class Keys:
    """The keys of documents that pass through, by which duplicates are found.

    Args:
        pipeline: which keys are needed.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._near = pipeline.dedup.near if pipeline.dedup else None
        self._parts: dict[str, list[Any]] = {"exact": [], "near": [], "bytes": []}
        self.documents = 0

    def collect(self, records: Iterator[Record], statistics: Statistics) -> Iterator[Record]:
        """Pass records on, a batch at a time."""
        while batch := list(islice(records, BATCH)):
            texts = [record["text"] for record in batch]
            self.documents += len(batch)
            with timed(statistics, "keys"):
                self._parts["exact"].append(exact_keys(texts))
                self._parts["bytes"].append([len(text.encode("utf-8")) for text in texts])
                if self._near is not None:
                    self._parts["near"].append(self._near.signatures(texts))
            yield from batch

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """``exact`` (documents, 2) uint64, ``bytes`` (documents,) int64, and ``near`` (documents, width) if wanted."""
        empty = {"exact": np.empty((0, 2), np.uint64), "bytes": np.empty(0, np.int64)}
        if self._near is not None:
            empty["near"] = np.empty((0, self._near.width), np.uint32)
        return {
            name: np.concatenate(self._parts[name]) if self._parts[name] else blank for name, blank in empty.items()
        }
