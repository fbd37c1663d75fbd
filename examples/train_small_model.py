"""Train a small model with the Python API, in about two minutes on two CPU cores.

python examples/train_small_model.py
python examples/train_small_model.py --dataset my_texts/ --steps 500
"""

from __future__ import annotations

import argparse

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Trainer


def main() -> None:
    """Tokenizer, model, training: the three things that a language model needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="builtin", help="a file, a folder, or the name of a data set")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--vocab_size", type=int, default=4096)
    options = parser.parse_args()

    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset(options.dataset, vocab_size=options.vocab_size)

    model_config = ModelConfig(vocab_size=tokenizer.vocab_size, d_model=128, n_heads=4, n_layers=4, max_seq_len=256)
    training_config = TrainingConfig(batch_size=16, learning_rate=2e-3, max_steps=options.steps, device="cpu")
    data_config = DataConfig(dataset_name=options.dataset, max_length=256)

    trainer = Trainer(TransformerLM(model_config), tokenizer, training_config)
    result = trainer.train_from_config(model_config, data_config)
    print(f"validation: {result.metrics['validation/bits_per_byte']:.3f} bits per byte; run: {trainer.run_dir}")


if __name__ == "__main__":
    main()
