"""Which settings make the best five-minute model? Every variant gets the same *processor* time, one thread, one seed.

Processor time, because other programs may be running: a variant is first timed for a few steps, and then trained for as
many steps as fit. What is printed is validation bits per byte; differences below about 0.02 mean nothing.

    python benchmarks/quickstart_variants.py                        # all variants, 120 processor seconds each
    python benchmarks/quickstart_variants.py --seconds 60 base lr6  # two of them

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from typing import Any

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Callback, Trainer
from llm_trainer.training.preparation import open_training_data, prepare_data
from llm_trainer.training.utils import seed_everything

MODEL: dict[str, Any] = {"d_model": 256, "n_heads": 4, "n_layers": 4, "qk_norm": True, "activation": "relu2"}
TRAINING: dict[str, Any] = {
    "batch_size": 32,
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "lr_scheduler": "wsd",
    "min_learning_rate_ratio": 0.0,
    "precision": "bf16",
    "device": "cpu",
    "num_threads": 1,
}
VOCABULARY, LENGTH = 8192, 256
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "adamw": {"optimizer": "adamw"},
    "muon4": {"muon_learning_rate": 0.04},
    "untied": {"tie_embeddings": False},
    "vocab4096": {"vocab_size": 4096},
    "d192": {"d_model": 192, "n_heads": 3},
    "batch16": {"batch_size": 16},
    "lr6": {"learning_rate": 6e-3},
    "lr6batch16": {"learning_rate": 6e-3, "batch_size": 16},
    "lr12batch16": {"learning_rate": 1.2e-2, "batch_size": 16},
}


class StepClock(Callback):
    """Processor time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        """Note the time."""
        self.times.append(time.process_time())


def train(changes: dict[str, Any], tokenizer: BPETokenizer, cache: str, steps: int, clock: StepClock) -> dict[str, Any]:
    """Train one variant from the same start; returns what it reached."""
    model_config = ModelConfig.from_dict(
        {
            **MODEL,
            "vocab_size": tokenizer.vocab_size,
            "max_seq_len": LENGTH,
            **{key: value for key, value in changes.items() if key in MODEL or key == "tie_embeddings"},
        }
    )
    own = {key: value for key, value in changes.items() if key in TrainingConfig.model_fields}
    training = TrainingConfig.from_dict({**TRAINING, **own, "max_steps": steps, "eval_steps": steps})
    data = prepare_data(DataConfig(max_length=LENGTH, cache_dir=cache), tokenizer, model_config, training)
    seed_everything(1)
    result = Trainer(TransformerLM(model_config), tokenizer, training, callbacks=[clock]).fit(
        data.train, data.validation
    )
    return {"tokens": result.tokens, "bits_per_byte": result.metrics["validation/bits_per_byte"]}


def main() -> None:
    """Time, train and print every variant that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}; left out: all")
    parser.add_argument("--seconds", type=float, default=120.0, help="processor seconds for each variant")
    options = parser.parse_args()
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    tokenizers: dict[int, BPETokenizer] = {}
    results = []
    with tempfile.TemporaryDirectory() as cache:
        for name in options.variants or VARIANTS:
            changes = VARIANTS[name]
            size = changes.get("vocab_size", VOCABULARY)
            if size not in tokenizers:
                texts = (document.text for document in open_training_data(DataConfig()))
                tokenizers[size] = BPETokenizer().train_from_iterator(texts, vocab_size=size)
            clock = StepClock()
            train(changes, tokenizers[size], cache, 5, clock)
            step = min(after - before for before, after in pairwise(clock.times))
            steps = max(1, int(options.seconds / step))
            reached = train(changes, tokenizers[size], cache, steps, StepClock())
            results.append({"variant": name, "steps": steps, **reached})
            print(
                f"{name:<14} {reached['tokens']:>10,} tokens  {reached['bits_per_byte']:.3f} bits per byte", flush=True
            )
    print(json.dumps({"benchmark": "quickstart_variants", "seconds": options.seconds, "results": results}))


if __name__ == "__main__":
    main()
