"""The accumulators: equal to NumPy, and the same sum in whatever order pieces are added up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_trainer.corpus.report.counters import Distribution, Lengths, Sample, Tally


@pytest.mark.covers("R203")
@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=200))
def test_lengths_equal_numpy(values: list[int]) -> None:
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    found = lengths.summary()
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert found["median"] == np.median(values)
    assert (found["min"], found["max"]) == (np.min(values), np.max(values))
    bins = lengths.histogram()
    edges = [low for low, _, _ in bins] + [bins[-1][1]]
    assert [times for _, _, times in bins] == np.histogram(values, edges)[0].tolist()
    assert sum(times for _, _, times in bins) == len(values)


def test_lengths_of_nothing() -> None:
    assert Lengths().summary() == {}
    assert Lengths().histogram() == []


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=100))
def test_a_distribution_knows_quantiles_to_three_percent(values: list[float]) -> None:
    found = Distribution()
    for value in values:
        found.add(value)
    assert found.count == len(values)
    assert found.sum == pytest.approx(math.fsum(values), abs=1e-6)
    assert (found.least, found.greatest) == (min(values), max(values))
    exact = np.quantile(values, 0.5, method="nearest")
    near = [value for value in sorted(values) if abs(value - exact) <= 0.04 * abs(exact) + 1e-11]
    middle = sorted(values)[round(0.5 * (len(values) - 1))]
    assert near
    assert abs(found.quantile(0.5) - middle) <= 0.032 * abs(middle) + 1e-11


@given(st.lists(st.floats(-1000, 1000) | st.just(0.0), min_size=2, max_size=60))
def test_a_histogram_loses_nothing_and_is_nearly_exact(values: list[float]) -> None:
    found = Distribution()
    for value in values:
        found.add(value)
    edges = [-500.0, -100.0, -1.0, 0.0, 1.0, 30.0, 200.0]
    counts = found.histogram(edges)
    assert sum(counts) == len(values)
    for index, edge in enumerate(edges[1:-1]):
        near = sum(abs(value - edge) <= 0.07 * abs(edge) + 1e-11 for value in values)
        exact = sum(value < edge for value in values)
        assert abs(sum(counts[: index + 1]) - exact) <= near


@given(st.lists(st.integers(-32, 32), min_size=1, max_size=50))
def test_quantiles_of_small_whole_numbers_are_exact(values: list[int]) -> None:
    found = Distribution()
    for value in values:
        found.add(value)
    for share in (0.1, 0.5, 0.9):
        assert found.quantile(share) == sorted(values)[round(share * (len(values) - 1))]


def test_evenly_spread_values_make_a_flat_histogram() -> None:
    found = Distribution()
    for number in range(10_000):
        found.add(4 + number / 2500)
    counts = found.histogram([4 + step / 6 for step in range(25)])
    assert max(counts) < 1.05 * min(counts)


def test_a_distribution_counts_what_is_no_number() -> None:
    found = Distribution()
    for value in (math.nan, math.inf, 1.0):
        found.add(value)
    assert (found.count, found.not_finite) == (1, 2)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    empty = Distribution()
    assert Distribution.from_dict(json.loads(json.dumps(empty.to_dict(), allow_nan=False))) == empty


def test_a_tally_is_bounded_and_loses_no_count() -> None:
    tally = Tally(limit=100)
    for number in range(10_000):
        tally.add(f"rare-{number}.example")
        tally.add("often.example")
    assert len(tally.counts) <= 200
    assert tally.total == 20_000
    assert tally.top(1) == [("often.example", 10_000)]


@pytest.mark.covers("R194")
def test_entropy_is_the_textbook_value() -> None:
    tally = Tally()
    for name in ("a", "b", "c", "d"):
        tally.add(name, 25)
    assert tally.entropy == pytest.approx(2.0)
    single = Tally()
    single.add("only", 7)
    assert single.entropy == 0.0
    assert Tally().entropy == 0.0


@given(st.lists(st.text(max_size=8), unique=True, max_size=40), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_the_order(names: list[str], random: object) -> None:
    def sample(order: list[str]) -> Sample:
        found = Sample(5)
        for name in order:
            place = found.wants(name)
            if place is not None:
                found.put(place, name)
        return found

    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    left, right = sample(shuffled[:20]), sample(shuffled[20:])
    left.merge(right)
    assert sample(names) == sample(shuffled) == left
    assert Sample.from_dict(json.loads(json.dumps(left.to_dict()))) == left
