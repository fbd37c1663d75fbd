"""``report.json``, ``filter_report.json`` and ``report.html``: what a corpus is, for programs and for people.

The page loads nothing: no script, no font, no picture from anywhere, and its content security policy forbids it to. So
it can be mailed, opened from disk, and trusted with text that strangers wrote.
"""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import write_json, write_text
from llm_trainer.common.web_page import render_page
from llm_trainer.corpus.report import rule_sections, sections
from llm_trainer.corpus.report.style import STYLE
from llm_trainer.corpus.report.summary import SUMMARY_VERSION, Summary, filter_report

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
FILTER_REPORT = "filter_report.json"

_SECTIONS = (
    sections.header,
    sections.headline,
    sections.flow,
    sections.shapes,
    sections.composition,
    sections.sources,
    sections.makeup,
    rule_sections.duplicates,
    rule_sections.quality,
    rule_sections.people,
    rule_sections.contamination,
    rule_sections.licences,
    rule_sections.drops,
    rule_sections.losses,
    rule_sections.repairs,
    rule_sections.timings,
)


def render_report(summary: Summary) -> str:
    """The report as one HTML page.

    Args:
        summary: of :func:`~llm_trainer.corpus.report.summary.summarise`, or read back from ``report.json``.

    Raises:
        DataError: it is something else, or of another version of the program.
    """
    if not isinstance(summary, dict) or summary.get("version") != SUMMARY_VERSION:
        raise DataError(
            f"this is no {REPORT_JSON} of version {SUMMARY_VERSION}",
            hint="run llm-trainer data build again: what is finished is not repeated, and the report is written anew",
        )
    parts = [part(summary) for part in _SECTIONS]
    body = "\n".join(part for part in [*parts, rule_sections.footer()] if part)
    return render_page(summary["name"], STYLE, body)


def write_report(summary: Summary, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write the three files into a folder, each atomically.

    Returns:
        ``report.json``, ``report.html`` and ``filter_report.json``.
    """
    page = render_report(summary)
    target = Path(folder)
    paths = (target / REPORT_JSON, target / REPORT_HTML, target / FILTER_REPORT)
    write_json(paths[0], summary, indent=1)
    write_text(paths[1], page)
    write_json(paths[2], filter_report(summary), indent=1)
    return paths
