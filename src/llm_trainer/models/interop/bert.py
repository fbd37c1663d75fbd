"""BERT, with its three heads: masked words, a label for the text, a label for each token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.config.model import Activation, Head
from llm_trainer.models.interop.layout import TensorSource, needed_value, refuse, require_shape

HF_ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}
OUR_ACTIVATIONS: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in HF_ACTIVATIONS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "silu",
}
CLASSES: dict[Head, str] = {
    "lm": "BertForMaskedLM",
    "sequence": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
}
HEADS: dict[str, Head] = {
    **{name: head for head, name in CLASSES.items()},
    "BertForPreTraining": "lm",  # the published files: the same, with a second head that guesses the next sentence
}
TOP = {
    "encoder.embed_tokens": "bert.embeddings.word_embeddings",
    "encoder.token_type_embedding": "bert.embeddings.token_type_embeddings",
    "encoder.stack.position_embedding.embedding": "bert.embeddings.position_embeddings",
    "encoder.stack.embedding_norm": "bert.embeddings.LayerNorm",
    "transform.dense": "cls.predictions.transform.dense",
    "transform.norm": "cls.predictions.transform.LayerNorm",
    "lm_head": "cls.predictions.decoder",
    "pooler.dense": "bert.pooler.dense",
    "classifier": "classifier",
}
LAYER = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.up_proj": "intermediate.dense",
    "feed_forward.down_proj": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
BLOCKS = "encoder.stack.blocks."
# What a file may hold besides: the head for the next sentence, the pooler that only a label for the text needs, a
# table of 0, 1, 2..., and second names of shared tensors.
UNUSED = (
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
    "bert.pooler.dense.weight",
    "bert.pooler.dense.bias",
    "bert.embeddings.position_ids",
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)
SPOKEN = (
    *("vocab_size", "d_model", "d_ff", "n_heads", "n_layers", "max_seq_len", "norm_eps", "tie_embeddings"),
    *("token_types", "head_transform", "head", "labels", "n_kv_heads", "d_head", "qkv_bias"),
    # The base of rotary positions, and what concerns relative ones and decoders, is that of none.
    *("rope_theta", "relative_buckets", "relative_max_distance", "decoder_start_token_id"),
)


class BertLayout:
    """``BertForMaskedLM``, ``BertForSequenceClassification`` or ``BertForTokenClassification``."""

    family = "encoder"

    def resembles(self, config: ModelConfig) -> bool:
        """It is the only encoder that is written here."""
        return True

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no BERT."""
        problems = require_shape(
            config,
            "BERT",
            {
                "family": ("encoder",),
                "position": ("learned",),
                "norm": ("layernorm",),
                "pre_norm": (False,),
                "bias": (True,),
                "embedding_norm": (True,),
                "activation": tuple(HF_ACTIVATIONS),
                "attention": ("mha",),
                "feed_forward": ("mlp",),
                "block": ("transformer",),
            },
            SPOKEN,
        )
        if not config.token_types:
            problems.append("token_types=0: BERT has at least 1")
        if config.head == "lm" and not config.head_transform:
            problems.append("head_transform=False: BERT has only True")
        if config.head_dim * config.n_heads != config.d_model:
            problems.append(f"d_head={config.d_head}: BERT has only d_model / n_heads")
        if not config.has_qkv_bias:
            problems.append(f"qkv_bias={config.qkv_bias!r}: BERT has only True")
        if config.kv_heads != config.n_heads:
            problems.append(f"n_kv_heads={config.kv_heads}: BERT has as many as n_heads={config.n_heads}")
        return problems

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        values: dict[str, Any] = {
            "model_type": "bert",
            "architectures": [CLASSES[config.head]],
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "intermediate_size": config.ffn_dim,
            "hidden_act": HF_ACTIVATIONS[config.activation],
            "hidden_dropout_prob": config.residual_dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            # Not an option of BERT; kept for the way back.
            "embd_pdrop": config.embedding_dropout,
            "max_position_embeddings": config.max_seq_len,
            "type_vocab_size": config.token_types,
            "layer_norm_eps": config.norm_eps,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tie_embeddings,
        }
        if config.labels is not None:
            values["id2label"] = {str(index): name for index, name in enumerate(config.labels)}
            values["label2id"] = {name: index for index, name in enumerate(config.labels)}
        return values

    def config_from_hf(self, values: Mapping[str, Any]) -> ModelConfig:
        """Our configuration.

        Raises:
            ConfigError: an option or a head that our models do not have.
        """
        refuse(
            values,
            "BERT",
            {
                "hidden_act": tuple(OUR_ACTIVATIONS),
                "is_decoder": (False,),
                "add_cross_attention": (False,),
                "position_embedding_type": ("absolute", None),
                "problem_type": ("single_label_classification", None),
            },
        )
        head = head_of(values)
        dropout = values.get("hidden_dropout_prob", 0.1)  # transformers' own default, where a file does not say
        return ModelConfig(
            family="encoder",
            vocab_size=needed_value(values, "vocab_size", "BERT"),
            d_model=needed_value(values, "hidden_size", "BERT"),
            n_heads=needed_value(values, "num_attention_heads", "BERT"),
            n_layers=needed_value(values, "num_hidden_layers", "BERT"),
            d_ff=needed_value(values, "intermediate_size", "BERT"),
            max_seq_len=needed_value(values, "max_position_embeddings", "BERT"),
            activation=OUR_ACTIVATIONS[values.get("hidden_act", "gelu")],
            norm="layernorm",
            norm_eps=values.get("layer_norm_eps", 1e-12),
            pre_norm=False,
            position="learned",
            embedding_norm=True,
            token_types=values.get("type_vocab_size", 2),
            head_transform=head == "lm",
            head=head,
            labels=None if head == "lm" else _labels(values),
            resid_dropout=dropout,
            embd_dropout=values.get("embd_pdrop", dropout),
            attn_dropout=values.get("attention_probs_dropout_prob", 0.1),
            bias=True,
            tie_embeddings=values.get("tie_word_embeddings", True),
            init_std=values.get("initializer_range", 0.02),
        )

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed; a tied output layer is left out, and its bias has the name that transformers saves it under."""
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name == "lm_head.bias":
                result["cls.predictions.bias"] = tensor
            if name == "lm_head.bias" or (name == "lm_head.weight" and not config.tie_embeddings):
                result[_hf_name(name)] = tensor.clone()
            elif name != "lm_head.weight":
                result[_hf_name(name)] = tensor
        return result

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed; a tied output layer is not looked for."""
        result: dict[str, Tensor] = {}
        for name in names:
            if name == "lm_head.weight" and config.tie_embeddings:
                result[name] = _take(source, TOP["encoder.embed_tokens"] + ".weight")
            elif name == "lm_head.bias":
                # Two names of one tensor, unless the output layer is not tied: then the first is not used.
                own = not config.tie_embeddings and source.has(_hf_name(name))
                result[name] = _take(source, _hf_name(name) if own else "cls.predictions.bias")
            else:
                result[name] = _take(source, _hf_name(name))
        for name in UNUSED:
            source.skip(name)
        return result


