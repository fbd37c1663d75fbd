"""The Unigram tokenizer of SentencePiece: pieces with probabilities, and the most probable spelling of a text.

With bytes for unknown characters (the default) every text comes back as it went in, with one exception: ``▁`` (U+2581),
by which pieces write a space, comes back as a space.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import unigram_format, unigram_plain
from llm_trainer.tokenizer.chunk_cache import CachedEncoder, compiled_chunk_encoder
from llm_trainer.tokenizer.counting import TextProgress, count_pretokens
from llm_trainer.tokenizer.json_folder import definition
from llm_trainer.tokenizer.piece_tokenizer import PieceTokenizer, too_few_pieces
from llm_trainer.tokenizer.pretokenize import replace_surrogates, split_pattern
from llm_trainer.tokenizer.streaming import ByteStreamDecoder, StreamDecoder
from llm_trainer.tokenizer.unigram_fast import Progress, train_pieces
from llm_trainer.tokenizer.unigram_vocabulary import (
    BYTE_PIECES,
    SPACE,
    UnigramVocabulary,
    characters_to_know,
)
from llm_trainer.tokenizer.vocabulary import check_special_tokens, check_vocab_size

if TYPE_CHECKING:
    from typing_extensions import Self

_WHOLE_TEXT = r"(?s:.+)"
# Sums over spellings take a step for each character of the longest word. One line of base64 of 65,000 characters made
# training take a hundred times as long; a piece has 16 at most.
_LONGEST_WORD = 512


class UnigramTokenizer(PieceTokenizer):
    """Unigram language model over pieces, as in SentencePiece.

    A new one knows the 256 bytes, the space and ``<unk> <s> </s>``.

    Attributes:
        unk_token: the special token for what cannot be spelled.

    Example:
        >>> tokenizer = UnigramTokenizer()
        >>> _ = tokenizer.train_from_iterator(["low lower lowest"] * 9, 300, allow_smaller=True)
        >>> tokenizer.decode(tokenizer.encode("lower 🙂"))
        'lower 🙂'
    """

    vocabulary: UnigramVocabulary
    _format: ClassVar[ModuleType] = unigram_format

    def __init__(self, vocabulary: UnigramVocabulary | None = None) -> None:
        self._set_vocabulary(vocabulary or UnigramVocabulary.build([(SPACE, 0.0)], (), split_pattern("gpt4")))

    def _set_vocabulary(self, vocabulary: UnigramVocabulary) -> None:
        self.vocabulary = vocabulary
        self.bos_token, self.eos_token = vocabulary.bos_token, vocabulary.eos_token
        self.pad_token, self.unk_token = vocabulary.pad_token, vocabulary.unk_token
        self.exact_pieces = vocabulary.byte_fallback and not vocabulary.add_prefix_space
        self._special_ids = frozenset(vocabulary.special_tokens.values())
        self._bytes = _bytes_of_pieces(vocabulary)
        self._forget_encoder()

    # ---- training ----

    def train_from_iterator(  # type: ignore[override]  # the options by name
        self,
        texts: Iterable[str],
        vocab_size: int = 32000,
        *,
        special_tokens: Sequence[str] = (),
        pattern: str = "gpt4",
        byte_fallback: bool = True,
        add_prefix_space: bool = False,
        character_coverage: float = 0.9995,
        seed_size: int = 1_000_000,
        allow_smaller: bool = False,
        workers: int | None = None,
        progress: Progress | None = None,
        text_progress: TextProgress | None = None,
    ) -> Self:
        """Learn a vocabulary from texts. Equal texts give equal tokenizers, in any order and with any ``workers``.

        Args:
            texts: read once, as a stream; memory follows the number of different words, not the amount of text.
            vocab_size: tokens in all: special tokens + 256 bytes + pieces.
            special_tokens: further ones than ``<unk> <s> </s>``.
            pattern: how text is cut before it is spelled, a name in ``pretokenize.SPLIT_PATTERNS``.
            byte_fallback: spell unknown characters in bytes; otherwise they become ``<unk>``.
            add_prefix_space: treat the first word of a text as any other, with a space before it.
            character_coverage: the share of the text whose characters become pieces, the most frequent ones first.
            seed_size: start with no more pieces than this.
            allow_smaller: accept fewer tokens where the text has no more to give; see ``tokenizer.vocab_size`` after.
            workers: processes that count words in large inputs; see :func:`~.counting.count_pretokens`.
            progress: called after each round with (pieces dropped, pieces to drop).
            text_progress: called now and then, before that, with the number of characters read.

        Raises:
            DataError: ``vocab_size`` is too small for the characters or too large for the text, or there is no text.
                The tokenizer is then what it was before.
        """
        check_special_tokens(special_tokens)
        check_vocab_size(vocab_size)
        _check_options(character_coverage, seed_size, special_tokens, byte_fallback)
        expression = split_pattern(pattern)
        counts = count_pretokens(
            _with_prefix(texts) if add_prefix_space else texts, expression, workers=workers, progress=text_progress
        )
        words = _in_parts({word.decode("utf-8").replace(" ", SPACE): count for word, count in counts.items()})
        alphabet = _choose_alphabet(words, character_coverage, characters_to_know(special_tokens, byte_fallback))
        options = {"byte_fallback": byte_fallback, "add_prefix_space": add_prefix_space}
        fixed = len(UnigramVocabulary.build([(SPACE, 0.0)], special_tokens, expression, **options).pieces) - 1
        least = fixed + len(alphabet)
        if vocab_size < least:
            raise DataError(
                f"vocab_size is {vocab_size}; {len(alphabet)} characters, special tokens and bytes need {least}",
                hint=f"pass vocab_size={least} or more, or a character_coverage below {character_coverage}",
            )
        pieces = train_pieces(_spelled_with(words, alphabet), alphabet, vocab_size - fixed, seed_size, progress)
        if len(pieces) < vocab_size - fixed and not allow_smaller:
            raise too_few_pieces(fixed + len(pieces), vocab_size, "no other piece would be used even half a time")
        self._set_vocabulary(UnigramVocabulary.build(pieces, special_tokens, expression, **options))
        return self

    # ---- using ----

    @property
    def vocab_size(self) -> int:
        """Number of ids: special tokens + bytes + pieces."""
        return len(self.vocabulary.pieces)

    def _make_encoder(self) -> CachedEncoder:
        vocabulary = self.vocabulary
        spell = unigram_plain.speller(vocabulary)
        engine = {"model": unigram_format.model(vocabulary)}
        compiled = compiled_chunk_encoder(definition(engine, {}))

        def encode_plainly(chunk: str) -> list[int]:
            return [token_id for token_id, _, _ in unigram_plain.ids_of(spell(chunk), vocabulary)]

        def encode_chunks(chunks: list[str]) -> list[list[int]]:
            written = [chunk.replace(" ", SPACE) for chunk in chunks]
            return [encode_plainly(chunk) for chunk in written] if compiled is None else compiled(written)

        return CachedEncoder(vocabulary.pattern or _WHOLE_TEXT, encode_chunks)

    def _encode_plain(self, text: str) -> list[int]:
        return super()._encode_plain(" " + text if text and self.vocabulary.add_prefix_space else text)

    def _plain_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        spell = unigram_plain.speller(self.vocabulary)
        # As in `tokenizers`, the space that was put before the text belongs to the first character.
        at = -1 if text and self.vocabulary.add_prefix_space else 0
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for chunk in unigram_plain.chunks(text, self.vocabulary):
            for token_id, start, end in unigram_plain.ids_of(spell(chunk), self.vocabulary):
                ids.append(token_id)
                offsets.append((max(0, at + start), max(1, at + end)))
            at += len(chunk)
        return ids, offsets

    def encode_sampled(self, text: str, *, seed: int, alpha: float = 0.1) -> list[int]:
        """The ids of a random spelling, so that a model sees a text in many ways (subword regularization, Kudo 2018).

        Args:
            text: any string; nothing in it is special.
            seed: equal seeds give equal spellings.
            alpha: spellings are drawn with probability proportional to P ** alpha: 0 is uniform over all spellings, 1
                the model's own distribution, and with a growing alpha only :meth:`encode`'s spelling is left.
        """
        self._check_text(text)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise UserError(f"alpha is {alpha}", hint="use a number from 0 to 10; 0.1 varies much, 1 little")
        chooser = random.Random(seed)
        vocabulary = self.vocabulary
        scores = {piece: score for piece, (_, score) in vocabulary.scores.items()}
        ids: list[int] = []
        for chunk in unigram_plain.chunks(replace_surrogates(text), vocabulary):
            spans = unigram_plain.sampled_spelling(
                chunk, scores, vocabulary.longest, vocabulary.unk_score, alpha, chooser
            )
            ids.extend(token_id for token_id, _, _ in unigram_plain.ids_of(spans, vocabulary))
        return ids

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids; bytes that do not form a character become U+FFFD.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        spelled = self._spelled(skip_special_tokens)
        data = b"".join([spelled.get(i) or self._bytes[i] for i in self._wanted(ids, skip_special_tokens)])
        text = data.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.vocabulary.add_prefix_space else text

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Decode while tokens arrive; what it returns, joined, equals :meth:`decode` of all of them."""
        spelled = self._spelled(skip_special_tokens)

        def start() -> Callable[[int], bytes]:
            prefixed = self.vocabulary.add_prefix_space

            def add(token_id: int) -> bytes:
                nonlocal prefixed
                data = spelled.get(token_id) or self.token_bytes(token_id)
                if prefixed and data:
                    prefixed = False
                    return data.removeprefix(b" ")
                return data

            return add

        return ByteStreamDecoder(start)

    def _spelled(self, skip_special_tokens: bool) -> Mapping[int, bytes]:
        return {} if skip_special_tokens else {i: text.encode() for text, i in self.special_tokens.items()}

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; ``b""`` for a special token."""
        self._check_id(token_id)
        return self._bytes[token_id]

    def fingerprint(self) -> str:
        """16 hexadecimal digits over cut, pieces, log-probabilities and special tokens."""
        return self.vocabulary.fingerprint()


def _bytes_of_pieces(vocabulary: UnigramVocabulary) -> list[bytes]:
    """Id -> bytes; ``b""`` for special tokens."""
    single = {piece: bytes([byte]) for byte, piece in enumerate(BYTE_PIECES)} if vocabulary.byte_fallback else {}
    special = dict.fromkeys(vocabulary.special_tokens, b"")
    fixed = single | special
    return [fixed[text] if text in fixed else text.replace(SPACE, " ").encode("utf-8") for text, _ in vocabulary.pieces]


def _check_options(coverage: float, seed_size: int, special_tokens: Sequence[str], byte_fallback: bool) -> None:
    if not 0 < coverage <= 1:
        raise UserError(f"character_coverage is {coverage}", hint="use a share above 0 and up to 1, such as 0.9995")
    if seed_size < 1:
        raise UserError(f"seed_size is {seed_size}", hint="use 1 or more, or leave it out")
    taken = set(special_tokens) & set(BYTE_PIECES) if byte_fallback else set()
    if taken:
        raise DataError(f"the special token {min(taken)!r} is the piece of a byte", hint="choose another spelling")


def _with_prefix(texts: Iterable[str]) -> Iterable[str]:
    return (" " + text if isinstance(text, str) else text for text in texts)


def _in_parts(words: Mapping[str, int]) -> Counter[str]:
    """Words, those of more than :data:`_LONGEST_WORD` characters in parts of that length."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(0, len(word), _LONGEST_WORD):
            parts[word[start : start + _LONGEST_WORD]] += count
    return parts


def _choose_alphabet(words: Mapping[str, int], coverage: float, needed: set[str]) -> list[str]:
    """The most frequent characters that make up a share of the text, and those that are needed anyway; sorted."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            counts[char] += count
    wanted = coverage * counts.total()
    chosen = set(needed)
    covered = 0
    for char in sorted(counts, key=lambda char: (-counts[char], char)):
        if covered >= wanted:
            break
        chosen.add(char)
        covered += counts[char]
    return sorted(chosen | {SPACE})


def _spelled_with(words: Mapping[str, int], alphabet: Sequence[str]) -> dict[str, int]:
    """The parts of words between characters that are not in the alphabet -> how often each occurs."""
    known = set(alphabet)
    strange = set("".join(words)) - known
    if not strange:
        return dict(words)
    cut = re.compile("[" + "".join(map(re.escape, sorted(strange))) + "]+")
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for part in cut.split(word):
            if part:
                parts[part] += count
    return dict(parts)
