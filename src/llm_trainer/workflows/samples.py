"""Samples while a model learns: the same prompts continued at every validation, kept in the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from llm_trainer.config import GenerationConfig
from llm_trainer.generation import TextGenerator
from llm_trainer.training.callbacks import Callback
from llm_trainer.training.trainer import Trainer

SAMPLES = "samples.jsonl"
READABLE_SAMPLES = "samples.md"


class SampleWriter(Callback):
    """Continues ``prompts`` at every validation and appends the texts to ``samples.jsonl`` and ``samples.md``.

    Args:
        run_dir: the run's folder.
        prompts: what to continue.
        config: how; with a seed, so that only the model changes between samples.
    """

    def __init__(self, run_dir: Path, prompts: Sequence[str], config: GenerationConfig) -> None:
        self.run_dir = run_dir
        self.prompts = list(prompts)
        self.config = config

    def on_start(self, trainer: Trainer) -> None:
        """Forget samples of steps that will be made again."""
        path = self.run_dir / SAMPLES
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= trainer.state.step]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def on_evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Write one sample for each prompt."""
        generator = TextGenerator(trainer.model, trainer.tokenizer)
        for prompt in self.prompts:
            text = generator.generate(prompt, self.config)
            write_sample(self.run_dir, trainer.state.step, prompt, text, self.config.temperature)


def write_sample(run_dir: Path, step: int, prompt: str, text: str, temperature: float) -> None:
    """Append one sample to both files."""
    record = {"step": step, "temperature": temperature, "prompt": prompt, "text": text, "time": time.time()}
    with (run_dir / SAMPLES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    quoted = "\n".join(f"    {line}" for line in text.splitlines())
    with (run_dir / READABLE_SAMPLES).open("a", encoding="utf-8") as file:
        file.write(f"## Step {step:,}, temperature {temperature:g}\n\n{quoted}\n\n")


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # The torn last line of a killed process: it belongs to no step.
        return 1 << 62
