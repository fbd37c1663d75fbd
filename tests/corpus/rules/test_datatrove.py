"""The same values and the same decisions as datatrove 0.10.1, frozen, and live where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Tags
from llm_trainer.corpus.filters.c4 import C4
from llm_trainer.corpus.filters.fineweb import FineWeb
from llm_trainer.corpus.filters.gopher_quality import GopherQuality
from llm_trainer.corpus.filters.gopher_repetition import GopherRepetition
from tests.corpus.rules.texts import TEXTS

FROZEN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("datatrove.json").read_text(encoding="utf-8"))
PEER = Path(__file__).parents[3] / "benchmarks" / "datatrove_peer.py"


def judge(texts: list[str]) -> list[tuple[Tags, list[str]]]:
    tags: list[Tags] = [{} for _ in texts]
    batch = Batch([Document(text, str(number)) for number, text in enumerate(texts)])
    families = (GopherQuality(), GopherRepetition(), FineWeb(), C4())
    for family in families:
        family.tag(batch, tags)
    return [(tag, [reason for family in families for reason in family.reasons(tag)]) for tag in tags]


@pytest.mark.covers("R190")
@pytest.mark.parametrize("name", TEXTS)
def test_values_and_decisions_are_those_of_datatrove(name: str) -> None:
    ((tags, broken),) = judge([TEXTS[name]])
    assert {tag: tags[tag] for tag in FROZEN[name]["values"]} == pytest.approx(FROZEN[name]["values"], abs=1e-9)
    assert sorted(broken) == FROZEN[name]["dropped"]


def test_every_rule_is_broken_and_kept_by_some_text() -> None:
    broken = {rule for one in FROZEN.values() for rule in one["dropped"]}
    everywhere = set.intersection(*(set(one["dropped"]) for one in FROZEN.values()))
    assert len(broken) >= 25
    assert not everywhere


def test_decisions_are_those_of_datatrove_where_it_is_installed() -> None:
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    spec = importlib.util.spec_from_file_location("datatrove_peer", PEER)
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    rules: dict[str, Callable[[str], bool]] = peer.rules()
    for text, (_, broken) in zip(TEXTS.values(), judge(list(TEXTS.values())), strict=True):
        assert sorted(broken) == sorted(rule for rule, drops in rules.items() if drops(text))
