"""``report.html``: one file that shows a run to a colleague, made from the run's folder alone.

It loads nothing: no script, no font, no picture from anywhere, and its content security policy forbids it to. So it can
be mailed, opened from disk, and trusted with whatever a model writes. It can be made at any time, also of a run that is
still going or that died.
"""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import write_text
from llm_trainer.common.web_page import render_page
from llm_trainer.monitoring import report_sections as sections
from llm_trainer.monitoring.report_data import RunData, read_run
from llm_trainer.monitoring.report_style import STYLE
from llm_trainer.monitoring.runs import is_run

REPORT_FILE = "report.html"


def render_report(run_dir: str | Path) -> str:
    """The report of a run as HTML.

    Args:
        run_dir: the run's folder; any of its files may be missing, damaged or still growing.

    Raises:
        UserError: there is no such run.
    """
    if not is_run(run_dir):
        raise UserError(f"{run_dir} is not a run's folder", hint="`llm-trainer runs list` shows what there is")
    run = read_run(run_dir)
    body = "\n".join(part for part in _parts(run) if part)
    return render_page(run.name, STYLE, body)


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into the run's folder, atomically, and say where it is."""
    path = Path(run_dir) / REPORT_FILE
    write_text(path, render_report(run_dir))
    return path


def _parts(run: RunData) -> list[str]:
    return [
        sections.header(run),
        sections.notice(run),
        sections.headline(run),
        sections.comparison(run),
        sections.fit(run),
        sections.curves(run),
        sections.samples(run),
        sections.checkpoints(run),
        sections.next_steps(run),
        sections.configuration(run),
        sections.environment(run),
        sections.footer(),
    ]
