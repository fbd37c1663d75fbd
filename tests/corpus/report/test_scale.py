"""How much text, in tokens, for which model."""

from __future__ import annotations

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.report.scale import PUBLISHED, describe_scale, parameters_for, tokens_for, tokens_from_bytes


@pytest.mark.covers("R202")
def test_tokens_follow_from_the_measured_ratio() -> None:
    # 100 to 500 GB are 25 to 125 billion tokens at 4 bytes each, not 50 to 250.
    assert tokens_from_bytes(100e9, 4.0) == 25_000_000_000
    assert tokens_from_bytes(500e9, 2.0) == 250_000_000_000
    with pytest.raises(DataError, match="above 0"):
        tokens_from_bytes(1, 0)


@pytest.mark.covers("R204")
def test_the_published_models_and_the_rule_of_twenty() -> None:
    table = {model.name: model for model in PUBLISHED}
    assert (table["GPT-3"].parameters, table["GPT-3"].tokens) == (175e9, 0.3e12)
    assert table["Llama 2"].tokens == 2e12
    assert table["Falcon"].tokens == 3.5e12
    assert table["Chinchilla"].tokens == tokens_for(table["Chinchilla"].parameters)
    assert parameters_for(tokens_for(124e6)) == 124_000_000


@pytest.mark.covers("R202", "R204")
def test_the_plan_says_what_a_corpus_is_enough_for() -> None:
    text = describe_scale(100e9, 4.0)
    assert "25,000,000,000 tokens" in text
    assert "4.00 bytes" in text
    assert "1.2B parameters" in text
    assert "Llama 2" in text
