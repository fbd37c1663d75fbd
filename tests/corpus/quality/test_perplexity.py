"""Buckets by how well a model predicts a text."""

from __future__ import annotations

import pickle
import random

import pytest

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.corpus.filters.ngram_model import NgramModel
from llm_trainer.corpus.filters.perplexity import Perplexity, cut_points, set_scorer_factory
from tests.corpus.quality.helpers import reasons, tagged
from tests.corpus.quality.language_samples import SENTENCES
from tests.corpus.quality.test_classifier import good_text

REFERENCE = "\n".join(good_text(seed) for seed in range(200))


def length_factory(path):
    """A scorer that finds long texts surprising, as a model of an upper layer could be."""
    return lambda texts: [len(text) / 100 for text in texts]


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.txt"
    path.write_text(REFERENCE, encoding="utf-8")
    return f"ngram:{path}"


def test_text_like_the_reference_costs_fewer_bits():
    model = NgramModel(REFERENCE.encode())
    text = good_text(1000)
    letters = list(text)
    random.Random(0).shuffle(letters)
    like, english, scrambled, greek = model.bits_per_byte(
        [text, SENTENCES["en"][0], "".join(letters), SENTENCES["el"][0]]
    )
    assert like < 1.5 < english < scrambled
    assert greek > english


def test_a_score_does_not_depend_on_the_neighbours():
    model = NgramModel(REFERENCE.encode())
    texts = [good_text(1), "", SENTENCES["de"][0], "x"]
    assert model.bits_per_byte(texts) == pytest.approx([model.bits_per_byte([text])[0] for text in texts])
    assert model.bits_per_byte([""]) == [8.0]


@pytest.mark.covers("R190")
def test_buckets_and_what_is_kept_of_them(reference):
    texts = (good_text(500), SENTENCES["en"][1], SENTENCES["zh"][0] * 3)
    _, english, chinese = (
        item["bits_per_byte"] for item in tagged(Perplexity(model=reference, head_max=1, middle_max=2), *texts)
    )
    between = (english + chinese) / 2
    rule = Perplexity(model=reference, head_max=1.5, middle_max=between)
    tags = tagged(rule, *texts)
    assert [rule.bucket(item) for item in tags] == ["head", "middle", "tail"]
    assert [list(rule.reasons(item)) for item in tags] == [[], [], ["perplexity.tail"]]
    other = Perplexity(model=reference, head_max=1.5, middle_max=between, keep=["middle"])
    assert [list(other.reasons(item)) for item in tags] == [["perplexity.head"], [], ["perplexity.tail"]]
    assert other.tag_identity() == rule.tag_identity()


def test_cut_points_are_quantiles():
    assert cut_points([1.0, 2.0, 3.0, 4.0], (0.5, 1.0)) == (2.5, 4.0)
    with pytest.raises(DataError):
        cut_points([])


def test_a_scorer_of_another_layer_is_named_in_the_settings_and_travels_with_them(tmp_path):
    rule = Perplexity(model=str(tmp_path), head_max=1, middle_max=2, scorer=f"{__name__}:length_factory")
    rule = pickle.loads(pickle.dumps(rule))
    assert reasons(rule, "a" * 50) == []
    assert reasons(rule, "a" * 250) == ["perplexity.tail"]


def test_or_given_to_the_process(tmp_path):
    rule = Perplexity(model=str(tmp_path), head_max=1, middle_max=2)
    with pytest.raises(DataError, match="ngram:FILE"):
        reasons(rule, "text")
    set_scorer_factory(length_factory)
    try:
        assert reasons(rule, "a" * 250) == ["perplexity.tail"]
    finally:
        set_scorer_factory(None)


def test_what_cannot_work_is_said_before(tmp_path, reference):
    with pytest.raises(ConfigError, match="above middle_max"):
        Perplexity(model=reference, head_max=3, middle_max=2)
    with pytest.raises(DataError, match="no model at"):
        Perplexity(model="ngram:/nowhere", head_max=1, middle_max=2).tag_identity()
    small = tmp_path / "small.txt"
    small.write_text("too little", encoding="utf-8")
    with pytest.raises(DataError, match="too few"):
        reasons(Perplexity(model=f"ngram:{small}", head_max=1, middle_max=2), "text")
    with pytest.raises(DataError, match=r"package\.module:function"):
        reasons(Perplexity(model=str(tmp_path), head_max=1, middle_max=2, scorer="nowhere:nothing"), "text")
