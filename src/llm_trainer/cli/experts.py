"""``llm-trainer experts``: what the experts of a mixture do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import Checkpoint, Device, RunArgument, RunsDir


def experts(
    run: RunArgument = None,
    domain: Annotated[
        list[str] | None,
        typer.Option("--domain", metavar="NAME=PATH", help="A file or folder of text; several times, to compare."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a picture too, as SVG.", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Most tokens to read of each domain.", min=1)] = 65536,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """How often each expert of a mixture of experts is chosen, by kind of text.

    Example: llm-trainer experts --domain code=src/ --domain prose=books/ --picture experts.svg
    """
    from llm_trainer.workflows.experts import experts_of_run

    typer.echo(
        experts_of_run(
            run,
            domain or [],
            picture=picture,
            runs_dir=runs_dir,
            checkpoint=checkpoint,
            device=device,
            tokens=tokens,
        )
    )
