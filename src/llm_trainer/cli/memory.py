"""``llm-trainer estimate`` and ``find-batch-size``: what fits in memory, worked out and tried."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import RunsDir

Target = Annotated[
    str, typer.Argument(help="A configuration file, a run, or a preset such as gpt2_124m.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value; may be given several times.", show_default=False),
]


def estimate(
    target: Target,
    memory: Annotated[
        list[str] | None, typer.Option("--memory", help="Does it fit in this much? May be given several times.")
    ] = None,
    settings: Settings = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """How much memory training takes, part by part, and what makes it fit. Nothing is trained or allocated.

    Example: llm-trainer estimate gpt2_124m --memory 4GB --memory 16GB
    """
    from llm_trainer.workflows.estimate import describe_fit
    from llm_trainer.workflows.target import load_target, parse_memory

    sizes = [parse_memory(text) for text in memory or ["4GB", "16GB", "32GB"]]
    typer.echo(describe_fit(load_target(target, settings or [], runs_dir=runs_dir), sizes))


def find_batch_size(
    target: Target,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory that training may use, such as 8GB.", show_default=False)
    ] = None,
    most: Annotated[
        int | None, typer.Option("--most", help="The largest size to try.", min=1, show_default=False)
    ] = None,
    settings: Settings = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Find the largest and the fastest micro-batch on this machine by training a few steps with each.

    Example: llm-trainer find-batch-size configs/cpu_small_model.yaml --memory 8GB
    """
    from llm_trainer.workflows.batch_size import find_batch_size as search
    from llm_trainer.workflows.target import load_target, parse_memory

    run = load_target(target, settings or [], runs_dir=runs_dir)
    limit = None if memory is None else parse_memory(memory)
    found = search(run, memory=limit, most=most, echo=typer.echo)
    typer.echo(f"\n{found.summary()}")
