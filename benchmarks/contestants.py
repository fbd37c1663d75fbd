"""One contestant trains one shape in a process of its own, and says how fast it was and what its losses were.

``python contestants.py JSON`` is what the benchmarks start; they are what people start.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import Stamp, now, peak_memory
from peers import Peer, build_peer
from torch import Tensor

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM

BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
DIFFERENT_STEPS = 64
"""After so many steps the same sequences come again, in the same order for everyone."""
KEPT_LOSSES = 200
ENDLESS = 1_000_000_000


@dataclass(frozen=True)
class Shape:
    """A model and the batch of one optimizer step."""

    name: str
    model: dict[str, Any]
    """Fields of ModelConfig."""
    sequences: int
    """Sequences per optimizer step, for everyone."""
    stock_micro_batch: int
    """Sequences per pass of the peers as people run them."""
    our_micro_batch: int
    """Sequences per pass of ours, and of peers that take our settings."""
    warmup: int = 2
    """Steps before the clock starts: compilation, first allocations, optimizer state."""
    steps: int = 3
    """Steps that are measured at least."""
    learning_rate: float = 1e-3
    """Constant, for everyone; without warm-up, a large model needs a small one."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return ModelConfig.from_dict(self.model)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.sequences * self.config.max_seq_len


@dataclass(frozen=True)
class Contestant:
    """Who trains, and with which settings that anyone can turn on."""

    name: str
    engine: str
    """``ours``, ``hf-trainer``, ``hf`` (a plain loop over transformers' model), ``nanogpt`` or ``llama2c``."""
    bf16: bool = False
    """Autocast to bfloat16 (peers; ours decides by itself)."""
    compile: bool = False
    """torch.compile of the whole model (peers; ours decides by itself)."""
    fused: bool = False
    """PyTorch's fused AdamW instead of the peer's own choice."""
    malloc: bool = False
    """Start the process with malloc settings that keep freed memory."""
    our_micro_batch: bool = False
    """Take our micro-batch instead of the stock one."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainingConfig that ours gets beyond those of the comparison."""
    documents: int = 1
    """Documents in each row, which may not see each other (ours only)."""

    def micro_batch(self, shape: Shape) -> int:
        """Sequences per pass."""
        own = self.our_micro_batch or self.engine == "ours"
        return shape.our_micro_batch if own else shape.stock_micro_batch


# ---------------------------------------------------------------------- the course


