"""The report in a few lines, for the terminal."""

from __future__ import annotations

from llm_trainer.common.files import human_bytes
from llm_trainer.common.web_page import printable
from llm_trainer.corpus.report.html import human_count, number, percent
from llm_trainer.corpus.report.summary import Summary

_REASONS = 8


def describe(summary: Summary) -> str:
    """Sizes, lengths, where the records went, and what a reader should know before using the corpus."""
    documents, total = summary["documents"], summary["total"]
    lines = [
        f"{summary['name']}: {total['documents']:,} documents, {human_bytes(total['bytes'])}, "
        f"{human_count(total['words'])} words" + _tokens(summary),
    ]
    words = total["words_per_document"]
    if words:
        lines.append(
            f"words per document: mean {words['mean']:,.1f}, median {words['median']:,.1f}, "
            f"max {words['max']:,}, min {words['min']:,}"
        )
    lines.append(
        f"{documents['records']:,} records = {documents['kept']:,} kept + {documents['dropped']:,} dropped "
        f"+ {documents['lost']:,} lost"
    )
    reasons = [(reason, entry["documents"]) for reason, entry in summary["dropped"].items() if entry["documents"]]
    reasons += [(f"{reason} (could not be read)", entry["records"]) for reason, entry in summary["lost"].items()]
    reasons.sort(key=lambda item: (-item[1], item[0]))
    width = max((len(reason) for reason, _ in reasons[:_REASONS]), default=0)
    lines += [
        f"  {reason:{width}} {times:>12,}  {percent(times, documents['records'])}"
        for reason, times in reasons[:_REASONS]
    ]
    if len(reasons) > _REASONS:
        rest = reasons[_REASONS:]
        lines.append(f"  {len(rest)} other reasons: {sum(times for _, times in rest):,}")
    for key, label in (("categories", "categories"), ("languages", "languages"), ("splits", "splits")):
        groups = list(summary[key].items())
        if groups:
            shown = ", ".join(f"{name} {percent(group['bytes'], total['bytes'])}" for name, group in groups[:6])
            lines.append(f"{label}: {shown}" + (f" and {len(groups) - 6} more" if len(groups) > 6 else ""))
    if summary["redactions"]:
        shown = ", ".join(f"{kind} {times:,}" for kind, times in list(summary["redactions"].items())[:6])
        lines.append(f"personal data replaced: {shown}")
    if summary["contamination"]:
        shown = ", ".join(
            f"{name} ({counts.get('documents', 0):,})" for name, counts in summary["contamination"].items()
        )
        lines.append(f"documents with benchmark items: {shown}")
    found = summary["composition"]
    if found and not found["met"]:
        off = [share for share in found["shares"] if not share["within"]]
        lines += [
            f"composition: {share['name']} is {share['share']:.1%} of the tokens, {share['target']:.1%} was wanted"
            for share in off
        ]
    lines += summary["notes"]
    return printable("\n".join(lines))


def _tokens(summary: Summary) -> str:
    total = summary["total"]
    if total["tokens"] is None:
        return ""
    return f", {human_count(total['tokens'])} tokens ({number(total['bytes_per_token'])} bytes each)"
