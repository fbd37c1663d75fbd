"""From counts to the figures of the report: plain data, which is written as ``report.json`` and drawn as HTML."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from llm_trainer.corpus.pipeline.mixing import Composition
from llm_trainer.corpus.report.counters import Distribution, Tally
from llm_trainer.corpus.report.diversity import measure_diversity
from llm_trainer.corpus.report.groups import Group
from llm_trainer.corpus.report.statistics import Statistics

Summary: TypeAlias = dict[str, Any]
SUMMARY_VERSION = 1

_TOP_DOMAINS = 50
_TOP_NAMES = 30
_BINS = 24
_MANY_ZEROS = 0.5


def summarise(
    statistics: Statistics,
    *,
    name: str = "corpus",
    stages: Sequence[str] = (),
    composition: Composition | None = None,
    licences: Iterable[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Summary:
    """The figures of a corpus.

    Args:
        statistics: the sum over all units of a finished build.
        name: of the corpus.
        stages: the parts of reason codes before the first point, in the order in which they were applied; those that
            are not named follow, the ones that dropped most first.
        composition: the mixture against its target.
        licences: one mapping of plain values for each source; a value under ``warning`` stands out.
        notes: sentences for the top of the report.

    Raises:
        DataError: documents are missing from the counts.
    """
    statistics.check()
    return {
        "version": SUMMARY_VERSION,
        "name": name,
        "notes": list(notes),
        "documents": _documents(statistics),
        "total": statistics.total.summary(),
        "word_histogram": [list(entry) for entry in statistics.total.words.histogram()],
        "sources": _sources(statistics),
        **{
            label: _by_size(statistics.groups[grouping])
            for label, grouping in (("categories", "category"), ("languages", "language"), ("splits", "split"))
        },
        "domains": _ranking(statistics.tallies["domains"], _TOP_DOMAINS),
        "licences": _ranking(statistics.tallies["licences"], _TOP_NAMES),
        "years": dict(sorted(statistics.tallies["years"].counts.items())),
        "licence_table": [dict(row) for row in licences],
        "funnel": _funnel(statistics, stages),
        "dropped": _dropped(statistics),
        "lost": _lost(statistics),
        "duplicates": {kind: dict(sorted(counts.items())) for kind, counts in sorted(statistics.duplicates.items())},
        "clusters": {kind: _clusters(sizes.counts) for kind, sizes in sorted(statistics.clusters.items())},
        "contamination": {
            benchmark: dict(sorted(counts.items()))
            for benchmark, counts in sorted(statistics.contamination.items(), key=lambda item: -item[1]["documents"])
        },
        "redactions": {
            kind.removeprefix("redaction."): times
            for kind, times in sorted(statistics.redactions.items(), key=lambda item: (-item[1], item[0]))
        },
        "repairs": dict(sorted(statistics.repairs.items(), key=lambda item: (-item[1], item[0]))),
        "quality": _quality(statistics),
        "text_tags": {tag: _ranking(tally, _TOP_NAMES) for tag, tally in sorted(statistics.text_tags.items())},
        "diversity": _diversity(statistics),
        "composition": None if composition is None else dataclasses.asdict(composition) | {"met": composition.met},
        "timings": {stage: time / 1e6 for stage, time in sorted(statistics.microseconds.items())},
    }


def filter_report(summary: Summary) -> Summary:
    """Where every record went, alone: the content of ``filter_report.json``.

    ``records = kept + all of dropped + all of lost``, overall and for each source.
    """
    documents = summary["documents"]
    return {
        "records": documents["records"],
        "documents": documents["entered"],
        "kept": documents["kept"],
        "dropped": {reason: entry["documents"] for reason, entry in summary["dropped"].items()},
        "lost": {reason: entry["records"] for reason, entry in summary["lost"].items()},
        "rules_broken": {reason: entry["broken"] for reason, entry in summary["dropped"].items()},
        "sources": {
            name: {key: source[key] for key in ("records", "entered", "kept", "dropped_for", "lost_for")}
            for name, source in summary["sources"].items()
        },
    }


def _documents(statistics: Statistics) -> dict[str, int]:
    return {
        "records": statistics.records,
        "entered": statistics.entered.total(),
        "kept": statistics.kept.total(),
        "dropped": sum(reasons.total() for reasons in statistics.dropped.values()),
        "lost": sum(losses.total for losses in statistics.losses.values()),
    }


def _sources(statistics: Statistics) -> dict[str, Any]:
    names = {*statistics.entered, *statistics.losses, *statistics.kept}
    found = {}
    for name in sorted(names, key=lambda name: (-statistics.entered[name], name)):
        dropped = statistics.dropped.get(name, Counter())
        losses = statistics.losses.get(name)
        lost = dict(sorted(losses.counts.items())) if losses else {}
        found[name] = {
            "records": statistics.entered[name] + sum(lost.values()),
            "entered": statistics.entered[name],
            "kept": statistics.kept[name],
            "dropped": dropped.total(),
            "lost": sum(lost.values()),
            "dropped_for": dict(sorted(dropped.items())),
            "lost_for": lost,
            **statistics.groups["source"].get(name, Group()).summary(),
        }
    return found


def _by_size(groups: Mapping[str, Group]) -> dict[str, Any]:
    return {name: group.summary() for name, group in sorted(groups.items(), key=lambda item: (-item[1].bytes, item[0]))}


def _ranking(tally: Tally, count: int) -> dict[str, Any]:
    return {
        "top": [list(entry) for entry in tally.top(count)],
        "different": len(tally.counts),
        "total": tally.total,
        "not_named": tally.other,
        "entropy": tally.entropy,
    }


def stage_of(reason: str) -> str:
    """The stage that a reason code belongs to: what stands before its first point."""
    return reason.partition(".")[0]


def _funnel(statistics: Statistics, order: Sequence[str]) -> list[dict[str, Any]]:
    """What went in and out of each stage, beginning with the records that never became documents."""
    stages: dict[str, Counter[str]] = {}
    for reasons in statistics.dropped.values():
        for reason, times in reasons.items():
            stages.setdefault(stage_of(reason), Counter())[reason] += times
    rest = sorted(stages.keys() - set(order), key=lambda stage: (-stages[stage].total(), stage))
    lost: Counter[str] = Counter()
    for losses in statistics.losses.values():
        lost.update(losses.counts)
    flow = [("reading", lost), *((stage, stages.get(stage, Counter())) for stage in [*order, *rest])]
    left = statistics.records
    rows = []
    for stage, reasons in flow:
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        rows.append({"stage": stage, "before": left, "after": left - reasons.total(), "reasons": dict(ranked)})
        left -= reasons.total()
    return rows


def _dropped(statistics: Statistics) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for reasons in statistics.dropped.values():
        counts.update(reasons)
    names = {*counts, *statistics.broken_rules}
    found = {}
    for reason in sorted(names, key=lambda reason: (-counts[reason], -statistics.broken_rules[reason], reason)):
        shown = statistics.examples[reason].texts if reason in statistics.examples else []
        examples = [dict(zip(("id", "text"), text.split("\n", 1))) for text in shown]
        found[reason] = {
            "documents": counts[reason],
            "broken": statistics.broken_rules[reason],
            "examples": examples,
        }
    return found


def _lost(statistics: Statistics) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for _, losses in sorted(statistics.losses.items()):
        counts.update(losses.counts)
        for reason, shown in losses.examples.items():
            examples.setdefault(reason, []).extend(shown)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {reason: {"records": times, "examples": examples.get(reason, [])[:5]} for reason, times in ranked}


def _clusters(sizes: Mapping[int, int]) -> list[list[int]]:
    """(smallest size, largest size, clusters): 2, 3, 4 alone, then doublings."""
    if not sizes:
        return []
    rows = []
    low, high = 2, 2
    while low <= max(sizes):
        rows.append([low, high, sum(times for size, times in sizes.items() if low <= size <= high)])
        low, high = high + 1, high + 1 if high < 4 else 2 * high
    return rows


def _quality(statistics: Statistics) -> dict[str, Any]:
    """For every number that filters found: its spread among kept and dropped documents, in the same bins."""
    found = {}
    for tag in sorted({*statistics.kept_tags, *statistics.dropped_tags}):
        kept = statistics.kept_tags.get(tag, Distribution())
        dropped = statistics.dropped_tags.get(tag, Distribution())
        together = Distribution()
        together.merge(kept)
        together.merge(dropped)
        figures = {
            "kept": kept.summary() | {"sum": kept.sum},
            "dropped": dropped.summary() | {"sum": dropped.sum},
            "zeros": 0,
        }
        if together.zeros > _MANY_ZEROS * together.count and together.zeros < together.count:
            # One bar as high as the picture would hide the values that rules look for.
            figures["zeros"] = together.zeros
            together, kept, dropped = (entry.without_zeros() for entry in (together, kept, dropped))
        edges = _edges(together)
        found[tag] = figures | {
            "edges": edges,
            "kept_counts": kept.histogram(edges) if edges else [],
            "dropped_counts": dropped.histogram(edges) if edges else [],
        }
    return found


def _edges(values: Distribution) -> list[float]:
    """Borders of bins between the 1st and the 99th percentile; on a logarithmic scale if they are far apart."""
    if not values.count or values.least == values.greatest:
        return []
    low, high = values.quantile(0.01), values.quantile(0.99)
    if low == high:
        low, high = values.least, values.greatest
    if low > 0 and high > 50 * low:
        ratio = math.log(high / low) / _BINS
        return [low * math.exp(ratio * step) for step in range(_BINS + 1)]
    return [low + (high - low) * step / _BINS for step in range(_BINS + 1)]


def _diversity(statistics: Statistics) -> dict[str, Any]:
    entropy = {"domains": statistics.tallies["domains"].entropy if statistics.tallies["domains"].total else None}
    for label, grouping in (("sources", "source"), ("categories", "category"), ("languages", "language")):
        tally = Tally(counts=Counter({name: group.documents for name, group in statistics.groups[grouping].items()}))
        entropy[label] = tally.entropy if tally.total else None
    return {**measure_diversity(statistics.sample.texts), "entropy": entropy}
