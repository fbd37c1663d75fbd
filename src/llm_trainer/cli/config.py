"""``llm-trainer config``: look at a configuration, check it, edit it, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.train import ConfigArgument, Overrides

app = typer.Typer(help="Show, check and edit configurations.", no_args_is_help=True)


@app.command("show")
def show(config: ConfigArgument = None, overrides: Overrides = None) -> None:
    """Print the whole configuration: the file, the overrides and every default."""
    import yaml

    from llm_trainer.config import load_config

    config, words = _split(config, overrides)
    loaded = load_config(config, words)
    typer.echo(yaml.safe_dump(loaded.run.to_dict(), sort_keys=False, allow_unicode=True, width=110), nl=False)


@app.command("validate")
def validate(config: ConfigArgument = None, overrides: Overrides = None) -> None:
    """Check a configuration; every problem is listed, with its line."""
    from llm_trainer.config import load_config

    config, words = _split(config, overrides)
    loaded = load_config(config, words)
    for note in loaded.notes:
        typer.echo(note)
    typer.echo(f"{config or 'the default configuration'} is valid")


@app.command("schema")
def schema() -> None:
    """Print the JSON schema, for completion and checking in editors."""
    from llm_trainer.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@app.command("edit")
def edit(
    config: Annotated[Path, typer.Argument(help="The file to edit; it is made if it does not exist.")],
) -> None:
    """Go through all settings in a table, change any of them, and save."""
    from llm_trainer.cli.config_editor import edit_config

    edit_config(config)


def _split(config: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """The first word may already be an override."""
    words = list(overrides or [])
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *words]
    return config, words
