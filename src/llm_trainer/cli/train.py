"""``llm-trainer train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import OutputDir
from llm_trainer.common.errors import UserError

ConfigArgument = Annotated[
    str | None,
    typer.Argument(metavar="[CONFIG]", help="A .yaml or .json file. Left out: the defaults.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that win over the file.", show_default=False),
]


def train(
    config: ConfigArgument = None,
    overrides: Overrides = None,
    output_dir: OutputDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the newest good checkpoint of the run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained, and its cost; write nothing.")
    ] = False,
) -> None:
    """Train a model from a configuration file.

    Example: llm-trainer train configs/cpu_small_model.yaml data.dataset_name=my_texts/ training.max_steps=200
    """
    run_training(config, list(overrides or []), output_dir=output_dir, resume=resume, dry_run=dry_run)


def run_training(
    config: str | None, overrides: list[str], *, output_dir: Path | None, resume: bool, dry_run: bool
) -> None:
    """What ``llm-trainer train`` and ``scripts/train.py`` do."""
    from llm_trainer.config import load_config

    if config is not None and "=" in config and not Path(config).exists():
        overrides = [config, *overrides]
        config = None
    named_by_person = not (config is None and resume)
    if not named_by_person:
        output_dir = output_dir or _newest_run()
        config = str(output_dir / "config.yaml")
    loaded = load_config(config, overrides)
    if output_dir is not None:
        loaded.run.output_dir = str(output_dir)
    if resume and loaded.run.output_dir is None and loaded.run.name is None:
        raise UserError(
            "--resume does not say which run",
            hint="name its folder with --output_dir, or leave the configuration out to continue the newest run",
        )

    from llm_trainer.common.devices import rank
    from llm_trainer.models.extensions import find_extensions, import_extensions
    from llm_trainer.workflows.pretrain import describe_plan, plan_run, train_run

    def echo(text: str) -> None:
        if rank() == 0:
            typer.echo(text)

    for note in loaded.notes:
        echo(note)
    if named_by_person and config is not None:
        find_extensions(loaded.run.model, Path(config).parent)
    if named_by_person:
        import_extensions(loaded.run.model.extensions, named_by_person=True)
    if dry_run:
        echo(describe_plan(plan_run(loaded.run, resume=resume)))
        return
    echo(train_run(loaded.run, resume=resume).summary())


def _newest_run() -> Path:
    from llm_trainer.workflows.load import find_run

    return find_run(None, Path("runs"))
