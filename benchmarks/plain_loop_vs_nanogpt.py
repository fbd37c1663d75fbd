"""Is our Trainer slower than a plain loop over nanoGPT's model? Same shape, same weights, same batches, same AdamW.

Three contestants, each in a fresh process with a fixed number of threads, taking turns for several rounds:

- ``ours``: ``Trainer.fit`` on a ``TransformerLM`` of GPT-2's layout, with everything the Trainer does around a step;
- ``nanogpt``: nanoGPT's ``model.py`` with its own optimizer set-up, in the loop of its ``train.py`` without evaluation;
- ``nanogpt+fused``: the same with PyTorch's fused AdamW, which nanoGPT turns on for GPUs only.

All start from the same weights and see the same batches, so their losses must agree: a fast loop that computes
something else would show. Weight decay is 0, because nanoGPT decays embeddings and we do not.

    python benchmarks/plain_loop_vs_nanogpt.py --nanogpt FOLDER_WITH_model.py

The folder is a checkout of https://github.com/karpathy/nanoGPT; without it the benchmark is skipped. The last line of
the output is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

CONTESTANTS = ("ours", "nanogpt", "nanogpt+fused")
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
LOSS_TOLERANCE = 0.01
"""Same mathematics in another order of additions: after some hundred steps of AdamW the losses differ a little."""


@dataclass(frozen=True)
class Shape:
    """A model and a batch: sizes as in nanoGPT's configuration."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int
    vocab_size: int
    warmup: int
    steps: int


SHAPES = {
    shape.name: shape
    for shape in (
        # nanoGPT's README calls the first one "train on a CPU"; 256 ids are enough for text as bytes.
        Shape("tiny", 4, 4, 128, 64, 12, 256, warmup=20, steps=120),
        Shape("small", 4, 4, 256, 256, 8, 8192, warmup=2, steps=10),
    )
}


def run_contestant(name: str, shape: Shape, nanogpt: Path, data: Path) -> dict[str, Any]:
    """Train for ``warmup + steps`` steps; returns the seconds of the steps after the warm-up, and every loss."""
    reference = nanogpt_model(nanogpt, shape)
    source = Batches(torch.load(data, weights_only=True), shape)
    times, losses = train_ours(reference, shape, source) if name == "ours" else train_plain(reference, source, name)
    wall, cpu = (last - first for first, last in zip(times[shape.warmup - 1], times[-1]))
    return {"seconds": wall, "cpu_seconds": cpu, "losses": losses}


def now() -> tuple[float, float]:
    """Wall-clock and processor seconds; the latter hardly change when other programs run beside this one."""
    return time.perf_counter(), time.process_time()


class Batches:
    """Random windows of the text, the same for everyone; also the loader that ``Trainer.fit`` takes."""

    fingerprint = "benchmark"

    def __init__(self, tokens: torch.Tensor, shape: Shape) -> None:
        self._tokens = tokens
        self._shape = shape

    def __len__(self) -> int:
        return (self._shape.warmup + self._shape.steps) * self._shape.batch_size

    def windows(self) -> Iterator[torch.Tensor]:
        """One (batch, block) tensor of ids a step."""
        generator = torch.Generator().manual_seed(7)
        length = self._shape.block_size
        for _ in range(self._shape.warmup + self._shape.steps):
            starts = torch.randint(len(self._tokens) - length, (self._shape.batch_size,), generator=generator)
            yield torch.stack([self._tokens[start : start + length] for start in starts.tolist()]).long()

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, torch.Tensor]]:
        """The windows as our models take them."""
        assert start == 0 and stop == len(self)
        for input_ids in self.windows():
            labels = input_ids.clone()
            labels[:, 0] = -100  # no position predicts the first token of a row
            yield {"input_ids": input_ids, "labels": labels}


