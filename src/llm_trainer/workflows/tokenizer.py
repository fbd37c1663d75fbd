"""Train a tokenizer on its own and measure it."""

from __future__ import annotations

import time
from pathlib import Path

from llm_trainer.config import DataConfig
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training.preparation import open_training_data


def train_tokenizer(
    output_dir: Path,
    *,
    paths: list[str] | None,
    dataset: str,
    vocab_size: int,
    pattern: str,
    allow_smaller: bool = False,
) -> str:
    """Train a BPE tokenizer, save it, and say how well it compresses the start of its text."""
    TokenizerConfig.from_dict({"vocab_size": vocab_size, "pattern": pattern})
    # The documents that `train` would hold out stay out: a tokenizer that has seen them flatters bits per byte.
    config = DataConfig(paths=paths) if paths else DataConfig(dataset_name=dataset)
    handle = open_training_data(config)
    tokenizer = BPETokenizer()
    started = time.perf_counter()
    texts = (document.text for document in handle)
    tokenizer.train_from_iterator(texts, vocab_size=vocab_size, pattern=pattern, allow_smaller=allow_smaller)
    seconds = time.perf_counter() - started
    tokenizer.save_pretrained(output_dir)
    probe, size = [], 0
    for document in handle:
        probe.append(document.text)
        size += len(document.text.encode("utf-8"))
        if size > 1_000_000:
            break
    tokens = sum(map(len, tokenizer.encode_batch(probe)))
    return (
        f"trained {tokenizer.vocab_size:,} tokens on {handle.description} in {seconds:.1f} s\n"
        f"{size / max(1, tokens):.2f} bytes per token; saved to {output_dir}"
    )
