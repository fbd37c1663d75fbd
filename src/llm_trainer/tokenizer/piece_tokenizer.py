"""What WordPiece and Unigram share: encoding by chunks."""

from __future__ import annotations

import abc
from functools import cached_property
from typing import Any

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer.base import _special_splitter, as_id_list
from llm_trainer.tokenizer.chunk_cache import CachedEncoder, CacheInfo
from llm_trainer.tokenizer.pretokenize import replace_surrogates
from llm_trainer.tokenizer.trainable import SMALLER_HINT, TrainableTokenizer


class PieceTokenizer(TrainableTokenizer):
    """A tokenizer that cuts text into chunks and spells each chunk with pieces of its vocabulary."""

    unk_token: str
    _special_ids: frozenset[int]

    # ---- encoding ----

    @property
    def unk_token_id(self) -> int:
        """Id of what the vocabulary cannot spell."""
        return self.special_tokens[self.unk_token]

    @abc.abstractmethod
    def _make_encoder(self) -> CachedEncoder:
        """The encoder of the present vocabulary."""

    @cached_property
    def _encoder(self) -> CachedEncoder:
        return self._make_encoder()

    def _encode_plain(self, text: str) -> list[int]:
        return self._encoder.encode(replace_surrogates(text))

    @abc.abstractmethod
    def _plain_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of text in which nothing is special and no surrogate is left, and where each comes from."""

    def _encode_with_offsets(self, text: str, allowed: frozenset[str]) -> tuple[list[int], list[tuple[int, int]]]:
        text = replace_surrogates(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for part in _special_splitter(allowed).split(text) if allowed else [text]:
            if part in allowed:
                ids.append(self.special_tokens[part])
                offsets.append((at, at + len(part)))
            else:
                found, places = self._plain_with_offsets(part)
                ids.extend(found)
                offsets.extend((at + start, at + end) for start, end in places)
            at += len(part)
        return ids, offsets

    def cache_info(self) -> CacheInfo:
        """How often a chunk of text was found among those encoded before."""
        return self._encoder.info()

    def _forget_encoder(self) -> None:
        self.__dict__.pop("_encoder", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    # ---- decoding ----

    def _wanted(self, ids: Any, skip_special_tokens: bool) -> list[int]:
        """Checked ids, without the special ones where those are skipped."""
        wanted = as_id_list(ids)
        for token_id in wanted:
            self._check_id(token_id)
        return [i for i in wanted if i not in self._special_ids] if skip_special_tokens else wanted


def too_few_pieces(possible: int, vocab_size: int, why: str) -> DataError:
    """The text has fewer pieces to give than were asked for."""
    return DataError(
        f"the text allows a vocabulary of {possible:,} tokens, not {vocab_size:,}: {why}",
        hint=SMALLER_HINT.format(possible),
    )
