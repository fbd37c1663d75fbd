"""The table of all settings, and the small dialogue that changes them. Works on a terminal and with piped input."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import typer

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import RunConfig, load_config, save_config
from llm_trainer.config.run import SECTIONS

HELP = "Write SECTION.KEY=VALUE to change a setting, SECTION to see it, ? SECTION.KEY for what it means, save, or quit."


def edit_config(path: Path) -> None:
    """Edit the configuration in ``path`` until the person saves or quits.

    Raises:
        UserError: the input ended before ``save`` or ``quit``; the file is untouched.
    """
    run = load_config(path if path.exists() else None).run
    words: list[str] = []
    typer.echo(f"{path} ({'existing' if path.exists() else 'new'}). Sections: {', '.join(SECTIONS)}\n{HELP}")
    while True:
        line = _ask()
        if line is None:
            raise UserError(f"the input ended before `save`; {path} is unchanged")
        if line in ("quit", "q"):
            typer.echo(f"{path} is unchanged")
            return
        if line == "save":
            save_config(run, path)
            typer.echo(f"saved {path}")
            return
        if line in SECTIONS:
            typer.echo(table(run, line))
        elif line.startswith("?"):
            typer.echo(explain(line[1:].strip()))
        elif "=" in line:
            try:
                run = load_config(path if path.exists() else None, [*words, line]).run
            except ConfigError as error:
                typer.echo(str(error))
            else:
                words.append(line)
                typer.echo(f"{line.partition('=')[0]} is now {line.partition('=')[2]}")
        elif line:
            typer.echo(HELP)


def table(run: RunConfig, section: str) -> str:
    """One line a setting: name, value, and a mark where it differs from the default."""
    settings = getattr(run, section)
    default = SECTIONS[section]()
    lines = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        mark = "*" if value != getattr(default, name) else " "
        lines.append(f" {mark} {section}.{name:<32} {value}")
    return "\n".join(lines)


def explain(dotted: str) -> str:
    """What a setting means, from the same text that the schema shows."""
    section, _, key = dotted.partition(".")
    fields = SECTIONS[section].model_fields if section in SECTIONS else {}
    if key in fields:
        return f"{dotted}: {fields[key].description}"
    everything = [f"{name}.{field}" for name, cls in SECTIONS.items() for field in cls.model_fields]
    match = difflib.get_close_matches(dotted, everything, n=1)
    return f"{dotted}: no such setting" + (f"; did you mean {match[0]}?" if match else "")


def _ask() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
