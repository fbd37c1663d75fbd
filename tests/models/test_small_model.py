"""The options for small models: each does what its formula says, alone and together, wherever a model can be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.generation.decoder import Decoder
from llm_trainer.models import TransformerLM, register
from llm_trainer.models.activations import relu_squared
from llm_trainer.models.attention import MultiHeadAttention
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from llm_trainer.models.lora import apply_lora, lora_parameters, merge_lora
from llm_trainer.models.tables import NO_TOKEN, hash_bigrams
from tests.models.tiny import POSITIONS, SMALL_MODEL_OPTIONS, VOCAB, enlivened, tiny_config, tiny_model, token_ids

EACH = [*({name: value} for name, value in SMALL_MODEL_OPTIONS.items()), SMALL_MODEL_OPTIONS]


def names(options: dict[str, Any]) -> str:
    return next(iter(options)) if len(options) == 1 else "all"


def small(**values: Any) -> TransformerLM:
    """All options at once, and nothing left at zero."""
    return enlivened(tiny_model(**{**SMALL_MODEL_OPTIONS, **values}))


@pytest.mark.parametrize("options", EACH, ids=names)
def test_each_option_changes_the_logits_and_only_its_own_parameters(options: dict) -> None:
    plain, model = tiny_model(), tiny_model(**options)
    model.load_state_dict(plain.state_dict(), strict=False)  # what both have, they share
    difference = (enlivened(model)(token_ids()).logits - enlivened(plain)(token_ids()).logits).abs()
    assert difference.amax() > 1e-3
    off = {name: ModelConfig.model_fields[name].default for name in options}
    assert tiny_model(**off).state_dict().keys() == plain.state_dict().keys()


def test_parameters_are_a_hand_count() -> None:
    plain = tiny_model(n_kv_heads=2, n_layers=3).num_parameters()
    counts = {
        "embedding_norm": 32,
        "bigram_embedding": 97 * 32,
        # Layers 0 and 2: two heads of 8 for each token, and a gate of each head on 12 channels.
        "value_embeddings": 2 * (VOCAB * 2 * 8 + 12 * 2),
        "residual_shortcuts": 2 * 3,
        "logit_softcap": 0,
    }
    for name, count in counts.items():
        model = tiny_model(n_kv_heads=2, n_layers=3, **{name: SMALL_MODEL_OPTIONS[name]})
        assert model.num_parameters() == plain + count, name
    model = small(n_kv_heads=2, n_layers=3)
    assert model.num_parameters() == plain + sum(counts.values())
    tables = (VOCAB + 97) * 32 + 2 * VOCAB * 2 * 8
    assert model.num_parameters(non_embedding=True) == model.num_parameters() - tables


def test_lookups_cost_no_flops_and_gates_do() -> None:
    plain = tiny_model(n_layers=3).flops_per_token(20)
    assert small(n_layers=3).flops_per_token(20) == plain + 6 * 2 * 12 * 4  # two gates of four heads


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("position", POSITIONS)
def test_every_parameter_receives_a_gradient(position: str, pre_norm: bool) -> None:
    model = small(position=position, pre_norm=pre_norm, tie_embeddings=False, activation="relu2", qk_norm=True)
    ids = token_ids(seq=32)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-8, name


@pytest.mark.parametrize("zero", ["bigram_embedding.table.weight", "blocks.1.attention.value_embedding"])
def test_what_starts_at_zero_starts_to_learn(zero: str) -> None:
    model, ids = tiny_model(**SMALL_MODEL_OPTIONS), token_ids()
    model(ids, labels=ids).loss.backward()
    found = [parameter for name, parameter in model.named_parameters() if name.startswith(zero)]
    assert found
    assert all(parameter.grad.abs().max() > 1e-8 for parameter in found)


@pytest.mark.parametrize("position", POSITIONS)
def test_no_logit_depends_on_a_later_token(position: str) -> None:
    model, ids = small(position=position), token_ids()
    changed = ids.clone()
    changed[:, 7:] = (ids[:, 7:] + 1) % VOCAB
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
def test_a_row_of_a_batch_is_what_it_is_alone(position: str) -> None:
    model, ids = small(position=position), token_ids(batch=3)
    together = model(ids).logits
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], model(ids[row : row + 1]).logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("told", ["both", "documents", "positions"])
def test_a_packed_document_is_what_it_is_alone(told: str) -> None:
    """The pair of a document's first token begins with nothing, not with the end of the document before it."""
    model, ids = small(position="none" if told == "documents" else "rope"), token_ids(batch=1)
    extra = {
        "document_ids": torch.tensor([[1] * 5 + [2] * 5 + [0] * 2]),
        "position_ids": torch.tensor([[*range(5), *range(5), 0, 1]]),
    }
    if told == "documents":
        del extra["position_ids"]
    if told == "positions":  # without documents, attention sees the row whole; the pairs must not
        del extra["document_ids"]
        seen: list[Tensor] = []
        model.bigram_embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
        model(ids, **extra)
        assert (seen[0] == NO_TOKEN).nonzero()[:, 1].tolist() == [0, 5, 10]
        return
    packed = model(ids, **extra).logits
    changed = ids.clone()
    changed[0, :5] = (ids[0, :5] + 3) % VOCAB
    assert torch.equal(model(changed, **extra).logits[:, 5:], packed[:, 5:])
    torch.testing.assert_close(packed[:, 5:10], model(ids[:, 5:10]).logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_real_logits(side: str, given: bool) -> None:
    model, ids = small(), token_ids(batch=1, seq=8)
    padding, ones = torch.full((1, 4), 5), torch.ones_like(ids)
    left = side == "left"
    row, mask = (torch.cat((a, b) if left else (b, a), 1) for a, b in ((padding, ids), (padding * 0, ones)))
    # Rotary attention sees distances alone, so positions that run through the padding are as good.
    positions = {"position_ids": torch.arange(12)[None]} if given else {}
    logits = (
        model(row, attention_mask=mask, **positions).logits[:, 4:] if left else model(row, attention_mask=mask).logits
    )
    torch.testing.assert_close(logits[:, :8], model(ids).logits, atol=5e-6, rtol=1e-5)


def test_generation_with_and_without_a_cache_gives_the_same_tokens() -> None:
    model = small(n_kv_heads=2)
    prompts = token_ids(batch=2, seq=5)
    # Past the context of 32 tokens: the window is cut, and read again from a new beginning.
    first, second = (
        model.generate(prompts, max_new_tokens=40, temperature=0.0, use_cache=use) for use in (True, False)
    )
    assert torch.equal(first, second)
    alone = model.generate(prompts[1:], max_new_tokens=40, temperature=0.0)
    assert torch.equal(first[1:], alone)


def test_generated_tokens_are_those_of_the_forward_pass() -> None:
    """So the softcap is where logits are made for sampling, too: at temperature 1 it changes the probabilities."""
    model, ids = small(logit_softcap=0.5), token_ids(batch=1, seq=6)
    for use_cache in (True, False):
        decoder = Decoder(model, ids.tolist(), 2, use_cache=use_cache)
        torch.testing.assert_close(decoder.next_logits(), model(ids).logits[:, -1], atol=2e-6, rtol=1e-5)
        decoder.append(torch.tensor([3]))
        longer = torch.cat((ids, torch.tensor([[3]])), 1)
        torch.testing.assert_close(decoder.next_logits(), model(longer).logits[:, -1], atol=2e-6, rtol=1e-5)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = small(zero_init_projections=True, tie_embeddings=False, head_init_std=0.01)
    model.save_pretrained(tmp_path)
    loaded = TransformerLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(token_ids()).logits, model(token_ids()).logits)


