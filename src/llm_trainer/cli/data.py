"""``llm-trainer data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli import corpus
from llm_trainer.cli.options import Texts

app = typer.Typer(help="Build a corpus, and turn text into training sequences.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Build a corpus, and turn text into training sequences."""


corpus.add_to(app)


@app.command("pack")
def pack(
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="Folder of a saved tokenizer. Left out: the cache's, or a new one."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output_dir", "--output-dir", "-o", help="Folder of the cache. Left out: under cache/."),
    ] = None,
    text: Texts = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of a data set, when no --text is given.")] = "builtin",
    split: Annotated[
        str, typer.Option("--split", help="Split of it; slices such as train[:1%] are allowed.")
    ] = "train",
    seq_len: Annotated[int, typer.Option("--seq_len", "--seq-len", help="Tokens per sequence.")] = 512,
    packing: Annotated[str, typer.Option("--packing", help="bfd (whole documents fitted) or concat.")] = "bfd",
    compression: Annotated[str, typer.Option("--compression", help="lz4, zstd or none.")] = "lz4",
    validation_fraction: Annotated[
        float,
        typer.Option(
            "--validation_fraction", "--validation-fraction", help="Share of documents packed apart, to validate on."
        ),
    ] = 0.0,
    chunk_mb: Annotated[
        float, typer.Option("--chunk_mb", "--chunk-mb", min=0.001, help="Megabytes of text that make one chunk.")
    ] = 8.0,
    mode: Annotated[
        str, typer.Option("--mode", help="normal, or inverse: fill the gaps of a cache that is there.")
    ] = "normal",
    workers: Annotated[int | None, typer.Option("--workers", help="Threads. Left out: one for each core.")] = None,
    force_rebuild: Annotated[
        bool, typer.Option("--force-rebuild", help="Make everything again, even what is there and good.")
    ] = False,
) -> None:
    """Tokenize text and pack it into checksummed chunks of equal sequences.

    Interrupted, it goes on when it is run again; run twice at once, the two share the work; and a training run with
    data.cache set to the folder takes new chunks in as they come.

    Example: llm-trainer data pack --text my_texts/ --tokenizer my_tokenizer --output_dir my_cache
    """
    run_pack(
        output_dir,
        tokenizer=tokenizer,
        text=text,
        dataset=dataset,
        split=split,
        seq_len=seq_len,
        packing=packing,
        compression=compression,
        validation_fraction=validation_fraction,
        chunk_mb=chunk_mb,
        mode=mode,
        workers=workers,
        force_rebuild=force_rebuild,
    )


def run_pack(
    output_dir: Path | None = None,
    *,
    tokenizer: Path | None = None,
    text: list[Path] | None = None,
    dataset: str = "builtin",
    split: str = "train",
    seq_len: int = 512,
    packing: str = "bfd",
    compression: str = "lz4",
    validation_fraction: float = 0.0,
    chunk_mb: float = 8.0,
    mode: str = "normal",
    workers: int | None = None,
    force_rebuild: bool = False,
) -> None:
    """What ``llm-trainer data pack`` and ``scripts/sequence_packing_cache.py`` do."""
    from llm_trainer.common.devices import available_cores
    from llm_trainer.common.errors import UserError
    from llm_trainer.workflows.pack import pack_text

    if mode not in ("normal", "inverse"):
        raise UserError(f"there is no mode {mode!r}", hint="use normal or inverse")
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
            validation_fraction=validation_fraction,
            unit_bytes=round(chunk_mb * (1 << 20)),
            mode="inverse" if mode == "inverse" else "normal",
            workers=workers or available_cores(),
            force_rebuild=force_rebuild,
            echo=typer.echo,
        )
    )


@app.command("verify")
def verify(cache: Annotated[Path, typer.Argument(help="Folder of a cache.")]) -> None:
    """Check every byte of a cache against its checksums, and name what is missing or damaged."""
    from llm_trainer.workflows.pack import verify_cache

    typer.echo(verify_cache(cache))


TokenFormat = Annotated[str, typer.Option("--format", help="nanogpt (.bin) or megatron (.bin with .idx).")]


@app.command("export")
def export(
    cache: Annotated[Path, typer.Argument(help="Folder of a cache.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .bin file to write.")],
    file_format: TokenFormat = "nanogpt",
) -> None:
    """Write the tokens of a cache for another trainer.

    Example: llm-trainer data export my_cache --format megatron -o train.bin
    """
    from llm_trainer.data.cache import TokenCache
    from llm_trainer.data.token_files import export_tokens

    for path in export_tokens(TokenCache.open(cache), output, file_format):
        typer.echo(f"wrote {path}: {path.stat().st_size:,} bytes")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The .bin file of another trainer.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="Folder of the tokenizer that it was made with.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", "-o", help="Folder of the new cache.")],
    file_format: TokenFormat = "nanogpt",
    seq_len: Annotated[int, typer.Option("--seq_len", "--seq-len", help="Tokens per sequence.")] = 512,
) -> None:
    """Pack another trainer's tokens into a cache; nanoGPT's files are cut into documents at the end token.

    Example: llm-trainer data import train.bin --tokenizer my_tokenizer -o my_cache
    """
    from llm_trainer.workflows.pack import import_token_file

    typer.echo(import_token_file(source, output_dir, tokenizer_dir=tokenizer, file_format=file_format, seq_len=seq_len))
