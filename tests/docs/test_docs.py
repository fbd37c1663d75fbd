"""The documentation says what is so: links lead somewhere, commands and settings exist, lines are counted."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import llm_trainer
from llm_trainer.cli.app import app
from llm_trainer.config.run import SECTIONS
from tests.docs.pages import DOCS, PAGES, README, ROOT, anchors, commands, page_id, prose

PACKAGE = ROOT / "src" / "llm_trainer"
MOST_LINES = 2300


def subcommands(command: Any) -> dict[str, Any]:
    """The commands of a group; none for a command."""
    return getattr(command, "commands", {})


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page_id(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page_id(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "{{" not in text
    assert not re.search(r"\bTODO\b|\bTBD\b|\bFIXME\b", text)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_are_shown_exist(page: Path) -> None:
    for words in commands(page):
        shown = "llm-trainer " + " ".join(words)
        command: Any = typer.main.get_command(app)
        while (below := subcommands(command)) and words and not words[0].startswith("-"):
            assert words[0] in below, f"{page_id(page)} shows {shown!r}"
            command, words = below[words[0]], words[1:]
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        options = {word.partition("=")[0].rstrip("].,") for word in words if re.match(r"\[?-{1,2}[a-z]", word)}
        unknown = {option.lstrip("[") for option in options} - known
        assert not unknown, f"{page_id(page)} shows {shown!r}"


@pytest.mark.covers("R432")
def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name, command in subcommands(typer.main.get_command(app)).items():
        assert f"`llm-trainer {name}" in text
        for below in subcommands(command):
            assert re.search(rf"`(?:llm-trainer {name} )?{below}`", text), f"{name} {below}"


@pytest.mark.covers("R437")
def test_every_setting_is_listed_and_no_other() -> None:
    listed: dict[str, set[str]] = {name: set() for name in SECTIONS}
    text = (DOCS / "concepts" / "configuration.md").read_text(encoding="utf-8")
    for section, names in re.findall(r"^\| `(\w+)`[^|]*\| `([\w ]+)` \|$", text, re.MULTILINE):
        listed[section] |= set(names.split())
    assert listed == {name: set(cls.model_fields) for name, cls in SECTIONS.items()}


@pytest.mark.covers("R056", "R429")
def test_every_foreign_name_is_in_the_table() -> None:
    text = (DOCS / "reference" / "old_names.md").read_text(encoding="utf-8")
    for section, cls in SECTIONS.items():
        table = text.partition(f"### `{section}`")[2].partition("###")[0]
        for alias, canonical in cls.ALIASES.items():
            assert re.search(rf"^\| `{canonical}` \|.*`{alias}`", table, re.MULTILINE), f"{section}.{alias}"
    for script in (
        "config.py",
        "training-windows.py",
        "train.py",
        "generate.py",
        "main.py",
        "sequence_packing_cache.py",
    ):
        assert script in text


def test_the_reading_path_exists_and_is_as_short_as_promised() -> None:
    path = README.read_text(encoding="utf-8").partition("### Reading it")[2].partition("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w/.]+)`", path, re.MULTILINE)
    assert len(files) == 13
    lines = sum(len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in files)
    assert lines < MOST_LINES, f"{lines} lines"


def test_the_map_names_every_package() -> None:
    section = README.read_text(encoding="utf-8").partition("## The map of the house")[2].partition("###")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    real = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(named) == real


def test_tests_that_are_named_exist() -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", README.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.mark.covers("R004")
def test_requirements_name_the_promised_packages_with_the_bounds_of_the_program() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    active = dict(re.findall(r"^([\w-]+)>=([\w.]+)$", text, re.MULTILINE))
    named = dict(re.findall(r"([\w-]+)>=([\w.]+)", text))
    promised = {"torch", "transformers", "datasets", "accelerate", "deepspeed", "wandb", "tokenizers", "flash-attn"}
    assert promised <= set(named)
    # These two build against a GPU's compiler, and would stop everyone else's installation.
    assert not {"deepspeed", "flash-attn"} & set(active)
    for requirement in importlib.metadata.requires("llm-trainer") or []:
        match = re.match(r"([\w-]+)>=([\w.]+)(?:; extra == \"(?:hf|tracking|plots)\")?$", requirement)
        if match:
            assert active.get(match[1].lower()) == match[2], requirement


@pytest.mark.covers("R022", "R440")
def test_citation_and_changes_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == llm_trainer.__version__
    assert citation["license"] == "MIT"
    assert f"## {llm_trainer.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.covers("R433", "R028")
def test_troubleshooting_has_the_documented_ways_out() -> None:
    text = (DOCS / "how_to" / "troubleshooting.md").read_text(encoding="utf-8")
    for line in (
        "set TRITON_CACHE_DIR=%CD%\\.triton_cache",
        "set TRITON_INTERPRET=1",
        '$env:TRITON_CACHE_DIR = "$PWD\\.triton_cache"',
        "max_split_size_mb:128",
        "--force-rebuild",
        "## Out of memory",
    ):
        assert line in text


def test_the_site_lists_every_page() -> None:
    def pages(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        values = entries.values() if isinstance(entries, dict) else entries
        return [page for entry in values for page in pages(entry)]  # type: ignore[attr-defined]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages(nav)) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_picture_of_the_report_is_small() -> None:
    picture = DOCS / "assets" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000


@pytest.mark.covers("R233")
def test_the_parts_of_the_data_path_are_named_and_exist() -> None:
    import importlib

    table = (DOCS / "concepts" / "packed_cache.md").read_text(encoding="utf-8").partition("## The parts by name")[2]
    named = re.findall(r"\| `(\w+)\.(\w+)` \|", table)
    assert len(named) == 5
    for module, name in named:
        assert hasattr(importlib.import_module(f"llm_trainer.{module}"), name)