def test_the_meta_device_and_a_second_start_give_what_a_first_start_gives() -> None:
    options = {**SMALL_MODEL_OPTIONS, "zero_init_projections": True, "tie_embeddings": False, "head_init_std": 0.01}
    with torch.device("meta"):
        model = TransformerLM(tiny_config(**options)).eval()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    fresh = tiny_model(**options)
    for again in (model, copy.deepcopy(fresh)):
        torch.manual_seed(5)
        again.init_weights()
        assert again.state_dict().keys() == fresh.state_dict().keys()
        for name, expected in fresh.state_dict().items():
            # Other numbers are drawn, from the same distributions.
            found = again.state_dict()[name]
            assert found.std().item() == pytest.approx(expected.std().item(), rel=0.2, abs=1e-6), name
            assert found.mean().item() == pytest.approx(expected.mean().item(), abs=0.01), name


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_activations_change_nothing(dropout: float) -> None:
    plain, ids = small(dropout=dropout, activation="relu2").train(), token_ids()
    recomputed = copy.deepcopy(plain)
    apply_activation_checkpointing(recomputed)
    losses = []
    for model in (plain, recomputed):
        torch.manual_seed(3)
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    for (name, ours), theirs in zip(recomputed.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_adapters_train_beside_frozen_tables() -> None:
    model, ids = small(), token_ids()
    before = model(ids).logits
    apply_lora(model, r=2, targets=("q_proj", "v_proj", "value_gate"))
    assert torch.equal(model(ids).logits, before)
    model(ids, labels=ids).loss.backward()
    assert {id(parameter) for parameter in model.parameters() if parameter.grad is not None} == {
        id(parameter) for parameter in lora_parameters(model)
    }
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.add_(0.1)
    changed = model(ids).logits
    assert (changed - before).abs().max() > 1e-3
    merge_lora(model)
    torch.testing.assert_close(model(ids).logits, changed, atol=1e-5, rtol=1e-4)


def test_bfloat16_runs_as_a_dtype_and_under_autocast() -> None:
    model, ids = small(n_kv_heads=2, qk_norm=True, activation="relu2"), token_ids()
    exact = model(ids, labels=ids)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(ids, labels=ids, document_ids=torch.ones_like(ids))
        narrow.loss.backward()
    for output in (narrow, model.to(torch.bfloat16)(ids, labels=ids)):
        assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)


