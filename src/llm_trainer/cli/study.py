"""``llm-trainer ablate``: compare models."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_trainer.cli.options import OutputDir


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
