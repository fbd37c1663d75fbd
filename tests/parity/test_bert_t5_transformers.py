"""Our encoders and encoder-decoders against BERT and T5 in transformers: logits, loss, gradients, files, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models import preset
from llm_trainer.models.encoder import EncoderLM
from llm_trainer.models.factory import build_model, load_pretrained
from llm_trainer.models.heads import SequenceClassifier, TokenClassifier
from llm_trainer.models.interop import export_hf, export_targets, from_hf
from llm_trainer.models.seq2seq import EncoderDecoderLM

transformers = pytest.importorskip("transformers")

VOCAB = 61
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,  # with the usual 0.02 all logits are nearly 0, and agree whatever is wrong
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BERTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "masked words": ("BertForMaskedLM", EncoderLM, {}),
    "masked words, relu, untied": ("BertForMaskedLM", EncoderLM, {"hidden_act": "relu", "tie_word_embeddings": False}),
    "label of a text": ("BertForSequenceClassification", SequenceClassifier, {"num_labels": 3}),
    "labels of tokens": ("BertForTokenClassification", TokenClassifier, {"num_labels": 4, "layer_norm_eps": 1e-3}),
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 12,  # heads x d_kv is not d_model
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.0,
    "initializer_factor": 0.7,
    "decoder_start_token_id": 0,
}
T5S: dict[str, dict[str, Any]] = {
    "1.0": T5,
    "1.1": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "1.0, silu, equal stacks": {**T5, "num_decoder_layers": 2, "feed_forward_proj": "gated-silu"},
}


def perturbed(model: Any) -> Any:
    """Norms and biases away from 1 and 0, and an output layer of its own away from the embedding."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def bert(case: str) -> tuple[Any, dict[str, Any], Any]:
    name, ours, changes = BERTS[case]
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**BERT, **changes})
    config._attn_implementation = "eager"
    model = perturbed(getattr(transformers, name)(config))
    return model, {**config.to_dict(), "architectures": [name]}, ours


