"""The first documents of every source through every step, with what each step did to them; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.dedup.clusters import find_near
from llm_trainer.corpus.dedup.exact import exact_keys, find_exact
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Tags
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.pipeline import contamination, prepare, select
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.plan import CorpusPlan, Input
from llm_trainer.corpus.report.statistics import Statistics

Flags = npt.NDArray[np.bool_]


@dataclass
class Trace:
    """What happened to one document.

    Attributes:
        read: as it came from its source.
        text: as it would be written; ``""`` if it is dropped for being empty.
        repairs: what the cleaners did.
        tags: what the filters found.
        reasons: why it is dropped: all rules that it breaks, or one reason of a later step.
        redactions: personal data that were replaced.
        same_as: id of the document that stays instead of it.
    """

    read: Document
    text: str = ""
    repairs: Counter[str] = field(default_factory=Counter)
    tags: Tags = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    redactions: Counter[str] = field(default_factory=Counter)
    same_as: str | None = None


def preview(pipeline: Pipeline, plan: CorpusPlan, documents: int) -> tuple[list[Trace], Losses]:
    """Take the first documents of every source through the pipeline.

    Args:
        pipeline: the definition.
        plan: its files.
        documents: how many of each source.

    Returns:
        the traces, and what could not be read on the way.
    """
    losses = Losses()
    traces = [
        trace for number in range(len(pipeline.sources)) for trace in _first(pipeline, plan, number, documents, losses)
    ]
    _duplicates(pipeline, [trace for trace in traces if not trace.reasons])
    _contamination(pipeline, [trace for trace in traces if not trace.reasons])
    return traces, losses


def _first(pipeline: Pipeline, plan: CorpusPlan, number: int, documents: int, losses: Losses) -> Iterator[Trace]:
    source = pipeline.sources[number]
    inputs: list[Input] = [entry for unit in plan.units if unit.source == number for entry in unit.inputs]
    cleaners, rules = pipeline.cleaners(source.skip), pipeline.rules(source.skip)
    for document in islice(prepare.read_inputs(source, inputs, losses), documents):
        trace = Trace(document)
        statistics = Statistics()
        tagged = list(prepare.tag_documents(iter([document]), cleaners, rules, statistics))
        trace.repairs = statistics.repairs
        if not tagged:
            trace.reasons = [prepare.EMPTY]
        else:
            cleaned, trace.tags = tagged[0]
            trace.text = cleaned.text
            trace.reasons = select.broken_rules(trace.tags, rules)
        if not trace.reasons and pipeline.redaction is not None:
            trace.text = select.redact(pipeline.redaction, trace.text, trace.redactions)
        yield trace


def _duplicates(pipeline: Pipeline, traces: list[Trace]) -> None:
    """Duplicates among the documents of the preview; those of the whole corpus are more."""
    if pipeline.dedup is None or not traces:
        return
    texts = [trace.text for trace in traces]
    priorities = {source.name: (source.priority, place) for place, source in enumerate(pipeline.sources)}
    order = sorted(range(len(traces)), key=lambda index: (*priorities[traces[index].read.source], index))
    ranks = np.empty(len(traces), dtype=np.int64)
    ranks[order] = np.arange(len(traces))
    alive = np.ones(len(traces), dtype=bool)
    if pipeline.dedup.exact:
        roots = find_exact(exact_keys(texts), ranks)
        alive = _mark(traces, roots, "dedup.exact", alive)
    if pipeline.dedup.near is not None:
        near = pipeline.dedup.near
        _mark(traces, find_near(near.signatures(texts), ranks, near, alive=alive).root, "dedup.near", alive)


def _mark(traces: list[Trace], roots: npt.NDArray[np.int64], reason: str, alive: Flags) -> Flags:
    left: Flags = alive.copy()
    for index, root in enumerate(roots.tolist()):
        if root != index and alive[index]:
            traces[index].reasons = [reason]
            traces[index].same_as = traces[root].read.id
            left[index] = False
    return left


def _contamination(pipeline: Pipeline, traces: list[Trace]) -> None:
    if pipeline.decontaminate is None:
        return
    decontaminator = contamination.make_decontaminator(pipeline.decontaminate)
    for trace, hits in zip(traces, decontaminator.hits([trace.text for trace in traces])):
        if not hits:
            continue
        text = decontaminator.clean(trace.text, hits)
        if text is not None:
            trace.text = text
            trace.repairs["decontaminate.cut"] += len(hits)
        else:
            trace.reasons = [f"decontaminate.{name}" for name in sorted({hit.benchmark for hit in hits})]


def describe(trace: Trace) -> list[str]:
    """A trace as lines for the terminal."""
    before, after = len(trace.read.text), len(trace.text)
    size = f"{before:,} characters" if before == after else f"{before:,} -> {after:,} characters"
    lines = [f"{trace.read.id}  ({size})", f"    text      {_excerpt(trace.text or trace.read.text)}"]
    if trace.repairs:
        lines.append(f"    cleaned   {_counts(trace.repairs)}")
    if trace.redactions:
        lines.append(f"    redacted  {_counts(trace.redactions)}")
    if trace.reasons:
        of = f" (the same as {trace.same_as})" if trace.same_as else ""
        lines.append(f"    DROPPED   {', '.join(trace.reasons)}{of}")
    else:
        lines.append("    kept")
    return lines


def _excerpt(text: str, length: int = 90) -> str:
    line = " ".join(text[: 4 * length].split())
    visible = "".join(char if char.isprintable() else "�" for char in line)
    return repr(visible[:length] + ("..." if len(visible) > length else ""))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
