"""``llm-trainer runs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import OutputDir, RunArgument, RunsDir, Yes

app = typer.Typer(help="List, show, plot and delete runs.", no_args_is_help=True)


@app.command("list")
def list_(runs_dir: RunsDir = Path("runs")) -> None:
    """All runs, the newest first."""
    from llm_trainer.cli.runs_table import runs_table
    from llm_trainer.monitoring.runs import list_runs

    runs = list_runs(runs_dir)
    if not runs:
        typer.echo(f"there is no run in {runs_dir}/ yet; `llm-trainer quickstart` makes one")
        return
    typer.echo(runs_table(runs))


@app.command("show")
def show(
    run: RunArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole log as one JSON document.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """One run: how it stands, its checkpoints, its newest metrics."""
    from llm_trainer.cli.runs_table import run_card
    from llm_trainer.monitoring.runs import export_log

    folder = _find(run, runs_dir)
    typer.echo(json.dumps(export_log(folder), indent=2) if as_json else run_card(folder))


@app.command("report")
def report(run: RunArgument = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Make report.html again from the run's files; also for a run that is going on or has died."""
    from llm_trainer.monitoring.report import write_report

    typer.echo(write_report(_find(run, runs_dir)))


@app.command("plot")
def plot(
    run: RunArgument = None,
    output_dir: OutputDir = None,
    format_: Annotated[str, typer.Option("--format", help="svg, or png (needs the plots extra).")] = "svg",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write the curves of a run as pictures."""
    from llm_trainer.monitoring.plots import write_plots

    folder = _find(run, runs_dir)
    for path in write_plots(folder, output_dir or folder / "plots", format_):
        typer.echo(path)


@app.command("delete")
def delete(
    run: Annotated[str, typer.Argument(help="The name of a run.")],
    checkpoint: Annotated[
        int | None, typer.Option("--checkpoint", help="Only the checkpoint of this step.", show_default=False)
    ] = None,
    yes: Yes = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Delete a run, or one of its checkpoints. Asks first; a run that is going on is refused."""
    from llm_trainer.common.files import human_bytes
    from llm_trainer.monitoring.deletion import delete_checkpoint, delete_run

    def confirm(question: str) -> bool:
        return yes or typer.confirm(question)

    if checkpoint is not None:
        freed = delete_checkpoint(_find(run, runs_dir), checkpoint, confirm=confirm)
    else:
        freed = delete_run(runs_dir, run, confirm=confirm)
    typer.echo(f"{human_bytes(freed)} freed" if freed else "nothing was deleted")


def _find(run: str | None, runs_dir: Path) -> Path:
    """The named run, or the newest one."""
    from llm_trainer.common.errors import UserError
    from llm_trainer.monitoring.runs import find_run, list_runs

    if run is not None:
        return find_run(runs_dir, run)
    runs = list_runs(runs_dir)
    if not runs:
        raise UserError(f"there is no run in {runs_dir}/ yet", hint="`llm-trainer quickstart` makes one")
    return runs[0].path
