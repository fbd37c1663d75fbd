"""``llm-trainer trust``: let code that came with a model run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def trust(
    path: Annotated[Path, typer.Argument(help="A Python file, or the folder of a model or run that holds some.")],
) -> None:
    """Trust the Python files of a model that came from elsewhere, as they are now. Read them first: they will run.

    Example: llm-trainer trust downloaded_model/
    """
    from llm_trainer.common.errors import UserError
    from llm_trainer.common.user_folder import FOLDER_VARIABLE, cache_folder
    from llm_trainer.models.extensions import TRUST_VARIABLE
    from llm_trainer.models.extensions import trust as trust_files

    if cache_folder() is None:
        raise UserError(
            f"there is no folder to remember it in ({FOLDER_VARIABLE} is empty, or you have no home folder)",
            hint=f"set {TRUST_VARIABLE}=1 for the one command instead",
        )
    for file in trust_files(path):
        typer.echo(f"trusted: {file}")
