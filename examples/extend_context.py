"""Train at a short length, then teach the model texts eight times as long: 2K -> 16K, at the scale of a laptop.

    python examples/extend_context.py                  # two minutes of one CPU core
    python examples/extend_context.py --steps 50       # a quick look

Prints how well held-out tokens are predicted, in nats per token, by where they stand in their text: with rotary
positions as they were, and stretched in each way, before and after a little further training at growing lengths.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.config.model import RopeScaling
from llm_trainer.corpus import open_dataset
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Trainer

SHORT, LONG = 128, 1024
STAGES = (256, 512, 1024)
"""The lengths of further training, one after the other."""
TOKENS_PER_STEP = 2048
METHODS: tuple[RopeScaling | None, ...] = (None, "linear", "ntk", "yarn")


def train(
    model: TransformerLM, tokenizer: BPETokenizer, data: DataConfig, length: int, steps: int, rate: float
) -> None:
    """Some steps on texts of up to ``length`` tokens; a step always has as many tokens."""
    config = TrainingConfig(
        batch_size=TOKENS_PER_STEP // length,
        learning_rate=rate,
        max_steps=steps,
        eval_steps=steps,
        logging_steps=max(1, steps // 4),
        device="cpu",
        precision="fp32",
        tune=False,
        report_to=[],
    )
    data = data.model_copy(update={"max_length": length})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(model, tokenizer, config, run_dir=Path(folder)).train_from_config(model.config, data)


def stretched(model: TransformerLM, method: RopeScaling | None) -> TransformerLM:
    """The same weights in a model that reads ``LONG`` tokens: rotary positions have none of their own."""
    factor = 1.0 if method is None else LONG / SHORT
    changes = {"max_seq_len": LONG, "rope_scaling": method, "rope_factor": factor, "rope_original_length": SHORT}
    longer = TransformerLM(ModelConfig.from_dict({**model.config.to_dict(), **changes}))
    longer.load_state_dict(model.state_dict())
    return longer


@torch.no_grad()
def loss_by_position(model: TransformerLM, texts: Tensor, edges: Sequence[int]) -> list[float]:
    """Nats per token between one edge and the next. ``texts`` are token ids, (texts, length)."""
    model.eval()
    losses = []
    for ids in torch.split(texts, 4):
        logits = model(ids).logits[:, :-1]  # (batch, length - 1, vocab)
        losses.append(F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"))
    by_position = torch.cat(losses).mean(dim=0)  # (length - 1,)
    return [by_position[start:stop].mean().item() for start, stop in itertools.pairwise(edges)]


def long_texts(dataset: str, tokenizer: BPETokenizer, count: int = 24) -> Tensor:
    """The first ``LONG`` tokens of held-out documents that have so many, (texts, LONG)."""
    found = []
    for document in open_dataset(dataset).validation():
        ids = tokenizer.encode(document.text[: 16 * LONG])
        if len(ids) >= LONG:
            found.append(ids[:LONG])
        if len(found) == count:
            break
    if not found:
        raise SystemExit(f"error: no held-out document of {dataset} has {LONG} tokens; this example needs longer texts")
    return torch.tensor(found)


def main() -> None:
    """Train short, stretch, look; train a little more, look again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="builtin", help="a file, a folder, or the name of a data set")
    parser.add_argument("--steps", type=int, default=500, help="of training at the short length")
    parser.add_argument("--stage_steps", type=int, default=16, help="of further training at each longer length")
    parser.add_argument("--vocab_size", type=int, default=512)
    parser.add_argument("--max_documents", type=int, default=200)
    options = parser.parse_args()

    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset(options.dataset, vocab_size=options.vocab_size)
    data = DataConfig(dataset_name=options.dataset, max_documents=options.max_documents, validation_tokens=16384)
    texts = long_texts(options.dataset, tokenizer)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, d_model=96, n_heads=3, n_layers=3, max_seq_len=SHORT)
    model = TransformerLM(config)
    train(model, tokenizer, data, SHORT, options.steps, 2e-3)

    edges = [0, SHORT, *STAGES]
    rows = []
    for method in METHODS:
        longer = stretched(model, method)
        rows.append((f"{method or 'none'}, stretched only", loss_by_position(longer, texts, edges)))
        for length in STAGES:
            train(longer, tokenizer, data, length, options.stage_steps, 5e-4)
        rows.append((f"{method or 'none'}, trained on", loss_by_position(longer, texts, edges)))
    heads = [f"{start}-{stop}" for start, stop in itertools.pairwise(edges)]
    print(f"{'nats per token at position':<28}" + "".join(f"{head:>10}" for head in heads))
    for label, losses in rows:
        print(f"{label:<28}" + "".join(f"{loss:>10.3f}" for loss in losses))


if __name__ == "__main__":
    main()
