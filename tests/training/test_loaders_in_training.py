"""What the loaders promise, seen from the training loop: every kind of input, errors of workers, batches by length."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_trainer.common.errors import CorruptionError
from llm_trainer.data import PackedLoader, TokenCache, build_cache
from llm_trainer.data.curriculum import BucketOrder
from llm_trainer.data.examples import Examples, LabelCollator
from llm_trainer.data.manifest import chunk_files
from llm_trainer.training import Trainer
from tests.byte_tokenizer import ByteTokenizer
from tests.training.helpers import config, tiny_model

TEXTS = [f"{number}: " + "abcdef " * (number % 9 + 1) for number in range(60)]


def fit(data, *, steps: int = 6, run_dir: Path | None = None, **changes) -> Trainer:
    settings = config(max_steps=steps, learning_rate=1e-3, sequence_length=32, **changes)
    trainer = Trainer(tiny_model(vocab_size=257, max_seq_len=32), ByteTokenizer(), settings, run_dir=run_dir)
    trainer.fit(data)
    return trainer


@pytest.mark.covers("R230")
def test_data_sets_of_the_hub_library_train_like_the_texts_themselves() -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"text": TEXTS}
    losses = [
        fit(data).loss
        for data in (
            TEXTS,
            datasets.Dataset.from_dict(rows),
            datasets.Dataset.from_dict(rows).to_iterable_dataset(),
        )
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.covers("R232")
def test_an_error_in_a_worker_ends_the_run_with_its_message_and_what_was_saved_is_kept(tmp_path: Path) -> None:
    cache = build_cache(TEXTS, ByteTokenizer(), tmp_path / "cache", seq_len=32, unit_bytes=300)
    loader = PackedLoader(cache, 4, shuffle=False, num_workers=2, prefetch=2)
    last = chunk_files(tmp_path / "cache")[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptionError, match=f"{last.name}: block .* is damaged"):
        fit(loader, steps=1000, run_dir=tmp_path / "run", save_steps=1)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.covers("R237")
def test_batches_by_length_pad_less_in_training_and_serve_each_example_once() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 32, 96)
    rows = [(np.full(n, 5 + i % 200), np.full(n, 5 + i % 200)) for i, n in enumerate(lengths.tolist())]
    examples = Examples(rows, identity="lengths", seq_len=32)

    def positions(order: BucketOrder | None) -> tuple[int, int]:
        seen = [0, 0]

        class Counts(Trainer):
            def custom_training_step(self, batch):
                seen[0] += batch["input_ids"].numel()
                seen[1] += int(batch["attention_mask"].sum())
                return super().custom_training_step(batch)

        loader = PackedLoader(examples, 8, collator=LabelCollator(per_token=True), order=order)
        settings = config(max_steps=None, num_epochs=1, batch_size=8, learning_rate=1e-3)
        Counts(tiny_model(vocab_size=257, max_seq_len=32), None, settings).fit(loader)
        return seen[0], seen[1]

    bucketed, real = positions(BucketOrder(lengths, 8, seed=1))
    shuffled, same = positions(None)
    assert real == same == int(lengths.sum())
    assert bucketed < 1.15 * real < 1.3 * real < shuffled


@pytest.mark.slow
@pytest.mark.covers("R238", "R210")
@pytest.mark.skipif(not hasattr(os, "wait4") or sys.platform != "linux", reason="needs wait4, and memory in KiB")
def test_reading_a_cache_takes_far_less_memory_than_it_holds(tmp_path: Path) -> None:
    """84 million tokens, 670 MB as numbers of PyTorch, served in shuffled order: beside the mapped file itself, only
    the blocks that are kept (128 MB) count."""
    generator = np.random.default_rng(0)
    texts = (generator.integers(97, 123, 1 << 20, dtype=np.uint8).tobytes().decode() for _ in range(80))
    build_cache(texts, ByteTokenizer(), tmp_path, seq_len=512, codec="lz4")

    def peak(serve: bool) -> int:
        child = os.fork()
        if child == 0:
            try:
                cache = TokenCache.open(tmp_path)
                if serve:
                    for _ in PackedLoader(cache, 64).batches(0, len(cache)):
                        pass
            finally:
                os._exit(0)
        return os.wait4(child, 0)[2].ru_maxrss

    assert sum(chunk.tokens for chunk in TokenCache.open(tmp_path).manifest.chunks) > 80 << 20
    # The file's own pages count while they are mapped; the system takes them back when it needs them.
    size = sum(path.stat().st_size for path in chunk_files(tmp_path))
    assert peak(serve=True) - peak(serve=False) < (size >> 10) + (150 << 10)
