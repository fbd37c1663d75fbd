"""Statistics of a corpus: right, the same however the work was shared out, and nothing goes missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.report.statistics import EXAMPLES, Statistics, domain_of
from llm_trainer.corpus.report.summary import summarise
from tests.corpus.report.corpora import document, fill


@pytest.mark.covers("R203")
def test_word_figures_equal_numpy() -> None:
    texts = ["one", "one two three", " ".join(["w"] * 100), "a b", "", "ein Wort\tund\nnoch eins"]
    statistics = Statistics()
    for number, text in enumerate(texts):
        statistics.enter("s")
        statistics.add(document(number, text, "s"), {})
    lengths = [len(text.split()) for text in texts]
    words = summarise(statistics)["total"]["words_per_document"]
    assert words == {
        "mean": pytest.approx(np.mean(lengths)),
        "median": np.median(lengths),
        "max": max(lengths),
        "min": min(lengths),
    }


@pytest.mark.covers("R206")
def test_sizes_and_ratios_are_those_of_the_text() -> None:
    statistics = Statistics()
    for number, (text, tokens) in enumerate([("naïve café", 5), ("two words", 2), ("not counted", None)]):
        statistics.enter("s")
        statistics.add(document(number, text, "s"), {"language": "fr" if number == 0 else "en"}, tokens=tokens)
    summary = summarise(statistics)
    total = summary["total"]
    assert (total["documents"], total["characters"], total["bytes"], total["words"]) == (3, 30, 32, 6)
    assert total["tokens"] == 7
    assert total["tokens_per_word"] == pytest.approx(7 / 4)  # of the two documents whose tokens are known
    assert total["bytes_per_token"] == pytest.approx(21 / 7)
    assert summary["languages"]["fr"]["bytes_per_token"] == pytest.approx(12 / 5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 400), unique=True, max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_the_sum_of_pieces_is_the_whole(numbers: list[int], first: int, second: int) -> None:
    low, high = sorted((first, second))
    a, b, c = (fill(part) for part in (numbers[:low], numbers[low:high], numbers[high:]))
    whole = fill(numbers).to_dict()
    forward, backward = Statistics(), Statistics()
    for piece in (a, b, c):
        forward.merge(Statistics.from_dict(json.loads(json.dumps(piece.to_dict(), allow_nan=False))))
    for piece in (c, b, a):
        backward.merge(piece)
    for values in (whole, forward.to_dict(), backward.to_dict()):
        for losses in values["losses"].values():
            losses.pop("examples")  # the first five in the order of the units
    whole_forward, whole_backward = forward.to_dict(), backward.to_dict()
    for values in (whole_forward, whole_backward):
        for losses in values["losses"].values():
            losses.pop("examples")
    assert whole_forward == whole
    assert whole_backward == whole


def test_merging_leaves_the_other_one_alone() -> None:
    first, second = fill(range(10)), fill(range(10, 30))
    before = second.to_dict()
    total = Statistics()
    total.merge(second)
    total.merge(first)
    assert second.to_dict() == before


@pytest.mark.covers("R195")
def test_a_document_that_vanishes_is_noticed() -> None:
    statistics = fill(range(40))
    statistics.check()
    statistics.enter("books")
    with pytest.raises(DataError, match=r"books: \d+ entered"):
        summarise(statistics)


@pytest.mark.covers("R195")
def test_a_document_that_is_counted_twice_is_noticed_even_if_another_source_lacks_one() -> None:
    statistics = fill(range(40))
    statistics.add(document(99, source="books"), {})
    statistics.enter("web")
    with pytest.raises(DataError, match=r"books.*web"):
        statistics.check()


def test_a_document_is_never_dropped_without_a_reason() -> None:
    with pytest.raises(DataError, match="without a reason"):
        Statistics().drop(document(1), {}, [])


def test_examples_are_few_short_concealed_and_the_same_in_any_order() -> None:
    def examples(numbers: list[int]) -> dict[str, object]:
        statistics = Statistics()
        for number in numbers:
            text = document(number, "x" * 290 + " ann@example.org and more" * 3)
            statistics.enter("web")
            statistics.drop(text, {}, ["length.short"])
        return summarise(statistics)["dropped"]["length.short"]

    found = examples(list(range(50)))
    assert found == examples(list(range(50))[::-1])
    assert len(found["examples"]) == EXAMPLES
    assert all(len(example["text"]) <= 300 for example in found["examples"])
    assert "ann@" not in json.dumps(found)  # not even half of it, at the end of an excerpt


def test_examples_can_be_left_out() -> None:
    statistics = Statistics(excerpt_characters=0)
    statistics.enter("web")
    statistics.drop(document(1, "secret"), {}, ["length.short"])
    assert "secret" not in json.dumps(statistics.to_dict())


@pytest.mark.covers("R194")
def test_domains_categories_and_languages_are_measured() -> None:
    summary = summarise(fill(range(1, 200)))
    assert summary["domains"]["different"] == 4
    assert 1.9 < summary["diversity"]["entropy"]["domains"] <= 2.0
    assert set(summary["categories"]) == {"prose", "web"}
    assert set(summary["languages"]) == {"en", "ta"}
    assert summary["years"] == {"2021": summary["total"]["documents"]}
    assert summary["diversity"]["word_types"] > 10
    assert 0 < summary["diversity"]["unique_four_grams"] < 1


def test_repeated_texts_show_as_little_variety() -> None:
    def unique(texts: list[str]) -> float:
        statistics = Statistics()
        for number, text in enumerate(texts):
            statistics.enter("s")
            statistics.add(document(number, text, "s"), {})
        return summarise(statistics)["diversity"]["unique_four_grams"]

    different = [" ".join(f"w{number}x{step}" for step in range(30)) for number in range(20)]
    assert unique(different) == 1.0
    assert unique(different[:1] * 20) == 0.0


def test_tags_win_over_metadata_and_metadata_over_the_document() -> None:
    statistics = Statistics()
    statistics.enter("file")
    statistics.add(Document("text", "1", "file", {"language": "de", "licence": "MIT"}), {"language": "en"})
    summary = summarise(statistics)
    assert set(summary["languages"]) == {"en"}
    assert summary["licences"]["top"] == [["MIT", 1]]


def test_statistics_of_another_version_are_refused() -> None:
    values = fill([1]).to_dict() | {"version": 99}
    with pytest.raises(DataError, match="version 99"):
        Statistics.from_dict(values)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.Example.org/a?b", "example.org"),
        ("example.org/a", "example.org"),
        ("http://user:pass@host.example:8080/", "host.example"),
        ("http://[::1", None),
        ("", None),
        ("file:///etc/passwd", None),
    ],
)
def test_the_domain_of_an_address(url: str, domain: str | None) -> None:
    assert domain_of(url) == domain


def test_losses_of_several_units_add_up() -> None:
    statistics = Statistics()
    for _ in range(3):
        losses = Losses()
        losses.add("truncated_gzip", "a.warc.gz:offset 12", "CRC", count=2)
        statistics.lose("crawl", losses)
    summary = summarise(statistics)
    assert summary["documents"] == {"records": 6, "entered": 0, "kept": 0, "dropped": 0, "lost": 6}
    assert summary["lost"]["truncated_gzip"]["records"] == 6


def test_a_lone_surrogate_does_not_stop_the_count() -> None:
    statistics = Statistics()
    statistics.enter("s")
    statistics.add(document(1, "a \ud800 b", "s"), {})
    assert summarise(statistics)["total"]["words"] == 3
