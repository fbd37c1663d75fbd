"""A tokenizer inside a GGUF file, as llama.cpp reads it.

llama.cpp knows cuts (the regular expression before the merges of a byte-level BPE) only by name, each compiled into
the program (``llama-vocab.cpp``, https://github.com/ggml-org/llama.cpp). A tokenizer whose cut it lacks gets other
tokens there than in training, so that is said, with the texts for which it happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_trainer.common.errors import UserError
from llm_trainer.tokenizer import BPETokenizer, SentencePieceTokenizer, Tokenizer
from llm_trainer.tokenizer.pretokenize import split_pattern
from llm_trainer.tokenizer.sentencepiece_model import BPE, USER_DEFINED
from llm_trainer.tokenizer.vocabulary import printable

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""Kinds of token in GGUF; those of a SentencePiece model have the same numbers."""
# Our cut -> the name of the same cut in llama.cpp.
CUTS = {
    split_pattern("gpt2"): "gpt-2",
    split_pattern("gpt4", 3): "llama-bpe",
    split_pattern("gpt4", 1): "qwen2",
}
# Cuts that llama.cpp lacks -> the nearest that it has, and where the two differ.
NEAREST_CUTS = {
    split_pattern("gpt4", 2): (
        "llama-bpe",
        "numbers of three digits or more are cut into threes by llama.cpp and into twos by this tokenizer, so they get "
        "other tokens than in training; texts without such numbers get the same (to avoid it, train the tokenizer with "
        "tokenizer.digits: 3)",
    ),
    split_pattern("gpt4", "none"): (
        "llama-bpe",
        "numbers of four digits or more are cut into threes by llama.cpp and not at all by this tokenizer, so they get "
        "other tokens than in training; texts without such numbers get the same",
    ),
}


@dataclass(frozen=True)
class GGUFVocabulary:
    """What the keys ``tokenizer.ggml.*`` hold."""

    model: str
    """``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece BPE)."""
    tokens: list[str]
    kinds: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    cut: str | None = None
    """``tokenizer.ggml.pre``."""
    add_space_prefix: bool | None = None
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unknown: int | None = None
    notes: tuple[str, ...] = ()
    """In what the tokenizer differs there, one sentence each."""


def gguf_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> GGUFVocabulary:
    """The tokenizer as llama.cpp will hold it.

    Args:
        tokenizer: a byte-level BPE or a SentencePiece BPE tokenizer.
        vocab_size: rows of the model's embedding; ids beyond the tokenizer's are filled with unused tokens.

    Raises:
        UserError: llama.cpp cannot encode with this kind of tokenizer, or it has more tokens than the model.
    """
    missing = vocab_size - tokenizer.vocab_size
    if missing < 0:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model only {vocab_size:,}",
            hint="the two do not belong together; use the tokenizer that the model was trained with",
        )
    padding = [f"[PAD{number}]" for number in range(tokenizer.vocab_size, vocab_size)]
    if isinstance(tokenizer, BPETokenizer):
        return _byte_level(tokenizer, padding)
    if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.model.model_type == BPE:
        return _sentencepiece(tokenizer, padding)
    raise UserError(
        f"a {type(tokenizer).__name__} of this kind cannot be written into a GGUF file",
        hint="byte-level BPE and SentencePiece BPE can; for any other, export with --to hf, which keeps the tokenizer",
    )


def _byte_level(tokenizer: BPETokenizer, padding: list[str]) -> GGUFVocabulary:
    vocabulary = tokenizer.vocabulary
    notes: tuple[str, ...] = ()
    cut = CUTS.get(vocabulary.pattern)
    if cut is None:
        if vocabulary.pattern not in NEAREST_CUTS:
            raise UserError(
                f"llama.cpp has no cut like this tokenizer's ({vocabulary.pattern!r}), so it would get other tokens",
                hint="export with --to hf, which keeps the tokenizer as it is",
            )
        cut, note = NEAREST_CUTS[vocabulary.pattern]
        notes = (note,)
    tokens = [printable(token) for token in vocabulary.tokens]
    kinds = [NORMAL] * len(tokens)
    for text, token_id in vocabulary.special_tokens.items():
        tokens[token_id], kinds[token_id] = text, CONTROL
    return GGUFVocabulary(
        model="gpt2",
        tokens=tokens + padding,
        kinds=kinds + [UNUSED] * len(padding),
        merges=[f"{printable(left)} {printable(right)}" for left, right in vocabulary.merges],
        cut=cut,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        notes=notes,
    )


def _sentencepiece(tokenizer: SentencePieceTokenizer, padding: list[str]) -> GGUFVocabulary:
    model, notes = tokenizer.model, []
    problem = None
    if not model.byte_fallback:
        problem = (
            "has no tokens for single bytes, and llama.cpp breaks off at the first character that it does not know"
        )
    elif model.treat_whitespace_as_suffix:
        problem = "puts its space behind words, and llama.cpp before them"
    elif model.add_dummy_prefix and any(piece.kind == USER_DEFINED for piece in model.pieces):
        problem = "has user-defined symbols, and llama.cpp would put a space behind each"
    if problem is not None:
        raise UserError(f"this SentencePiece model {problem}", hint="export with --to hf, which keeps the tokenizer")
    if model.remove_extra_whitespaces:
        notes.append("llama.cpp keeps several spaces in a row, which this tokenizer makes one of")
    if model.charsmap:
        notes.append("llama.cpp does not normalise text for this kind of tokenizer, as this one does (NFKC, say)")
    return GGUFVocabulary(
        model="llama",
        tokens=[piece.text for piece in model.pieces] + padding,
        kinds=[piece.kind for piece in model.pieces] + [UNUSED] * len(padding),
        scores=[piece.score for piece in model.pieces] + [0.0] * len(padding),
        cut="default",
        add_space_prefix=model.add_dummy_prefix,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        unknown=model.unk_id,
        notes=tuple(notes),
    )
