"""``llm-trainer``: the list of commands, and how errors reach the person.

Only Typer is imported here. Each command imports what it needs when it runs, so ``llm-trainer --help`` is instant.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from llm_trainer import __version__
from llm_trainer.common.errors import UserError

app = typer.Typer(
    name="llm-trainer",
    help="From raw text to a language model that you trained yourself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llm-trainer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """From raw text to a language model that you trained yourself."""


def _add_commands() -> None:
    from llm_trainer.cli import (
        config,
        data,
        doctor,
        experts,
        export,
        generate,
        import_,
        inspect,
        memory,
        quickstart,
        runs,
        study,
        tokenizer,
        train,
        trust,
    )

    app.command("quickstart", rich_help_panel="Train")(quickstart.quickstart)
    app.command("train", rich_help_panel="Train")(train.train)
    app.command("estimate", rich_help_panel="Train")(memory.estimate)
    app.command("find-batch-size", rich_help_panel="Train")(memory.find_batch_size)
    app.command("evaluate", rich_help_panel="Use")(generate.evaluate)
    app.command("generate", rich_help_panel="Use")(generate.generate)
    app.command("chat", rich_help_panel="Use")(generate.chat)
    app.command("export", rich_help_panel="Use")(export.export)
    app.command("import", rich_help_panel="Use")(import_.import_)
    app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel="Prepare")
    app.add_typer(data.app, name="data", rich_help_panel="Prepare")
    app.add_typer(config.app, name="config", rich_help_panel="Prepare")
    app.add_typer(runs.app, name="runs", rich_help_panel="Look")
    app.command("inspect", rich_help_panel="Look")(inspect.inspect)
    app.command("experts", rich_help_panel="Look")(experts.experts)
    app.command("ablate", rich_help_panel="Look")(study.ablate)
    app.command("trust", rich_help_panel="Use")(trust.trust)
    app.command("doctor", rich_help_panel="Look")(doctor.doctor)


_add_commands()


def main() -> None:
    """Entry point: one message for what a person can put right, a traceback only for our own bugs."""
    from llm_trainer.common.environment import setup_environment

    setup_environment()
    try:
        app(prog_name="llm-trainer")
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has left; nobody is there to be told.
        _silence_stdout()
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _silence_stdout()
        typer.echo(f"error: the output cannot be written: {os.strerror(error.errno)}", err=True)
        sys.exit(1)


def _silence_stdout() -> None:
    """What is still in the buffer goes nowhere, instead of failing once more when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
