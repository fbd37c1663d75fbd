"""What an optimizer costs, and what its learning rate does.

    python benchmarks/optimizers.py cost                     # milliseconds and bytes of state per step, two shapes
    python benchmarks/optimizers.py rates                    # AdamW: learning rate against batch size
    python benchmarks/optimizers.py rates lion muon sgd      # the same for others

``cost`` runs all optimizers in turn in one process and keeps the fastest step of each, in processor time, so that other
programs disturb little. ``rates`` trains a model of 0.1 M parameters on the bytes of the standard library, every run on
the same number of tokens, and prints validation bits per byte; one seed, differences below about 0.1 mean little. One
thread, float32. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.corpus.builtin import builtin_documents
from llm_trainer.models import TransformerLM
from llm_trainer.training.ema import EMA
from llm_trainer.training.optimizer import create_optimizer, optimizers_of, set_learning_rate
from llm_trainer.training.scheduler import learning_rate_factor

SHAPES = {"d128 L4": (128, 4, 256, 200), "d256 L4": (256, 4, 8192, 20)}
"""d_model, layers, vocabulary, steps to time."""
COSTED: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "adamw, cautious": {"optimizer": "adamw", "cautious_weight_decay": True},
    "lion": {"optimizer": "lion"},
    "lion, cautious": {"optimizer": "lion", "cautious_weight_decay": True},
    "adafactor": {"optimizer": "adafactor"},
    "sgd": {"optimizer": "sgd"},
    "muon, float32": {"optimizer": "muon"},
    "muon, bfloat16": {"optimizer": "muon"},
}
LENGTH, TOKENS = 64, 131_072
SEQUENCES = (4, 16, 64)
RATES = {
    "adamw": (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "lion": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "muon": (2e-3, 5e-3, 2e-2, 5e-2, 2e-1),
    "sgd": (1e-2, 1e-1, 3e-1, 1.0, 3.0),
}
"""For muon that of its matrices; its AdamW part stays at 1e-2."""


def model_of(d_model: int, n_layers: int, vocab_size: int, length: int) -> TransformerLM:
    """A model with the same weights every time."""
    torch.manual_seed(0)
    shape = {"d_model": d_model, "n_layers": n_layers, "n_heads": d_model // 32, "vocab_size": vocab_size}
    return TransformerLM(ModelConfig.from_dict({**shape, "max_seq_len": length}))


def cost() -> dict[str, dict[str, tuple[float, float]]]:
    """Processor milliseconds of the fastest step and bytes of state per parameter, by shape and optimizer."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for shape, (d_model, n_layers, vocab_size, rounds) in SHAPES.items():
        contenders = {}
        for name, settings in COSTED.items():
            model = model_of(d_model, n_layers, vocab_size, LENGTH)
            dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
            optimizer = create_optimizer(model, TrainingConfig(**settings), compute_dtype=dtype)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter) * 1e-3
            contenders[name] = (model, optimizer)
        fastest = dict.fromkeys(contenders, math.inf)
        for round_ in range(rounds):
            for name, (_, optimizer) in contenders.items():
                if "muon" in name and round_ >= rounds // 4 + 5:
                    continue
                started = time.thread_time()
                optimizer.step()
                fastest[name] = min(fastest[name], 1000 * (time.thread_time() - started))
        found[shape] = {name: (fastest[name], state_bytes(*pair)) for name, pair in contenders.items()}
        found[shape]["ema"] = (cost_of_average(model_of(d_model, n_layers, vocab_size, LENGTH), rounds), 4.0)
    return found


def cost_of_average(model: TransformerLM, rounds: int) -> float:
    """Processor milliseconds of one update of the average of the weights."""
    average, fastest = EMA(model, 0.999), math.inf
    for _ in range(rounds):
        started = time.thread_time()
        average.update()
        fastest = min(fastest, 1000 * (time.thread_time() - started))
    return fastest


def state_bytes(model: TransformerLM, optimizer: torch.optim.Optimizer) -> float:
    """Bytes that the optimizer keeps per parameter."""
    states = [state for part in optimizers_of(optimizer) for state in part.state.values()]
    kept = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
    return kept / model.num_parameters()


def corpus() -> tuple[Tensor, Tensor]:
    """Training and validation bytes."""
    train, held_out = (
        "\n".join(document.text for document in builtin_documents(split)).encode() for split in ("train", "validation")
    )
    return tuple(torch.tensor(list(text[:4_000_000])) for text in (train, held_out))  # type: ignore[return-value]


def batch_of(text: Tensor, sequences: int, generator: torch.Generator) -> Tensor:
    """(sequences, LENGTH), from random places."""
    starts = torch.randint(0, len(text) - LENGTH, (sequences, 1), generator=generator)
    return text[starts + torch.arange(LENGTH)]


def train(name: str, rate: float, sequences: int, texts: tuple[Tensor, Tensor]) -> float:
    """Validation bits per byte after TOKENS tokens."""
    model = model_of(64, 2, 256, LENGTH)
    steps = TOKENS // (sequences * LENGTH)
    rates = {"muon_learning_rate": rate, "learning_rate": 1e-2} if name == "muon" else {"learning_rate": rate}
    config = TrainingConfig.from_dict({"optimizer": name, **rates, "warmup_ratio": 0.1})
    optimizer = create_optimizer(model, config)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        batch = batch_of(texts[0], sequences, generator)
        optimizer.zero_grad()
        loss: Any = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_learning_rate(optimizer, learning_rate_factor(config, step, steps, round(0.1 * steps)))
        optimizer.step()
    with torch.no_grad():
        batch = batch_of(texts[1], 512, torch.Generator().manual_seed(2))
        return float(model(batch, labels=batch).loss) / math.log(2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "rates"])
    parser.add_argument("names", nargs="*", default=["adamw"], help=f"of {', '.join(RATES)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    answer: dict[str, Any] = {}
    if arguments.what == "cost":
        answer = cost()
        for shape, rows in answer.items():
            print(f"{shape:16} {'ms per step':>12} {'bytes per parameter':>20}")
            for name, (milliseconds, size) in rows.items():
                print(f"  {name:14} {milliseconds:12.2f} {size:20.2f}")
    else:
        unknown = sorted(set(arguments.names) - set(RATES))
        if unknown:
            parser.error(f"no rates for {', '.join(unknown)}; there are {', '.join(RATES)}")
        texts = corpus()
        for name in arguments.names:
            print(f"{name:12}" + "".join(f"{sequences * LENGTH:>8} tokens a step" for sequences in SEQUENCES))
            for rate in RATES[name]:
                losses = [train(name, rate, sequences, texts) for sequences in SEQUENCES]
                answer.setdefault(name, {})[rate] = losses
                print(f"  {rate:<10g}" + "".join(f"{loss:22.3f}" for loss in losses), flush=True)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
