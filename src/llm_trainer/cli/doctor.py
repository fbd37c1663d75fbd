"""``llm-trainer doctor``."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Look at this machine: Python, PyTorch, processors, memory, disk, compiler, optional packages."""
    from llm_trainer.workflows.doctor import examine, format_findings

    findings = examine()
    typer.echo(format_findings(findings))
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)