class Course:
    """The batches of a run, its clock and its end.

    Tokens follow Zipf's law, as words do: the loss then falls within a few steps, which uniform ones would not allow,
    and a contestant that does not learn is found out.
    """

    fingerprint = "benchmark"

    def __init__(
        self, shape: Shape, micro_batch: int, seconds: float, device: torch.device, documents: int = 1
    ) -> None:
        assert shape.sequences % micro_batch == 0, f"{shape.sequences} sequences do not divide into {micro_batch}"
        self.shape, self.micro_batch, self.device = shape, micro_batch, device
        self.accumulation = shape.sequences // micro_batch
        self.stamps: list[Stamp] = []
        self.losses: list[Tensor | float] = []
        self._seconds, self._documents = seconds, documents
        config = shape.config
        # 65,536 different numbers suffice for a law; the ids of a larger vocabulary's rest stay unused.
        ranks = torch.arange(1, min(config.vocab_size, 65_536) + 1, dtype=torch.float64)
        count = DIFFERENT_STEPS * shape.sequences * config.max_seq_len
        drawn = torch.multinomial(1 / ranks, count, replacement=True, generator=torch.Generator().manual_seed(7))
        self.sequences = drawn.view(-1, config.max_seq_len)  # (64 * sequences per step, seq)

    def __len__(self) -> int:
        return ENDLESS

    def begin(self) -> None:
        """The model is there; what comes now is training."""
        self.started = now()

    def mark(self, loss: Tensor | float) -> None:
        """A step is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.losses.append(loss)
        self.stamps.append(now())

    @property
    def done(self) -> bool:
        """Whether enough has been measured."""
        first = self.shape.warmup - 1
        if len(self.stamps) < self.shape.warmup + self.shape.steps:
            return False
        return self.stamps[-1].wall - self.stamps[first].wall >= self._seconds

    def steps(self) -> Iterator[list[Tensor]]:
        """The micro-batches of each step, (micro-batch, seq) each, until it is done."""
        step = 0
        while not self.done:
            first = step % DIFFERENT_STEPS * self.shape.sequences
            yield list(torch.split(self.sequences[first : first + self.shape.sequences], self.micro_batch))
            step += 1

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, Tensor]]:
        """The same as our Trainer takes them; it calls this once."""
        for micro_batches in self.steps():
            for ids in micro_batches:
                batch = {"input_ids": ids, **self._rows(ids)}
                # Page-locked, as our own loader makes them for a GPU.
                pinned = self.device.type == "cuda"
                yield {name: tensor.pin_memory() for name, tensor in batch.items()} if pinned else batch

    def _rows(self, ids: Tensor) -> dict[str, Tensor]:
        """Labels, and where there are several documents in a row, which and where in it each token is."""
        length = ids.shape[1] // self._documents
        labels = ids.clone()
        labels[:, :: max(1, length)] = -100  # no position predicts the first token of a document
        if self._documents == 1:
            return {"labels": labels}
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        return {"labels": labels, "document_ids": positions // length + 1, "position_ids": positions % length}

    def result(self) -> dict[str, Any]:
        """What was measured."""
        shape = self.shape
        first, last = self.stamps[shape.warmup - 1], self.stamps[-1]
        steps = len(self.stamps) - shape.warmup
        each = [after.wall - before.wall for before, after in pairwise(self.stamps[shape.warmup - 1 :])]
        warm_up = first.wall - self.started.wall
        return {
            "steps": steps,
            "tokens_per_second": steps * shape.tokens_per_step / (last.wall - first.wall),
            "seconds_per_step": (last.wall - first.wall) / steps,
            "cpu_seconds_per_step": (last.cpu - first.cpu) / steps,
            # Everything before the clock starts, except what those steps cost when nothing has to be prepared.
            "start_seconds": max(0.0, warm_up - shape.warmup * statistics.median(each)),
            "micro_batch": self.micro_batch,
            "losses": [float(loss) for loss in self.losses[:KEPT_LOSSES]],
        }


# ---------------------------------------------------------------------- the contestants


def train_ours(model: TransformerLM, course: Course, contestant: Contestant) -> dict[str, Any]:
    """``Trainer.fit``, as a person calls it; precision, compilation and the like are left to the product."""
    from llm_trainer.training import Callback, Trainer

    chosen: dict[str, Any] = {}
    messages: list[str] = []

    class Clock(Callback):
        def on_start(self, trainer: Trainer) -> None:
            chosen["precision"] = trainer.precision.format

        def on_step(self, trainer: Trainer) -> None:
            course.mark(trainer.loss)

        def on_message(self, trainer: Trainer, text: str) -> None:
            messages.append(text)

    config = TrainingConfig.from_dict(
        {
            "max_steps": ENDLESS // course.shape.sequences,
            "batch_size": course.micro_batch,
            "gradient_accumulation_steps": course.accumulation,
            "learning_rate": course.shape.learning_rate,
            "beta1": BETAS[0],
            "beta2": BETAS[1],
            "weight_decay": 0.0,
            "max_grad_norm": MAX_GRAD_NORM,
            "lr_scheduler": "constant",
            "warmup_steps": 0,
            "device": course.device.type,
            **contestant.training,
        }
    )
    course.begin()
    Trainer(model, None, config, callbacks=[Clock()]).fit(course)
    return {"chosen": chosen, "messages": messages}


def train_plain(peer: Peer, course: Course, contestant: Contestant) -> dict[str, Any]:
    """The loop of nanoGPT's and llama2.c's train.py, without evaluation and logging."""
    from llm_trainer.training.utils import denormals_flushed

    device, rate = course.device, course.shape.learning_rate
    peer.to(device).train()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    if contestant.fused:
        parameters = list(peer.parameters())
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, rate, BETAS, weight_decay=0.0, fused=True)
    else:
        optimizer = peer.optimizer(rate, BETAS, device.type)
    course.begin()
    if contestant.compile:
        peer.compile()
    autocast = torch.autocast(device.type, torch.bfloat16) if contestant.bf16 else contextlib.nullcontext()
    with denormals_flushed() if contestant.fused else contextlib.nullcontext():
        for micro_batches in course.steps():
            total = torch.zeros((), device=device)
            for ids in micro_batches:
                on_device = ids.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else ids
                with autocast:
                    loss = peer(on_device) / course.accumulation
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            course.mark(total)
    return {}


def train_hf_trainer(peer: Peer, course: Course, contestant: Contestant) -> dict[str, Any]:
    """``transformers.Trainer`` at its defaults, but for our learning rate, betas, batch size and order of the data."""
    import transformers
    from torch.utils.data import SequentialSampler

    class InOrder(transformers.Trainer):
        total: Tensor | float = 0.0

        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(rows)

        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            # A micro-step's loss comes back divided by the number of micro-steps.
            loss: Tensor = super().training_step(*arguments, **named)
            self.total = self.total + loss
            return loss

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            course.mark(trainer.total)
            trainer.total = 0.0
            control.should_training_stop = course.done

    labels = course.sequences.clone()
    labels[:, 0] = -100  # its Trainer divides by all labels that count, and no position predicts the first token
    rows = [{"input_ids": ids, "labels": targets} for ids, targets in zip(course.sequences, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=course.micro_batch,
            gradient_accumulation_steps=course.accumulation,
            learning_rate=course.shape.learning_rate,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            lr_scheduler_type="constant",
            max_steps=ENDLESS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=course.device.type == "cpu",
            bf16=contestant.bf16,
            torch_compile=contestant.compile,
        )
        trainer = InOrder(model=peer.model, args=arguments, train_dataset=rows, callbacks=[Clock()])
        course.begin()
        trainer.train()
    return {}


def run(spec: Mapping[str, Any]) -> dict[str, Any]:
    """One run.

    Args:
        spec: ``shape``, ``contestant`` (their fields), ``weights`` (a folder, or None for weights drawn on the device),
            ``folders`` (checkouts by name), ``seconds``, ``threads``, ``device``.
    """
    shape, contestant = Shape(**spec["shape"]), Contestant(**spec["contestant"])
    device = torch.device(spec["device"])
    torch.set_num_threads(spec["threads"])
    course = Course(shape, contestant.micro_batch(shape), spec["seconds"], device, contestant.documents)
    if spec["weights"] is not None:
        ours = TransformerLM.from_pretrained(spec["weights"])
    else:
        with device:
            torch.manual_seed(1)
            ours = TransformerLM(shape.config)
    if contestant.engine == "ours":
        facts = train_ours(ours, course, contestant)
    else:
        checkout = spec["folders"].get(contestant.engine)
        peer = build_peer(contestant.engine, ours, None if checkout is None else Path(checkout))
        del ours  # or its weights would count as the peer's memory
        train = train_hf_trainer if contestant.engine == "hf-trainer" else train_plain
        facts = train(peer, course, contestant)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory()
    return {**course.result(), **facts, "peak_memory": memory}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
