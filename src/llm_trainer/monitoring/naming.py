"""Names of runs: ``4.9M_builtin_256_run_1`` says how many parameters, which data, which sequence length, which try."""

from __future__ import annotations

import re
from pathlib import Path

from llm_trainer.common.errors import ConfigError

# A folder name may have 255 bytes on every common file system; the rest is room for suffixes.
_LONGEST_NAME = 120
_RUN_ID = re.compile(r"^(?P<base>.+)_run_(?P<id>\d+)$")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def human_count(count: int) -> str:
    """``372_800_000`` -> ``'373M'``, ``4_912_345`` -> ``'4.9M'``: whole from 10 on, one decimal below."""
    value, unit = float(count), ""
    for larger in ("K", "M", "B", "T"):
        # 999.5 would round to 1000 of this unit, which is 1.0 of the next.
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if value < 9.95 and unit else f"{value:.0f}{unit}"


def base_name(parameters: int, dataset: str, seq_len: int) -> str:
    """``(372_800_000, "HuggingFaceFW/FineWeb", 512)`` -> ``'373M_FineWeb_512'``.

    Args:
        parameters: the model's real number of parameters.
        dataset: name or path of the data; its last part is used.
        seq_len: tokens of a training sequence.
    """
    last = re.split(r"[/\\]", dataset.rstrip("/\\"))[-1]
    clean = re.sub(r"[^\w.-]+", "-", last).strip("-._")[:60] or "text"
    return f"{human_count(parameters)}_{clean}_{seq_len}"


def name_suggestions(parameters: int, dataset: str, seq_len: int) -> list[tuple[str, str]]:
    """Four names for a new run, each with what it is meant for."""
    count, base = human_count(parameters), base_name(parameters, dataset, seq_len)
    data = base.split("_", 1)[1].rsplit("_", 1)[0]
    return [
        (base, f"{count} parameters, {data} dataset, {seq_len} seq_len"),
        (f"experiment_{base}", "Experimental run"),
        (f"modern_llm_{count}", "Modern LLM architecture"),
        (f"test_{count}", "Test run"),
    ]


def numbered_name(root: str | Path, name: str) -> str:
    """``name`` with the next free run number under ``root``: ``name_run_1``, then ``name_run_2``."""
    taken = [0]
    folder = Path(root)
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _RUN_ID.match(entry.name)
        # Case is ignored: two names that differ only in it are one folder on macOS and Windows.
        if match and match["base"].lower() == name.lower():
            taken.append(int(match["id"]))
    return f"{name}_run_{max(taken) + 1}"


def next_run_name(root: str | Path, parameters: int, dataset: str, seq_len: int) -> str:
    """The name of the next run of this kind under ``root``, such as ``4.9M_builtin_256_run_1``.

    Args:
        root: the folder that holds the runs.
        parameters: the model's real number of parameters, ``sum(p.numel() for p in model.parameters())``.
        dataset: name or path of the data.
        seq_len: tokens of a training sequence.
    """
    return numbered_name(root, base_name(parameters, dataset, seq_len))


def validate_run_name(name: str, root: str | Path | None = None) -> str:
    """Check a name that a person chose, and give it back.

    Args:
        name: letters and digits of any script, ``.``, ``_`` and ``-``.
        root: if given, no run of that name may exist there yet.

    Raises:
        ConfigError: with everything that is wrong with it.
    """
    problems = []
    if not name:
        problems.append("the name is empty")
    elif re.search(r"[^\w.-]", name):
        wrong = sorted(set(re.findall(r"[^\w.-]", name)))
        problems.append(f"not allowed in a name: {' '.join(map(repr, wrong))}; use letters, digits, '.', '_' and '-'")
    elif not name[0].isalnum():
        problems.append("a name starts with a letter or a digit")
    if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        problems.append(f"the name is longer than {_LONGEST_NAME} bytes")
    if name.endswith("."):
        problems.append("a name does not end with '.'")
    if name.split(".")[0].lower() in _WINDOWS_DEVICES:
        problems.append(f"{name!r} is reserved on Windows")
    if root is not None and not problems and (Path(root) / name).exists():
        problems.append(f"{Path(root) / name} exists already")
    if problems:
        raise ConfigError(problems, source=f"the run name {name!r}")
    return name


def checkpoint_label(run_name: str, step: int) -> str:
    """``("415M_FineWeb_512_run_1", 762)`` -> ``'415M_FineWeb_512_checkpoint_762_run_1'``."""
    match = _RUN_ID.match(run_name)
    if match is None:
        return f"{run_name}_checkpoint_{step}"
    return f"{match['base']}_checkpoint_{step}_run_{match['id']}"
