"""``llm-trainer export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import Checkpoint, RunArgument, RunsDir


def export(
    run: RunArgument = None,
    to: Annotated[str, typer.Option("--to", help="hf (transformers), gguf (llama.cpp) or llama2c (run.c).")] = "hf",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder, or for gguf the file. Left out: exports/ in the run."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="f32, f16, bf16; for gguf also q8_0. Left out: f32, for gguf f16."),
    ] = None,
    shard_size: Annotated[
        str | None, typer.Option("--shard_size", "--shard-size", help="Largest file of weights, such as 5GB (hf).")
    ] = None,
    checkpoint: Checkpoint = "best",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write a trained model for other programs, with its tokenizer, and say what differs there.

    Example: llm-trainer export --to gguf --dtype q8_0
    """
    from llm_trainer.workflows.export import export_run
    from llm_trainer.workflows.target import parse_memory

    size = None if shard_size is None else parse_memory(shard_size)
    exported = export_run(
        run, to, output=output, dtype=dtype, shard_size=size, checkpoint=checkpoint, runs_dir=runs_dir
    )
    typer.echo(exported.summary())
