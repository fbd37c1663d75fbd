"""The whole decoder: causality, loss, gradients, padding, counts, and what it says to wrong input."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig
from llm_trainer.models import BaseLanguageModel, TransformerLM
from llm_trainer.models.context import AttentionContext
from tests.models.tiny import POSITIONS, VOCAB, tiny_config, tiny_model, token_ids

NORMS = ("rmsnorm", "layernorm")
SHAPES = list(itertools.product(POSITIONS, NORMS, (True, False), (1, 2, 4)))


@pytest.mark.covers("R128", "R129", "R135")
def test_a_model_from_a_configuration_gives_logits_and_is_a_base_language_model() -> None:
    model = TransformerLM(ModelConfig(vocab_size=50, d_model=32, n_heads=4, n_layers=2, max_seq_len=16))
    assert isinstance(model, BaseLanguageModel)
    out = model(torch.tensor([[1, 2, 3]]))
    assert out.logits.shape == (1, 3, 50)
    assert out["logits"] is out.logits
    assert out.loss is None


@pytest.mark.covers("R133", "R135", "R148", "R149")
@pytest.mark.parametrize(("position", "norm", "pre_norm", "kv_heads"), SHAPES)
def test_no_logit_depends_on_a_later_token(position: str, norm: str, pre_norm: bool, kv_heads: int) -> None:
    model = tiny_model(position=position, norm=norm, pre_norm=pre_norm, n_kv_heads=kv_heads)
    ids = token_ids()
    changed = ids.clone()
    changed[:, 7:] = (ids[:, 7:] + 1) % VOCAB
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 1e-3


def test_the_loss_is_the_cross_entropy_of_the_next_token() -> None:
    model, ids = tiny_model(), token_ids()
    labels = ids.clone()
    labels[0, :4] = -100
    labels[1, 9:] = -100
    out = model(ids, labels=labels)
    log_probabilities = F.log_softmax(out.logits, dim=-1)
    terms = [
        -log_probabilities[row, t, labels[row, t + 1]]
        for row in range(2)
        for t in range(11)
        if labels[row, t + 1] != -100
    ]
    assert out.loss.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-6)
    loss, logits = model(ids, labels=labels, return_dict=False)
    assert torch.equal(loss, out.loss)
    assert torch.equal(logits, out.logits)


def test_nothing_to_predict_gives_zero_and_not_nan() -> None:
    model, ids = tiny_model(), token_ids()
    out = model(ids, labels=torch.full_like(ids, -100))
    assert out.loss.item() == 0
    out.loss.backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in model.parameters())


@pytest.mark.covers("R036")
@pytest.mark.parametrize("pre_norm", [True, False])
def test_training_and_evaluation_agree_without_dropout(pre_norm: bool) -> None:
    model, ids = tiny_model(pre_norm=pre_norm, norm="layernorm", bias=True), token_ids()
    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


@pytest.mark.covers("R036")
def test_post_norm_normalises_the_residual_sum() -> None:
    post, pre = tiny_model(pre_norm=False), tiny_model(pre_norm=True)
    assert post.num_parameters() == pre.num_parameters() - 32  # no final norm: the last block ends with one
    rms = post.hidden_states(token_ids()).square().mean(dim=-1)
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=1e-3, rtol=0)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_is_the_formula_of_its_paper(pre_norm: bool) -> None:
    model = tiny_model(pre_norm=pre_norm, norm="layernorm", position="none")
    block, x = model.blocks[0], torch.randn(2, 7, 32)
    for norm in (block.attention_norm, block.ffn_norm):
        torch.nn.init.normal_(norm.weight)
    if pre_norm:  # Xiong et al. 2020
        middle = x + block.attention(block.attention_norm(x))
        expected = middle + block.feed_forward(block.ffn_norm(middle))
    else:  # Vaswani et al. 2017
        middle = block.attention_norm(x + block.attention(x))
        expected = block.ffn_norm(middle + block.feed_forward(middle))
    torch.testing.assert_close(block(x, AttentionContext()), expected)


@pytest.mark.covers("R035")
def test_sinusoidal_models_scale_their_embeddings_as_the_paper_does() -> None:
    model, ids = tiny_model(position="sinusoidal"), token_ids()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(ids)
    expected = model.embed_tokens(ids) * 32**0.5 + model.position_embedding.table[:12]
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.covers("R159")
@pytest.mark.parametrize("place", ["resid_dropout", "embd_dropout", "attn_dropout"])
def test_each_dropout_acts_alone_and_only_in_training(place: str) -> None:
    model, ids = tiny_model(**{place: 0.3}), token_ids()
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(model(ids).logits, tiny_model()(ids).logits)


@pytest.mark.covers("R034")
@pytest.mark.parametrize("activation", ["gelu", "relu", "relu2", "silu", "swiglu", "geglu", "gelu_tanh"])
@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_every_parameter_receives_a_gradient(activation: str, position: str, pre_norm: bool) -> None:
    model = tiny_model(
        activation=activation,
        position=position,
        pre_norm=pre_norm,
        norm="layernorm",
        bias=True,
        qk_norm=True,
        n_kv_heads=2,
        tie_embeddings=False,
    )
    ids = token_ids(seq=32)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        # A bias of the keys adds the same to every score of a query, and the softmax does not see it.
        if not name.endswith("k_proj.bias") or position == "rope":
            assert parameter.grad.abs().max() > 1e-8, name


@pytest.mark.covers("R142")
def test_gradients_reach_the_first_of_thirty_layers() -> None:
    model = tiny_model(n_layers=30, init_std=0.02)
    ids = token_ids()
    model(ids, labels=ids).loss.backward()
    first, last = (model.blocks[index].feed_forward.down_proj.weight.grad.norm().item() for index in (0, 29))
    assert 0.2 < first / last < 5


@pytest.mark.covers("R160")
def test_tied_embeddings_are_one_matrix() -> None:
    tied, untied = tiny_model(tie_embeddings=True), tiny_model(tie_embeddings=False)
    assert untied.num_parameters() - tied.num_parameters() == VOCAB * 32
    ids = token_ids()
    tied(ids, labels=ids).loss.backward()
    torch.optim.SGD(tied.parameters(), lr=0.1).step()
    assert torch.equal(tied.embed_tokens.weight, tied.lm_head.weight)
    assert not torch.equal(untied.embed_tokens.weight, untied.lm_head.weight)


@pytest.mark.covers("R157")
def test_initial_weights_have_the_scale_of_gpt2() -> None:
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=2000, d_model=128, n_heads=4, n_layers=8, bias=True))
    scale = {name: parameter.std().item() for name, parameter in model.named_parameters()}
    assert scale["embed_tokens.weight"] == pytest.approx(0.02, rel=0.02)
    assert scale["blocks.3.attention.q_proj.weight"] == pytest.approx(0.02, rel=0.05)
    assert scale["blocks.3.attention.o_proj.weight"] == pytest.approx(0.02 / 4, rel=0.05)  # / sqrt(2 * 8)
    assert scale["blocks.3.feed_forward.down_proj.weight"] == pytest.approx(0.02 / 4, rel=0.05)
    assert scale["blocks.3.feed_forward.up_proj.bias"] == 0
    ids = torch.randint(0, 2000, (4, 64))
    assert model(ids, labels=ids).loss.item() == pytest.approx(torch.tensor(2000.0).log().item(), abs=0.1)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_real_logits(position: str, side: str) -> None:
    model, ids = tiny_model(position=position), token_ids(batch=1, seq=8)
    alone = model(ids).logits
    padding, ones = torch.full((1, 4), 5), torch.ones_like(ids)
    if side == "left":
        row, mask, real = torch.cat((padding, ids), 1), torch.cat((padding * 0, ones), 1), slice(4, None)
    else:
        row, mask, real = torch.cat((ids, padding), 1), torch.cat((ones, padding * 0), 1), slice(0, 8)
    logits = model(row, attention_mask=mask).logits
    torch.testing.assert_close(logits[:, real], alone, atol=2e-6, rtol=1e-5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_documents_in_one_row_do_not_see_each_other(position: str, kv_heads: int) -> None:
    model = tiny_model(position=position, n_kv_heads=kv_heads)
    ids = token_ids(batch=1)
    documents = torch.tensor([[1] * 5 + [2] * 5 + [0] * 2])
    positions = torch.tensor([[*range(5), *range(5), 0, 1]])
    packed = model(ids, position_ids=positions, document_ids=documents).logits
    changed = ids.clone()
    changed[0, :5] = (ids[0, :5] + 3) % VOCAB
    after = model(changed, position_ids=positions, document_ids=documents).logits
    assert torch.equal(packed[:, 5:], after[:, 5:])
    assert not torch.equal(packed[:, :5], after[:, :5])
    # and each is what it would be alone
    torch.testing.assert_close(packed[:, 5:10], model(ids[:, 5:10]).logits, atol=2e-6, rtol=1e-5)


def test_a_float_mask_of_padding_and_documents_together() -> None:
    model, ids = tiny_model(), token_ids()
    documents = torch.tensor([[1] * 4 + [2] * 4 + [0] * 4, [1] * 12])
    mask = (documents > 0).long()
    both = model(ids, document_ids=documents, attention_mask=mask).logits
    torch.testing.assert_close(both[0, :8], model(ids, document_ids=documents).logits[0, :8], atol=2e-6, rtol=1e-5)


def test_bfloat16_autocast_runs_with_every_kind_of_mask() -> None:
    model, ids = tiny_model(position="alibi", n_kv_heads=2), token_ids()
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        for extra in ({}, {"document_ids": torch.ones_like(ids)}):
            narrow = model(ids, labels=ids, **extra)
            assert narrow.loss.dtype == torch.float32
            assert (narrow.logits.float() - exact).abs().max() < 0.3
    plain = tiny_model()
    half = tiny_model().to(torch.bfloat16)
    assert (half(ids, document_ids=torch.ones_like(ids)).logits.float() - plain(ids).logits).abs().max() < 0.3


def test_flops_are_a_hand_count() -> None:
    """Per token and layer: q 32x32, k and v 32x16 each, o 32x32, three of 32x96; then the output layer 32x61."""
    model = tiny_model(n_kv_heads=2, d_ff=96)
    matrices = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 96) + 32 * VOCAB
    # Scores: 4 heads x 20 keys x (8 for q.k and 8 for the sum of values), 2 flops each, forward and twice backward.
    scores = 2 * 4 * 20 * (8 + 8) * 2 * 3
    assert model.flops_per_token(20) == 6 * matrices + scores
    assert tiny_model(n_kv_heads=2, d_ff=96, tie_embeddings=False).flops_per_token(20) == model.flops_per_token(20)


def test_counts_can_leave_out_tables_and_frozen_parameters() -> None:
    model = tiny_model(position="learned")
    assert model.num_parameters() - model.num_parameters(non_embedding=True) == (VOCAB + 32) * 32
    model.blocks[0].requires_grad_(False)
    frozen = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    assert model.num_parameters(trainable_only=True) == model.num_parameters() - frozen


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal"])
def test_too_long_a_sequence_is_refused_with_both_numbers(position: str) -> None:
    with pytest.raises(UserError, match="33 tokens are more than the model's max_seq_len of 32"):
        tiny_model(position=position)(token_ids(seq=33))
    with pytest.raises(UserError, match="position 40 is beyond the model's max_seq_len of 32"):
        tiny_model(position=position)(token_ids(seq=2), position_ids=torch.tensor([[39, 40]]))


def test_a_token_beyond_the_vocabulary_is_explained() -> None:
    with pytest.raises(UserError, match=f"from 3 to 70 do not fit a vocabulary of {VOCAB}"):
        tiny_model()(torch.tensor([[3, 70]]))


def test_a_misspelt_argument_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="attention_masks"):
        tiny_model()(token_ids(), attention_masks=torch.ones(2, 12))


def test_an_inconsistent_configuration_does_not_build() -> None:
    config = tiny_config()
    config.n_heads = 5
    with pytest.raises(ConfigError, match="multiple of n_heads"):
        TransformerLM(config)


def test_the_model_keeps_its_own_configuration() -> None:
    config = tiny_config()
    model = TransformerLM(config)
    config.n_layers = 7
    assert model.config.n_layers == 2


@pytest.mark.covers("R033")
def test_the_documented_custom_configuration_trains_a_step() -> None:
    config = ModelConfig(d_model=512, n_heads=8, n_layers=12, activation="swiglu", pre_norm=False)
    config.vocab_size, config.n_layers, config.max_seq_len = 300, 3, 32  # the same shape, sooner done
    model = TransformerLM(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ids = torch.randint(0, 300, (2, 16))
    first = model(ids, labels=ids).loss
    first.backward()
    optimizer.step()
    assert model(ids, labels=ids).loss < first


def test_a_block_compiles_as_one_graph() -> None:
    """Compilation is applied block by block from outside; a graph break in there would cost most of its gain."""
    model, ids = tiny_model(n_kv_heads=2, qk_norm=True), token_ids()
    expected = model(ids).logits
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True)  # "eager": traced, without needing a C++ compiler
    torch.testing.assert_close(model(ids).logits, expected)
    one_document = torch.ones_like(ids)
    torch.testing.assert_close(model(ids, document_ids=one_document).logits, expected, atol=1e-5, rtol=0)
