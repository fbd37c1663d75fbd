"""``llm-trainer inspect`` and ``ablate``: look at models and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import OutputDir, RunsDir


def inspect(
    target: Annotated[str, typer.Argument(help="A configuration file, a run, or a folder with a model.")],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Name, shape and size of every parameter. Nothing is loaded: a 1B model fits on any laptop."""
    from llm_trainer.workflows.inspect import inspect_model

    typer.echo(inspect_model(target, runs_dir=runs_dir))


def ablate(
    vary: Annotated[str, typer.Option("--vary", help="Parts to change, one at a time: activation,norm,position,...")],
    steps: Annotated[int, typer.Option("--steps", help="Steps for each variant.", min=1)] = 100,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each variant, to see the noise.", min=1)] = 1,
    output_dir: OutputDir = None,
) -> None:
    """Train a tiny model several times, each time with one part exchanged, and print a table of the losses.

    Example: llm-trainer ablate --vary activation,norm,position --steps 100
    """
    from llm_trainer.workflows.ablate import run_ablation

    names = [name.strip() for name in vary.split(",") if name.strip()]
    typer.echo(run_ablation(names, steps=steps, seeds=seeds, output_dir=output_dir, echo=typer.echo))
