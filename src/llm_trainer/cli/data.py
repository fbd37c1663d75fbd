"""``llm-trainer data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import Texts

app = typer.Typer(help="Turn text into training sequences.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Turn text into training sequences."""


@app.command("pack")
def pack(
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="Folder of a saved tokenizer.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", "-o", help="Folder of the cache.")],
    text: Texts = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of a data set, when no --text is given.")] = "builtin",
    split: Annotated[
        str, typer.Option("--split", help="Split of it; slices such as train[:1%] are allowed.")
    ] = "train",
    seq_len: Annotated[int, typer.Option("--seq_len", "--seq-len", help="Tokens per sequence.")] = 512,
    packing: Annotated[str, typer.Option("--packing", help="bfd (whole documents fitted) or concat.")] = "bfd",
    compression: Annotated[str, typer.Option("--compression", help="lz4 or none.")] = "lz4",
    force_rebuild: Annotated[
        bool, typer.Option("--force-rebuild", help="Make everything again, even what is there and good.")
    ] = False,
) -> None:
    """Tokenize text and pack it into checksummed chunks of equal sequences.

    Example: llm-trainer data pack --text my_texts/ --tokenizer my_tokenizer --output_dir my_cache
    """
    from llm_trainer.workflows.pack import pack_text

    typer.echo(
        pack_text(
            output_dir,
            tokenizer_dir=tokenizer,
            paths=[str(path) for path in text] if text else None,
            dataset=dataset,
            split=split,
            seq_len=seq_len,
            packing=packing,
            compression=compression,
            force_rebuild=force_rebuild,
            echo=typer.echo,
        )
    )


@app.command("verify")
def verify(cache: Annotated[Path, typer.Argument(help="Folder of a cache.")]) -> None:
    """Check every block of a cache against its checksum."""
    from llm_trainer.data.cache import TokenCache

    opened = TokenCache.open(cache)
    opened.verify()
    typer.echo(f"{cache}: {len(opened):,} sequences, all blocks good")