def test_a_block_compiles_as_one_graph_with_its_gradients() -> None:
    model, ids = small(n_layers=1, activation="relu2"), token_ids()
    expected = model(ids, labels=ids)
    expected.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)  # traced both ways, without needing a C++ compiler
    found = model(ids, labels=ids)
    found.loss.backward()
    torch.testing.assert_close(found.logits, expected.logits)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


# The formulas


def test_the_softcap_is_its_formula_and_keeps_the_loss_consistent() -> None:
    model, plain, ids = tiny_model(logit_softcap=0.3), tiny_model(), token_ids()
    expected = 0.3 * torch.tanh(plain(ids).logits / 0.3)
    out = model(ids, labels=ids)
    torch.testing.assert_close(out.logits, expected)
    assert out.logits.abs().max() <= 0.3 < plain(ids).logits.abs().max()
    assert torch.equal(model.logits_from(out.hidden_states), out.logits)
    targets = ids[:, 1:].flatten()
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), targets))
    wide = tiny_model(logit_softcap=1e4)
    torch.testing.assert_close(wide(ids).logits, plain(ids).logits)


def first_block_input(model: TransformerLM, ids: Tensor) -> Tensor:
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(ids)
    return seen[0]


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal"])
def test_the_embedding_norm_normalises_all_that_enters_the_first_block(position: str, norm: str) -> None:
    plain, normed = (tiny_model(position=position, norm=norm, embedding_norm=on) for on in (False, True))
    normed.load_state_dict(plain.state_dict(), strict=False)
    x = first_block_input(plain, token_ids())
    centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(first_block_input(normed, token_ids()), expected)


def test_residual_shortcuts_are_two_factors_a_layer() -> None:
    model, ids = tiny_model(residual_shortcuts=True), token_ids()
    torch.testing.assert_close(model.shortcuts.stream, torch.tensor([1.15, 1.05]))
    torch.testing.assert_close(model.shortcuts.embedding, torch.tensor([0.20, 0.05]))
    with torch.no_grad():
        model.shortcuts.stream.copy_(torch.tensor([0.7, -0.4]))
        model.shortcuts.embedding.copy_(torch.tensor([0.5, 2.0]))
    bare = tiny_model()  # the same weights, without shortcuts
    x0 = bare.embed_tokens(ids)
    contexts: list[Any] = []
    bare.blocks[0].register_forward_pre_hook(lambda module, inputs: contexts.append(inputs[1]))
    bare(ids)
    x1 = bare.blocks[0](0.7 * x0 + 0.5 * x0, contexts[0])
    x2 = bare.blocks[1](-0.4 * x1 + 2.0 * x0, contexts[0])
    torch.testing.assert_close(model.hidden_states(ids), bare.final_norm(x2))
    with torch.no_grad():  # factors of 1 and 0 are no shortcuts at all
        model.shortcuts.stream.fill_(1.0)
        model.shortcuts.embedding.fill_(0.0)
    torch.testing.assert_close(model(ids).logits, bare(ids).logits)


def test_value_embeddings_are_gated_lookups_in_every_second_layer() -> None:
    model = small(n_layers=5, n_kv_heads=2)
    assert [block.attention.value_embedding is not None for block in model.blocks] == [True, False, True, False, True]
    assert ModelConfig(n_layers=4, value_embeddings=True).value_embedding_layers == (1, 3)
    added, x, ids = model.blocks[2].attention.value_embedding, torch.randn(2, 12, 32), token_ids()
    row, t, head = 1, 7, 1
    gate = 3 / (1 + torch.exp(-(added.value_gate.weight[head] @ x[row, t, :12])))
    expected = gate * added.table.weight[ids[row, t], 8:16]
    torch.testing.assert_close(added(x, ids)[row, t, 8:16], expected)
    fresh = tiny_model(value_embeddings=True).blocks[1].attention.value_embedding
    assert fresh.value_gate.weight.abs().max() == 0  # every gate starts at 1.5
    torch.testing.assert_close(fresh(x, ids), 1.5 * fresh.table(ids))


