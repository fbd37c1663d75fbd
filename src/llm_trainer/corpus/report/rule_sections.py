"""The sections of the report about rules and people: duplicates, quality, personal data, licences, what was dropped."""

from __future__ import annotations

from typing import Any

from llm_trainer.common.files import human_bytes
from llm_trainer.common.web_page import escape
from llm_trainer.corpus.report.html import bars, number, panel, percent, section, table
from llm_trainer.corpus.report.pictures import histogram
from llm_trainer.corpus.report.summary import Summary, stage_of

_CHARTS_SHOWN = 8
_MARKS_SHOWN = 12
_PEOPLE = ("toxicity", "identity")
_LEGEND = (
    '<div class="legend"><span><i class="swatch" style="background:var(--c1)"></i>kept</span>'
    '<span><i class="swatch" style="background:var(--c2)"></i>dropped</span></div>'
)


def duplicates(summary: Summary) -> str:
    """What was removed as a duplicate, and how large the clusters were."""
    rows = [
        (
            escape(kind),
            f"{counts.get('documents', 0):,}",
            f"{counts.get('spans', 0):,}",
            human_bytes(counts.get("bytes", 0)),
        )
        for kind, counts in summary["duplicates"].items()
    ]
    parts = [table(("kind", "documents", "passages", "text removed"), rows, numbers=(1, 2, 3))] if rows else []
    clusters = [
        panel(
            f"Clusters, {kind}",
            bars([(_range(low, high), times, f"{times:,}") for low, high, times in sizes]),
            "Documents of a cluster, the one that stays included.",
        )
        for kind, sizes in summary["clusters"].items()
        if sizes
    ]
    if clusters:
        parts.append(f'<br><div class="grid">{"".join(clusters)}</div>')
    return section("Duplicates", "".join(parts))


def quality(summary: Summary) -> str:
    """A small histogram for each number that the filters found, those of the strictest filters first."""
    dropped_by: dict[str, int] = {}
    for reason, entry in summary["dropped"].items():
        dropped_by[stage_of(reason)] = dropped_by.get(stage_of(reason), 0) + entry["documents"]
    charts = []
    for tag, entry in summary["quality"].items():
        if not entry["edges"] or tag.startswith(_PEOPLE):
            continue
        family = tag.partition("_")[0]
        weight = max((times for stage, times in dropped_by.items() if stage.startswith(family)), default=0)
        layers = [entry["kept_counts"], entry["dropped_counts"]]
        median = entry["kept"].get("median")
        remark = f"median {number(median)} of those kept" if median is not None else "none was kept"
        if entry["zeros"]:
            count = entry["kept"]["count"] + entry["dropped"]["count"]
            remark = f"0 in {percent(entry['zeros'], count)} of documents, the others:"
        drawing = histogram(tag, entry["edges"], layers, width=250, height=130)
        charts.append((-weight, tag, panel(tag, drawing, remark)))
    ordered = [chart for _, _, chart in sorted(charts)]
    inner = f'{_LEGEND}<div class="grid small">{"".join(ordered[:_CHARTS_SHOWN])}</div>' if ordered else ""
    if len(ordered) > _CHARTS_SHOWN:
        rest = "".join(ordered[_CHARTS_SHOWN:])
        title = f"{len(ordered) - _CHARTS_SHOWN} more"
        inner += f'<br><details class="panel"><summary>{title}</summary><div class="grid small">{rest}</div></details>'
    marks = [
        panel(tag, bars([(name, times, f"{times:,}") for name, times in ranking["top"][:_MARKS_SHOWN]]))
        for tag, ranking in summary["text_tags"].items()
    ]
    if marks:
        inner += f'<br><div class="columns">{"".join(marks)}</div>'
    remark = "How the numbers that rules decide on are spread. The outer bins hold everything beyond the axis."
    return section("Quality", inner, remark)


def people(summary: Summary) -> str:
    """Personal data, toxic words, and words that name groups of people."""
    parts = []
    if summary["redactions"]:
        rows = [(kind, times, f"{times:,}") for kind, times in summary["redactions"].items()]
        parts.append(panel("Personal data replaced", bars(rows), "Patterns find forms, not people: names stay."))
    toxic = [
        (escape(tag), *_spread(tag, entry["kept"], entry["dropped"]))
        for tag, entry in summary["quality"].items()
        if tag.startswith("toxicity")
    ]
    if toxic:
        parts.append(
            "<div>"
            + table(("toxicity, by word lists", "kept: mean", "documents above 0", "dropped: mean"), toxic, (1, 2, 3))
            + "</div>"
        )
    groups = [
        (escape(name.replace("_", " ")), f"{terms:,.0f}", f"{near:,.0f}", percent(near, terms))
        for name, terms, near in identity_terms(summary)
    ]
    if groups:
        head = ("words that name", "in kept documents", "near a toxic word", "share")
        parts.append(f"<div>{table(head, groups, (1, 2, 3))}</div>")
    remark = (
        "Word lists know words, not meaning: a text about hatred counts like a hateful one. A group whose words stand "
        "near toxic ones more often than others' deserves a look into the texts; nothing is dropped for naming a group."
    )
    return section("People", f'<div class="columns">{"".join(parts)}</div>' if parts else "", remark)


