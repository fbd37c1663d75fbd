"""The sections of the report about the texts: where they went, how long they are, where they come from.

Each takes the summary and gives HTML, or nothing if there is nothing to show.
"""

from __future__ import annotations

from typing import Any

from llm_trainer.common.files import human_bytes
from llm_trainer.common.web_page import escape
from llm_trainer.corpus.report.html import bars, human_count, number, panel, percent, section, table, tile
from llm_trainer.corpus.report.pictures import curve, funnel, histogram
from llm_trainer.corpus.report.summary import Summary

_BARS = 15


def header(summary: Summary) -> str:
    """The name of the corpus and one line on its size."""
    total = summary["total"]
    facts = [f"{total['documents']:,} documents", human_bytes(total["bytes"])]
    if total["tokens"] is not None:
        facts.append(f"{human_count(total['tokens'])} tokens")
    notes = "".join(f"<p>{escape(note)}</p>" for note in summary["notes"])
    notice = f'<div class="panel notice warn">{notes}</div>' if notes else ""
    return (
        f'<header><h1>{escape(summary["name"])}</h1><p class="muted">{escape(" · ".join(facts))}</p></header>{notice}'
    )


def headline(summary: Summary) -> str:
    """The numbers that one would tell a colleague."""
    documents, total = summary["documents"], summary["total"]
    kept, words = documents["kept"], total["words_per_document"]
    tiles = [
        tile(
            "documents kept", f"{kept:,}", f"{percent(kept, documents['records'])} of {documents['records']:,} records"
        ),
        tile("text", human_bytes(total["bytes"]), f"{total['characters']:,} characters"),
        tile("words", human_count(total["words"]), f"{total['words']:,}"),
    ]
    if total["tokens"] is not None:
        ratios = [
            f"{total[key]:.2f} {label}"
            for key, label in (("bytes_per_token", "bytes per token"), ("tokens_per_word", "tokens per word"))
            if total[key] is not None
        ]
        tiles.append(tile("tokens", human_count(total["tokens"]), "; ".join(ratios)))
    if words:
        spread = f"mean {words['mean']:,.1f}, from {words['min']:,} to {words['max']:,}"
        tiles.append(tile("median words", number(words["median"]), spread))
    tiles.append(
        tile(
            "dropped",
            f"{documents['dropped']:,}",
            f"{percent(documents['dropped'], documents['entered'])} of documents",
        )
    )
    tiles.append(tile("lost", f"{documents['lost']:,}", "records that could not be read"))
    if summary["languages"]:
        first = next(iter(summary["languages"]))
        share = percent(summary["languages"][first]["bytes"], total["bytes"])
        tiles.append(tile("languages", str(len(summary["languages"])), f"most is {first}, {share} of bytes"))
    return f'<section class="tiles">{"".join(tiles)}</section>'


def flow(summary: Summary) -> str:
    """From raw to kept, by stage and reason, and the sum that must come out."""
    rows, documents = summary["funnel"], summary["documents"]
    drawing = funnel(rows)
    if not drawing:
        return ""
    lines = [(row["stage"], row["after"], f"{row['after']:,}") for row in rows]
    narrow = bars([("records", documents["records"], f"{documents['records']:,}"), *lines], documents["records"])
    lost, dropped, kept = documents["lost"], documents["dropped"], documents["kept"]
    account = f"{documents['records']:,} records = {kept:,} kept + {dropped:,} dropped + {lost:,} lost."
    inner = f'<div class="panel"><div class="wide">{drawing}</div><div class="narrow">{narrow}</div></div>'
    return section("From raw to kept", inner, f"{account} The first rule that a document breaks is its reason.")


def shapes(summary: Summary) -> str:
    """Length histogram, and the growth of the vocabulary."""
    bins = summary["word_histogram"]
    parts = []
    if bins:
        edges = [low for low, _, _ in bins] + [bins[-1][1]]
        drawing = histogram("Words per document", edges, [[times for _, _, times in bins]])
        parts.append(
            panel("Words per document", drawing, "Bins grow with the length: ten times longer is five bins on.")
        )
    diversity = summary["diversity"]
    drawing = curve("Different words against words read", diversity["curve"])
    if drawing:
        unique = diversity["unique_four_grams"]
        remark = (
            f"Different words against words read, in the beginnings of {diversity['documents']:,} documents; "
            "the line bends down where texts repeat each other."
        )
        if unique is not None:
            remark += f" {percent(unique, 1)} of all runs of four words occur once."
        parts.append(panel("Variety", drawing, remark))
    return section("Lengths and variety", f'<div class="grid">{"".join(parts)}</div>' if parts else "")


