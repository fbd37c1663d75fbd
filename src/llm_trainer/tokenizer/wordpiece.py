"""The WordPiece tokenizer of BERT: whole words where it can, pieces with ``##`` where it must.

What it loses, by design: the kind and amount of white space, control characters and, unless told otherwise, capitals
and accents; a word with a character that it does not know becomes ``[UNK]`` as a whole. It suits encoders that read.
A model that writes wants byte-level BPE, or Unigram with bytes, which give back what went in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import wordpiece_format, wordpiece_plain
from llm_trainer.tokenizer.bert_text import CHUNKS, BertText
from llm_trainer.tokenizer.chunk_cache import CachedEncoder, compiled_chunk_encoder
from llm_trainer.tokenizer.counting import TextProgress, count_pretokens
from llm_trainer.tokenizer.json_folder import definition
from llm_trainer.tokenizer.piece_tokenizer import PieceTokenizer, too_few_pieces
from llm_trainer.tokenizer.pretokenize import compile_pattern
from llm_trainer.tokenizer.streaming import StreamDecoder
from llm_trainer.tokenizer.vocabulary import check_special_tokens, check_vocab_size
from llm_trainer.tokenizer.wordpiece_fast import Progress, train_pieces
from llm_trainer.tokenizer.wordpiece_plain import MergeScore
from llm_trainer.tokenizer.wordpiece_vocabulary import (
    BERT_SPECIAL_TOKENS,
    PREFIX,
    WordPieceVocabulary,
    choose_alphabet,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_SCORES = ("likelihood", "frequency")
# The likelihood alone would spend a vocabulary on pairs of rare characters that happen to meet: 8,192 tokens trained on
# 10 MB of Python sources write 1.80 characters a token. So pairs rarer than one in 1,000 wait until no other is left,
# and then the floor falls to half: 4.12 characters a token (by plain frequency: 4.13). Texts of a few hundred words
# have no such floor and get the bare definition.
_RARE_IN = 1_000
# Spaces that `tokenizers` takes away when it decodes with "cleanup".
_NO_SPACE_BEFORE = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")


class WordPieceTokenizer(PieceTokenizer):
    """WordPiece as in BERT.

    A new one knows the five special tokens of BERT and nothing else: every word is ``[UNK]`` until it is trained.

    Attributes:
        unk_token, mask_token: special tokens in further roles; ``[CLS]`` is ``bos_token``, ``[SEP]`` is ``eos_token``.

    Example:
        >>> tokenizer = WordPieceTokenizer()
        >>> _ = tokenizer.train_from_iterator(["Low, lower, lowest!"] * 9, vocab_size=25)
        >>> tokenizer.decode(tokenizer.encode("LOWEST   low!"))
        'lowest low!'
    """

    vocabulary: WordPieceVocabulary
    _format: ClassVar[ModuleType] = wordpiece_format

    def __init__(self, vocabulary: WordPieceVocabulary | None = None) -> None:
        self._set_vocabulary(vocabulary or WordPieceVocabulary.build([], BERT_SPECIAL_TOKENS, BertText()))

    def _set_vocabulary(self, vocabulary: WordPieceVocabulary) -> None:
        self.vocabulary = vocabulary
        self.bos_token, self.eos_token = vocabulary.bos_token, vocabulary.eos_token
        self.pad_token, self.mask_token = vocabulary.pad_token, vocabulary.mask_token
        self.unk_token = vocabulary.unk_token
        self._special_ids = frozenset(vocabulary.special_tokens.values())
        self._forget_encoder()

    # ---- training ----

    def train_from_iterator(  # type: ignore[override]  # the options by name
        self,
        texts: Iterable[str],
        vocab_size: int = 32000,
        *,
        special_tokens: Sequence[str] = (),
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_cjk: bool = True,
        score: MergeScore = "likelihood",
        min_frequency: int = 2,
        max_alphabet: int = 1000,
        allow_smaller: bool = False,
        workers: int | None = None,
        progress: Progress | None = None,
        text_progress: TextProgress | None = None,
    ) -> Self:
        """Learn a vocabulary from texts. Equal texts give equal tokenizers, in any order and with any ``workers``.

        Args:
            texts: read once, as a stream; memory follows the number of different words, not the amount of text.
            vocab_size: tokens in all: special tokens + characters + joined pieces.
            special_tokens: further ones than the five of BERT.
            lowercase: make letters small.
            strip_accents: take accents off. Unset: as ``lowercase``.
            split_cjk: each Chinese character is a word.
            score: how the next pair is chosen, ``"likelihood"`` or ``"frequency"``; see :mod:`.wordpiece_plain`.
            min_frequency: pairs that occur less often are not joined.
            max_alphabet: keep this many different characters, the most frequent ones.
            allow_smaller: accept fewer tokens where the text has no more to give; see ``tokenizer.vocab_size`` after.
            workers: processes that count words in large inputs; see :func:`~.counting.count_pretokens`.
            progress: called now and then with (merges learned, merges asked for).
            text_progress: called now and then, before that, with the number of characters read.

        Raises:
            DataError: ``vocab_size`` is too small for the characters or too large for the text, or there is no text.
                The tokenizer is then what it was before.
        """
        check_special_tokens(special_tokens)
        check_vocab_size(vocab_size)
        _check_options(score, max_alphabet)
        text = BertText(lowercase, lowercase if strip_accents is None else strip_accents, split_cjk)
        words = _count_words(texts, text, workers, text_progress)
        alphabet = choose_alphabet(words, max_alphabet, text)
        without_merges = WordPieceVocabulary.build(alphabet, special_tokens, text)
        least = len(without_merges.tokens)
        if vocab_size < least:
            raise DataError(
                f"vocab_size is {vocab_size}; the characters of the text and the special tokens need {least}",
                hint=f"pass vocab_size={least} or more, or a max_alphabet below {max_alphabet}",
            )
        known = set(alphabet)
        spelled = {word: count for word, count in words.items() if known.issuperset(word)}
        first_floor = sum(count * (len(word) - 1) for word, count in spelled.items()) // _RARE_IN
        pieces = train_pieces(spelled, alphabet, vocab_size - least, min_frequency, score, first_floor, progress)
        if len(pieces) < vocab_size - least and not allow_smaller:
            reason = f"no other pair of pieces occurs {min_frequency} times"
            raise too_few_pieces(least + len(pieces), vocab_size, reason)
        self._set_vocabulary(WordPieceVocabulary.build([*alphabet, *pieces], special_tokens, text))
        return self

    # ---- using ----

    @property
    def vocab_size(self) -> int:
        """Number of ids: special tokens + characters + joined pieces."""
        return len(self.vocabulary.tokens)

    @property
    def mask_token_id(self) -> int | None:
        """Id of the token that hides a word from a masked language model."""
        return self._id_of(self.mask_token)

    def _make_encoder(self) -> CachedEncoder:
        vocabulary = self.vocabulary
        compiled = compiled_chunk_encoder(definition(wordpiece_format.parts(vocabulary), {}))

        def encode_chunks(chunks: list[str]) -> list[list[int]]:
            return [wordpiece_plain.encode(chunk, vocabulary) for chunk in chunks]

        return CachedEncoder(CHUNKS, compiled or encode_chunks)

    def _plain_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for match in compile_pattern(CHUNKS).finditer(text):
            chunk = self._encoder.encode(match.group())
            spans = list(self._spans(match.group()))
            # Where Python and `tokenizers` disagree on a character, all that is certain is the chunk.
            if [token_id for token_id, _, _ in spans] != chunk:
                spans = [(token_id, 0, match.end() - match.start()) for token_id in chunk]
            ids.extend(chunk)
            offsets.extend((match.start() + start, match.start() + end) for _, start, end in spans)
        return ids, offsets

    def _spans(self, chunk: str) -> Iterator[tuple[int, int, int]]:
        """(id, start, end) of each token of a chunk."""
        for word, places in self.vocabulary.text.words_with_places(chunk):
            ids = wordpiece_plain.encode_word(word, self.vocabulary)
            if ids == [self.unk_token_id]:
                yield ids[0], places[0], places[-1] + 1
                continue
            at = 0
            for token_id in ids:
                size = len(self.vocabulary.tokens[token_id].removeprefix(PREFIX if at else ""))
                yield token_id, places[at], places[at + size - 1] + 1
                at += size

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Words with a space between them, none before ``. , ! ?``: close to the text, not the text.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        stream = self.stream_decoder()
        return "".join(map(stream.push, self._wanted(ids, skip_special_tokens)))

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Decode while tokens arrive; what it returns, joined, equals :meth:`decode` of all of them."""
        return _WordStream(self, self._special_ids if skip_special_tokens else frozenset())

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token in running text, with the space before a word; ``b""`` for a special token."""
        self._check_id(token_id)
        return b"" if token_id in self._special_ids else self.piece_text(token_id).encode("utf-8")

    def piece_text(self, token_id: int) -> str:
        """What a token adds to text that has already begun."""
        token = self.vocabulary.tokens[token_id]
        text = token.removeprefix(PREFIX) if token.startswith(PREFIX) else " " + token
        for mark in _NO_SPACE_BEFORE:
            text = text.replace(" " + mark, mark)
        return text

    def fingerprint(self) -> str:
        """16 hexadecimal digits over rules, tokens and special tokens."""
        return self.vocabulary.fingerprint()


class _WordStream:
    """A token's text depends on one thing only: whether it is the first."""

    def __init__(self, tokenizer: WordPieceTokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._begun = False

    def push(self, token_id: int) -> str:
        self._tokenizer._check_id(token_id)
        if token_id in self._skipped:
            return ""
        if self._begun:
            return self._tokenizer.piece_text(token_id)
        self._begun = True
        return self._tokenizer.vocabulary.tokens[token_id]  # a piece at the very start keeps its ##

    def flush(self) -> str:
        self._begun = False
        return ""


def _check_options(score: str, max_alphabet: int) -> None:
    if score not in _SCORES:
        raise UserError(f"no merge score is called {score!r}", hint=f"choose one of {', '.join(_SCORES)}")
    if max_alphabet < 1:
        raise UserError(f"max_alphabet is {max_alphabet}", hint="use 1 or more, or leave it out")


def _count_words(
    texts: Iterable[str], text: BertText, workers: int | None, progress: TextProgress | None
) -> Counter[str]:
    """Count words: each different chunk between white space is cut once. Words too long to be encoded are left out."""
    words: Counter[str] = Counter()
    for chunk, count in count_pretokens(texts, CHUNKS, workers=workers, progress=progress).items():
        for word in text.words(chunk.decode("utf-8")):
            words[word] += count
    limit = WordPieceVocabulary.max_word_chars
    words = Counter({word: count for word, count in words.items() if len(word) <= limit})
    if not words:
        raise DataError("there is no word in the text to train a tokenizer on", hint="check the paths and the filters")
    return words