def t5(case: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    config = transformers.T5Config(**T5S[case])
    model = transformers.T5ForConditionalGeneration(config)
    if case == "1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 32) * 0.3)
    return perturbed(model), config.to_dict()


def padded_batch(seed: int = 5) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, VOCAB, (3, 14), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, 5:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def labels_for(case: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if case == "label of a text":
        return torch.tensor([2, 0, 1])
    labels = torch.randint(0, 4 if "tokens" in case else VOCAB, (3, 14), generator=torch.Generator().manual_seed(6))
    labels[:, ::3] = -100
    return labels.masked_fill(batch["attention_mask"] == 0, -100)


@pytest.mark.covers("R136", "R141")
@pytest.mark.parametrize("case", BERTS)
def test_bert_has_the_logits_the_loss_and_the_gradients_of_transformers(case: str) -> None:
    theirs, values, model_class = bert(case)
    ours = from_hf(values, theirs.state_dict(), model_class=model_class).eval()
    batch = padded_batch()
    types = torch.zeros_like(batch["input_ids"])
    types[:, 6:] = 1
    labels = labels_for(case, batch)
    expected = theirs(**batch, token_type_ids=types, labels=labels)
    actual = ours(**batch, token_type_ids=types, labels=labels)
    real = slice(None) if case == "label of a text" else batch["attention_mask"].bool()
    torch.testing.assert_close(actual.logits[real], expected.logits[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(actual.loss, expected.loss, atol=1e-5, rtol=1e-5)
    expected.loss.backward()
    actual.loss.backward()
    q_proj = ours.encoder.stack.blocks[0].attention.q_proj.weight.grad
    torch.testing.assert_close(
        q_proj, theirs.bert.encoder.layer[0].attention.self.query.weight.grad, atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        ours.encoder.embed_tokens.weight.grad, theirs.bert.embeddings.word_embeddings.weight.grad, atol=1e-4, rtol=1e-3
    )


@pytest.mark.covers("R136")
@pytest.mark.parametrize("case", BERTS)
def test_bert_goes_to_transformers_and_back(case: str, tmp_path: Path) -> None:
    theirs, values, model_class = bert(case)
    ours = from_hf(values, theirs.state_dict(), model_class=model_class).eval()
    export_hf(ours, tmp_path / "exported", pad_token_id=0)
    again, report = type(theirs).from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = padded_batch()
    real = slice(None) if case == "label of a text" else batch["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits[real], ours(**batch).logits[real], atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(tmp_path / "theirs")
    assert type(loaded) is model_class
    torch.testing.assert_close(loaded(**batch).logits, ours(**batch).logits)


@pytest.mark.covers("R137", "R139", "R140")
@pytest.mark.parametrize("case", T5S)
def test_t5_has_the_logits_the_loss_and_the_gradients_of_transformers(case: str) -> None:
    theirs, values = t5(case)
    ours = from_hf(values, theirs.state_dict(), model_class=EncoderDecoderLM).eval()
    batch = padded_batch()
    labels = torch.randint(2, VOCAB, (3, 9), generator=torch.Generator().manual_seed(7))
    labels[0, 6:] = -100
    expected, actual = theirs(**batch, labels=labels), ours(**batch, labels=labels)
    counts = labels != -100
    torch.testing.assert_close(actual.logits[counts], expected.logits[counts], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(actual.loss, expected.loss, atol=1e-5, rtol=1e-5)
    expected.loss.backward()
    actual.loss.backward()
    pairs = {
        "encoder.relative.embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "decoder.relative.embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "decoder.blocks.0.cross_attention.k_proj": "decoder.block.0.layer.1.EncDecAttention.k",
        "decoder.blocks.1.feed_forward.down_proj": "decoder.block.1.layer.2.DenseReluDense.wo",
        "embed_tokens": "shared",
    }
    for name, hf_name in pairs.items():
        gradient = ours.get_submodule(name).weight.grad
        torch.testing.assert_close(gradient, theirs.get_submodule(hf_name).weight.grad, atol=2e-4, rtol=1e-3)


@pytest.mark.covers("R137", "R380")
@pytest.mark.parametrize("case", ["1.0", "1.1"])
@pytest.mark.parametrize("how", [{"do_sample": False}, {"num_beams": 3, "do_sample": False}], ids=["greedy", "beams"])
def test_t5_writes_what_transformers_writes_with_and_without_a_cache(case: str, how: dict[str, Any]) -> None:
    theirs, values = t5(case)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("EncDecAttention.o.weight", "DenseReluDense.wo.weight")):
                parameter.mul_(8)  # or the answer would repeat its first token, whatever the source
    ours = from_hf(values, theirs.state_dict(), model_class=EncoderDecoderLM).eval()
    # The penalty keeps a random model from repeating one token for ever.
    options = {"max_new_tokens": 12, "eos_token_id": 1, "pad_token_id": 0, "repetition_penalty": 3.0, **how}
    batch = padded_batch(8)
    # Without their cache: it fails where the decoder is deeper than the encoder (transformers 5.23).
    expected = theirs.generate(**batch, **options, use_cache=False)
    assert len(set(map(tuple, expected.tolist()))) > 1, "all answers are equal: the case proves little"
    assert len(set(expected[0].tolist())) > 6
    for use_cache in (True, False):
        assert torch.equal(ours.generate(**batch, **options, use_cache=use_cache), expected)


@pytest.mark.covers("R137")
@pytest.mark.parametrize("case", T5S)
def test_t5_goes_to_transformers_and_back(case: str, tmp_path: Path) -> None:
    theirs, values = t5(case)
    ours = from_hf(values, theirs.state_dict(), model_class=EncoderDecoderLM).eval()
    export_hf(ours, tmp_path / "exported", pad_token_id=0, eos_token_id=1)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported").eval()
    batch, labels = padded_batch(), torch.randint(2, VOCAB, (3, 6))
    with torch.no_grad():
        expected = theirs(**batch, labels=labels).logits
        torch.testing.assert_close(again(**batch, labels=labels).logits, expected, atol=1e-4, rtol=1e-4)
        theirs.save_pretrained(tmp_path / "theirs")
        loaded = load_pretrained(tmp_path / "theirs")
        assert type(loaded) is EncoderDecoderLM
        torch.testing.assert_close(loaded(**batch, labels=labels).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.covers("R157")
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("bert_base", lambda: transformers.BertForMaskedLM(transformers.BertConfig())),
        ("t5_small", lambda: transformers.T5ForConditionalGeneration(transformers.T5Config())),
    ],
)
def test_presets_have_as_many_parameters_as_in_transformers(name: str, reference: Any) -> None:
    with torch.device("meta"):
        ours, theirs = build_model(preset(name)), reference()
    assert ours.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


def test_what_neither_bert_nor_t5_has_is_named() -> None:
    modern = ModelConfig(family="encoder", position="rope", qk_norm=True)
    (target,) = export_targets(modern)
    assert target.name == "bert"
    assert {problem.partition("=")[0] for problem in target.problems} >= {"position", "norm", "pre_norm", "qk_norm"}
    original = preset("transformer_2017")
    (target,) = export_targets(original)
    assert target.name == "t5" and any(problem.startswith("position='sinusoidal'") for problem in target.problems)
    with pytest.raises(ConfigError, match="problem_type='multi_label_classification' is not supported"):
        from_hf({**BERT, "model_type": "bert", "problem_type": "multi_label_classification"}, {}, model_class=EncoderLM)
    with pytest.raises(ConfigError, match="BertForQuestionAnswering"):
        from_hf(
            {**BERT, "model_type": "bert", "architectures": ["BertForQuestionAnswering"]}, {}, model_class=EncoderLM
        )