@torch.no_grad()
def test_a_bigram_adds_its_row_to_the_embedding() -> None:
    plain, model, ids = tiny_model(), tiny_model(bigram_embedding=97), token_ids()
    model.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(model(ids).logits, plain(ids).logits)  # the table starts at zero
    model.bigram_embedding.table.weight.normal_()
    x = first_block_input(model, ids) - model.embed_tokens(ids)
    for row, t in ((0, 0), (0, 1), (1, 11)):
        before = torch.tensor(NO_TOKEN) if t == 0 else ids[row, t - 1]
        index = hash_bigrams(before, ids[row, t], 97)
        torch.testing.assert_close(x[row, t], model.bigram_embedding.table.weight[index])


@pytest.mark.parametrize("rows", [32768, 40960, 20011])
def test_the_hash_spreads_pairs_as_chance_would(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Frequent tokens have small ids, as in a trained vocabulary.
    previous, tokens = (8192 * torch.rand(2, 20000, generator=generator) ** 3).long()
    pairs = torch.unique(torch.stack((previous, tokens)), dim=1)
    used = hash_bigrams(pairs[0], pairs[1], rows).unique()
    assert used.min() >= 0
    assert used.max() < rows
    by_chance = rows * (1 - (1 - 1 / rows) ** pairs.shape[1])
    assert len(used) > 0.97 * by_chance


def test_one_token_has_a_row_for_each_successor() -> None:
    tokens = torch.arange(8192)
    for previous in (NO_TOKEN, 0, 17, 8191):
        assert len(hash_bigrams(torch.tensor(previous), tokens, 8192).unique()) == 8192


def test_a_large_vocabulary_does_not_overflow() -> None:
    largest = torch.tensor(2**30)
    row = ((2**30 + 1) * 2654435761 ^ 2**30 * 2246822519) % 40961  # in Python's unbounded integers
    assert hash_bigrams(largest, largest, 40961).item() == row


def test_relu_squared_has_the_gradient_of_its_formula() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    relu_squared(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 0, 1, 6]
    assert torch.autograd.gradcheck(relu_squared, torch.randn(50, dtype=torch.float64, requires_grad=True))
    narrow = torch.randn(8, dtype=torch.bfloat16, requires_grad=True)
    relu_squared(narrow).sum().backward()
    assert narrow.grad.dtype == torch.bfloat16


# How it starts, and what is refused


def test_zero_projections_make_each_block_the_identity_at_first() -> None:
    model, ids = tiny_model(zero_init_projections=True), token_ids()
    torch.testing.assert_close(model.hidden_states(ids), model.final_norm(model.embed_tokens(ids)))
    model(ids, labels=ids).loss.backward()
    for block in model.blocks:
        for layer in (block.attention.o_proj, block.feed_forward.down_proj):
            assert layer.weight.abs().max() == 0
            assert layer.weight.grad.abs().max() > 0


def test_the_head_has_its_own_scale() -> None:
    torch.manual_seed(0)
    config = tiny_config(vocab_size=500, tie_embeddings=False, head_init_std=0.001)
    model = TransformerLM(config)
    assert model.lm_head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.embed_tokens.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert TransformerLM(tiny_config(tie_embeddings=False, head_init_std=0)).lm_head.weight.abs().max() == 0


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"head_init_std": 0.01}, r"head_init_std \(0.01\) is for an output layer of its own"),
        ({"head_init_std": -0.1, "tie_embeddings": False}, "head_init_std: expected greater than or equal to 0"),
        ({"logit_softcap": 0.0}, "logit_softcap: expected greater than 0"),
        ({"bigram_embedding": 0}, "bigram_embedding: expected greater than 0"),
        ({"bigram_embedding": True}, "bigram_embedding: expected a valid integer"),
        ({"value_embeddings": 2}, "value_embeddings: expected a valid boolean"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        tiny_config(**values)
    assert len(caught.value.problems) == 1


def test_attention_without_value_embeddings_is_refused_and_one_made_from_ours_is_not() -> None:
    @register("attention", "test_deaf")
    class Deaf(nn.Module):
        def __init__(self, config: ModelConfig, layer_index: int) -> None:
            super().__init__()
            self.o_proj = nn.Linear(config.d_model, config.d_model)

        def forward(self, x: Tensor, context: Any) -> Tensor:
            return self.o_proj(x)

    @register("attention", "test_heir")
    class Heir(MultiHeadAttention):
        pass

    with pytest.raises(ConfigError, match="value_embeddings: attention 'test_deaf' in block 'transformer' has none"):
        tiny_model(attention="test_deaf", value_embeddings=True)
    ids = token_ids()
    assert torch.equal(
        tiny_model(attention="test_heir", value_embeddings=True)(ids).logits,
        tiny_model(value_embeddings=True)(ids).logits,
    )
