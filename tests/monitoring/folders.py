"""Run folders as the trainer would have left them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def write_metrics(run_dir: Path, records: list[dict[str, Any]], tail: str = "") -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records) + tail
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")


def training_records(steps: int, *, validate_every: int = 10) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 2.5 + 6 * math.exp(-6 * step / steps)
        values = {
            "train/loss": loss,
            "train/learning_rate": 6e-4 * step / steps,
            "train/grad_norm": 0.8,
            "train/tokens_per_second": 9000.0 + step % 7,
            "train/tokens": step * 2048,
            "train/elapsed": step * 0.25,
            "system/memory_rss": 1 << 30,
        }
        records.append({"step": step, "time": 1_000.0 + step, **values})
        if step % validate_every == 0:
            records.append(
                {
                    "step": step,
                    "time": 1_000.0 + step,
                    "validation/loss": loss + 0.1,
                    "validation/bits_per_byte": (loss + 0.1) * 0.6,
                }
            )
    return records


def write_checkpoint(run_dir: Path, step: int, *, loss: float | None, time: float, size: int = 0) -> Path:
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    state = {"step": step, "time": time, "state": {} if loss is None else {"loss": loss}}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1000, 300], "data_offsets": [0, 1_200_000]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(max(size, file.tell()))
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    return folder


def write_status(run_dir: Path, state: str, **values: Any) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    status = {"state": state, "step": 0, "time": 1_000.0, "message": "", "pid": 1, **values}
    (run_dir / "status.json").write_text(json.dumps(status), encoding="utf-8")


def full_run(run_dir: Path, steps: int = 60) -> Path:
    """A finished run with everything in it."""
    write_metrics(run_dir, training_records(steps))
    write_status(run_dir, "finished", step=steps, time=1_000.0 + steps)
    (run_dir / "config.yaml").write_text(
        "model: {d_model: 64, n_layers: 2}\ndata: {dataset_name: builtin}\ntraining: {learning_rate: 0.0006}\n"
    )
    derived = [{"key": "model.d_ff", "value": "192", "reason": "8/3 x d_model rounded up"}]
    (run_dir / "derived.json").write_text(json.dumps(derived))
    (run_dir / "environment.json").write_text(json.dumps({"python": "3.11.7", "cpu": {"model": "Test CPU 9000"}}))
    evaluation = {
        "held_out": {"bits_per_byte": 1.5, "perplexity": 12.0, "loss": 2.48, "documents": 3, "bytes": 9000},
        "baselines": {"xz -9e": 2.0, "gzip -9": 2.5},
    }
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))
    samples = [
        {"step": 20, "temperature": 0.8, "prompt": "Once", "text": "Once xqz xqz", "time": 1.0},
        {"step": steps, "temperature": 0.0, "prompt": "Once", "text": "Once there was a fox", "time": 2.0},
        {"step": steps, "temperature": 1.0, "prompt": "Once", "text": "Once upon an owl", "time": 2.0},
    ]
    (run_dir / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    write_checkpoint(run_dir, steps, loss=2.6, time=1_000.0)
    return run_dir