def identity_terms(summary: Summary) -> list[tuple[str, float, float]]:
    """(group, words in kept documents that name it, those of them near a toxic word), the largest share first."""
    found = []
    for tag, entry in summary["quality"].items():
        if tag.startswith("identity_") and not tag.endswith("_toxic"):
            near = summary["quality"].get(f"{tag}_toxic", {"kept": {"sum": 0.0}})["kept"]["sum"]
            if entry["kept"]["sum"]:
                found.append((tag.removeprefix("identity_"), entry["kept"]["sum"], near))
    return sorted(found, key=lambda row: (-row[2] / row[1], row[0]))


def contamination(summary: Summary) -> str:
    """Documents that hold items of benchmarks."""
    rows = [
        (escape(name), f"{counts.get('documents', 0):,}", f"{counts.get('hits', 0):,}")
        for name, counts in summary["contamination"].items()
    ]
    remark = "Documents that shared long runs of words with test questions; they were taken out or cut."
    return section("Benchmarks found", table(("benchmark", "documents", "hits"), rows, (1, 2)) if rows else "", remark)


def licences(summary: Summary) -> str:
    """What is known about the rights to each source, and which licences the documents themselves name."""
    rows = summary["licence_table"]
    parts = []
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_licence_cell(column, row.get(column)) for column in columns] for row in rows]
        parts.append(table([escape(column.replace("_", " ")) for column in columns], cells))
    if summary["licences"]["top"]:
        counted = [(name, times, f"{times:,}") for name, times in summary["licences"]["top"]]
        parts.append(panel("Documents by licence", bars(counted)))
    return section("Licences", "".join(parts), "What is known, not legal advice.")


def drops(summary: Summary) -> str:
    """Every reason with its count and some of the documents."""
    entered = summary["documents"]["entered"]
    parts = []
    for reason, entry in summary["dropped"].items():
        also = entry["broken"] - entry["documents"]
        plural = "document" if entry["documents"] == 1 else "documents"
        facts = f"{entry['documents']:,} {plural}, {percent(entry['documents'], entered)}"
        facts += f"; {also:,} more had broken another rule before" if also > 0 else ""
        shown = "".join(_example(example) for example in entry["examples"]) or '<p class="muted">No examples kept.</p>'
        parts.append(f"<details><summary>{escape(reason)} <span>{escape(facts)}</span></summary>{shown}</details>")
    inner = f'<div class="panel">{"".join(parts)}</div>' if parts else ""
    return section("What was dropped", inner, "Open a reason to read the beginnings of up to five documents.")


def losses(summary: Summary) -> str:
    """Records that never became documents."""
    parts = []
    for reason, entry in summary["lost"].items():
        shown = "".join(f'<p class="where">{escape(text)}</p>' for text in entry["examples"])
        parts.append(
            f"<details><summary>{escape(reason)} <span>{entry['records']:,} records</span></summary>{shown}</details>"
        )
    return section("What could not be read", f'<div class="panel">{"".join(parts)}</div>' if parts else "")


def repairs(summary: Summary) -> str:
    """What the cleaners did."""
    rows = [(escape(name), f"{times:,}") for name, times in summary["repairs"].items()]
    return section("Repairs", table(("what", "times"), rows, (1,)) if rows else "")


def timings(summary: Summary) -> str:
    """Processor time of each stage."""
    times = sorted(summary["timings"].items(), key=lambda item: (-item[1], item[0]))
    whole = sum(seconds for _, seconds in times)
    if not whole:
        return ""
    rows = [(stage, seconds, f"{_seconds(seconds)} · {percent(seconds, whole)}") for stage, seconds in times]
    return section(
        "Time", f'<div class="panel">{bars(rows)}</div>', f"Processor time of all workers, {_seconds(whole)}."
    )


def footer() -> str:
    """Where it comes from."""
    return (
        "<footer>Made by LLM Trainer. The same figures are in report.json; filter_report.json says where every record "
        "went.</footer>"
    )


def _spread(tag: str, kept: dict[str, Any], dropped: dict[str, Any]) -> tuple[str, str, str]:
    """Mean of those kept, how many of them are above zero, mean of those dropped; shares in percent."""
    means = [
        "–" if mean is None else percent(mean, 1) if tag.endswith("share") else number(mean)
        for mean in (kept.get("mean"), dropped.get("mean"))
    ]
    return means[0], f"{kept.get('above_zero', 0):,}", means[1]


def _licence_cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, list | tuple):
        value = "; ".join(str(entry) for entry in value)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f'<span class="warn">{escape(value)}</span>' if column.startswith("warning") else escape(value)


def _example(example: dict[str, str]) -> str:
    return f'<p class="where">{escape(example["id"])}</p><pre>{escape(example.get("text", ""))}</pre>'


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"
