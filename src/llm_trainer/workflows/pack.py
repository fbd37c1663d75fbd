"""Pack text into a cache on its own, to train on it later or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_trainer.common.files import human_bytes
from llm_trainer.config import DataConfig
from llm_trainer.data import build_cache, format_progress
from llm_trainer.tokenizer import load_tokenizer
from llm_trainer.training.preparation import open_training_data


def pack_text(
    output_dir: Path,
    *,
    tokenizer_dir: Path,
    paths: list[str] | None,
    dataset: str,
    split: str,
    seq_len: int,
    packing: str,
    compression: str,
    force_rebuild: bool,
    echo: Callable[[str], None],
) -> str:
    """Tokenize and pack, printing progress; returns the closing lines."""
    given = {"paths": paths} if paths else {"dataset_name": dataset}
    # Who packs text by hand means all of it; holding some out for validation is a matter of `train`.
    how = {"max_length": seq_len, "packing": packing, "compression": compression, "validation_fraction": 0.0}
    config = DataConfig.from_dict({**given, **how, "split": split})
    tokenizer = load_tokenizer(tokenizer_dir)
    handle = open_training_data(config)
    cache = build_cache(
        handle,
        tokenizer,
        output_dir,
        seq_len=seq_len,
        codec=config.compression,
        packer=config.packing,
        progress=lambda progress: echo(format_progress(progress)),
        total_documents=handle.split_documents,
        source_fingerprint=handle.fingerprint,
        source_description=handle.description,
        force_rebuild=force_rebuild,
    )
    facts = cache.manifest.totals()
    return (
        f"{output_dir}: {len(cache):,} sequences of {seq_len} tokens, {facts['tokens']:,} tokens "
        f"from {facts['documents']:,} documents\n"
        f"{facts['tokens_kept']:.2%} of the tokens kept, {facts['utilisation']:.2%} of the positions used, "
        f"{human_bytes(facts['bytes'])} on disk"
    )