def head_of(values: Mapping[str, Any]) -> Head:
    """What a BERT is for, by the ``architectures`` of its ``config.json``.

    Raises:
        ConfigError: none of the heads that our models have.
    """
    names = values.get("architectures") or [CLASSES["lm"]]
    if names[0] not in HEADS:
        raise ConfigError(
            [f"architectures={names!r} is not supported; known: {', '.join(HEADS)}"],
            source="the configuration of this BERT model",
        )
    return HEADS[names[0]]


def _labels(values: Mapping[str, Any]) -> list[str]:
    """Names in the order of their numbers; transformers' default is two."""
    names = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]


def _hf_name(name: str) -> str:
    """``encoder.stack.blocks.3.attention.q_proj.weight`` -> ``bert.encoder.layer.3.attention.self.query.weight``."""
    module, _, kind = name.rpartition(".")
    if not module.startswith(BLOCKS):
        return f"{TOP[module]}.{kind}"
    index, part = module.removeprefix(BLOCKS).split(".", 1)
    return f"bert.encoder.layer.{index}.{LAYER[part]}.{kind}"


def _take(source: TensorSource, name: str) -> Tensor:
    """Files of TensorFlow's time call the scale and shift of a LayerNorm gamma and beta."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return source.take(old if old != name and not source.has(name) and source.has(old) else name)
