"""``llm-trainer import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    source: Annotated[
        Path,
        typer.Argument(help="A folder of transformers, a .gguf file, or the .bin of llama2.c.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Left out: imported/NAME.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Folder or file of the tokenizer, where the model brings none."),
    ] = None,
) -> None:
    """Read a model of another program into a folder that generate, chat and train take.

    Example: llm-trainer import Qwen3-0.6B/ --output qwen
    """
    from llm_trainer.workflows.import_model import import_model

    typer.echo(import_model(source, output=output, tokenizer=tokenizer))
