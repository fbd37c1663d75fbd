"""SentencePiece models (Kudo and Richardson 2018) as tokenizers: Llama 2, Mistral, Gemma, T5 and your own.

Encoding is computed here, from ``tokenizer.model`` alone. Two algorithms exist in such files: BPE, which joins the
neighbours whose joined piece has the best score, and Unigram (Kudo 2018), which finds the pieces whose scores add up
to the most. Both work on text in which every space is written ``▁``. If no piece has a ``▁`` after another character,
text can be cut in front of every group of ``▁`` without changing the result; words are then encoded once each and
remembered.

What SentencePiece itself does, this does, with our rule for special tokens: text that spells ``</s>`` is plain text
(in SentencePiece too: control pieces are never found in text). User-defined symbols always count, in both.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import write_bytes, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.tokenizer.base import Tokenizer, as_id_list
from llm_trainer.tokenizer.chat_format import read_chat_template, write_chat_template
from llm_trainer.tokenizer.json_folder import CONFIG_FILE, TOKENIZER_FILE
from llm_trainer.tokenizer.pretokenize import replace_surrogates
from llm_trainer.tokenizer.sentencepiece_export import obstacle, tokenizer_config, tokenizer_json
from llm_trainer.tokenizer.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_model,
)
from llm_trainer.tokenizer.sentencepiece_normalizer import Normalizer
from llm_trainer.tokenizer.streaming import ByteStreamDecoder, StreamDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

MODEL_FILE = "tokenizer.model"
_REMEMBERED_WORDS, _LONGEST_WORD = 200_000, 64
_UNKNOWN_PENALTY = 10.0  # below the worst score; unigram_model.cc

_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")

Span = tuple[int, int, int]  # id, and start and end in the normalised text


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model.

    Args:
        model: a ``tokenizer.model`` that has been read.

    Example:
        >>> tokenizer = SentencePieceTokenizer.from_file("tokenizer.model")  # doctest: +SKIP
        >>> tokenizer.decode(tokenizer.encode("Hello"))  # doctest: +SKIP
        'Hello'
    """

    def __init__(self, model: SentencePieceModel) -> None:
        self.model = model
        try:
            self._normalizer = Normalizer(model)
        except CorruptionError as error:
            raise CorruptionError(f"not a sound SentencePiece model: {error.message}") from None
        pieces = model.pieces
        self._special = {piece.text: i for i, piece in enumerate(pieces) if piece.kind in (CONTROL, UNKNOWN)}
        self._special_ids = frozenset(self._special.values())
        control = {piece.text for piece in pieces if piece.kind == CONTROL}
        self.bos_token = model.bos_piece if model.bos_piece in control else None
        self.eos_token = model.eos_piece if model.eos_piece in control else None
        self.pad_token = model.pad_piece if model.pad_piece in control else self.eos_token
        self._bytes = {bytes([byte]): model.ids.get(f"<0x{byte:02X}>", model.unk_id) for byte in range(256)}
        findable = (NORMAL, USER_DEFINED, UNUSED)
        self._found = {piece.text: i for i, piece in enumerate(pieces) if piece.kind in findable}
        self._unused = frozenset(i for i, piece in enumerate(pieces) if piece.kind == UNUSED)
        self._longest = max(map(len, self._found), default=1)
        scores = [piece.score for piece in pieces if piece.kind == NORMAL]
        self._best, self._worst = max(scores, default=0.0), min(scores, default=0.0)
        crossing = any(SPACE in text.lstrip(SPACE) for text in self._found)
        self._in_words = not (crossing or model.treat_whitespace_as_suffix or self._normalizer.symbols is not None)
        self._remembered_ids: dict[str, list[int]] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Load a ``tokenizer.model``.

        Raises:
            CorruptionError: it is damaged, or not a SentencePiece model.
            DataError: it cannot be read.
        """
        model = read_model(path)
        try:
            return cls(model)
        except CorruptionError as error:
            raise CorruptionError(f"{path}: {error.message}", hint="copy it again") from None

    # ---- what the base class asks for ----

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self.model.pieces)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Control pieces and the piece for unknown text -> id."""
        return self._special

    def _encode_plain(self, text: str) -> list[int]:
        normal = self._normalizer.text_only(replace_surrogates(text))
        if not self._in_words or not self.model.byte_fallback:
            return [token_id for token_id, _, _ in self._spans(normal)]
        ids: list[int] = []
        remembered = self._remembered_ids
        for word in _WORD.findall(normal):
            known = remembered.get(word)
            if known is None:
                known = [token_id for token_id, _, _ in self._with_bytes(word)]
                if len(word) <= _LONGEST_WORD:
                    if len(remembered) >= _REMEMBERED_WORDS:
                        remembered.clear()
                    remembered[word] = known
            ids += known
        return ids

    def _encode_with_offsets(self, text: str, allowed: frozenset[str]) -> tuple[list[int], list[tuple[int, int]]]:
        if allowed:
            raise DataError("offsets are not available together with allowed_special for SentencePiece models")
        normal, places = self._normalizer.normalize(replace_surrogates(text))
        ids, offsets = [], []
        for token_id, start, end in self._spans(normal):
            ids.append(token_id)
            offsets.append((places[start][0], places[end - 1][1]))
        return ids, offsets

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a piece in running text, a leading space included; ``b""`` for a special one."""
        if not 0 <= token_id < self.vocab_size:
            raise DataError(
                f"{token_id} is not a token id: this tokenizer has ids 0 to {self.vocab_size - 1}",
                hint="is this the tokenizer that the model was trained with?",
            )
        piece = self.model.pieces[token_id]
        if piece.kind in (CONTROL, UNKNOWN):
            return b""
        if piece.kind == BYTE:
            return bytes([int(piece.text[3:5], 16)])
        return piece.text.replace(SPACE, " ").encode("utf-8")

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids, without the space that encoding puts in front.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        running = self._running_text(skip_special_tokens)
        return b"".join(map(running, as_id_list(ids))).decode("utf-8", errors="replace")

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Decode while tokens arrive; what it returns, joined, equals :meth:`decode` of all of them."""
        return ByteStreamDecoder(lambda: self._running_text(skip_special_tokens))

    def _running_text(self, skip_special_tokens: bool) -> Callable[[int], bytes]:
        """The bytes that each next token adds to one text: at its start there is no space."""
        at_start = self.model.add_dummy_prefix and not self.model.treat_whitespace_as_suffix

        def add(token_id: int) -> bytes:
            nonlocal at_start
            piece = self.token_bytes(token_id)
            if token_id in self._special_ids:
                return b"" if skip_special_tokens else self.model.pieces[token_id].text.encode("utf-8")
            if at_start:
                piece = piece.removeprefix(b" ")
                at_start = self.model.remove_extra_whitespaces and not piece
            return piece

        return add

    def fingerprint(self) -> str:
        """16 hexadecimal digits over the model file."""
        return fingerprint({"kind": "SentencePiece", "model": self.model.data.hex()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``tokenizer.model`` as it was, and beside it the layout that ``transformers.AutoTokenizer`` loads.

        ``tokenizer.json`` is left out where it could not give the same ids; see
        :func:`~.sentencepiece_export.obstacle`.
        """
        folder = Path(folder)
        write_bytes(folder / MODEL_FILE, self.model.data)
        write_json(folder / CONFIG_FILE, tokenizer_config(self))
        if obstacle(self.model) is None:
            write_json(folder / TOKENIZER_FILE, tokenizer_json(self.model))
        else:
            (folder / TOKENIZER_FILE).unlink(missing_ok=True)  # of an earlier tokenizer
        write_chat_template(folder, self.chat_template)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder with a ``tokenizer.model``."""
        folder = Path(folder)
        tokenizer = cls.from_file(folder / MODEL_FILE)
        tokenizer.chat_template = read_chat_template(folder)
        return tokenizer

    # ---- encoding ----

    def _spans(self, normal: str) -> list[Span]:
        """Ids of a normalised text with the characters that each covers; neighbouring unknown ones become one."""
        spans: list[Span] = []
        words = _WORD.finditer(normal) if self._in_words else re.finditer(".+", normal, re.DOTALL)
        for word in words:
            for token_id, low, high in self._with_bytes(word.group()):
                low, high = word.start() + low, word.start() + high
                if token_id == self.model.unk_id and spans and spans[-1][0] == token_id:
                    spans[-1] = (token_id, spans[-1][1], high)
                else:
                    spans.append((token_id, low, high))
        return spans

    def _with_bytes(self, word: str) -> Iterator[Span]:
        """Where the model has bytes, an unknown piece becomes the bytes of its text."""
        for token_id, start, end in self._bpe(word) if self.model.model_type == BPE else self._unigram(word):
            if token_id == self.model.unk_id and self.model.byte_fallback:
                for position in range(start, end):
                    for byte in word[position].encode("utf-8"):
                        yield self._bytes[bytes([byte])], position, position + 1
            else:
                yield token_id, start, end

    def _symbols(self, word: str) -> tuple[list[int], set[int]]:
        """Where the first symbols (characters, or whole user-defined symbols) end, by start; and which are whole."""
        ends = list(range(1, len(word) + 1))
        whole: set[int] = set()
        if self._normalizer.symbols is not None:
            for match in self._normalizer.symbols.finditer(word):
                ends[match.start()] = match.end()
                whole.add(match.start())
        return ends, whole

    def _bpe(self, word: str) -> list[Span]:
        """Join the neighbours whose joined piece has the highest score, the leftmost first, until none is left."""
        ends, whole = self._symbols(word)
        pieces = self.model.pieces
        starts = []
        position = 0
        while position < len(word):
            starts.append(position)
            position = ends[position]
        following = dict(zip(starts, [*starts[1:], len(word)]))
        before = dict(zip(starts[1:], starts))
        parts: dict[str, tuple[str, str]] = {}  # how a piece that is not to be used was joined
        heap: list[tuple[float, int, int]] = []  # (-score, start, end)

        def offer(left: int) -> None:
            right = following[left]
            if right == len(word) or left in whole or right in whole:
                return
            joined = word[left : following[right]]
            token_id = self._found.get(joined)
            if token_id is not None:
                heapq.heappush(heap, (-pieces[token_id].score, left, following[right]))
                if token_id in self._unused:
                    parts[joined] = (word[left:right], word[right : following[right]])

        for start in starts[:-1]:
            offer(start)
        while heap:
            _, left, end = heapq.heappop(heap)
            right = following.get(left)
            if right is None or right == len(word) or following[right] != end:
                continue  # one of the two has been joined with something else
            following[left] = end
            del following[right]
            if end < len(word):
                before[end] = left
                offer(left)
            if left in before:
                offer(before[left])
        spans: list[Span] = []
        for left, end in sorted(following.items()):
            spans += self._usable(word[left:end], left, parts)
        return spans

    def _usable(self, text: str, start: int, parts: dict[str, tuple[str, str]]) -> list[Span]:
        token_id = self._found.get(text, self.model.unk_id)
        if token_id in self._unused and text in parts:
            left, right = parts[text]
            return self._usable(left, start, parts) + self._usable(right, start + len(left), parts)
        return [(token_id, start, start + len(text))]

    def _unigram(self, word: str) -> list[Span]:
        """The pieces whose scores add up to the most (Viterbi), the earliest found where sums are equal.

        SentencePiece adds in 32 bits over the whole text, so where two ways have the same sum, rounding decides there.
        """
        pieces, unk = self.model.pieces, self.model.unk_id
        unknown_score = self._worst - _UNKNOWN_PENALTY
        best = [float("-inf")] * (len(word) + 1)
        best[0] = 0.0
        back: list[tuple[int, int]] = [(0, 0)] * (len(word) + 1)  # end -> (start, id)
        for start in range(len(word)):
            so_far = best[start]
            single = False
            for end in range(start + 1, min(len(word), start + self._longest) + 1):
                token_id = self._found.get(word[start:end])
                if token_id is None or token_id in self._unused:
                    continue
                piece = pieces[token_id]
                score = piece.score
                if piece.kind == USER_DEFINED:
                    score = len(piece.text.encode("utf-8")) * self._best - 0.1
                single = single or end == start + 1
                total = so_far + score
                if total > best[end]:
                    best[end], back[end] = total, (start, token_id)
            total = so_far + unknown_score
            if not single and total > best[start + 1]:
                best[start + 1], back[start + 1] = total, (start, unk)
        spans: list[Span] = []
        end = len(word)
        while end:
            start, token_id = back[end]
            spans.append((token_id, start, end))
            end = start
        return spans[::-1]
