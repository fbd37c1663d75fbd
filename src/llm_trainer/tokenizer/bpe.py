"""The byte-level BPE tokenizer that people use: trained on their text, exact on any text, loadable by transformers.

Because it starts from bytes it has no unknown token: emoji, any script and any white space come back as they went in
(Radford et al. 2019, section 2.2). The algorithm is told in :mod:`llm_trainer.tokenizer.bpe_plain` and computed by
:mod:`llm_trainer.tokenizer.bpe_fast`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer import bpe_format
from llm_trainer.tokenizer.base import as_id_list
from llm_trainer.tokenizer.bpe_fast import FastEncoder, Progress, train_merges
from llm_trainer.tokenizer.counting import TextProgress, count_pretokens
from llm_trainer.tokenizer.pretokenize import Digits, split_pattern
from llm_trainer.tokenizer.trainable import SMALLER_HINT, TrainableTokenizer
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT, BPEVocabulary, check_special_tokens, check_vocab_size

if TYPE_CHECKING:
    from typing_extensions import Self


class BPETokenizer(TrainableTokenizer):
    """Byte-level byte pair encoding.

    A new one knows the 256 bytes and ``<|endoftext|>``; the ``train_from_...`` methods replace what it knows and return
    it.

    Example:
        >>> tokenizer = BPETokenizer()
        >>> _ = tokenizer.train_from_iterator(["low lower lowest"] * 9, vocab_size=260)
        >>> tokenizer.decode(tokenizer.encode("lower 🙂"))
        'lower 🙂'
    """

    exact_pieces = True
    vocabulary: BPEVocabulary
    _format: ClassVar[ModuleType] = bpe_format

    def __init__(self, vocabulary: BPEVocabulary | None = None) -> None:
        self._set_vocabulary(vocabulary or BPEVocabulary.build(split_pattern("gpt4"), [], [END_OF_TEXT]))

    def _set_vocabulary(self, vocabulary: BPEVocabulary) -> None:
        self.vocabulary = vocabulary
        self.bos_token, self.eos_token, self.pad_token = (
            vocabulary.bos_token,
            vocabulary.eos_token,
            vocabulary.pad_token,
        )
        self._special_ids = frozenset(vocabulary.special_tokens.values())
        self.__dict__.pop("_encoder", None)
        self.__dict__.pop("_fingerprint", None)

    # ---- training ----

    def train_from_iterator(  # type: ignore[override]  # the options by name
        self,
        texts: Iterable[str],
        vocab_size: int = 32000,
        *,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        pattern: str = "gpt4",
        digits: Digits | None = None,
        min_frequency: int = 2,
        allow_smaller: bool = False,
        workers: int | None = None,
        progress: Progress | None = None,
        text_progress: TextProgress | None = None,
    ) -> Self:
        """Learn a vocabulary from texts. Equal texts give equal tokenizers, in any order and with any ``workers``.

        Args:
            texts: read once, as a stream; memory follows the number of different words, not the amount of text, and has
                a bound that only enormous vocabularies reach, see :mod:`~llm_trainer.tokenizer.counting`.
            vocab_size: tokens in all: 256 bytes + merges + special tokens.
            special_tokens: the first is start, end and padding token at once.
            pattern: how text is cut before merging, a name in ``pretokenize.SPLIT_PATTERNS``.
            digits: at most 1, 2 or 3 digits in a token, or ``"none"`` for no limit; left out: the rule of the pattern.
            min_frequency: pairs that occur less often are not merged.
            allow_smaller: accept fewer tokens where the text has no more to give; see ``tokenizer.vocab_size`` after.
            workers: processes that count words in inputs above 8 MB; see :func:`~.counting.count_pretokens`.
            progress: called now and then with (merges learned, merges asked for).
            text_progress: called now and then, before that, with the number of characters read.

        Raises:
            DataError: ``vocab_size`` is too small for the bytes or too large for the text, or there is no text.
                The tokenizer is then what it was before.
        """
        expression = split_pattern(pattern, digits)
        check_special_tokens(special_tokens)
        check_vocab_size(vocab_size)
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise DataError(
                f"vocab_size is {vocab_size}; the 256 bytes and {len(special_tokens)} special token(s) need {least}",
                hint=f"pass vocab_size={least} or more",
            )
        merges = train_merges(
            count_pretokens(texts, expression, workers=workers, progress=text_progress),
            vocab_size - least,
            min_frequency,
            progress,
        )
        if len(merges) < vocab_size - least and not allow_smaller:
            possible = least + len(merges)
            raise DataError(
                f"the text allows a vocabulary of {possible:,} tokens ({len(merges):,} merges), not {vocab_size:,}: no "
                f"other pair of tokens occurs {min_frequency} times",
                hint=SMALLER_HINT.format(possible),
            )
        self._set_vocabulary(BPEVocabulary.build(expression, merges, special_tokens))
        return self

    # ---- using ----

    @property
    def vocab_size(self) -> int:
        """Number of ids: 256 bytes + merges + special tokens."""
        return len(self.vocabulary.tokens)

    @cached_property
    def _encoder(self) -> FastEncoder:
        return FastEncoder(self.vocabulary)

    def _encode_plain(self, text: str) -> list[int]:
        return self._encoder.encode(text)

    def encode_arrays(self, texts: Iterable[str]) -> list[npt.NDArray[np.integer[Any]]]:
        """The ids of each text as an array (n,) that owns no copy: a quarter faster than lists."""
        rows = []
        for text in texts:
            self._check_text(text)
            rows.append(self._encoder.encode_array(text))
        return rows

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids; bytes that do not form a character (a sequence cut inside one) become U+FFFD.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        wanted = as_id_list(ids)
        if skip_special_tokens:
            wanted = [token_id for token_id in wanted if token_id not in self._special_ids]
        try:
            return self._encoder.decode_bytes(wanted).decode("utf-8", errors="replace")
        except (KeyError, OverflowError):
            for token_id in wanted:
                self._check_id(token_id)
            raise

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; ``b""`` for a special token."""
        self._check_id(token_id)
        return self.vocabulary.tokens[token_id]

    @cached_property
    def _fingerprint(self) -> str:
        return self.vocabulary.fingerprint()

    def fingerprint(self) -> str:
        """16 hexadecimal digits over cut, merges, ids and special tokens."""
        return self._fingerprint
