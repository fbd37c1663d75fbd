"""``llm-trainer quickstart``."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_trainer.cli.options import OutputDir, Seed, Texts


def quickstart(
    minutes: Annotated[float, typer.Option("--minutes", "-m", help="How long to train.", min=0.05)] = 5.0,
    text: Texts = None,
    output_dir: OutputDir = None,
    seed: Seed = None,
    more_text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="More files or folders.", show_default=False)
    ] = None,
) -> None:
    """From raw text to a language model you can talk to, in minutes.

    Without --text it learns from what every machine with Python has: the standard library's sources and documentation.
    """
    from llm_trainer.workflows.quickstart import run_quickstart

    paths = [str(path) for path in [*(text or []), *(more_text or [])]]
    run_quickstart(minutes=minutes, paths=paths or None, output_dir=output_dir, seed=seed, echo=typer.echo)
