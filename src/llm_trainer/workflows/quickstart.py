"""The first five minutes: text that is already here, a tokenizer, a model, a report, and what to do next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from llm_trainer.config import DataConfig, GenerationConfig, ModelConfig, RunConfig, TokenizerConfig, TrainingConfig
from llm_trainer.workflows.pretrain import RunResult, train_run

# What the embedded model can plausibly continue: it has read Python and its documentation.
BUILTIN_PROMPTS = ["def read_file(path):\n", "import os\n\nclass "]
PROMPTS = ["The "]


def quickstart_config(minutes: float, paths: list[str] | None, seed: int | None) -> RunConfig:
    """The configuration of the quickstart: a model that two CPU cores train well in the time there is."""
    data = DataConfig(paths=paths, max_length=256) if paths else DataConfig(max_length=256)
    return RunConfig(
        model=ModelConfig(d_model=256, n_heads=4, n_layers=4, max_seq_len=256, qk_norm=True, activation="relu2"),
        tokenizer=TokenizerConfig(),
        data=data,
        training=TrainingConfig(
            max_minutes=minutes,
            batch_size=16,
            optimizer="muon",
            learning_rate=1.2e-2,
            lr_scheduler="wsd",
            min_learning_rate_ratio=0.0,
            weight_decay=0.1,
            seed=1337 if seed is None else seed,
            sample_prompts=PROMPTS if paths else BUILTIN_PROMPTS,
        ),
        generation=GenerationConfig(temperature=0.8, top_p=0.95, max_new_tokens=80, seed=1),
    )


def run_quickstart(
    *,
    minutes: float,
    paths: list[str] | None,
    output_dir: Path | None,
    seed: int | None,
    echo: Callable[[str], None] = print,
) -> RunResult:
    """Train, show, and say what to do next.

    Args:
        minutes: how long to train; tokenizer, packing and the final evaluation come on top.
        paths: text to learn from; the text that comes with Python when left out.
        output_dir: the run's folder.
        seed: of everything random.
        echo: called with each line for the person.
    """
    run = quickstart_config(minutes, paths, seed)
    run.output_dir = str(output_dir) if output_dir is not None else None
    source = ", ".join(paths) if paths else "the sources and documentation of this Python"
    echo(f"LLM Trainer quickstart: {minutes:g} minutes of training on {source}")
    result = train_run(run, echo=echo)
    if result.training.outcome != "finished":
        echo(result.summary())
        return result
    for sample in result.samples:
        echo(f"\n--- temperature {sample.temperature:g} " + "-" * 40 + f"\n{sample.prompt}{sample.continuation}")
    echo("\n" + result.summary())
    echo(
        "\nNext:\n"
        f"  {_program()} chat {result.run_dir}\n"
        f"  {_program()} quickstart --text YOUR_FOLDER --minutes 30\n"
        f"  open {result.report} in a browser"
    )
    return result


def _program() -> str:
    """How the person can start this program again: by name, or by path where its environment is not activated."""
    if shutil.which("llm-trainer") is None and Path(sys.argv[0]).name == "llm-trainer":
        return os.path.relpath(sys.argv[0])
    return "llm-trainer"
