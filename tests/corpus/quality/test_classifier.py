"""A classifier learned from two piles of text."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.filters.classifier import (
    Classifier,
    QualityClassifier,
    area_under_curve,
    hash_features,
    train_quality_classifier,
)
from llm_trainer.corpus.filters.logistic import fit_logistic
from llm_trainer.corpus.words import tabulate
from tests.corpus.quality.helpers import reasons, tagged

_TEXT_OF_NOUNS = """
river book window teacher engine garden winter letter market bridge doctor island question minute
"""
NOUNS = _TEXT_OF_NOUNS.split()
_TEXT_OF_VERBS = """
opens follows remembers repairs describes watches builds carries explains finds
"""
VERBS = _TEXT_OF_VERBS.split()
_TEXT_OF_SPAM = """
buy cheap deal click now win bonus casino offer free discount best price sale order
"""
SPAM = _TEXT_OF_SPAM.split()


def good_text(seed: int) -> str:
    chooser = random.Random(f"good {seed}")
    return " ".join(
        f"The {chooser.choice(NOUNS)} {chooser.choice(VERBS)} the {chooser.choice(NOUNS)}." for _ in range(12)
    )


def bad_text(seed: int) -> str:
    chooser = random.Random(f"bad {seed}")
    return " ".join(chooser.choice(SPAM + NOUNS) for _ in range(60)) + "!!!"


@pytest.fixture(scope="module")
def model() -> QualityClassifier:
    good, bad = map(good_text, range(80)), map(bad_text, range(120))
    return train_quality_classifier(good, bad, bits=14, held_out=0.25)


def test_it_learns_the_difference_and_says_how_well(model):
    assert model.report["held_out"] >= 20
    assert model.report["accuracy"] >= 0.95
    assert model.report["auc"] >= 0.99
    scores = model.score([good_text(1001), bad_text(1001)])
    assert scores[0] > 0.5 > scores[1]


def test_the_same_piles_give_the_same_classifier(model):
    again = train_quality_classifier(map(good_text, range(80)), map(bad_text, range(120)), bits=14, held_out=0.25)
    assert np.array_equal(again.weights, model.weights)
    assert again.bias == model.bias


def test_a_score_does_not_depend_on_the_rest_of_the_batch(model):
    texts = [good_text(1), "", "word", bad_text(2), good_text(3)]
    assert np.array_equal(model.score(texts), np.concatenate([model.score([text]) for text in texts]))


def test_features_are_the_words_and_pairs_of_each_text_alone():
    def of(*texts: str) -> list[list[int]]:
        features = hash_features(tabulate(texts), 18)
        return [part.tolist() for part in np.split(features.buckets, features.starts[1:-1])]

    [one], [other], [empty] = of("red fox runs"), of("blue whale"), of("")
    assert of("red fox runs", "", "blue whale") == [one, empty, other]
    assert (len(one), len(other), len(empty)) == (5, 3, 0)
    assert of("RED Fox 17") == of("red fox 4")
    assert set(of("fox red")[0]) != set(of("red fox")[0])


def test_what_was_saved_scores_the_same(model, tmp_path):
    model.save(tmp_path / "quality.npz")
    loaded = QualityClassifier.load(tmp_path / "quality.npz")
    assert loaded.report == model.report
    assert np.array_equal(loaded.score([good_text(5)]), model.score([good_text(5)]))


def test_folders_can_be_the_piles(tmp_path):
    for name, make in (("good", good_text), ("bad", bad_text)):
        (tmp_path / name).mkdir()
        for seed in range(10):
            (tmp_path / name / f"{seed}.txt").write_text(make(seed), encoding="utf-8")
        records = "".join(json.dumps({"text": make(seed)}) + "\n" for seed in range(10, 30))
        (tmp_path / name / "more.jsonl").write_text(records, encoding="utf-8")
    trained = train_quality_classifier(tmp_path / "good", str(tmp_path / "bad"), bits=14)
    assert trained.report["train_good"] + trained.report["train_bad"] + trained.report["held_out"] == 60
    assert trained.score([good_text(99)])[0] > trained.score([bad_text(99)])[0]


@pytest.mark.covers("R190")
def test_the_filter_decides_by_the_score(model, tmp_path):
    path = tmp_path / "quality.npz"
    model.save(path)
    rule = Classifier(model=str(path))
    assert reasons(rule, good_text(7)) == []
    assert reasons(rule, bad_text(7)) == ["classifier.low_score"]
    [tags] = tagged(rule, bad_text(7))
    assert list(Classifier(model=str(path), min_score=0.0).reasons(tags)) == []
    assert rule.tag_identity() == Classifier(model=str(path), min_score=0.9).tag_identity()


def test_a_file_that_is_no_classifier_is_named(tmp_path):
    (tmp_path / "model.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=r"model\.npz is not a quality classifier"):
        QualityClassifier.load(tmp_path / "model.npz")
    with pytest.raises(DataError, match="train one"):
        reasons(Classifier(model=str(tmp_path / "none.npz")), "text")
    with pytest.raises(DataError, match="the bad examples hold 0 texts"):
        train_quality_classifier(["a", "b"], [])


def test_the_optimizer_finds_the_minimum():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(200, 5))
    targets = (matrix @ [2.0, -1.0, 0.5, 0.0, 1.0] + generator.normal(size=200) > 0.3).astype(float)
    importance = np.full(200, 1 / 200)
    weights, bias = fit_logistic(
        lambda w: matrix @ w, lambda v: matrix.T @ v, targets, importance, size=5, penalty=0.01, iterations=200
    )
    probability = 1 / (1 + np.exp(-(matrix @ weights + bias)))
    gradient = matrix.T @ (importance * (probability - targets)) + 0.01 * weights
    assert np.abs(gradient).max() < 1e-5
    assert abs(float((importance * (probability - targets)).sum())) < 1e-5


def test_the_area_under_the_curve_counts_pairs():
    scores, truth = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 1.0, 0.0, 1.0])
    assert area_under_curve(scores, truth) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_real_pages_are_told_from_shuffled_ones(shared_data):
    lines = (shared_data / "c4_wiki_demo" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    pages = [json.loads(line)["text"] for line in lines]
    shuffled = []
    for number, page in enumerate(pages):
        words = page.split(" ")
        random.Random(number).shuffle(words)
        shuffled.append(" ".join(words))
    trained = train_quality_classifier(pages, shuffled, held_out=0.25)
    assert trained.report["auc"] >= 0.75
