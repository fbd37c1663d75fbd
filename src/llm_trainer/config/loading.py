"""A YAML or JSON file, plus ``section.key=value`` overrides, to a :class:`RunConfig`; every problem with its line.

YAML is read with three corrections: ``1e-3`` is a number (YAML 1.1 makes it a string), a key written twice is an error
(YAML keeps the last), and every key remembers its line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.common.files import write_text
from llm_trainer.config.base import Settings, unknown_key
from llm_trainer.config.run import SECTIONS, RunConfig, section_defaults

Lines = dict[str, str]
"""Dotted key -> where it was written ("line 12", "command line")."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a float."""


_Loader.yaml_implicit_resolvers = {key: list(rules) for key, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass
class LoadedConfig:
    """A configuration and how it came about."""

    run: RunConfig
    notes: list[str] = field(default_factory=list)
    """Names that were translated, one sentence each."""


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a run's configuration.

    Args:
        path: a ``.yaml``, ``.yml`` or ``.json`` file; None starts from the defaults.
        overrides: ``section.key=value`` words from the command line; values are read as YAML.

    Raises:
        ConfigError: listing every problem, each with file and line.
    """
    tree: dict[str, Any] = {}
    lines: Lines = {}
    if path is not None:
        tree, lines = read_tree(Path(path))
    for word in overrides:
        _apply_override(tree, lines, word)
    return build(tree, lines, source=str(path) if path is not None else None)


def build(tree: Mapping[str, Any], lines: Lines | None = None, *, source: str | None = None) -> LoadedConfig:
    """Validate a nested dictionary; see :func:`load_config`."""
    lines = lines or {}
    problems: list[str] = []
    notes: list[str] = []
    top, sections, section_lines = _split_sections(tree, lines, problems)
    built: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        section = _build_section(name, cls, sections[name], section_lines, problems, notes)
        if section is not None:
            built[name] = section
    if not problems:
        try:
            return LoadedConfig(RunConfig(**top, **built), notes)
        except ConfigError as error:
            problems.extend(_with_line(problem, "", lines) for problem in error.problems)
    raise ConfigError(problems, source=source)


def save_config(run: RunConfig, path: str | Path) -> None:
    """Write the whole configuration, so that the run can be repeated from this one file."""
    text = yaml.safe_dump(run.to_dict(), sort_keys=False, allow_unicode=True, width=110)
    header = "# Every setting of this run, defaults included. To train again from it:\n"
    command = f"#   llm-trainer train {Path(path).name} --output_dir NEW_FOLDER\n"
    write_text(path, header + command + text)


def read_tree(path: Path) -> tuple[dict[str, Any], Lines]:
    """Parse a file into nested dictionaries and the line of every key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist", hint=_nearby_configs(path)) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a .yaml or .json file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError([f"not valid YAML{where}: {getattr(error, 'problem', error)}"], source=str(path)) from None
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(["expected `key: value` lines at the top level"], source=str(path))
    lines: Lines = {}
    problems: list[str] = []
    try:
        tree = _construct(root, "", lines, problems)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = getattr(error, "problem", None) or str(error)
        raise ConfigError([f"not valid YAML: {message}"], source=str(path)) from None
    if problems:
        raise ConfigError(problems, source=str(path))
    return tree, lines


def _construct(node: yaml.MappingNode, prefix: str, lines: Lines, problems: list[str]) -> dict[str, Any]:
    loader = _Loader("")
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        dotted = f"{prefix}{key}"
        where = f"line {key_node.start_mark.line + 1}"
        if key in result:
            problems.append(f"{dotted}: written twice ({lines[dotted]} and {where})")
            continue
        lines[dotted] = where
        if isinstance(value_node, yaml.MappingNode):
            result[key] = _construct(value_node, f"{dotted}.", lines, problems)
        elif isinstance(value_node, yaml.SequenceNode):
            result[key] = [
                _construct(item, f"{dotted}.{index}.", lines, problems)
                if isinstance(item, yaml.MappingNode)
                else loader.construct_object(item, deep=True)
                for index, item in enumerate(value_node.value)
            ]
        else:
            result[key] = loader.construct_object(value_node, deep=True)
    return result


def parse_override(word: str, *, example: str) -> tuple[str, Any]:
    """``section.key=value`` as the dotted key and the value, which is read as YAML.

    Raises:
        ConfigError: it is something else; the message shows ``example``.
    """
    dotted, separator, raw = word.partition("=")
    if not separator or not dotted:
        raise ConfigError([f"{word!r} is not an override; write section.key=value, for example {example}"])
    try:
        return dotted, yaml.load(raw, Loader=_Loader)
    except yaml.YAMLError:
        return dotted, raw


def _apply_override(tree: dict[str, Any], lines: Lines, word: str) -> None:
    """Put one ``section.key=value`` into the tree, replacing what the file says under any of that value's names."""
    dotted, value = parse_override(word, example="training.max_steps=100")
    section, _, key = dotted.rpartition(".")
    target = tree
    for shortcut, (home, name) in RunConfig.SHORTCUTS.items():
        if section == home and SECTIONS[home].ALIASES.get(key, key) == name:
            tree.pop(shortcut, None)
        elif not section and key == shortcut and isinstance(tree.get(home), dict):
            tree[home].pop(name, None)
    if section:
        existing = tree.setdefault(section, {})
        if not isinstance(existing, dict):
            raise ConfigError([f"{section}: expected settings below it, got {existing!r}"])
        target = existing
        cls = SECTIONS.get(section)
        if cls is not None:
            canonical = cls.ALIASES.get(key, key)
            for other in [name for name in target if cls.ALIASES.get(name, name) == canonical]:
                del target[other]
    target[key] = value
    lines[dotted] = "command line"


def _split_sections(
    tree: Mapping[str, Any], lines: Lines, problems: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Lines]:
    """Top-level values, and the values of each section, with shortcuts moved into their section."""
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    lines = dict(lines)
    for key, value in tree.items():
        name = RunConfig.ALIASES.get(key, key)
        if name in SECTIONS:
            if isinstance(value, dict):
                sections[name].update(value)
                lines.update({f"{name}.{sub}": lines[f"{key}.{sub}"] for sub in value if f"{key}.{sub}" in lines})
            elif value is not None:
                problems.append(_with_line(f"{key}: expected settings below it, got {value!r}", "", lines))
    for key, value in tree.items():
        name = RunConfig.ALIASES.get(key, key)
        if name in SECTIONS:
            continue
        if key in RunConfig.SHORTCUTS:
            section, target = RunConfig.SHORTCUTS[key]
            if target in sections[section]:
                problems.append(_with_line(f"{key}: also given as {section}.{target}; give one of them", "", lines))
            sections[section].setdefault(target, value)
            lines.setdefault(f"{section}.{target}", lines.get(key, ""))
        elif name in RunConfig.model_fields:
            top[name] = value
        else:
            problems.append(_with_line(_unknown_top_level(key), "", lines))
    return top, sections, lines


def _build_section(
    name: str,
    cls: type[Settings],
    values: dict[str, Any],
    lines: Lines,
    problems: list[str],
    notes: list[str],
) -> Settings | None:
    """One validated section, or None with its problems recorded. Section defaults apply to what is left out."""
    try:
        translated, section_notes = cls.translate(values)
        notes.extend(f"{name}: {note}" for note in section_notes)
        default = section_defaults()[name]
        special = {key: getattr(default, key) for key in default.model_fields_set}
        return cls(**{**special, **translated})
    except ConfigError as error:
        problems.extend(_with_line(f"{name}.{problem}", name, lines) for problem in error.problems)
        return None


def _with_line(problem: str, section: str, lines: Lines) -> str:
    """Add where a problem's key was written. Cross-checks name several keys and get no line."""
    key = problem.partition(":")[0]
    where = lines.get(key)
    if where is None and section:
        cls = SECTIONS[section]
        names = [alias for alias, canonical in cls.ALIASES.items() if f"{section}.{canonical}" == key]
        where = next((lines[f"{section}.{alias}"] for alias in names if f"{section}.{alias}" in lines), None)
    return f"{where}: {problem}" if where else problem


def _unknown_top_level(key: str) -> str:
    """Name the section a misplaced key belongs to, or the nearest name there is."""
    homes = [name for name, cls in SECTIONS.items() if key in cls.model_fields or key in cls.ALIASES]
    if homes:
        return f"{key}: belongs under a section; write {' or '.join(f'{home}.{key}' for home in homes)}"
    everything = {f"{name}.{sub}": sub for name, cls in SECTIONS.items() for sub in cls.model_fields}
    near_top = unknown_key(key, RunConfig)
    if "did you mean" in near_top:
        return near_top
    match = difflib.get_close_matches(key.rpartition(".")[2], list(everything.values()), n=1, cutoff=0.7)
    if match:
        home = next(dotted for dotted, sub in everything.items() if sub == match[0])
        return f"{key}: unknown key; did you mean {home!r}?"
    return near_top


def _nearby_configs(path: Path) -> str:
    folders = [path.parent, Path("configs")]
    found = sorted({str(file) for folder in folders if folder.is_dir() for file in folder.glob("[!.]*.yaml")})
    if not found:
        return "name an existing .yaml file"
    match = difflib.get_close_matches(str(path), found, n=1, cutoff=0.5)
    return f"did you mean {match[0]}?" if match else "there are: " + ", ".join(found[:8])
