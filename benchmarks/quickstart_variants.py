"""Which settings make the best model of the quickstart's size? Every variant gets the same *processor* time.

Processor time, because other programs may be running: a variant is first timed for a few steps, and then trained for as
many steps as fit, on one thread, from every seed. What is printed is validation bits per byte: the mean over seeds, and
how far they lie apart. A difference smaller than that means nothing.

    python benchmarks/quickstart_variants.py                                    # all variants
    python benchmarks/quickstart_variants.py --seconds 60 --seeds 3 base nano   # two of them
    python benchmarks/quickstart_variants.py --steps 100                        # the same number of steps instead

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
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

BASE: dict[str, Any] = {
    "vocab_size": 8192,
    "d_model": 256,
    "n_heads": 4,
    "n_layers": 4,
    "qk_norm": True,
    "activation": "relu2",
    "batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 1.2e-2,
    "lr_scheduler": "wsd",
    "min_learning_rate_ratio": 0.0,
    "precision": "bf16",
    "device": "cpu",
    "num_threads": 1,
}
LENGTH = 256
GPT2_BLOCK = {"activation": "gelu_tanh", "norm": "layernorm", "position": "learned", "bias": True, "qk_norm": False}
FREE = {"zero_init_projections": True, "embedding_norm": True, "residual_shortcuts": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    # What the base already has, taken away.
    "no_qk_norm": {"qk_norm": False},
    "gelu": {"activation": "gelu_tanh"},
    "swiglu": {"activation": "swiglu"},
    "adamw": {"optimizer": "adamw", "learning_rate": 4e-3},
    "gpt2_adamw": {**GPT2_BLOCK, "optimizer": "adamw", "learning_rate": 2e-3, "lr_scheduler": "cosine"},
    # Options of the block, one at a time.
    "zero_init": {"zero_init_projections": True},
    "embedding_norm": {"embedding_norm": True},
    "shortcuts": {"residual_shortcuts": True},
    "values": {"value_embeddings": True},
    "bigrams": {"bigram_embedding": 32768},
    "softcap": {"logit_softcap": 15.0},
    "untied": {"tie_embeddings": False, "head_init_std": 0.001},
    "z_loss": {"z_loss": 1e-4},
    # Together.
    "free": FREE,
    "free_values": {**FREE, "value_embeddings": True},
    "free_bigrams": {**FREE, "bigram_embedding": 32768},
    "nano": {**FREE, "value_embeddings": True, "bigram_embedding": 32768},
    # Around the optimizer.
    "muon3": {"muon_learning_rate": 0.03},
    "batch8": {"batch_size": 8},
    "lr24": {"learning_rate": 2.4e-2},
    "no_clip": {"max_grad_norm": 0.0},
    "decay40": {"decay_ratio": 0.4},
    "decay80": {"decay_ratio": 0.8},
    # Sizes.
    "vocab4096": {"vocab_size": 4096},
    "d192": {"d_model": 192, "n_heads": 3},
    "layers6": {"n_layers": 6},
}


class StepClock(Callback):
    """Processor time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        """Note the time."""
        self.times.append(time.process_time())


def train(
    settings: dict[str, Any], tokenizer: BPETokenizer, cache: str, steps: int, seed: int, clock: StepClock
) -> dict[str, Any]:
    """Train one variant from one seed; returns what it reached."""
    model = {key: value for key, value in settings.items() if key in ModelConfig.model_fields}
    training = {key: value for key, value in settings.items() if key in TrainingConfig.model_fields}
    model_config = ModelConfig.from_dict({**model, "vocab_size": tokenizer.vocab_size, "max_seq_len": LENGTH})
    config = TrainingConfig.from_dict({**training, "max_steps": steps, "eval_steps": steps, "seed": seed})
    data = prepare_data(DataConfig(max_length=LENGTH, cache_dir=cache), tokenizer, model_config, config)
    seed_everything(seed)
    result = Trainer(TransformerLM(model_config), tokenizer, config, callbacks=[clock]).fit(data.train, data.validation)
    return {"tokens": result.tokens, "bits_per_byte": result.metrics["validation/bits_per_byte"]}


def main() -> None:
    """Time, train and print every variant that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}; left out: all")
    parser.add_argument("--seconds", type=float, default=90.0, help="processor seconds for each variant and seed")
    parser.add_argument("--steps", type=int, help="so many steps for each instead, whatever they cost")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    tokenizers: dict[int, BPETokenizer] = {}
    results = []
    with tempfile.TemporaryDirectory() as cache:
        for name in options.variants or VARIANTS:
            settings = {**BASE, **VARIANTS[name]}
            size = settings["vocab_size"]
            if size not in tokenizers:
                texts = (document.text for document in open_training_data(DataConfig()))
                tokenizers[size] = BPETokenizer().train_from_iterator(texts, vocab_size=size)
            clock = StepClock()
            train(settings, tokenizers[size], cache, 6, 0, clock)
            step = min(after - before for before, after in pairwise(clock.times))
            steps = options.steps or max(1, int(options.seconds / step))
            runs = [train(settings, tokenizers[size], cache, steps, seed, StepClock()) for seed in range(options.seeds)]
            bits = [run["bits_per_byte"] for run in runs]
            mean, spread = statistics.mean(bits), max(bits) - min(bits)
            row = {"variant": name, "step_ms": 1000 * step, "steps": steps, "tokens": runs[0]["tokens"], "bits": bits}
            results.append(row)
            speed = f"{1000 * step:7.0f} ms {row['tokens']:>10,} tokens"
            print(f"{name:<14} {speed}  {mean:.4f} bits per byte +- {spread / 2:.4f}", flush=True)
    print(json.dumps({"benchmark": "quickstart_variants", "seconds": options.seconds, "results": results}))


if __name__ == "__main__":
    main()
