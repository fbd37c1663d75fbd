"""Segment-recurrent memory: equal to full context where it covers it, forgotten where a document starts, and of use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.models import TransformerLM
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.memory import SegmentMemory
from llm_trainer.training import Trainer
from tests.models.tiny import VOCAB, enlivened, tiny_config, tiny_model, token_ids
from tests.training.helpers import Recorder
from tests.training.helpers import config as training_config

POSITIONS = ("rope", "alibi", "relative", "none")


def in_segments(memory: int = 0, segment: int = 4, **values: Any) -> TransformerLM:
    return enlivened(tiny_model(memory_length=memory, segment_length=segment, **values))


@pytest.mark.covers("R156")
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_memory_of_everything_is_full_context(position: str, pre_norm: bool) -> None:
    values = {"position": position, "pre_norm": pre_norm}
    model, whole = in_segments(28, **values), enlivened(tiny_model(**values))
    whole.load_state_dict(model.state_dict())
    ids = token_ids(2, 22)
    assert torch.allclose(model(ids).logits, whole(ids).logits, atol=1e-4)


@pytest.mark.covers("R156")
@pytest.mark.parametrize("options", [{"value_embeddings": True, "bigram_embedding": 97, "residual_shortcuts": True}])
def test_a_memory_of_everything_is_full_context_with_every_part(options: dict) -> None:
    model, whole = in_segments(28, **options), enlivened(tiny_model(**options))
    whole.load_state_dict(model.state_dict())
    ids, documents = token_ids(1, 20), torch.tensor([[1] * 7 + [2] * 13])
    positions = torch.cat([torch.arange(7), torch.arange(13)]).unsqueeze(0)
    expected = whole(ids, document_ids=documents, position_ids=positions).logits
    assert torch.allclose(model(ids, document_ids=documents, position_ids=positions).logits, expected, atol=1e-4)


@pytest.mark.covers("R156")
def test_each_layer_looks_one_memory_further_back() -> None:
    """With 2 layers and a memory of 4, a token sees 4 tokens before its segment, and through them 4 more."""
    model, ids = in_segments(4), token_ids(1, 16)
    before = model(ids).logits
    reached = []
    for place in range(12):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % VOCAB
        reached.append(bool((model(changed).logits[0, 12:] - before[0, 12:]).abs().max() > 1e-6))
    assert reached == [False] * 4 + [True] * 8


@pytest.mark.covers("R133", "R156")
def test_the_future_is_not_seen() -> None:
    model, ids = in_segments(4), token_ids(1, 15)
    before = model(ids).logits
    for place in (3, 4, 9, 14):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % VOCAB
        assert torch.allclose(model(changed).logits[:, :place], before[:, :place], atol=1e-5)
    for length in (1, 4, 6, 13):
        assert torch.allclose(model(ids[:, :length]).logits, before[:, :length], atol=1e-5)


@pytest.mark.covers("R156")
def test_a_text_may_come_in_several_calls_and_be_of_any_length() -> None:
    model, ids = in_segments(4, bigram_embedding=97), token_ids(2, 80)
    assert model.config.max_seq_len == 32
    whole, last = model.read_segments(ids)
    memory: SegmentMemory | None = None
    parts = []
    for piece in ids.split(8, dim=1):
        part, memory = model.read_segments(piece, memory)
        parts.append(part)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)
    assert memory is not None and all(map(torch.allclose, memory.states, last.states))
    assert [tuple(state.shape) for state in memory.states] == [(2, 4, 32)] * 2
    assert not any(state.requires_grad for state in memory.states)
    swapped, _ = model.read_segments(ids[[1, 0], :8], memory.select(torch.tensor([1, 0])))
    assert torch.allclose(swapped, model.read_segments(ids[:, :8], memory)[0][[1, 0]], atol=1e-5)


@pytest.mark.covers("R156")
def test_memory_ends_where_a_document_begins() -> None:
    model, ids = in_segments(8), token_ids(1, 20)
    documents = torch.tensor([[1] * 6 + [2] * 14])
    packed = model(ids, document_ids=documents).logits
    assert torch.allclose(packed[:, :6], model(ids[:, :6]).logits, atol=1e-5)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % VOCAB
    assert torch.allclose(model(changed, document_ids=documents).logits[:, 6:], packed[:, 6:], atol=1e-6)
    padded = model(ids, attention_mask=torch.tensor([[0] * 2 + [1] * 18])).logits
    changed[0, 5], changed[0, 0] = ids[0, 5], (ids[0, 0] + 1) % VOCAB
    mask = torch.tensor([[0] * 2 + [1] * 18])
    assert torch.allclose(model(changed, attention_mask=mask).logits[:, 2:], padded[:, 2:], atol=1e-6)


def test_documents_may_be_named_from_some_call_on() -> None:
    model, ids = in_segments(8), token_ids(1, 12)
    first, second = ids[:, :4], ids[:, 4:8]
    _, memory = model.read_segments(first)
    assert memory.document_ids is None
    same, _ = model.read_segments(second, memory, document_ids=torch.zeros_like(second))
    other, kept = model.read_segments(second, memory, document_ids=torch.ones_like(second))
    assert torch.allclose(same, model.read_segments(ids[:, :8])[0][:, 4:], atol=1e-5)
    assert torch.allclose(other, model.read_segments(second)[0], atol=1e-5)
    assert kept.document_ids is not None and kept.document_ids.tolist() == [[0] * 4 + [1] * 4]


def test_memory_for_training_is_estimated() -> None:
    from llm_trainer.config import TrainingConfig
    from llm_trainer.workflows.footprint import footprint

    settings = TrainingConfig(batch_size=2)
    small, large = (footprint(tiny_config(memory_length=m, segment_length=8), settings, 32, "fp32") for m in (0, 16))
    assert large.activations > small.activations > 0


def test_no_gradient_flows_into_the_memory() -> None:
    model = in_segments(4)
    seen: list[Tensor] = []
    model.embed_tokens.register_forward_hook(lambda module, arguments, result: seen.append(result))
    hidden = model.hidden_states(token_ids(1, 8))
    first, second = seen
    into_memory, into_segment = torch.autograd.grad(hidden[:, 4:].square().sum(), [first, second])
    assert not into_memory.any()
    assert into_segment.any()


@pytest.mark.parametrize("every", [None, 1])
def test_gradients_are_the_same_with_recomputed_activations(every: int | None) -> None:
    from llm_trainer.models.checkpointing import apply_activation_checkpointing

    def gradients(recompute: bool) -> list[Tensor]:
        model, ids = in_segments(4), token_ids(2, 14)
        if recompute:
            apply_activation_checkpointing(model)
        model.train()(ids, labels=ids).loss.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(gradients(False), gradients(every is not None)))


def test_saved_loaded_and_generating(tmp_path) -> None:
    model, whole = in_segments(28), enlivened(tiny_model())
    whole.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    again = TransformerLM.from_pretrained(tmp_path)
    ids = token_ids(1, 9)
    assert torch.equal(again(ids).logits, model(ids).logits)
    options = {"max_new_tokens": 10, "do_sample": False}
    assert again.generate(ids, **options).tolist() == whole.generate(ids, **options).tolist()
    with pytest.raises(UserError, match="keeps nothing in a cache"):
        model(ids, cache=KVCache(model.config, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_length": 8, "position": "learned"}, "need positions that count by distance"),
        ({"memory_length": 20, "segment_length": 16}, r"more than max_seq_len \(32\)"),
        ({"memory_length": 8, "block": "mamba"}, "block mamba has no memory"),
    ],
)
def test_what_cannot_be_is_said(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**values)
    with pytest.raises(UserError, match="reads texts whole"):
        tiny_model().read_segments(token_ids())


# ---------------------------------------------------------------------- of use

SEGMENT = 8
SECRETS = 10
QUESTION = 60


class Riddles:
    """Rows of two segments: a secret among noise in the first, and at the end of the second it is asked for."""

    fingerprint = "riddles"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 20

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, Tensor]]:
        position = start
        while stop is None or position < stop:
            yield riddles(32, seed=self.seed * 1_000_003 + position)
            position += 32


def riddles(rows: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(SECRETS, QUESTION, (rows, 2 * SEGMENT), generator=generator)
    secret = torch.randint(0, SECRETS, (rows,), generator=generator)
    ids[torch.arange(rows), torch.randint(0, SEGMENT, (rows,), generator=generator)] = secret
    ids[:, -2], ids[:, -1] = QUESTION, secret
    labels = torch.full_like(ids, -100)
    labels[:, -1] = secret
    return {"input_ids": ids, "labels": labels}


def solved(memory: int) -> tuple[float, float]:
    """Share of riddles answered, and the loss, after training with a memory of this length."""
    torch.manual_seed(0)
    model = TransformerLM(tiny_config(memory_length=memory, segment_length=SEGMENT, init_std=0.05, n_layers=1))
    settings = training_config(max_steps=100, batch_size=32, learning_rate=1e-2, logging_steps=1000)
    Trainer(model, config=settings, callbacks=[Recorder()]).fit(Riddles(1))
    model.eval()
    test = riddles(400, seed=7)
    with torch.no_grad():
        output = model(test["input_ids"], labels=test["labels"])
    right = output.logits[:, -2].argmax(dim=-1) == test["input_ids"][:, -1]
    return float(right.float().mean()), float(output.loss)


@pytest.mark.covers("R156")
def test_what_lies_in_the_segment_before_is_learnt_with_memory_and_only_with_it() -> None:
    with_memory, loss_with = solved(SEGMENT)
    without, loss_without = solved(0)
    assert with_memory > 0.95
    assert without < 0.25  # one in ten, by chance
    assert loss_with < 0.3 < 2.0 < loss_without