def nanogpt_model(folder: Path, shape: Shape) -> Any:
    """nanoGPT's model with reproducible initial weights. Its code is loaded from the person's checkout."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    sizes = {key: getattr(shape, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
    return module.GPT(module.GPTConfig(dropout=0.0, bias=False, **sizes))


def train_plain(model: Any, source: Batches, name: str) -> tuple[list[tuple[float, float]], list[float]]:
    """The loop of nanoGPT's train.py on a CPU: forward, backward, clip, step, zero, loss read every tenth step."""
    if name == "nanogpt+fused":
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=0.0, fused=True)
    else:
        optimizer = model.configure_optimizers(0.0, LEARNING_RATE, BETAS, "cpu")
    times: list[tuple[float, float]] = []
    losses: list[torch.Tensor] = []
    model.train()
    for input_ids in source.windows():
        targets = torch.full_like(input_ids, -1)  # nanoGPT ignores -1
        targets[:, :-1] = input_ids[:, 1:]
        _, loss = model(input_ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if len(losses) % 10 == 0:
            float(losses[-1])
        times.append(now())
    return times, [float(loss) for loss in losses]


def train_ours(reference: Any, shape: Shape, source: Batches) -> tuple[list[tuple[float, float]], list[float]]:
    """``Trainer.fit``, as a person calls it, starting from nanoGPT's weights."""
    from llm_trainer.config import TrainingConfig
    from llm_trainer.training import Trainer
    from llm_trainer.training.callbacks import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[tuple[float, float]] = []
            self.losses: list[float] = []

        def on_step(self, trainer: Trainer) -> None:
            self.times.append(now())
            self.losses.append(trainer.loss)

    config = TrainingConfig(
        max_steps=shape.warmup + shape.steps,
        batch_size=shape.batch_size,
        learning_rate=LEARNING_RATE,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler="constant",
        warmup_steps=0,
        device="cpu",
        precision="fp32",
    )
    clock = Clock()
    Trainer(our_model(reference, shape), None, config, callbacks=[clock]).fit(source)
    return clock.times, clock.losses


def our_model(reference: Any, shape: Shape) -> torch.nn.Module:
    """Our model of the same shape with nanoGPT's weights."""
    from llm_trainer.config import ModelConfig
    from llm_trainer.models import TransformerLM

    config = ModelConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.n_embd,
        n_heads=shape.n_head,
        n_layers=shape.n_layer,
        max_seq_len=shape.block_size,
        activation="gelu",
        norm="layernorm",
        position="learned",
        bias=False,
        tie_embeddings=True,
    )
    model: torch.nn.Module = TransformerLM(config)
    model.load_state_dict(translate_weights(reference.state_dict(), shape.n_layer))
    return model


def translate_weights(theirs: dict[str, torch.Tensor], n_layer: int) -> dict[str, torch.Tensor]:
    """nanoGPT's weights under our names; its fused query-key-value matrix becomes three."""
    ours = {
        "embed_tokens.weight": theirs["transformer.wte.weight"],
        "lm_head.weight": theirs["lm_head.weight"],
        "position_embedding.embedding.weight": theirs["transformer.wpe.weight"],
        "final_norm.weight": theirs["transformer.ln_f.weight"],
    }
    for index in range(n_layer):
        block, h = f"blocks.{index}", f"transformer.h.{index}"
        q, k, v = theirs[f"{h}.attn.c_attn.weight"].chunk(3)  # (3 * n_embd, n_embd)
        ours |= {f"{block}.attention.{name}_proj.weight": matrix for name, matrix in zip("qkv", (q, k, v))}
        ours[f"{block}.attention.o_proj.weight"] = theirs[f"{h}.attn.c_proj.weight"]
        ours[f"{block}.feed_forward.up_proj.weight"] = theirs[f"{h}.mlp.c_fc.weight"]
        ours[f"{block}.feed_forward.down_proj.weight"] = theirs[f"{h}.mlp.c_proj.weight"]
        ours[f"{block}.attention_norm.weight"] = theirs[f"{h}.ln_1.weight"]
        ours[f"{block}.ffn_norm.weight"] = theirs[f"{h}.ln_2.weight"]
    return ours


