"""Everything that determines a Unigram tokenizer, as one checked value.

A piece is written as SentencePiece writes it, with ``▁`` (U+2581) for a space. Layout of the ids that training makes,
as in Llama: ``<unk> <s> </s>``, further special tokens, the 256 bytes ``<0x00>`` to ``<0xFF>`` if unknown characters
are to be spelled in bytes, then the pieces, the most probable first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint

SPACE = "▁"
UNK, BOS, EOS = UNIGRAM_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# What an unknown character costs more than the least probable piece; the figure of SentencePiece.
_UNKNOWN_PENALTY = 10.0

Piece = tuple[str, float]


@dataclass(frozen=True)
class UnigramVocabulary:
    """A Unigram tokenizer: its pieces with their log-probabilities, its cut and its special tokens.

    Args:
        pieces: id -> (text, natural log of its probability); for special tokens and bytes the number means nothing.
        special_tokens: text of each special token -> its id.
        pattern: the regular expression that cuts text before it is spelled; ``None`` spells a text as a whole.
        byte_fallback: spell an unknown character in bytes instead of ``unk_token``.
        add_prefix_space: put a space before a text, and take it away when decoding.
        unk_token: the special token for characters that cannot be spelled.
        bos_token, eos_token, pad_token: special tokens in their roles.

    Raises:
        DataError: the parts contradict each other; the message says where.
    """

    pieces: Sequence[Piece]
    special_tokens: dict[str, int]
    pattern: str | None
    byte_fallback: bool = True
    add_prefix_space: bool = False
    unk_token: str = UNK
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    scores: dict[str, tuple[int, float]] = field(init=False)
    """Pieces that text is spelled with -> id and log-probability: no special tokens, no bytes."""
    byte_ids: dict[int, int] = field(init=False)
    """Byte -> id; empty without ``byte_fallback``."""
    unk_score: float = field(init=False)
    longest: int = field(init=False)
    """Characters of the longest piece."""

    def __post_init__(self) -> None:
        ids = {text: index for index, (text, _) in enumerate(self.pieces)}
        if len(ids) != len(self.pieces):
            counts = Counter(text for text, _ in self.pieces)
            raise DataError(f"the piece {next(text for text in counts if counts[text] > 1)!r} has more than one id")
        for name, token_id in self.special_tokens.items():
            if ids.get(name) != token_id:
                raise DataError(f"the special token {name!r} has id {token_id}, which is another token's")
        for role, token in {**self.roles, "unk_token": self.unk_token}.items():
            if token is not None and token not in self.special_tokens:
                raise DataError(f"{role} is {token!r}, which is not among the special tokens")
        missing = [piece for piece in BYTE_PIECES if piece not in ids] if self.byte_fallback else []
        if missing:
            raise DataError(f"{len(missing)} of the 256 bytes have no piece, for example {missing[0]}")
        byte_pieces = set(BYTE_PIECES) if self.byte_fallback else set()
        scores = {
            text: (index, float(score))
            for index, (text, score) in enumerate(self.pieces)
            if text not in byte_pieces and text not in self.special_tokens
        }
        for text, (_, score) in scores.items():
            if not text or " " in text:
                raise DataError(f"the piece {text!r} is empty or holds a space, which is written {SPACE}")
            if not math.isfinite(score):
                raise DataError(f"the piece {text!r} has the log-probability {score}")
        if self.byte_fallback and SPACE not in scores:
            # It would be spelled in the bytes of the sign, not in that of a space.
            raise DataError(f"there is no piece for a space ({SPACE})")
        byte_ids = {byte: ids[piece] for byte, piece in enumerate(BYTE_PIECES)} if self.byte_fallback else {}
        lowest = min((score for _, score in scores.values()), default=0.0)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "byte_ids", byte_ids)
        object.__setattr__(self, "unk_score", lowest - _UNKNOWN_PENALTY)
        object.__setattr__(self, "longest", max(map(len, scores), default=0))

    @classmethod
    def build(
        cls,
        pieces: Sequence[Piece],
        special_tokens: Sequence[str],
        pattern: str | None,
        *,
        byte_fallback: bool = True,
        add_prefix_space: bool = False,
    ) -> UnigramVocabulary:
        """Number ``<unk> <s> </s>``, further special tokens, the bytes if asked for, then the pieces."""
        names = [*UNIGRAM_SPECIAL_TOKENS, *(name for name in special_tokens if name not in UNIGRAM_SPECIAL_TOKENS)]
        fixed = [*names, *(BYTE_PIECES if byte_fallback else ())]
        return cls(
            pieces=[*((text, 0.0) for text in fixed), *pieces],
            special_tokens={name: index for index, name in enumerate(names)},
            pattern=pattern,
            byte_fallback=byte_fallback,
            add_prefix_space=add_prefix_space,
            bos_token=BOS,
            eos_token=EOS,
            pad_token=EOS,
        )

    @property
    def roles(self) -> dict[str, str | None]:
        """Role -> special token."""
        return {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}

    @property
    def unk_id(self) -> int:
        """Id of the unknown token."""
        return self.special_tokens[self.unk_token]

    def fingerprint(self) -> str:
        """16 hexadecimal digits over cut, pieces, log-probabilities and special tokens."""
        return fingerprint(
            {
                "kind": "Unigram",
                "pattern": self.pattern,
                "pieces": [[text, self.scores.get(text, (0, 0.0))[1]] for text, _ in self.pieces],
                "special_tokens": self.special_tokens,
                "unk_token": self.unk_token,
                "byte_fallback": self.byte_fallback,
                "add_prefix_space": self.add_prefix_space,
                "roles": self.roles,
            }
        )


def characters_to_know(special_tokens: Sequence[str], byte_fallback: bool) -> set[str]:
    """Characters that must be pieces: those that spell special tokens and bytes.

    ``tokenizers`` lets text match any entry of a Unigram vocabulary, ``</s>`` and ``<0x0A>`` too. In the files that we
    write such entries are so improbable that spelling them out always wins, if it is possible.
    """
    return set("".join([*UNIGRAM_SPECIAL_TOKENS, *special_tokens])) | set("".join(BYTE_PIECES) if byte_fallback else "")
