"""Gaps in text: the right share of the right tokens, the same ones again after a resume, and nothing lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError
from llm_trainer.data import PackedLoader, PackedSequence
from llm_trainer.data.collate import IGNORED
from llm_trainer.data.examples import Examples, LabelCollator, collate_pairs
from llm_trainer.data.masking import MaskedCollator, word_starts
from llm_trainer.data.spans import SpanCollator, corrupted_counts, corrupted_lengths, sentinels_needed

MASK, END, VOCAB = 200, 201, 202
SENTINELS = list(range(340, 300, -1))


def sequence(*lengths: int, seed: int = 0) -> PackedSequence:
    """Documents of random tokens, each with END on both sides."""
    rng = np.random.default_rng(seed)
    documents = [np.concatenate(([END], rng.integers(0, 200, length - 2), [END])) for length in lengths]
    return PackedSequence(np.concatenate(documents).astype(np.uint16), np.array(lengths, dtype=np.uint32))


def masker(**changes: Any) -> MaskedCollator:
    values: dict[str, Any] = {
        "seq_len": 64,
        "vocab_size": VOCAB,
        "mask_id": MASK,
        "special_ids": [MASK, END],
        "seed": 1,
    }
    return MaskedCollator(**{**values, **changes})


def corrupter(**changes: Any) -> SpanCollator:
    values: dict[str, Any] = {"seq_len": 64, "sentinels": SENTINELS, "special_ids": [END], "end_id": END, "seed": 1}
    return SpanCollator(**{**values, **changes})


# ---------------------------------------------------------------- masks


@pytest.mark.covers("R136")
def test_fifteen_percent_are_chosen_and_most_of_them_masked() -> None:
    rows = [sequence(64, seed=seed) for seed in range(400)]
    batch = masker()(rows, np.arange(400))
    ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    original = np.stack([row.tokens.astype(np.int64) for row in rows])
    chosen = labels != IGNORED
    assert (chosen.sum(axis=1) == round(0.15 * 62)).all()  # of each row, exactly
    assert (labels[chosen] == original[chosen]).all()
    assert (ids[~chosen] == original[~chosen]).all()
    masked, kept = ids[chosen] == MASK, ids[chosen] == original[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert kept.mean() == pytest.approx(0.1, abs=0.02)
    assert not np.isin(labels, [MASK, END]).any(), "a special token was chosen"
    replaced = ids[chosen][~masked & ~kept]
    assert not np.isin(replaced, [MASK, END]).any(), "a special token was put in place of another"
    assert len(np.unique(replaced)) > 100


def test_padding_is_never_chosen_and_documents_stay_apart() -> None:
    batch = masker()([sequence(20, 12), sequence(64)], np.arange(2))
    assert (batch["labels"][0, 32:] == IGNORED).all()
    assert batch["document_ids"][0].tolist() == [1] * 20 + [2] * 12 + [0] * 32
    assert masker()([], np.arange(0))["labels"].eq(IGNORED).all()


def test_gaps_depend_on_the_place_in_the_stream_alone() -> None:
    rows = [sequence(64, seed=seed) for seed in range(4)]
    together = masker()(rows, np.arange(10, 14))
    for index, row in enumerate(rows):
        alone = masker()([row], np.array([10 + index]))
        assert alone["input_ids"][0].equal(together["input_ids"][index])
    again = masker()(rows, np.arange(20, 24))
    assert not again["labels"].equal(together["labels"]), "the next epoch has the same gaps"
    assert not masker(seed=2)(rows, np.arange(10, 14))["labels"].equal(together["labels"])


def test_whole_words_are_chosen_whole() -> None:
    starts = np.zeros(VOCAB, dtype=np.bool_)
    starts[:100] = True  # tokens below 100 begin a word, those above go on with it
    rows = [sequence(64, seed=seed) for seed in range(50)]
    batch = masker(word_starts=starts)(rows, np.arange(50))
    chosen = batch["labels"].numpy() != IGNORED
    for row, picked in zip(rows, chosen):
        tokens = row.tokens
        for place in range(1, len(tokens) - 1):
            if tokens[place] >= 100 and tokens[place - 1] < 200:  # goes on with the word before it
                assert picked[place] == picked[place - 1]
    assert chosen.sum(axis=1).mean() == pytest.approx(0.15 * 62, rel=0.25)
    assert word_starts([b" the", b"re", b"\n", b""]).tolist() == [True, False, True, False]


def test_a_share_that_is_none_and_a_vocabulary_of_special_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        masker(probability=1.0)
    with pytest.raises(DataError, match="only special tokens"):
        masker(vocab_size=2, special_ids=[0, 1])


# ---------------------------------------------------------------- spans


@pytest.mark.covers("R137")
def test_the_lengths_are_those_of_t5() -> None:
    assert corrupted_lengths(568, 0.15, 3.0) == (512, 114)
    assert corrupted_counts(568, 0.15, 3.0) == (85, 28)
    assert corrupted_counts(2, 0.15, 3.0) == (1, 1)


def rebuilt(source: list[int], answer: list[int]) -> list[int]:
    """The text: each sentinel of the source replaced by what follows it in the answer."""
    stretches: dict[int, list[int]] = {}
    for token in answer:
        if token in SENTINELS:
            current = stretches.setdefault(token, [])
        else:
            current.append(token)
    return [piece for token in source for piece in stretches.get(token, [token])]


@given(
    length=st.integers(2, 200),
    density=st.floats(0.05, 0.6),
    mean_span=st.floats(1.5, 10.0),
    place=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_source_and_answer_together_are_the_text(length: int, density: float, mean_span: float, place: int) -> None:
    ids = np.random.default_rng(place).integers(0, 200, length)
    sentinels = list(range(1000, 1000 - sentinels_needed(length, density, mean_span), -1))
    collator = corrupter(seq_len=length, density=density, mean_span=mean_span, sentinels=sentinels)
    source, answer = collator.corrupt(ids, place)
    assert (len(source), len(answer)) == corrupted_lengths(length, density, mean_span)
    assert source[-1] == answer[-1] == END and answer[0] == sentinels[0] and source[0] != sentinels[0]
    SENTINELS[:] = sentinels
    try:
        assert rebuilt(source[:-1].tolist(), answer[:-1].tolist()) == ids.tolist()
    finally:
        SENTINELS[:] = range(340, 300, -1)
    order = [token for token in source.tolist() if token in sentinels]
    assert order == sentinels[: len(order)] == [token for token in answer.tolist() if token in sentinels]


def test_borders_between_documents_are_never_taken_out() -> None:
    row = sequence(30, 34)
    source, answer = corrupter().corrupt(row.tokens.astype(np.int64), 5)
    assert source.tolist().count(END) == 3 and END not in answer[:-1]
    inner = [token for token in row.tokens.tolist()[1:-1] if token != END]
    assert [token for token in rebuilt(source.tolist(), answer.tolist()) if token != END] == inner


def test_a_batch_is_padded_to_its_longest_and_nothing_is_cut() -> None:
    rows = [sequence(64), sequence(20, 12), sequence(3)]
    batch = corrupter()(rows, np.arange(3))
    # The outer borders of a row are no text; the end token is added again.
    sources, answers = zip(corrupted_lengths(62, 0.15, 3.0), corrupted_lengths(28, 0.15, 3.0))
    assert batch["attention_mask"].sum(dim=1).tolist() == [sources[0], sources[1] + 2, 2]
    assert batch["decoder_attention_mask"].sum(dim=1).tolist() == [answers[0], answers[1], 0]
    assert (batch["labels"] == IGNORED).equal(batch["decoder_attention_mask"] == 0)
    assert batch["labels"][2].eq(IGNORED).all(), "one token cannot be both given and asked for"
    assert corrupter()([], np.arange(0))["labels"].eq(IGNORED).all()


def test_too_few_sentinels_are_named() -> None:
    with pytest.raises(DataError, match="lose 26 spans, but the tokenizer has only 5 sentinels"):
        corrupter(seq_len=512, sentinels=SENTINELS[:5])


# ---------------------------------------------------------------- examples


def test_examples_are_served_like_sequences_and_resume_from_any_count() -> None:
    pairs = [(np.arange(1, 2 + n % 5), np.arange(1, 2 + n % 3)) for n in range(50)]
    loader = PackedLoader(Examples(pairs, identity="x", seq_len=5), 4, seed=3, collator=collate_pairs)
    whole = list(loader.batches(0, 50))
    assert sum(len(batch["input_ids"]) for batch in whole) == 50
    rest = list(loader.batches(20, 50))
    assert all(a[key].equal(b[key]) for a, b in zip(whole[5:], rest, strict=True) for key in a)
    parts = [PackedLoader(loader.cache, 2, seed=3, rank=rank, world_size=2, collator=collate_pairs) for rank in (0, 1)]
    rows = [next(part.batches(0, 4))["input_ids"] for part in parts]
    assert sorted(len(row) for row in rows) == [2, 2]
    with pytest.raises(DataError, match="no examples"):
        Examples([], identity="x", seq_len=5)


def test_labels_of_texts_and_of_tokens() -> None:
    texts = LabelCollator(per_token=False)([(np.array([5, 6, 7]), 2), (np.array([8]), 0)])
    assert texts["labels"].tolist() == [2, 0] and texts["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    tokens = LabelCollator(per_token=True)([(np.array([5, 6]), np.array([1, -100])), (np.array([8]), np.array([0]))])
    assert tokens["labels"].tolist() == [[1, -100], [0, -100]]
    assert LabelCollator(per_token=False)([])["labels"].tolist() == [IGNORED]