def measure(shape: Shape, nanogpt: Path, data: Path, *, rounds: int, threads: int) -> dict[str, Any]:
    """All contestants, ``rounds`` times, in turns: each round starts with another one, so none is always first."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        first = number % len(CONTESTANTS)
        for name in CONTESTANTS[first:] + CONTESTANTS[:first]:
            runs[name].append(run_in_process(name, shape, nanogpt, data, threads))
    check_losses({name: results[0]["losses"] for name, results in runs.items()})
    medians = {name: statistics.median(run["seconds"] for run in results) for name, results in runs.items()}
    tokens = shape.steps * shape.batch_size * shape.block_size
    losses = {name: results[0]["losses"] for name, results in runs.items()}
    return {
        "shape": asdict(shape),
        "ms_per_step": {name: round(1000 * seconds / shape.steps, 2) for name, seconds in medians.items()},
        "cpu_ms_per_step": {
            name: round(1000 * statistics.median(run["cpu_seconds"] for run in results) / shape.steps, 2)
            for name, results in runs.items()
        },
        "tokens_per_second": {name: round(tokens / seconds) for name, seconds in medians.items()},
        "spread": {name: spread([run["seconds"] for run in results]) for name, results in runs.items()},
        "speedup_over_nanogpt": round(medians["nanogpt"] / medians["ours"], 3),
        "speedup_over_nanogpt_fused": round(medians["nanogpt+fused"] / medians["ours"], 3),
        "first_loss": round(losses["ours"][0], 4),
        "last_loss": {name: round(values[-1], 4) for name, values in losses.items()},
    }


def spread(values: list[float]) -> float:
    """(slowest - fastest) / median: how much to trust the median."""
    return round((max(values) - min(values)) / statistics.median(values), 3)


def check_losses(losses: dict[str, list[float]]) -> None:
    """Everyone started equal, stayed equal, and learned."""
    reference = losses["nanogpt"]
    for name, values in losses.items():
        assert abs(values[0] - reference[0]) < 1e-4, f"{name} starts at {values[0]}, nanoGPT at {reference[0]}"
        gap = max(abs(a - b) / b for a, b in zip(values, reference, strict=True))
        assert gap < LOSS_TOLERANCE, f"the losses of {name} leave those of nanoGPT by {gap:.2%}"
        assert values[-1] < values[0], f"{name} did not learn"


def run_in_process(name: str, shape: Shape, nanogpt: Path, data: Path, threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--nanogpt", str(nanogpt), "--contestant", name, "--shape", shape.name]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    result = subprocess.run(
        [*command, "--data", str(data), "--threads", str(threads)], capture_output=True, text=True, env=environment
    )
    if result.returncode != 0:
        sys.exit(f"{name} failed on the shape {shape.name}:\n{result.stderr}")
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def text_as_bytes() -> torch.Tensor:
    """A megabyte of the standard library, one id a byte."""
    from llm_trainer.corpus import builtin_documents

    content = b""
    for document in builtin_documents("train"):
        content += document.text.encode("utf-8")
        if len(content) > 1_000_000:
            break
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def print_table(result: dict[str, Any]) -> None:
    """One shape for people."""
    shape = Shape(**result["shape"])
    print(
        f"\n{shape.name}: {shape.n_layer} layers, {shape.n_head} heads, {shape.n_embd} wide, "
        f"block {shape.block_size}, batch {shape.batch_size}, vocabulary {shape.vocab_size}"
    )
    print(f"{'':16}{'ms/step':>10}{'cpu ms':>10}{'tokens/s':>12}{'spread':>9}{'last loss':>11}")
    for name in CONTESTANTS:
        print(
            f"{name:16}{result['ms_per_step'][name]:>10.2f}{result['cpu_ms_per_step'][name]:>10.2f}"
            f"{result['tokens_per_second'][name]:>12,}"
            f"{result['spread'][name]:>9.1%}{result['last_loss'][name]:>11.4f}"
        )
    print(
        f"ours is {result['speedup_over_nanogpt']:.2f} x nanoGPT's speed, "
        f"{result['speedup_over_nanogpt_fused']:.2f} x with fused AdamW there"
    )


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of each run")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.nanogpt is None or not (arguments.nanogpt / "model.py").is_file():
        print("skipped: --nanogpt FOLDER must name a folder with nanoGPT's model.py (github.com/karpathy/nanoGPT)")
        print(json.dumps({"benchmark": "plain_loop_vs_nanogpt", "skipped": True}))
        return 0
    if arguments.contestant is not None:
        torch.set_num_threads(arguments.threads)
        torch.set_flush_denormal(True)
        shape = arguments.shape[0]
        print(json.dumps(run_contestant(arguments.contestant, SHAPES[shape], arguments.nanogpt, arguments.data)))
        return 0
    results = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "bytes.pt")
        torch.save(text_as_bytes(), data)
        for name in arguments.shape or SHAPES:
            results.append(
                measure(SHAPES[name], arguments.nanogpt, data, rounds=arguments.rounds, threads=arguments.threads)
            )
            print_table(results[-1])
    summary = {
        "benchmark": "plain_loop_vs_nanogpt",
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "results": results,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
