"""Encoders and encoder-decoders: who sees whom, gradients, positions, saving, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.common.errors import CheckpointError, ConfigError, UserError
from llm_trainer.config import ModelConfig
from llm_trainer.models import (
    BaseLanguageModel,
    EncoderDecoderLM,
    EncoderLM,
    SequenceClassifier,
    TokenClassifier,
    TransformerLM,
    build_model,
    load_pretrained,
)
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from llm_trainer.models.seq2seq import shifted_right
from tests.models.tiny import POSITIONS, VOCAB, enlivened, tiny_config, token_ids

BERT: dict[str, Any] = {
    "family": "encoder",
    "position": "learned",
    "norm": "layernorm",
    "pre_norm": False,
    "embedding_norm": True,
    "bias": True,
    "activation": "gelu",
    "token_types": 2,
    "head_transform": True,
}
T5: dict[str, Any] = {
    "family": "encoder_decoder",
    "position": "relative",
    "attention_scale": 1.0,
    "scale_logits": True,
    "n_encoder_layers": 3,
}
ORIGINAL: dict[str, Any] = {
    "family": "encoder_decoder",
    "position": "sinusoidal",
    "norm": "layernorm",
    "pre_norm": False,
    "bias": True,
    "activation": "relu",
}
LABELS = ["bad", "good", "neither"]
MODELS: dict[str, dict[str, Any]] = {
    "encoder": {"family": "encoder"},
    "BERT": BERT,
    "encoder with experts": {"family": "encoder", "n_experts": 4},
    "encoder with a window": {"family": "encoder", "sliding_window": 4},
    "classifier": {**BERT, "head_transform": False, "head": "sequence", "labels": LABELS},
    "tagger": {"family": "encoder", "head": "tokens", "labels": LABELS, "n_kv_heads": 2},
    "T5": T5,
    "2017": ORIGINAL,
    "encoder-decoder, grouped, rotary": {"family": "encoder_decoder", "n_kv_heads": 2, "position": "rope"},
    "encoder-decoder with experts": {"family": "encoder_decoder", "n_experts": 4},
    "decoder": {},
}


def make(name: str, **changes: Any) -> BaseLanguageModel:
    torch.manual_seed(0)
    return enlivened(build_model(tiny_config(**{**MODELS[name], **changes})).eval())  # type: ignore[arg-type,return-value]


def batch_for(model: BaseLanguageModel) -> dict[str, torch.Tensor]:
    ids = token_ids()
    if isinstance(model, SequenceClassifier):
        return {"input_ids": ids, "labels": torch.tensor([2, 0])}
    if isinstance(model, TokenClassifier):
        return {"input_ids": ids, "labels": ids % 3}
    labels = token_ids(seq=7, seed=4) if isinstance(model, EncoderDecoderLM) else token_ids(seed=4)
    return {"input_ids": ids, "labels": labels}


def logits(model: BaseLanguageModel, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **inputs).logits


# ---------------------------------------------------------------- every family


@pytest.mark.covers("R136", "R137", "R168")
@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    model = make(name).train()
    # Two batches: a top-2 router may leave an expert of one small batch alone.
    for seed in (1, 2, 3):
        batch = batch_for(model)
        batch["input_ids"] = token_ids(seed=seed)
        types = {"token_type_ids": batch["input_ids"] % 2} if model.config.token_types else {}
        model(**batch, **types).loss.backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    unseen = [key for key in silent if "router.bias" not in key]
    assert not unseen


@pytest.mark.parametrize("name", MODELS)
def test_training_mode_changes_nothing_without_dropout(name: str) -> None:
    model = make(name)
    batch = batch_for(model)
    expected = model(**batch).logits
    torch.testing.assert_close(model.train()(**batch).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["BERT", "T5", "2017"])
def test_dropout_drops_while_training_only(name: str) -> None:
    model = make(name, dropout=0.5)
    batch = batch_for(model)
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    assert not torch.equal(model.train()(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back_as_the_class_and_the_numbers_that_it_was(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(**batch_for(model)).logits, model(**batch_for(model)).logits)


@pytest.mark.parametrize("name", ["BERT", "T5", "2017"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    model, again = make(name).train(), make(name).train()
    apply_activation_checkpointing(again)
    for each in (model, again):
        each(**batch_for(each)).loss.backward()
    for (key, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=key)


@pytest.mark.parametrize("name", ["BERT", "T5", "2017", "classifier"])
def test_a_model_from_the_meta_device_gets_its_memory_and_stays_tied(name: str) -> None:
    with torch.device("meta"):
        model = build_model(tiny_config(**MODELS[name]))
    model.to_empty(device="cpu")
    model.load_state_dict(make(name).state_dict())
    assert model.num_parameters() == make(name).num_parameters()
    torch.testing.assert_close(model.eval()(**batch_for(model)).logits, make(name)(**batch_for(model)).logits)


@pytest.mark.covers("R142")
@pytest.mark.parametrize(("name", "blocks"), [("encoder", "encoder.stack.blocks"), ("T5", "encoder.blocks")])
def test_gradients_flow_through_thirty_layers(name: str, blocks: str) -> None:
    layers = {"n_layers": 30} | ({"n_encoder_layers": 30} if name == "T5" else {})
    model = build_model(tiny_config(**{**MODELS[name], **layers, "init_std": 0.02})).train()
    model(**batch_for(model)).loss.backward()
    first, last = (
        torch.stack([value.grad.norm() for value in model.get_submodule(f"{blocks}.{index}").parameters()]).norm()
        for index in (0, 29)
    )
    assert first > 0.1 * last > 0


# ---------------------------------------------------------------- encoders


@pytest.mark.covers("R136", "R141")
@pytest.mark.parametrize("position", [*POSITIONS, "relative"])
def test_an_encoder_sees_both_ways(position: str) -> None:
    model = make("encoder", position=position)
    ids = token_ids()
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % VOCAB
    difference = (logits(model, ids) - logits(model, changed)).abs().amax(dim=(0, 2))
    assert (difference > 1e-5).all()


@pytest.mark.parametrize("position", [*POSITIONS, "relative"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_hidden_state_of_an_encoder(position: str, side: str) -> None:
    model = make("encoder", position=position)
    short, long = token_ids(batch=1, seq=5), token_ids(batch=1, seq=9, seed=3)
    filler = torch.zeros(1, 4, dtype=torch.int64)
    parts = [filler, short] if side == "left" else [short, filler]
    batch, mask = torch.cat([torch.cat(parts, dim=1), long]), torch.ones(2, 9, dtype=torch.int64)
    where = slice(4, 9) if side == "left" else slice(0, 5)
    mask[0] = 0
    mask[0, where] = 1
    together = logits(model, batch, attention_mask=mask)
    torch.testing.assert_close(together[0, where], logits(model, short)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1], logits(model, long)[0], atol=1e-5, rtol=1e-5)


def test_documents_packed_in_a_row_do_not_see_each_other() -> None:
    model = make("BERT")
    one, two = token_ids(batch=1, seq=5), token_ids(batch=1, seq=7, seed=3)
    packed = logits(
        model,
        torch.cat([one, two], dim=1),
        position_ids=torch.cat([torch.arange(5), torch.arange(7)])[None],
        document_ids=torch.tensor([[1] * 5 + [2] * 7]),
    )
    torch.testing.assert_close(packed[:, :5], logits(model, one), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 5:], logits(model, two), atol=1e-5, rtol=1e-5)


def test_a_row_of_nothing_but_padding_is_no_nan() -> None:
    for name in ("encoder", "T5"):
        model = make(name)
        batch = batch_for(model) | {"attention_mask": torch.zeros(2, 12, dtype=torch.int64)}
        assert torch.isfinite(model(**batch).logits).all()


def test_a_window_bounds_what_an_encoder_sees_in_both_directions() -> None:
    model = make("encoder with a window", n_layers=1)
    ids = token_ids(batch=1, seq=20)
    changed = ids.clone()
    changed[0, 10] = (changed[0, 10] + 1) % VOCAB
    difference = (logits(model, ids) - logits(model, changed)).abs().amax(dim=(0, 2))
    assert (difference[7:14] > 1e-6).all()
    assert (difference[:7] < 1e-6).all() and (difference[14:] < 1e-6).all()


def test_the_pooler_reads_the_first_real_token() -> None:
    model = make("classifier")
    short = token_ids(batch=1, seq=5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), short], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 5])
    expected = logits(model, short)
    torch.testing.assert_close(logits(model, padded, attention_mask=mask), expected, atol=1e-5, rtol=1e-5)


def test_token_types_are_added_and_refused_where_there_are_none() -> None:
    model, ids = make("BERT"), token_ids()
    assert torch.equal(logits(model, ids), logits(model, ids, token_type_ids=torch.zeros_like(ids)))
    assert not torch.equal(logits(model, ids), logits(model, ids, token_type_ids=torch.ones_like(ids)))
    with pytest.raises(UserError, match="no token types"):
        logits(make("encoder"), ids, token_type_ids=torch.zeros_like(ids))


# ---------------------------------------------------------------- encoder-decoders


@pytest.mark.covers("R139")
def test_the_original_transformer_has_equal_stacks_unless_told_otherwise() -> None:
    model = build_model(tiny_config(**ORIGINAL))
    assert isinstance(model, EncoderDecoderLM)
    assert len(model.encoder.blocks) == len(model.decoder.blocks) == 2
    assert len(build_model(tiny_config(**{**ORIGINAL, "n_encoder_layers": 4})).encoder.blocks) == 4


@pytest.mark.covers("R140", "R141")
def test_a_decoder_block_is_self_attention_cross_attention_and_a_network_with_norms_after_each() -> None:
    model = make("2017")
    assert isinstance(model, EncoderDecoderLM)
    assert {name for name, _ in model.decoder.blocks[0].named_children()} == {
        *("attention", "attention_norm", "cross_attention", "cross_attention_norm", "feed_forward", "ffn_norm"),
    }
    assert {name for name, _ in model.encoder.blocks[0].named_children()} == {
        *("attention", "attention_norm", "feed_forward", "ffn_norm"),
    }
    # Norm after the residual sum: what leaves a block is normalised.
    hidden = model.hidden_states(token_ids(), memory=model.encode(token_ids()))
    weight, bias = model.decoder.blocks[-1].ffn_norm.weight, model.decoder.blocks[-1].ffn_norm.bias
    plain = (hidden - bias) / weight
    torch.testing.assert_close(plain.mean(dim=-1), torch.zeros(2, 12), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.var(dim=-1, unbiased=False), torch.ones(2, 12), atol=1e-3, rtol=0)


@pytest.mark.covers("R133", "R140")
@pytest.mark.parametrize("name", ["T5", "2017", "encoder-decoder, grouped, rotary"])
def test_the_decoder_sees_its_past_and_all_of_the_source(name: str) -> None:
    model, source, target = make(name), token_ids(), token_ids(seq=9, seed=4)
    expected = logits(model, source, decoder_input_ids=target)
    later = target.clone()
    later[:, 5] = (later[:, 5] + 1) % VOCAB
    difference = (logits(model, source, decoder_input_ids=later) - expected).abs().amax(dim=(0, 2))
    assert (difference[:5] < 1e-6).all() and (difference[5:] > 1e-6).all()
    # No causality between the two: even the last source token reaches the first position of the answer.
    other = source.clone()
    other[:, -1] = (other[:, -1] + 1) % VOCAB
    difference = (logits(model, other, decoder_input_ids=target) - expected).abs().amax(dim=(0, 2))
    assert (difference > 1e-6).all()


@pytest.mark.parametrize("name", ["T5", "2017", "encoder-decoder, grouped, rotary"])
def test_a_padded_source_gives_the_same_answer(name: str) -> None:
    model, target = make(name), token_ids(seq=9, seed=4)
    source = token_ids(seq=6)
    padded = torch.cat([source, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 5] * 2)
    expected = logits(model, source, decoder_input_ids=target)
    actual = logits(model, padded, decoder_input_ids=target, attention_mask=mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["T5", "2017", "encoder-decoder, grouped, rotary"])
def test_explicit_attention_gives_the_same(name: str) -> None:
    plain, explicit = make(name), make(name, attention_backend="explicit")
    explicit.load_state_dict(plain.state_dict())
    batch = batch_for(plain)
    torch.testing.assert_close(explicit(**batch).logits, plain(**batch).logits, atol=1e-5, rtol=1e-5)


def test_what_the_decoder_reads_is_the_answer_moved_to_the_right() -> None:
    labels = torch.tensor([[7, 8, 9], [5, 6, -100]])
    assert shifted_right(labels, 3).tolist() == [[3, 7, 8], [3, 5, 6]]
    assert shifted_right(torch.tensor([[5, -100, -100]]), 3).tolist() == [[3, 5, 3]]
    model = make("T5", decoder_start_token_id=4)
    source = token_ids()
    expected = logits(model, source, decoder_input_ids=shifted_right(token_ids(seq=7, seed=4), 4))
    torch.testing.assert_close(logits(model, source, labels=token_ids(seq=7, seed=4)), expected)


def test_relative_positions_read_further_than_they_learnt_and_tables_say_where_they_end() -> None:
    long = token_ids(batch=1, seq=40)
    assert torch.isfinite(logits(make("T5"), long, decoder_input_ids=long)).all()
    with pytest.raises(UserError, match="40 tokens are more than the model's max_seq_len of 32"):
        logits(make("BERT"), long)
    with pytest.raises(UserError, match="40 tokens are more"):
        logits(make("2017"), token_ids(), decoder_input_ids=long)


def test_bad_input_to_an_encoder_decoder_is_one_sentence() -> None:
    model = make("T5")
    with pytest.raises(UserError, match="give labels or decoder_input_ids"):
        model(token_ids())
    with pytest.raises(UserError, match=f"do not fit a vocabulary of {VOCAB}"):
        model(token_ids() + VOCAB, labels=token_ids())
    with pytest.raises(UserError, match="needs a source to look at"):
        model.hidden_states(token_ids())


# ---------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_encoder_layers": 3}, "n_encoder_layers is for family encoder_decoder"),
        ({"token_types": 2}, "token_types is for family encoder, not decoder"),
        ({"family": "encoder_decoder", "head_transform": True}, "head_transform is for family encoder"),
        ({"family": "encoder", "labels": ["a", "b"]}, "go together"),
        ({"family": "encoder", "head": "tokens"}, "go together"),
        ({"family": "encoder", "head": "tokens", "labels": ["a", "a"]}, "two different names"),
        ({"family": "encoder", "bigram_embedding": 10}, "bigram_embedding is for family decoder"),
        ({"family": "encoder_decoder", "vocab_size": 10, "decoder_start_token_id": 10}, "outside the vocabulary"),
    ],
)
def test_settings_of_another_family_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**values)


def test_a_class_refuses_the_configuration_of_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TransformerLM is a decoder"):
        TransformerLM(tiny_config(family="encoder"))
    with pytest.raises(ConfigError, match="is an encoder, not a decoder"):
        EncoderLM(tiny_config())
    with pytest.raises(ConfigError, match="EncoderLM predicts tokens"):
        EncoderLM(tiny_config(**MODELS["classifier"]))
    with pytest.raises(ConfigError, match="has no cross-attention"):
        EncoderDecoderLM(tiny_config(family="encoder_decoder", block="mine"))
    make("encoder").save_pretrained(tmp_path)
    values = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(values.replace('"n_layers": 2', '"n_layers": 3'))
    with pytest.raises(CheckpointError, match=r"lacks encoder\.stack\.blocks\.2"):
        load_pretrained(tmp_path)


# ---------------------------------------------------------------- nothing to read

EMPTY_TOO: dict[str, dict[str, Any]] = {
    **MODELS,
    "decoder with a window": {"sliding_window": 3},
    "decoder with blocks": {"sparse_block": 2, "sparse_stride": 2},
    "decoder with biases": {"position": "alibi", "sliding_window": 3, "global_tokens": 1},
    "decoder in segments": {"memory_length": 4, "segment_length": 4},
    "decoder, written out": {"attention_backend": "explicit", "bigram_embedding": 97, "value_embeddings": True},
}


@pytest.mark.parametrize("name", EMPTY_TOO)
@pytest.mark.parametrize("documents", [False, True])
def test_no_rows_give_no_rows_a_loss_of_zero_and_gradients_of_zero(name: str, documents: bool) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(**EMPTY_TOO[name])).train()
    batch = {key: value[:0] for key, value in batch_for(model).items()}
    if documents and isinstance(model, EncoderDecoderLM):
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    elif documents:
        batch["document_ids"] = torch.ones_like(batch["input_ids"])
    output = model(**batch)
    full = model(**batch_for(model))
    assert output.logits.shape == (0, *full.logits.shape[1:])
    assert output.loss == 0
    output.loss.backward()
    assert all(value.grad is None or not value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("name", EMPTY_TOO)
def test_texts_without_tokens_have_no_logits(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(**EMPTY_TOO[name])).eval()
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    if isinstance(model, SequenceClassifier):
        with pytest.raises(UserError, match="text without tokens"):
            model(nothing)
        return
    if isinstance(model, EncoderDecoderLM):  # a source or an answer may be empty
        assert model(nothing, labels=token_ids(seq=3)).logits.shape == (2, 3, VOCAB)
        assert model(token_ids(), labels=nothing).logits.shape == (2, 0, VOCAB)
        return
    output = model(nothing, labels=nothing)
    assert output.logits.shape[:2] == (2, 0) and output.loss == 0
