"""A pipeline file, plus ``section.key=value`` words, to a :class:`Pipeline`; every problem with its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.common.files import write_text
from llm_trainer.config.loading import Lines, parse_override, read_tree
from llm_trainer.corpus.pipeline.definition import Pipeline


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read the definition of a pipeline.

    Args:
        path: a ``.yaml`` or ``.json`` file.
        overrides: ``filters.length.min_chars=50``; the items of a list have numbers (``sources.0.kind=warc``).

    Raises:
        ConfigError: listing every problem, each with file and line.
    """
    tree, lines = read_tree(Path(path))
    for word in overrides:
        _override(tree, lines, word)
    empty = [
        f"{_line(key, lines)}{key}: is empty; write {{}} for the defaults, or leave it out" for key in _nulls(tree)
    ]
    if empty:
        raise ConfigError(empty, source=str(path))
    try:
        return Pipeline(**tree)
    except ConfigError as error:
        problems = [f"{_line(problem.partition(':')[0], lines)}{problem}" for problem in error.problems]
        raise ConfigError(problems, source=str(path)) from None


def save_pipeline(pipeline: Pipeline, path: Path) -> None:
    """Write the definition whole, defaults included."""
    tree = pipeline.to_dict()
    tree["clean"] = dict(zip(pipeline.clean, (cleaner.to_dict() for cleaner in pipeline.cleaners())))
    tree["filters"] = dict(zip(pipeline.filters, (rule.to_dict() for rule in pipeline.rules())))
    given = {key: value for key, value in tree.items() if value is not None}
    header = f"# Every setting of this corpus. To build it again: llm-trainer data build {path.name} output_dir=NEW\n"
    write_text(path, header + yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=110))


def _override(tree: dict[str, Any], lines: Lines, word: str) -> None:
    dotted, value = parse_override(word, example="filters.length.min_chars=50")
    *parents, last = dotted.split(".")
    target: Any = tree
    for depth, name in enumerate(parents):
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict):
            target = target.setdefault(name, {})
        else:
            raise UserError(f"{word!r}: there is no {'.'.join(parents[: depth + 1])} in the pipeline")
    if not isinstance(target, dict):
        raise UserError(f"{word!r}: {'.'.join(parents)} has no settings below it")
    target[last] = value
    lines[dotted] = "command line"


def _nulls(tree: dict[str, Any]) -> list[str]:
    """Sections that were written without a value: nobody can know whether that means nothing or the defaults."""
    sections = [key for key in (*Pipeline.SECTIONS, "clean", "filters", "sources") if key in tree and tree[key] is None]
    for name in ("clean", "filters"):
        if isinstance(tree.get(name), dict):
            sections.extend(f"{name}.{key}" for key, value in tree[name].items() if value is None)
    return sections


def _line(key: str, lines: Lines) -> str:
    """Where a key, or the nearest section around it, was written."""
    while key:
        if key in lines:
            return f"{lines[key]}: "
        key = key.rpartition(".")[0]
    return ""
