"""What every tokenizer can do, whatever its algorithm.

A tokenizer supplies six things (ids of plain text, text of ids, bytes of a token, the special tokens, saving and
loading). The rest is here, once: tensors, padding, batches, special tokens in text, decoding as a stream.

Text is never trusted: ``<|endoftext|>`` in a document or in a chat message is fifteen or so ordinary characters, unless
the caller says ``allowed_special``. Otherwise any user could end the conversation or speak as the system.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import regex

from llm_trainer.common.errors import UserError
from llm_trainer.tokenizer.batch import BatchEncoding, Padding, TensorKind, as_tensor, pad_rows
from llm_trainer.tokenizer.offsets import byte_offsets
from llm_trainer.tokenizer.pretokenize import replace_surrogates
from llm_trainer.tokenizer.streaming import ByteStreamDecoder, StreamDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

    from llm_trainer.tokenizer.chat import ChatTemplate, Message, RenderedChat

AllowedSpecial = Literal["all"] | Collection[str]
Truncation = bool | Literal["longest_first", "do_not_truncate"]
_T = TypeVar("_T")


class TextTypeError(UserError, TypeError):
    """Something that is not a ``str`` was given as text."""


class Tokenizer(abc.ABC):
    """Text to ids and back.

    Attributes:
        bos_token, eos_token, pad_token: special tokens in their roles, or ``None``.
        padding_side: ``"right"`` (exact with our models) or ``"left"``.
        truncation_side: the side on which a text that is too long loses tokens, ``"right"`` or ``"left"``.
        chat_template: how :meth:`render` writes a conversation, or ``None``.
        exact_pieces: whether texts that are encoded apart decode, joined, to the joined text. True of byte-level
            BPE; not of a tokenizer that treats the beginning of a text differently or changes text.
    """

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    chat_template: ChatTemplate | None = None
    exact_pieces: bool = False

    # ---- what an algorithm supplies ----

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in ``range(vocab_size)``."""

    @property
    @abc.abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """Text of each special token -> its id."""

    @abc.abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""

    @abc.abstractmethod
    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of a list, array or one-dimensional tensor of ids."""

    @abc.abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for; ``b""`` for a special token."""

    @abc.abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer to a folder that ``transformers.AutoTokenizer`` loads."""

    @classmethod
    @abc.abstractmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what :meth:`save_pretrained` wrote."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal if and only if all texts get equal ids."""

    # ---- special tokens ----

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that starts a document."""
        return self._id_of(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a document."""
        return self._id_of(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id that fills rows; often equal to the end token, so padding is told by masks, never by this id."""
        return self._id_of(self.pad_token)

    def _id_of(self, token: str | None) -> int | None:
        if token is None:
            return None
        if token not in self.special_tokens:
            known = ", ".join(self.special_tokens) or "none"
            raise UserError(f"{token!r} is not a special token of this tokenizer", hint=f"its special tokens: {known}")
        return self.special_tokens[token]

    # ---- encoding ----

    @overload
    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = ...,
        allowed_special: AllowedSpecial = ...,
        return_tensors: None = ...,
    ) -> list[int]: ...

    @overload
    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = ...,
        allowed_special: AllowedSpecial = ...,
        return_tensors: TensorKind,
    ) -> Any: ...

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = False,
        allowed_special: AllowedSpecial = frozenset(),
        return_tensors: TensorKind | None = None,
    ) -> list[int] | Any:
        """The ids of a text.

        Args:
            text: any string. Lone surrogates, which no encoding can represent, become U+FFFD.
            add_special_tokens: put the start token first. Never an end token: a prompt that ends has no continuation.
            allowed_special: ``"all"`` or the special tokens that count as such where the text spells them.
            return_tensors: ``"pt"`` or ``"np"`` returns int64 of shape (1, n) instead of a list.

        Raises:
            UserError: ``text`` is not a string (:class:`TextTypeError`), or a name in ``allowed_special`` is unknown.
        """
        self._check_text(text)
        allowed = self._allowed(allowed_special)
        ids = self._encode_allowing(text, allowed) if allowed else self._encode_plain(text)
        if add_special_tokens and self.bos_token_id is not None:
            ids = [self.bos_token_id, *ids]
        return ids if return_tensors is None else as_tensor([ids], return_tensors)

    def encode_batch(self, texts: Iterable[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """The ids of each text, as :meth:`encode` gives them."""
        if isinstance(texts, str):
            raise TextTypeError("encode_batch needs a list of texts, not one text", hint="use encode for one text")
        start = [] if not add_special_tokens or self.bos_token_id is None else [self.bos_token_id]
        rows = map(self._encode_checked, _as_list(texts))
        return [[*start, *ids] for ids in rows] if start else list(rows)

    def encode_arrays(self, texts: Iterable[str]) -> list[npt.NDArray[np.integer[Any]]]:
        """The ids of each text as an array (n,), for those who need no lists; faster where the engine has arrays."""
        return [np.array(ids, dtype=np.int64) for ids in self.encode_batch(texts)]

    def _encode_checked(self, text: str) -> list[int]:
        self._check_text(text)
        return self._encode_plain(text)

    def encode_with_offsets(
        self, text: str, *, add_special_tokens: bool = False, allowed_special: AllowedSpecial = frozenset()
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, as :meth:`encode` gives them, and where in the text each comes from.

        Returns:
            ids, and for each a pair (start, end) of character positions: ``text[start:end]``. A token that holds only
            some bytes of a character has the whole character. The start token that ``add_special_tokens`` puts first
            comes from nowhere: (0, 0), as in transformers.
        """
        self._check_text(text)
        ids, offsets = self._encode_with_offsets(text, self._allowed(allowed_special))
        if add_special_tokens and self.bos_token_id is not None:
            return [self.bos_token_id, *ids], [(0, 0), *offsets]
        return ids, offsets

    def _encode_with_offsets(self, text: str, allowed: frozenset[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """For tokenizers whose tokens, joined, are the bytes of the text; others override it."""
        ids = self._encode_allowing(text, allowed) if allowed else self._encode_plain(text)
        spelled = {token_id: len(token.encode()) for token, token_id in self.special_tokens.items()}
        sizes = [spelled.get(token_id) or len(self.token_bytes(token_id)) for token_id in ids]
        try:
            return ids, byte_offsets(replace_surrogates(text).encode("utf-8"), sizes)
        except ValueError:
            raise UserError(
                f"a {type(self).__name__} changes text, so where its tokens come from is not known",
                hint="use a tokenizer that gives text back unchanged, such as BPETokenizer",
            ) from None

    def __call__(
        self,
        text: str | Iterable[str],
        *,
        truncation: Truncation = False,
        padding: Padding = False,
        max_length: int | None = None,
        return_tensors: TensorKind | None = None,
        add_special_tokens: bool = False,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_offsets_mapping: bool = False,
    ) -> BatchEncoding:
        """Encode one text or several, in the style of Hugging Face tokenizers.

        Args:
            text: one text or a list of them.
            truncation: ``True`` or ``"longest_first"`` cuts each text to ``max_length`` tokens, on ``truncation_side``.
            padding: ``True`` or ``"longest"`` pads to the longest text, ``"max_length"`` to ``max_length``.
            max_length: in tokens, special tokens included.
            return_tensors: ``"pt"`` or ``"np"``; all entries are then int64 of shape (batch, seq).
            add_special_tokens: put the start token first; truncation never drops it.
            padding_side: ``"left"`` or ``"right"`` for this call; left out: ``self.padding_side``.
            pad_to_multiple_of: round the padded length up to a multiple of this.
            return_offsets_mapping: also return ``offset_mapping``, see :meth:`encode_with_offsets`; (batch, seq, 2).

        Returns:
            ``input_ids`` and ``attention_mask`` (1 = token, 0 = padding). Flat lists for one text without tensors.

        Raises:
            UserError: contradictory arguments, or padding is needed and there is no padding token.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else _as_list(text)
        start = [] if not add_special_tokens or self.bos_token_id is None else [self.bos_token_id]
        keep = self._room(truncation, max_length, len(start))
        offsets: list[list[tuple[int, int]]] | None = None
        if return_offsets_mapping:
            pairs = [self.encode_with_offsets(one) for one in texts]
            rows = [ids for ids, _ in pairs]
            offsets = [[(0, 0)] * len(start) + self._cut(places, keep) for _, places in pairs]
        else:
            rows = self.encode_batch(texts)
        rows = [start + self._cut(row, keep) for row in rows]
        side = padding_side or self.padding_side
        ids, mask = pad_rows(
            rows,
            padding=padding,
            max_length=max_length,
            pad_token_id=self.pad_token_id,
            side=side,
            multiple_of=pad_to_multiple_of,
        )
        columns: dict[str, list[Any]] = {"input_ids": ids, "attention_mask": mask}
        if offsets is not None:
            gaps = [[(0, 0)] * (len(row) - len(places)) for row, places in zip(ids, offsets)]
            columns["offset_mapping"] = [
                gap + places if side == "left" else places + gap for gap, places in zip(gaps, offsets)
            ]
        if return_tensors is not None:
            return BatchEncoding({name: as_tensor(rows, return_tensors) for name, rows in columns.items()})
        return BatchEncoding({name: rows[0] if single else rows for name, rows in columns.items()})

    def _room(self, truncation: Truncation, max_length: int | None, taken: int) -> int | None:
        """How many tokens of a text there is room for; ``None``: all of them."""
        if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
            raise UserError(f"max_length is {max_length!r}", hint="use a whole number, 1 or more")
        if truncation not in (True, False, "longest_first", "do_not_truncate"):
            raise UserError(f"truncation is {truncation!r}", hint="use True or False")
        if self.truncation_side not in ("left", "right"):
            raise UserError(f"truncation_side is {self.truncation_side!r}", hint='use "right" or "left"')
        if truncation in (False, "do_not_truncate"):
            return None
        if max_length is None:
            raise UserError("truncation=True needs max_length", hint="pass max_length=...")
        return max(0, max_length - taken)

    def _cut(self, row: list[_T], keep: int | None) -> list[_T]:
        if keep is None or len(row) <= keep:
            return row
        return row[:keep] if self.truncation_side == "right" else row[len(row) - keep :]

    # ---- conversations ----

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> RenderedChat:
        """A conversation as ids and loss mask, by ``self.chat_template``; see :class:`~.chat.ChatTemplate`.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": text}`` in order.
            add_generation_prompt: end with the header of the assistant's next answer.

        Raises:
            UserError: there is no chat template; and as in :meth:`ChatTemplate.render`.
        """
        if self.chat_template is None:
            raise UserError(
                "this tokenizer has no chat template",
                hint='choose one: tokenizer.chat_template = ChatTemplate.load("chatml")',
            )
        return self.chat_template.render(self, messages, add_generation_prompt=add_generation_prompt)

    def _encode_allowing(self, text: str, allowed: frozenset[str]) -> list[int]:
        """Cut the text at the allowed special tokens; what lies between is plain."""
        ids: list[int] = []
        for part in _special_splitter(allowed).split(text):
            if part in allowed:
                ids.append(self.special_tokens[part])
            elif part:
                ids.extend(self._encode_plain(part))
        return ids

    def _allowed(self, allowed_special: AllowedSpecial) -> frozenset[str]:
        if allowed_special == "all":
            return frozenset(self.special_tokens)
        if isinstance(allowed_special, str):
            raise UserError(
                f"allowed_special is the string {allowed_special!r}", hint='use "all" or a set of special tokens'
            )
        allowed = frozenset(allowed_special)
        unknown = sorted(allowed - self.special_tokens.keys())
        if unknown:
            known = ", ".join(self.special_tokens) or "none"
            raise UserError(
                f"not special tokens of this tokenizer: {', '.join(unknown)}", hint=f"its special tokens: {known}"
            )
        return allowed

    @staticmethod
    def _check_text(text: object) -> None:
        if not isinstance(text, str):
            hint = "decode it first: text.decode('utf-8')" if isinstance(text, bytes) else "pass a str"
            raise TextTypeError(f"a text must be a str, not {type(text).__name__}", hint=hint)

    # ---- decoding ----

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """:meth:`decode` for each row of a list of lists, or of an array or tensor (batch, seq)."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in sequences]

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Decode while tokens arrive; what it returns, joined, equals :meth:`decode` of all of them."""
        spelled = {} if skip_special_tokens else {i: text.encode() for text, i in self.special_tokens.items()}
        return ByteStreamDecoder(lambda: lambda token_id: spelled.get(token_id) or self.token_bytes(token_id))

    def token_byte_lengths(self) -> npt.NDArray[np.int64]:
        """How many bytes of text each token stands for, (vocab_size,): turns loss per token into bits per byte."""
        return np.array([len(self.token_bytes(i)) for i in range(self.vocab_size)], dtype=np.int64)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        special = ", ".join(self.special_tokens)
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens=[{special}])"


def as_id_list(ids: Any) -> list[int]:
    """A list, array or one-dimensional tensor of ids, or one id, as a list of Python integers.

    Raises:
        UserError: ``ids`` has more than one dimension or is not made of integers.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, int):
        return [values]
    if not isinstance(values, Iterable):
        raise UserError(f"token ids must be a list of integers, not {type(values).__name__}")
    return list(_integers(values))


def _as_list(texts: Iterable[str]) -> list[str]:
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise TextTypeError(f"texts must be a str or a list of str, not {type(texts).__name__}", hint="pass strings")
    return list(texts)


def _integers(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, list | tuple):
            raise UserError("decode takes one row of ids, not a batch", hint="use batch_decode")
        if hasattr(value, "__index__"):
            yield value.__index__()
        else:
            raise UserError(f"a token id must be an integer, not {value!r}")


@functools.lru_cache(maxsize=64)
def _special_splitter(tokens: frozenset[str]) -> Any:
    """Splits a text at special tokens and keeps them; where one starts another, the longer one wins."""
    ordered: Mapping[str, None] = dict.fromkeys(sorted(tokens, key=lambda token: (-len(token), token)))
    return regex.compile("(" + "|".join(regex.escape(token) for token in ordered) + ")")
