"""What a model is given: labels, positions and documents follow from lengths, never from token values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.config import ModelConfig
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.collate import collate
from llm_trainer.models import TransformerLM


def sequence(*pieces: list[int]) -> PackedSequence:
    tokens = np.array([token for piece in pieces for token in piece], dtype=np.uint16)
    return PackedSequence(tokens, np.array([len(piece) for piece in pieces], dtype=np.uint32))


@pytest.mark.covers("R212")
def test_a_batch_by_hand():
    batch = collate([sequence([9, 1, 9], [9, 2]), sequence([9, 3, 4, 5, 6, 9])], 6, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[9, 1, 9, 9, 2, 9], [9, 3, 4, 5, 6, 9]]
    assert batch["labels"].tolist() == [[-100, 1, 9, -100, 2, -100], [-100, 3, 4, 5, 6, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    assert batch["document_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=4
    )
)
def test_labels_do_not_depend_on_which_token_pads_or_ends_a_document(rows):
    sequences = [sequence(*pieces) for pieces in rows]
    batches = [collate(sequences, 17, pad_token_id=pad) for pad in range(4)]
    for batch in batches[1:]:
        for name in ("labels", "position_ids", "document_ids"):
            assert torch.equal(batch[name], batches[0][name])
    for row, pieces in enumerate(rows):
        expected = [label for piece in pieces for label in [-100, *piece[1:]]]
        assert batches[0]["labels"][row].tolist() == expected + [-100] * (17 - len(expected))


def test_positions_and_documents_are_left_out_only_when_every_row_is_one_full_piece():
    full = sequence([1, 2, 3, 4])
    assert set(collate([full, full], 4)) == {"input_ids", "labels"}
    for other in (sequence([1, 2, 3]), sequence([1, 2], [3, 4])):
        assert set(collate([full, other], 4)) == {"input_ids", "labels", "position_ids", "document_ids"}


def test_a_rank_without_data_gets_one_row_of_padding_without_targets():
    batch = collate([], 4, pad_token_id=2)
    assert batch["input_ids"].tolist() == [[2, 2, 2, 2]]
    assert batch["labels"].tolist() == [[-100] * 4]
    assert batch["document_ids"].tolist() == [[0] * 4]


@pytest.mark.covers("R212")
def test_a_model_sees_no_trace_of_one_document_in_the_next():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=20, d_model=16, n_heads=2, n_layers=2, max_seq_len=12, init_std=0.5)
    model = TransformerLM(config).eval()
    second = [0, 4, 5, 6, 0]
    batches = [collate([sequence(first, second)], 12) for first in ([0, 1, 2, 3, 0], [0, 9, 8, 7, 0])]
    alone = collate([sequence(second)], 12)
    with torch.no_grad():
        changed, original = (model(**batch).logits[0] for batch in batches)
        by_itself = model(**alone).logits[0]
    assert not torch.allclose(changed[1:5], original[1:5])
    assert torch.equal(changed[5:10], original[5:10])
    torch.testing.assert_close(original[5:10], by_itself[:5])
