"""Parts of a person's own, in Python files that a configuration names.

``model.extensions: [my_block.py]`` runs the file before the model is built; the file registers what it has to offer
(see :mod:`llm_trainer.models.registry`). It is copied into the run's folder and into every checkpoint, so that the
model can be built wherever it goes.

Running a file means trusting it. A file that a person names, in a configuration of their own or on the command line,
runs. A file that a *folder* names (a checkpoint, a downloaded model) runs only if its content was trusted before:
because it was trained with on this machine, because ``llm-trainer trust FOLDER`` said so, or because
``LLM_TRAINER_TRUST_EXTENSIONS`` is 1. Trust is in the content, by its hash: a file that has changed is another file.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, read_json, write_bytes, write_json
from llm_trainer.common.user_folder import cache_folder
from llm_trainer.config import ModelConfig
from llm_trainer.models.weights import CONFIG

TRUST_VARIABLE = "LLM_TRAINER_TRUST_EXTENSIONS"
TRUSTED = "trusted_extensions.json"
"""In the person's folder: hash of the content -> where the file was."""
COPIES = "extensions"
"""Folder in a run's folder: the files as they were when the run began."""
MODULE = "llm_trainer_extension_{}"

_trusted_here: set[str] = set()
_contents: dict[str, bytes] = {}
"""What was run, by path: a checkpoint hours later must hold that, not what the file says by then."""


def import_extensions(paths: Sequence[str], *, named_by_person: bool) -> None:
    """Run files, each once for as long as its content stays the same.

    Args:
        paths: Python files.
        named_by_person: whether the person named them; they are then trusted from now on. Otherwise they must be.

    Raises:
        UserError: a file is not there, is not trusted, or fails; or two have the same name.
    """
    _distinct(paths)
    for name in paths:
        content = _read(Path(name))
        digest = hashlib.sha256(content).hexdigest()
        if named_by_person:
            _remember(digest, name)
        elif not _is_trusted(digest):
            raise UserError(
                f"{name} is code that came with a model, and it has not been run here before",
                hint=f"read it; if you trust it, say so once with: llm-trainer trust {name}",
            )
        _contents[name] = content
        _run(Path(name), content, digest)


def trust(path: str | Path) -> list[Path]:
    """Trust a file, or all Python files in a folder (a model's or a run's), as they are now.

    Returns:
        The files.

    Raises:
        UserError: there is no such file or folder, or the folder holds none.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted({file for file in path.rglob("*.py") if file.is_file()})
    if not files:
        raise UserError(f"{path} holds no Python file")
    for file in files:
        _remember(hashlib.sha256(_read(file)).hexdigest(), str(file))
    return files


def adopt_extensions(config: ModelConfig, folder: Path) -> None:
    """Run the files that the configuration of a model's folder names. They lie in the folder itself, wherever they
    came from.

    Args:
        config: its ``extensions`` become the paths of the files.
        folder: of the model.

    Raises:
        UserError: see :func:`import_extensions`.
    """
    if config.extensions:
        config.extensions = [str(folder / Path(name).name) for name in config.extensions]
        import_extensions(config.extensions, named_by_person=False)


def hold_extensions(paths: Sequence[str]) -> None:
    """Read, without running them, files that a model will carry along: one that is missing is to be noticed when the
    model is built, not when the first checkpoint is saved.

    Raises:
        UserError: a file is not there, or two have the same name.
    """
    _distinct(paths)
    for name in paths:
        if name not in _contents:
            _contents[name] = _read(Path(name))


def find_extensions(config: ModelConfig, folder: Path) -> None:
    """Where a run has copies of the files in its folder, they are what its configuration means, wherever the folder
    has been moved.

    Args:
        config: its ``extensions`` are changed.
        folder: that the configuration was read from.
    """
    copies = {name: folder / COPIES / Path(name).name for name in config.extensions}
    if copies:
        config.extensions = [str(copy) if copy.is_file() else name for name, copy in copies.items()]


def copy_extensions(paths: Sequence[str], folder: Path) -> list[str]:
    """Copy files as they were when they were run.

    Returns:
        The paths of the copies.
    """
    copies = []
    for name in paths:
        content = _contents.get(name)
        target = folder / Path(name).name
        write_bytes(target, _read(Path(name)) if content is None else content)
        copies.append(str(target))
    return copies


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """``config.json`` of a model's folder, and beside it the files that it names."""
    copy_extensions(config.extensions, folder)
    values = config.to_dict()
    write_json(folder / CONFIG, {**values, "extensions": [Path(name).name for name in config.extensions]})


def _run(path: Path, content: bytes, digest: str) -> None:
    # By the stem alone: what a file registers may be replaced by a later version of it, from any folder.
    name = MODULE.format(path.stem)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__digest__", None) == digest:
        return
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__dict__["__digest__"] = digest
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except KeyboardInterrupt:
        _restore(name, known)
        raise
    except UserError as error:
        _restore(name, known)
        raise UserError(f"{path} failed{_where(error, path)}: {error.message}", hint=error.hint) from error
    except (Exception, SystemExit) as error:  # a file that calls sys.exit() would end the program without a word
        _restore(name, known)
        raise UserError(f"{path} failed{_where(error, path)}: {type(error).__name__}: {error}") from error


def _restore(name: str, module: ModuleType | None) -> None:
    del sys.modules[name]
    if module is not None:
        sys.modules[name] = module


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" in line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _distinct(paths: Sequence[str]) -> None:
    """Copies lie in one folder, so one of two files of the same name would be lost."""
    names = [Path(name).name for name in paths]
    for index, name in enumerate(names):
        if name in names[:index]:
            both = f"{paths[names.index(name)]} and {paths[index]}"
            raise UserError(f"model.extensions: {both} have the same name", hint="rename one of the files")


def _read(path: Path) -> bytes:
    if path.suffix != ".py" or not path.is_file():
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise UserError(f"extension {path}{where} is not a Python file", hint="name an existing .py file")
    with explain_os_errors(path):
        return path.read_bytes()


def _is_trusted(digest: str) -> bool:
    if os.environ.get(TRUST_VARIABLE) == "1" or digest in _trusted_here:
        return True
    folder = cache_folder()
    return folder is not None and digest in _table(folder)


def _remember(digest: str, name: str) -> None:
    _trusted_here.add(digest)
    folder = cache_folder()
    if folder is None or digest in (table := _table(folder)):
        return
    write_json(folder / TRUSTED, {**table, digest: str(Path(name).resolve())})


def _table(folder: Path) -> dict[str, str]:
    path = folder / TRUSTED
    table = read_json(path) if path.exists() else {}
    return table if isinstance(table, dict) else {}
