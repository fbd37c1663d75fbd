"""``llm-trainer tokenizer``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import RunsDir, Texts

app = typer.Typer(help="Train, look at, compare and convert tokenizers.", no_args_is_help=True)

Chat = Annotated[
    str | None,
    typer.Option("--chat", help="Chat template: chatml, llama3, alpaca, plain, or a Jinja file.", show_default=False),
]
SOURCES = "a folder, tokenizer.json, a SentencePiece .model, a .tiktoken file, tiktoken:NAME or hf:NAME"


@app.callback()
def _group() -> None:
    """Train, look at, compare and convert tokenizers."""


@app.command("train")
def train(
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", "-o", help="Folder to write to.")],
    text: Texts = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of a data set, when no --text is given.")] = "builtin",
    vocab_size: Annotated[int, typer.Option("--vocab_size", "--vocab-size", help="Number of tokens.")] = 8192,
    kind: Annotated[str, typer.Option("--kind", help="bpe, wordpiece or unigram.")] = "bpe",
    pattern: Annotated[str, typer.Option("--pattern", help="How text is cut: gpt4, gpt4-digits3 or gpt2.")] = "gpt4",
    digits: Annotated[
        str | None,
        typer.Option("--digits", help="Most digits in a token: 1, 2, 3 or none (no limit).", show_default=False),
    ] = None,
    allow_smaller: Annotated[
        bool, typer.Option("--allow_smaller", "--allow-smaller", help="Take fewer tokens if the text has no more.")
    ] = False,
    chat: Chat = None,
) -> None:
    """Train a tokenizer and save it in the layout that transformers loads.

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
            kind=kind,
            pattern=pattern,
            digits=digits,
            allow_smaller=allow_smaller,
            chat=chat,
            echo=lambda line: typer.echo(line, err=True),
        )
    )


@app.command("inspect")
def inspect(
    text: Annotated[str, typer.Argument(help="A text, a text file, or a .json file with the messages of a chat.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help=f"{SOURCES}. Left out: the newest run's.", show_default=False)
    ] = None,
    chat: Chat = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print the ids alone, in one line.")] = False,
    color: Annotated[str, typer.Option("--color", help="auto (only on a terminal), always or never.")] = "auto",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show the tokens of a text or chat: where they end, their ids and bytes, and which ones a fine-tuning trains.

    Example: llm-trainer tokenizer inspect chat.json --tokenizer my_tokenizer --chat chatml
    """
    from llm_trainer.workflows.tokenizer_inspect import open_tokenizer, running_text, summary, table, view

    if color not in ("auto", "always", "never"):
        raise typer.BadParameter("use auto, always or never", param_hint="--color")
    tokens = view(open_tokenizer(tokenizer, runs_dir), text, chat_template=chat)
    if ids:
        typer.echo(" ".join(str(token.id) for token in tokens))
        return
    colored = color == "always" or (color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    shown = f"{running_text(tokens, color=colored)}\n\n{table(tokens)}\n\n{summary(tokens)}"
    typer.echo(shown, color=colored)


@app.command("compare")
def compare(
    tokenizers: Annotated[list[str], typer.Argument(help=f"One or more, each {SOURCES}.")],
    text: Texts = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a PNG too.", show_default=False)] = None,
    max_bytes: Annotated[int, typer.Option("--max_bytes", "--max-bytes", min=1, help="Most text to use.")] = 2_000_000,
) -> None:
    """Bytes per token, tokens per word, speed and round trip of several tokenizers on the same text.

    Example: llm-trainer tokenizer compare my_tokenizer tiktoken:gpt2 --text book.txt --plot compare.png
    """
    from llm_trainer.workflows.tokenizer_compare import compare_tokenizers, comparison_table, write_comparison_plot

    paths = [str(path) for path in text] if text else None
    results = compare_tokenizers(tokenizers, paths=paths, max_bytes=max_bytes)
    typer.echo(comparison_table(results))
    if plot is not None:
        write_comparison_plot(results, plot)
        typer.echo(f"drawn in {plot}")


@app.command("convert")
def convert(
    tokenizer: Annotated[str, typer.Argument(help=f"{SOURCES[0].upper()}{SOURCES[1:]}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder (hf) or file to write.")],
    file_format: Annotated[
        str, typer.Option("--format", help="hf (transformers), llama2c (tokenizer.bin) or tiktoken (ranks).")
    ] = "hf",
) -> None:
    """Write a tokenizer in another program's format, with the same ids.

    Example: llm-trainer tokenizer convert tokenizer.model --format llama2c --output tokenizer.bin
    """
    from llm_trainer.workflows.tokenizer import convert_tokenizer

    typer.echo(convert_tokenizer(tokenizer, output, file_format))
