"""A SentencePiece model in the layout of transformers (``tokenizer.json``), for programs that read nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from llm_trainer.tokenizer.sentencepiece_model import (
    BPE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
)

if TYPE_CHECKING:
    from llm_trainer.tokenizer.base import Tokenizer

KIND_KEY, KIND = "llm_trainer_kind", "sentencepiece"


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """``tokenizer_config.json``. The kind says that ``tokenizer.model`` beside it is the original."""
    roles = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        KIND_KEY: KIND,
        **{role: token for role, token in roles.items() if token is not None},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def obstacle(model: SentencePieceModel) -> str | None:
    """Why ``tokenizer.json`` could not give the same ids, or ``None``: it can."""
    if model.treat_whitespace_as_suffix:
        return "it puts its space behind words"
    if model.add_dummy_prefix and any(piece.kind == USER_DEFINED for piece in model.pieces):
        return "it has user-defined symbols, and `tokenizers` would put a space behind each"
    return None


def tokenizer_json(model: SentencePieceModel) -> dict[str, Any]:
    """``tokenizer.json`` in the format of the ``tokenizers`` library, for a model without an :func:`obstacle`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": _bpe(model) if model.model_type == BPE else _unigram(model),
    }


def _added_tokens(model: SentencePieceModel) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.kind != USER_DEFINED,
        }
        for index, piece in enumerate(model.pieces)
        if piece.kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def _normalizers(model: SentencePieceModel) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.remove_extra_whitespaces:
        # Not "Strip", which takes line ends and tabs away too.
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return steps


def _decoders(model: SentencePieceModel) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _bpe(model: SentencePieceModel) -> dict[str, Any]:
    """Scores become an order of merges: for each piece, best score first, every way to join it from two pieces."""
    normal = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    by_score = sorted(
        (piece for piece in model.pieces if piece.kind in (NORMAL, UNUSED)), key=lambda piece: -piece.score
    )
    merges = [
        [piece.text[:cut], piece.text[cut:]]
        for piece in by_score
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in normal and piece.text[cut:] in normal
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.unk_id].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: index for index, piece in enumerate(model.pieces)},
        "merges": merges,
    }


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    """Pieces that text must never match (control, bytes, unused) get a score below that of any other known spelling.

    `tokenizers` puts its score for unknown characters below even that. So there, and only there, text that spells a
    control piece in characters that the model does not know (``<`` in T5) becomes that piece.
    """
    worst = min((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)
    hidden = (worst - 10.0) * (1 + max(len(piece.text) for piece in model.pieces))
    return {
        "type": "Unigram",
        "unk_id": model.unk_id,
        "vocab": [
            [piece.text, piece.score if piece.kind in (NORMAL, USER_DEFINED) else hidden] for piece in model.pieces
        ],
        "byte_fallback": model.byte_fallback,
    }
