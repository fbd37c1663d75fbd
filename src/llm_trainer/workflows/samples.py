"""Samples while a model learns: the same prompts continued at every validation, kept in the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import ConfigError
from llm_trainer.common.files import explain_os_errors, write_text
from llm_trainer.config import GenerationConfig
from llm_trainer.generation import TextGenerator, fill_mask
from llm_trainer.generation.fill_mask import filled_text
from llm_trainer.models.encoder import EncoderLM
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

    Raises:
        ConfigError: more than one text for a prompt is asked for.
    """

    def __init__(self, run_dir: Path, prompts: Sequence[str], config: GenerationConfig) -> None:
        if config.num_return_sequences > 1:
            raise ConfigError(["generation.num_return_sequences: samples while training are one text for each prompt"])
        self.run_dir = run_dir
        self.prompts = list(prompts)
        self.config = config

    def on_start(self, trainer: Trainer) -> None:
        """Check that there is room for new tokens; forget samples of steps that will be made again."""
        generator = TextGenerator(trainer.model, trainer.tokenizer)
        for prompt in self.prompts:
            length, most = len(generator.prompt_ids(prompt)), self.config.max_length
            if most is not None and length >= most:
                raise ConfigError([f"generation.max_length: {most} leaves no room after a prompt of {length} tokens"])
        forget_samples(self.run_dir, from_step=trainer.state.step + 1)

    def on_evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Write one sample for each prompt, unless the run was resumed here and has them already."""
        step = trainer.state.step
        if any(record["step"] == step for record in read_samples(self.run_dir)):
            return
        generator = TextGenerator(trainer.model, trainer.tokenizer)
        for prompt in self.prompts:
            write_sample(
                self.run_dir, step, prompt, draw_sample(generator, prompt, self.config), self.config.temperature
            )


def draw_sample(
    generator: TextGenerator, prompt: str, config: GenerationConfig, *, return_full_text: bool = True
) -> str:
    """What a model makes of a prompt: a text that goes on, an answer, or, from an encoder, its gaps filled."""
    if isinstance(generator.model, EncoderLM):
        return filled_text(prompt, fill_mask(generator.model, generator.tokenizer, prompt, top_k=1))
    return "".join(generator.stream(prompt, config, return_full_text=return_full_text))


def write_sample(run_dir: Path, step: int, prompt: str, text: str, temperature: float) -> None:
    """Append one sample to both files."""
    record = {"step": step, "temperature": temperature, "prompt": prompt, "text": text, "time": time.time()}
    with explain_os_errors(run_dir / SAMPLES):
        with (run_dir / SAMPLES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        with (run_dir / READABLE_SAMPLES).open("a", encoding="utf-8") as file:
            file.write(_readable(record))


def read_samples(run_dir: Path) -> list[dict[str, Any]]:
    """All samples of a run; the torn last line of a killed process is left out."""
    path = run_dir / SAMPLES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [record for record in map(_parse, lines) if record is not None]


def forget_samples(run_dir: Path, *, from_step: int) -> None:
    """Remove the samples of ``from_step`` and later from both files."""
    before = read_samples(run_dir)
    kept = [record for record in before if record["step"] < from_step]
    if len(kept) < len(before):
        write_text(run_dir / SAMPLES, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
        write_text(run_dir / READABLE_SAMPLES, "".join(map(_readable, kept)))


def _readable(record: dict[str, Any]) -> str:
    quoted = "\n".join(f"    {line}" for line in record["text"].splitlines())
    return f"## Step {record['step']:,}, temperature {record['temperature']:g}\n\n{quoted}\n\n"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record, dict) and isinstance(record["step"], int) else None
    except (ValueError, KeyError):
        return None
