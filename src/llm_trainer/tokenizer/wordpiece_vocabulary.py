"""Everything that determines a WordPiece tokenizer, as one checked value.

Layout of the ids that training makes, as in BERT: the special tokens, the characters, then the joined pieces in the
order learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.tokenizer.bert_text import BertText

PREFIX = "##"
PAD, UNK, CLS, SEP, MASK = BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class WordPieceVocabulary:
    """A WordPiece tokenizer: its rules for text, its pieces and its special tokens.

    Args:
        tokens: id -> text, special tokens included; pieces within a word start with ``##``.
        special_tokens: text of each special token -> its id.
        text: how text becomes words.
        unk_token: the special token for words that cannot be spelled.
        max_word_chars: a longer word is unknown as a whole.
        bos_token, eos_token, pad_token, mask_token: special tokens in their roles.

    Raises:
        DataError: the parts contradict each other; the message says where.
    """

    tokens: Sequence[str]
    special_tokens: dict[str, int]
    text: BertText = field(default_factory=BertText)
    unk_token: str = UNK
    max_word_chars: int = 100
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    mask_token: str | None = None
    ids: dict[str, int] = field(init=False)
    """Text of each token -> its id."""

    def __post_init__(self) -> None:
        ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        object.__setattr__(self, "ids", ids)
        if len(ids) != len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise DataError(f"the token {twice!r} has more than one id")
        if self.unk_token not in self.special_tokens:
            raise DataError(f"the unknown token {self.unk_token!r} is not among the special tokens")
        for name, token_id in self.special_tokens.items():
            if ids.get(name) != token_id:
                raise DataError(f"the special token {name!r} has id {token_id}, which is another token's")
            if "\n" in name or "\r" in name:
                raise DataError(f"the special token {name!r} has a line end, which vocab.txt cannot hold")
            if self.text.words(name) == [name]:
                # The longest match would find it in ordinary text, and anyone could write the end of a document.
                raise DataError(f"the special token {name!r} can be spelled by ordinary text; write it [{name}]")
        for role, token in self.roles.items():
            if token is not None and token not in self.special_tokens:
                raise DataError(f"{role} is {token!r}, which is not among the special tokens")

    @classmethod
    def build(cls, pieces: Sequence[str], special_tokens: Sequence[str], text: BertText) -> WordPieceVocabulary:
        """Number BERT's special tokens, further ones, then the pieces."""
        names = [*BERT_SPECIAL_TOKENS, *(name for name in special_tokens if name not in BERT_SPECIAL_TOKENS)]
        return cls(
            tokens=[*names, *pieces],
            special_tokens={name: index for index, name in enumerate(names)},
            text=text,
            bos_token=CLS,
            eos_token=SEP,
            pad_token=PAD,
            mask_token=MASK,
        )

    @property
    def roles(self) -> dict[str, str | None]:
        """Role -> special token."""
        return {
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "mask_token": self.mask_token,
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits over rules, tokens and special tokens."""
        return fingerprint(
            {
                "kind": "WordPiece",
                "text": [self.text.lowercase, self.text.strip_accents, self.text.split_cjk],
                "tokens": list(self.tokens),
                "special_tokens": self.special_tokens,
                "unk_token": self.unk_token,
                "max_word_chars": self.max_word_chars,
                "roles": self.roles,
            }
        )


def choose_alphabet(word_counts: Mapping[str, int], max_alphabet: int, text: BertText) -> list[str]:
    """The pieces of one character: the most frequent characters, each as the start of a word and, with ``##``, within.

    Both forms, though the text may show one only: a known character is then known wherever it stands. Punctuation and
    Chinese characters, always words of their own, need no second form.

    Args:
        word_counts: words -> how often each occurs.
        max_alphabet: keep no more different characters than this; words with other characters will be unknown.
        text: how text becomes words.
    """
    characters: Counter[str] = Counter()
    for word, count in word_counts.items():
        for char in word:
            characters[char] += count
    kept = sorted(sorted(characters, key=lambda char: (-characters[char], char))[:max_alphabet])
    return [*kept, *(PREFIX + char for char in kept if not text.stands_alone(char))]
