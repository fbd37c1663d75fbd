"""The whole way, stage by stage, from text to a model that has been evaluated.

    python examples/complete_pipeline.py                  # about ten minutes on two CPU cores
    python examples/complete_pipeline.py --steps 50       # a quick look

1. Tokenizer training from scratch
2. Model architecture setup
3. Training loop with monitoring
4. Text generation and evaluation
5. Metrics computation and analysis
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llm_trainer.config import DataConfig, GenerationConfig, ModelConfig, TrainingConfig
from llm_trainer.corpus import open_dataset
from llm_trainer.evaluation import compressor_baselines, evaluate_documents
from llm_trainer.generation import TextGenerator
from llm_trainer.models import TransformerLM
from llm_trainer.monitoring.metrics import read_metrics
from llm_trainer.monitoring.report import write_report
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Trainer


def train_tokenizer(dataset: str, vocab_size: int) -> BPETokenizer:
    """Stage 1: learn which byte sequences deserve a token of their own."""
    print("1. Tokenizer training from scratch")
    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset(dataset, vocab_size=vocab_size)
    text = "def greet(name):\n    return f'Hello, {name}!'  # naïve café 日本 😀"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    print(f"   {tokenizer.vocab_size:,} tokens; {len(text.encode()) / len(ids):.2f} bytes per token on: {text!r}")
    return tokenizer


def build_model(vocab_size: int) -> TransformerLM:
    """Stage 2: a decoder with rotary positions, RMSNorm and SwiGLU."""
    print("2. Model architecture setup")
    config = ModelConfig(vocab_size=vocab_size, d_model=192, n_heads=6, n_kv_heads=2, n_layers=4, max_seq_len=256)
    model = TransformerLM(config)
    print(f"   {model.num_parameters():,} parameters, {model.flops_per_token(256) / 1e6:.1f} MFLOP per token")
    return model


def train(model: TransformerLM, tokenizer: BPETokenizer, data: DataConfig, steps: int, run_dir: Path | None) -> Trainer:
    """Stage 3: the loop; metrics, checkpoints and progress come with it."""
    print("3. Training loop with monitoring")
    config = TrainingConfig(batch_size=16, learning_rate=2e-3, max_steps=steps, device="cpu")
    trainer = Trainer(model, tokenizer, config, run_dir=run_dir)
    trainer.train_from_config(model.config, data)
    return trainer


def generate(model: TransformerLM, tokenizer: BPETokenizer) -> None:
    """Stage 4: greedy, nucleus and beam search on one prompt."""
    print("4. Text generation and evaluation")
    generator = TextGenerator(model, tokenizer)
    for config in (
        GenerationConfig(do_sample=False, max_new_tokens=30),
        GenerationConfig(temperature=0.8, top_p=0.9, max_new_tokens=30, seed=0),
        GenerationConfig(num_beams=5, max_new_tokens=30),
    ):
        print("   " + generator.generate("The future of AI is", config).replace("\n", "\n   "))


def analyse(model: TransformerLM, tokenizer: BPETokenizer, dataset: str, run_dir: Path) -> None:
    """Stage 5: one number that can be compared with a compressor, and the report."""
    print("5. Metrics computation and analysis")
    texts = [document.text for document in open_dataset(dataset).validation()][:20]
    result = evaluate_documents(model, tokenizer, texts)
    speeds = [record["train/tokens_per_second"] for record in read_metrics(run_dir) if "train/loss" in record]
    print(f"   held-out: {result.bits_per_byte:.3f} bits per byte, perplexity {result.perplexity:.1f}")
    print(f"   compressors: {compressor_baselines(texts)}")
    print(f"   {max(speeds):,.0f} tokens per second at best; report: {write_report(run_dir)}")


def main() -> None:
    """All five stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="builtin", help="a file, a folder, or the name of a data set")
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output_dir", type=Path, default=None)
    options = parser.parse_args()
    tokenizer = train_tokenizer(options.dataset, options.vocab_size)
    model = build_model(tokenizer.vocab_size)
    data = DataConfig(dataset_name=options.dataset, max_length=256)
    trainer = train(model, tokenizer, data, options.steps, options.output_dir)
    generate(model, tokenizer)
    assert trainer.run_dir is not None
    analyse(model, tokenizer, options.dataset, trainer.run_dir)


if __name__ == "__main__":
    main()
