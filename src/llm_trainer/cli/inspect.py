"""``llm-trainer inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import RunsDir


def inspect(
    target: Annotated[
        str, typer.Argument(help="A configuration file, a run, a preset, or a folder with a model.", show_default=False)
    ],
    style: Annotated[
        str, typer.Option("--style", help="parameters (each of them), tree (the modules) or llama2c (as it prints).")
    ] = "parameters",
    batch: Annotated[
        int | None, typer.Option("--batch", help="Add the memory for so many sequences.", min=1, show_default=False)
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Tokens of a sequence. Left out: the context.", min=1)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the architecture into this .svg or .html file.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Name, shape and size of every parameter, the parts, and what a token costs. Nothing is loaded, whatever the size.

    Example: llm-trainer inspect llama_1b --batch 1 --length 2048 --picture llama.svg
    """
    from llm_trainer.workflows.inspect import inspect_model

    inspection = inspect_model(target, runs_dir=runs_dir)
    if picture is not None:
        inspection.picture(picture, batch=batch, length=length)
    typer.echo(inspection.text(style, batch=batch, length=length))
    if picture is not None:
        typer.echo(f"\nwrote {picture}")
