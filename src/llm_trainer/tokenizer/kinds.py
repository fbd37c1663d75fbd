"""The kinds of tokenizer that can be trained here, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.tokenizer.bpe import BPETokenizer
from llm_trainer.tokenizer.progress import TrainingEcho
from llm_trainer.tokenizer.trainable import TrainableTokenizer
from llm_trainer.tokenizer.unigram import UnigramTokenizer
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT
from llm_trainer.tokenizer.wordpiece import WordPieceTokenizer

KINDS: Mapping[str, type[TrainableTokenizer]] = {
    "bpe": BPETokenizer,
    "wordpiece": WordPieceTokenizer,
    "unigram": UnigramTokenizer,
}


def tokenizer_class(kind: str) -> type[TrainableTokenizer]:
    """The class of a kind.

    Raises:
        UserError: there is no kind of that name.
    """
    if kind not in KINDS:
        raise UserError(f"no kind of tokenizer is called {kind!r}", hint=f"choose one of {', '.join(KINDS)}")
    return KINDS[kind]


def training_options(kind: str) -> set[str]:
    """The names of what can be chosen when a kind is trained, beside the texts and the size."""
    parameters = inspect.signature(tokenizer_class(kind).train_from_iterator).parameters
    return {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int = 32000, **options: Any) -> TrainableTokenizer:
    """Train a new tokenizer.

    Args:
        kind: ``"bpe"``, ``"wordpiece"`` or ``"unigram"``.
        texts: read once, as a stream.
        vocab_size: tokens in all.
        options: those of the kind's ``train_from_iterator``.

    Raises:
        UserError: there is no such kind, or it has no such option; and as ``train_from_iterator`` does.
    """
    known = training_options(kind)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise UserError(
            f"a tokenizer of kind {kind} is not trained with {', '.join(unknown)}",
            hint=f"its options: {', '.join(sorted(known))}",
        )
    return tokenizer_class(kind)().train_from_iterator(texts, vocab_size, **options)


def train_configured(
    settings: TokenizerConfig,
    texts: Iterable[str],
    *,
    allow_smaller: bool = False,
    echo: Callable[[str], None] | None = None,
    special_tokens: Sequence[str] = (),
) -> TrainableTokenizer:
    """Train the tokenizer that the ``tokenizer`` section of a run describes.

    Args:
        settings: its ``vocab_size`` must be known by now.
        texts: read once, as a stream.
        allow_smaller: accept fewer tokens where the text has no more to give.
        echo: prints a line now and then, if training takes long.
        special_tokens: further ones than the kind has by itself; those that it has are not added again.

    Raises:
        UserError: there is no size; and as ``train_from_iterator`` does.
    """
    if settings.vocab_size is None:
        raise UserError("the size of the tokenizer is not known", hint="set tokenizer.vocab_size")
    options: dict[str, Any] = {"allow_smaller": allow_smaller}
    for name in ("pattern", "digits", "min_frequency", "lowercase", "byte_fallback"):
        if name in training_options(settings.type):
            options[name] = getattr(settings, name)
    own = tokenizer_class(settings.type)().special_tokens
    further = [token for token in special_tokens if token not in own]
    if further:
        # A byte-level BPE takes all of its special tokens from the list; the first has all roles.
        options["special_tokens"] = [END_OF_TEXT, *further] if settings.type == "bpe" else further
    if echo is not None:
        options |= TrainingEcho(echo).options
    return train_tokenizer(settings.type, texts, settings.vocab_size, **options)