def composition(summary: Summary) -> str:
    """The mixture as it is, against what was asked for."""
    found = summary["composition"]
    if not found:
        return ""
    longest = max(max(share["share"], share["target"]) for share in found["shares"]) or 1.0
    lines = []
    for share in found["shares"]:
        color = "" if share["within"] else ";background:var(--bad)"
        lines.append(
            f'<span class="what">{escape(share["name"])}</span><span class="track">'
            f'<i style="width:{100 * share["share"] / longest:.2f}%{color}"></i>'
            f'<u style="left:{100 * share["target"] / longest:.2f}%"></u></span>'
            f"<b>{share['share']:.1%} of {share['target']:.1%} · {human_count(share['tokens'])}</b>"
        )
    verdict = "Every share is" if found["met"] else "Not every share is (red)"
    off = f"{verdict} within {100 * found['tolerance']:g} % of all tokens of it."
    remark = f"Share of the training tokens; the mark is the target. {off}"
    return section("Composition", f'<div class="panel"><div class="bars">{"".join(lines)}</div></div>', remark)


def sources(summary: Summary) -> str:
    """A line for each source."""
    rows = []
    for name, source in summary["sources"].items():
        words = source["words_per_document"]
        rows.append(
            (
                escape(name),
                f"{source['records']:,}",
                f"{source['lost']:,}",
                f"{source['dropped']:,}",
                f"{source['kept']:,}",
                percent(source["kept"], source["records"]),
                human_bytes(source["bytes"]),
                number(words.get("median")),
                number(source["tokens"]),
                number(source["bytes_per_token"]),
            )
        )
    head = (
        "source",
        "records",
        "lost",
        "dropped",
        "kept",
        "share",
        "text",
        "median words",
        "tokens",
        "bytes/token",
    )
    return section("Sources", table(head, rows, numbers=range(1, 10)) if rows else "")


def makeup(summary: Summary) -> str:
    """Languages, categories, splits, years and domains as bars."""
    parts = []
    for key, title in (("languages", "Languages"), ("categories", "Categories"), ("splits", "Splits")):
        groups = summary[key]
        if groups:
            rows = [(name, group["bytes"], _size(group, summary)) for name, group in groups.items()]
            parts.append(panel(title, bars(_shortened(rows)), _entropy(summary, key)))
    if summary["years"]:
        rows = [(year, times, f"{times:,}") for year, times in sorted(summary["years"].items())[-_BARS:]]
        parts.append(panel("Years", bars(rows), "Documents that know theirs."))
    domains = summary["domains"]
    if domains["top"]:
        rows = [(name, times, f"{times:,}") for name, times in domains["top"][:_BARS]]
        remark = f"Documents of {domains['different']:,} domains. {_entropy(summary, 'domains')}"
        if domains["not_named"]:
            remark += f" {domains['not_named']:,} documents of rare domains were counted without their names."
        parts.append(panel("Domains", bars(rows), remark))
    return section("What it is made of", f'<div class="columns">{"".join(parts)}</div>' if parts else "")


def _size(group: dict[str, Any], summary: Summary) -> str:
    text = f"{percent(group['bytes'], summary['total']['bytes'])} · {human_bytes(group['bytes'])}"
    ratio = group["bytes_per_token"]
    return text if ratio is None else f"{text} · {ratio:.1f} B/token"


def _entropy(summary: Summary, key: str) -> str:
    """What an entropy means, in words: so many equally frequent ones would be as varied."""
    bits = summary["diversity"]["entropy"].get(key)
    if bits is None:
        return "Share of the bytes."
    return f"Entropy {bits:.2f} bits over documents: as varied as {2**bits:,.1f} equally frequent ones."


def _shortened(rows: list[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
    if len(rows) <= _BARS:
        return rows
    rest = rows[_BARS - 1 :]
    size = sum(value for _, value, _ in rest)
    share = percent(size, sum(value for _, value, _ in rows))
    return [*rows[: _BARS - 1], (f"{len(rest)} others", size, f"{share} · {human_bytes(size)}")]
