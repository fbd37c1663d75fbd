"""``llm-trainer tokenizer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import Texts

app = typer.Typer(help="Train a tokenizer.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train a tokenizer."""


@app.command("train")
def train(
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", "-o", help="Folder to write to.")],
    text: Texts = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of a data set, when no --text is given.")] = "builtin",
    vocab_size: Annotated[int, typer.Option("--vocab_size", "--vocab-size", help="Number of tokens.")] = 8192,
    pattern: Annotated[str, typer.Option("--pattern", help="How text is cut: gpt4, gpt4-digits3 or gpt2.")] = "gpt4",
    allow_smaller: Annotated[
        bool, typer.Option("--allow_smaller", "--allow-smaller", help="Take fewer tokens if the text has no more.")
    ] = False,
) -> None:
    """Train a byte-level BPE tokenizer and save it in the layout that transformers loads.

    Example: llm-trainer tokenizer train --text my_texts/ --vocab_size 8192 --output_dir my_tokenizer
    """
    from llm_trainer.workflows.tokenizer import train_tokenizer

    paths = [str(path) for path in text] if text else None
    typer.echo(
        train_tokenizer(
            output_dir,
            paths=paths,
            dataset=dataset,
            vocab_size=vocab_size,
            pattern=pattern,
            allow_smaller=allow_smaller,
        )
    )
