"""Mixtures: the wanted composition by tokens, everywhere in the stream, and honesty about what cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.corpus.pipeline.mixing import MixSettings, check_composition, choose, plan_mixture

COMPOSITION = {"web": 0.60, "books": 0.15, "academic": 0.10, "code": 0.10, "conversation": 0.05}
NAMES = list(COMPOSITION)


def counts(tokens: int, mean: int, seed: int) -> np.ndarray:
    """Document lengths as they are on the web: many short ones, a few very long ones."""
    lengths = np.random.default_rng(seed).lognormal(np.log(mean) - 0.72, 1.2, size=max(4, tokens // mean))
    return np.maximum(1, lengths).astype(np.int64)


@pytest.fixture
def corpus() -> dict[str, np.ndarray]:
    sizes = {"web": (900_000, 600), "books": (3_000_000, 30_000), "academic": (400_000, 5000)}
    sizes |= {"code": (500_000, 900), "conversation": (100_000, 200)}
    return {name: counts(*sizes[name], seed) for seed, name in enumerate(sizes)}


def totals(corpus: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: int(lengths.sum()) for name, lengths in corpus.items()}


@pytest.mark.covers("R201")
def test_shares_of_the_tokens_are_within_one_percent_of_the_target(corpus: dict[str, np.ndarray]) -> None:
    wanted = MixSettings(by="category", weights=COMPOSITION)
    plan = plan_mixture(totals(corpus), wanted)
    chosen = choose(corpus, plan, wanted)
    whole = sum(chosen.tokens)
    for name, tokens in zip(chosen.names, chosen.tokens):
        assert abs(tokens / whole - COMPOSITION[name]) < 0.01
        copies = chosen.copies(name, len(corpus[name]))
        assert int((copies * corpus[name]).sum()) == tokens
        assert copies.max() <= 1  # no document twice unless it was asked for
    assert check_composition(dict(zip(chosen.names, chosen.tokens)), COMPOSITION).met


@pytest.mark.covers("R201")
def test_every_stretch_has_the_composition_of_the_whole(corpus: dict[str, np.ndarray]) -> None:
    corpus["books"] = counts(600_000, 1000, 9)
    wanted = MixSettings(weights=COMPOSITION)
    chosen = choose(corpus, plan_mixture(totals(corpus), wanted), wanted)
    numbers, documents = chosen.interleaved()
    tokens = np.array([corpus[chosen.names[n]][d] for n, d in zip(numbers, documents)])
    longest = {name: int(lengths.max()) for name, lengths in corpus.items()}
    ends = np.cumsum(tokens)
    for part in range(10):
        stretch = (ends > part * ends[-1] / 10) & (ends <= (part + 1) * ends[-1] / 10)
        for number in range(len(chosen.names)):
            served = tokens[stretch & (numbers == number)].sum()
            target = chosen.tokens[number] / sum(chosen.tokens) * tokens[stretch].sum()
            assert abs(served - target) <= 2 * max(longest.values())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(1, 500), min_size=1, max_size=60), min_size=1),
    st.floats(0.2, 3.5),
    st.integers(0, 5),
)
def test_whole_epochs_and_a_part_and_never_more_than_allowed(
    lists: dict[str, list[int]], epochs: float, seed: int
) -> None:
    corpus = {name: np.array(lengths) for name, lengths in lists.items()}
    wanted = MixSettings(weights=dict.fromkeys(corpus, 1.0), max_epochs=epochs, seed=seed)
    try:
        plan = plan_mixture(totals(corpus), wanted)
    except DataError as error:
        assert "empty" in error.message
        return
    chosen = choose(corpus, plan, wanted)
    for entry, tokens in zip(plan.entries, chosen.tokens):
        lengths = corpus[entry.name]
        copies = chosen.copies(entry.name, len(lengths))
        assert copies.max() - copies.min() <= 1  # up-sampling by whole epochs plus a part
        assert copies.min() >= entry.take // entry.available
        assert abs(tokens - entry.take) <= lengths.max() / 2 + 1  # a document cannot be cut
    numbers, documents = chosen.interleaved()
    assert len(numbers) == len(documents) == sum(len(picks) for picks in chosen.picks)
    again = choose(corpus, plan, wanted).interleaved()
    assert np.array_equal(numbers, again[0])
    assert np.array_equal(documents, again[1])


def test_one_document_longer_than_its_share_is_left_out_or_taken_whichever_is_nearer() -> None:
    wanted = MixSettings(weights={"a": 1, "b": 1}, tokens=200)
    corpus = {"a": np.array([1000, 60, 30]), "b": np.array([50] * 40)}
    chosen = choose(corpus, plan_mixture(totals(corpus), wanted), wanted)
    assert chosen.tokens == (90, 100)
    assert chosen.problems == (
        "a: 90 tokens instead of 100, because documents cannot be cut and they have 1,000 tokens at most",
    )


def test_the_choice_follows_the_documents_keys_not_their_places() -> None:
    lengths = counts(50_000, 100, 3)
    keys = np.random.default_rng(1).integers(0, 2**63, len(lengths)).astype(np.uint64)
    wanted = MixSettings(tokens=20_000)
    plan = plan_mixture({"a": int(lengths.sum())}, wanted)
    order = np.random.default_rng(2).permutation(len(lengths))
    first = choose({"a": lengths}, plan, wanted, keys={"a": keys})
    second = choose({"a": lengths[order]}, plan, wanted, keys={"a": keys[order]})
    assert keys[first.picks[0]].tolist() == keys[order][second.picks[0]].tolist()


def test_another_seed_chooses_other_documents_and_each_epoch_has_its_own_order() -> None:
    corpus = {"a": counts(50_000, 100, 3)}
    available = totals(corpus)

    def picks(seed: int, **more: object) -> list[int]:
        wanted = MixSettings(seed=seed, max_epochs=2.0, **more)
        return choose(corpus, plan_mixture(available, wanted), wanted).picks[0].tolist()

    both, size = picks(0), len(corpus["a"])
    assert sorted(both[:size]) == sorted(both[size:]) == list(range(size))
    assert both[:size] != both[size:]
    assert picks(1) != both
    assert picks(0, order="source") == [*range(size), *range(size)]


def test_a_shortage_is_named_with_its_size_and_what_can_be_reached() -> None:
    available = {"web": 1_000_000, "books": 30_000}
    plan = plan_mixture(available, MixSettings(weights={"web": 0.8, "books": 0.2}, tokens=500_000))
    text = plan.describe()
    assert "books is short by 70,000 tokens: 100,000 are needed, 30,000 are there and may be used once" in text
    assert "150,000 tokens can be reached, limited by books" in text
    assert plan.total == plan.reachable == 150_000
    assert [round(entry.share, 4) for entry in plan.entries] == [0.2, 0.8]
    with pytest.raises(DataError, match="books is short by 70,000"):
        plan_mixture(available, MixSettings(weights={"web": 0.8, "books": 0.2}, tokens=500_000, when_short="stop"))


def test_filling_up_keeps_the_total_and_repeating_keeps_the_composition() -> None:
    available = {"web": 1_000_000, "books": 30_000, "code": 500_000}
    weights = {"web": 0.6, "books": 0.2, "code": 0.2}
    filled = plan_mixture(available, MixSettings(weights=weights, tokens=500_000, when_short="fill"))
    assert {entry.name: entry.take for entry in filled.entries} == {"books": 30_000, "code": 117_500, "web": 352_500}
    repeated = plan_mixture(available, MixSettings(weights=weights, tokens=500_000, max_epochs={"books": 4.0}))
    assert {entry.name: entry.take for entry in repeated.entries} == {"books": 100_000, "code": 100_000, "web": 300_000}
    assert repeated.problems == ()
    assert repeated.entries[0].epochs == pytest.approx(10 / 3)
    everything = plan_mixture(available, MixSettings(weights=weights, tokens=10**9, when_short="fill"))
    assert everything.total == sum(available.values())
    assert "everything together gives 1,530,000 tokens" in everything.problems


def test_temperature_evens_out_natural_shares() -> None:
    available = {"large": 1_000_000, "small": 10_000}
    natural = plan_mixture(available, MixSettings())
    assert natural.total == 1_010_000
    limited = plan_mixture(available, MixSettings(weights={"large": 1, "small": 1}))
    assert "20,000 tokens in all, limited by small" in limited.describe()
    even = plan_mixture(available, MixSettings(temperature=2.0, max_epochs=100.0, tokens=100_000))
    assert even.targets["small"] == pytest.approx(1 / 11)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(1, 10**6), min_size=1, max_size=40), min_size=1))
def test_natural_shares_once_are_every_document_once(lists: dict[str, list[int]]) -> None:
    corpus = {name: np.array(lengths) for name, lengths in lists.items()}
    chosen = choose(corpus, plan_mixture(totals(corpus), MixSettings()), MixSettings())
    assert all((chosen.copies(name, len(lengths)) == 1).all() for name, lengths in corpus.items())


def test_text_without_a_weight_is_left_out_and_said_so() -> None:
    plan = plan_mixture({"web": 100, "misc": 50, "": 7}, MixSettings(weights={"web": 1}))
    assert plan.problems == (
        "text of no source has 7 tokens but no weight, so nothing of it is taken",
        "misc has 50 tokens but no weight, so nothing of it is taken",
    )


def test_a_weight_for_nothing_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(DataError, match=r"wants book, but there is no text of that source") as caught:
        plan_mixture({"web": 100, "books": 5}, MixSettings(weights={"web": 1, "book": 1}))
    assert caught.value.hint == "with text: books, web"
    with pytest.raises(DataError, match="no text to mix"):
        plan_mixture({}, MixSettings())


@pytest.mark.parametrize(
    "values",
    [
        {"weights": {"web": 0}},
        {"weights": {"web": -1}},
        {"weights": {"web": 1}, "temperature": 2.0},
        {"weights": {"web": 1}, "max_epochs": {"books": 2.0}},
        {"max_epochs": 0.0},
        {"tokens": 0},
        {"weigths": {"web": 1}},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MixSettings(**values)


def test_counts_of_another_corpus_are_refused() -> None:
    plan = plan_mixture({"a": 10}, MixSettings())
    with pytest.raises(DataError, match="planned for 10"):
        choose({"a": np.array([5, 6])}, plan, MixSettings())


def test_a_composition_is_checked_against_its_target() -> None:
    good = check_composition({"web": 595, "books": 405}, {"web": 3, "books": 2})
    assert good.met
    assert good.describe() == []
    bad = check_composition({"web": 500, "books": 400, "code": 100}, {"web": 3, "books": 2})
    assert not bad.met
    assert bad.describe() == [
        "web is 50.0% of the tokens, 60.0% was wanted",
        "code is 10.0% of the tokens, 0.0% was wanted",
    ]
    with pytest.raises(DataError):
        check_composition({}, {"web": 1})


def test_a_million_documents_are_mixed_in_seconds() -> None:
    corpus = {name: np.random.default_rng(7).integers(50, 2000, 200_000) for name in NAMES}
    wanted = MixSettings(weights=COMPOSITION, max_epochs=4.0, tokens=int(8e8))
    chosen = choose(corpus, plan_mixture(totals(corpus), wanted), wanted)
    numbers, _ = chosen.interleaved()
    assert len(numbers) > 700_000
