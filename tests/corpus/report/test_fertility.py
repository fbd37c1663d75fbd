"""Tokens of one's own for a language that a common vocabulary spells byte by byte."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.corpus.report.fertility import describe_costs, tokenizer_costs
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.tokenizer.kinds import train_configured

LANGUAGES = {
    "English": "English-Latin1",
    "Abkhaz": "Abkhaz-UTF8",
    "Greek": "Greek_Ellinika-UTF8",
    "Hebrew": "Hebrew_Ivrit-UTF8",
    "Japanese": "Japanese_Nihongo-UTF8",
}


@pytest.fixture
def declarations(shared_data: Path) -> dict[str, list[str]]:
    """The beginning of the Universal Declaration of Human Rights in several scripts."""
    with zipfile.ZipFile(shared_data / "nltk_corpora" / "udhr.zip") as archive:
        return {
            name: archive.read(f"udhr/{file}").decode("latin-1" if "Latin1" in file else "utf-8").splitlines()
            for name, file in LANGUAGES.items()
        }


@pytest.mark.covers("R013")
def test_a_tokenizer_of_its_own_serves_a_language_of_few_texts(declarations: dict[str, list[str]]) -> None:
    english = train_configured(TokenizerConfig(vocab_size=1000), declarations["English"], allow_smaller=True)
    own = train_configured(TokenizerConfig(vocab_size=1000), declarations["Abkhaz"], allow_smaller=True)
    foreign = {cost.language: cost for cost in tokenizer_costs(english, declarations)}
    native = {cost.language: cost for cost in tokenizer_costs(own, declarations)}
    assert all(cost.exact for cost in [*foreign.values(), *native.values()])
    assert foreign["Abkhaz"].bytes_per_token < 1.1  # spelled byte by byte
    assert foreign["English"].bytes_per_token > 3
    assert native["Abkhaz"].bytes_per_token > 4
    assert native["Abkhaz"].tokens < foreign["Abkhaz"].tokens / 4


@pytest.mark.covers("R013")
def test_the_table_names_the_language_that_pays_most_first() -> None:
    tokenizer = BPETokenizer().train_from_iterator(["the cat and the dog " * 50], 300, allow_smaller=True)
    costs = tokenizer_costs(tokenizer, {"English": ["the dog and the cat"], "ქართული": ["ყველა ადამიანი", "იბადება"]})
    assert [cost.language for cost in costs] == ["ქართული", "English"]
    assert costs[0].bytes_per_token == pytest.approx(1.0, abs=0.05)
    assert all(cost.exact for cost in costs)
    lines = describe_costs(costs).splitlines()
    assert "bytes/token" in lines[0]
    assert len(lines) == 3
