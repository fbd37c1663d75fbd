"""Everything that determines a byte-level BPE tokenizer, as one checked value.

Layout of the ids, as in GPT-2: the 256 bytes, then one token for each merge in the order of the merges, then the
special tokens. The bytes are in the order of GPT-2's printable alphabet, which is also the order that ``tokenizers``
sorts them into, so GPT-2's own vocabulary is a case of this one and not a special case.

No two tokens have the same bytes. Training cannot make them: what lies inside a token's bytes is merged the same way
wherever they stand, so they come together from one pair only. Files can, so it is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.tokenizer.pretokenize import replace_surrogates

Merge = tuple[bytes, bytes]

END_OF_TEXT = "<|endoftext|>"


def _gpt2_alphabet() -> dict[int, str]:
    """Byte -> printable character, as GPT-2's files write them: a space becomes ``Ġ``, a newline ``Ċ``."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(256 + index) for index, byte in enumerate(others)}
    return {byte: chr(byte) for byte in printable} | shifted


BYTE_TO_CHAR: dict[int, str] = _gpt2_alphabet()
CHAR_TO_BYTE: dict[str, int] = {char: byte for byte, char in BYTE_TO_CHAR.items()}
BYTES_IN_ORDER: list[bytes] = [bytes([byte]) for byte in BYTE_TO_CHAR]


def printable(token: bytes) -> str:
    """Bytes -> GPT-2's printable spelling."""
    return "".join(BYTE_TO_CHAR[byte] for byte in token)


def unprintable(text: str) -> bytes:
    """GPT-2's printable spelling -> bytes. Raises ``KeyError`` for a character outside the alphabet."""
    return bytes(CHAR_TO_BYTE[char] for char in text)


@dataclass(frozen=True)
class BPEVocabulary:
    """A byte-level BPE: its cut, merges, ids and special tokens.

    Args:
        pattern: the regular expression that cuts text into pre-tokens.
        merges: pairs of tokens, the earliest learned first; the earliest applicable one is applied first.
        ids: bytes of each ordinary token -> its id.
        special_tokens: text of each special token -> its id.
        bos_token, eos_token, pad_token: special tokens in their roles.

    Raises:
        DataError: the parts contradict each other; the message says where.
    """

    pattern: str
    merges: Sequence[Merge]
    ids: dict[bytes, int]
    special_tokens: dict[str, int]
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    tokens: list[bytes] = field(init=False)
    """Id -> bytes; ``b""`` for special tokens."""

    def __post_init__(self) -> None:
        self._check_merges()
        used = [*self.ids.values(), *self.special_tokens.values()]
        if sorted(used) != list(range(len(used))):
            raise DataError(f"the ids of the {len(used)} tokens are not 0 to {len(used) - 1}, each used once")
        for role, token in self.roles.items():
            if token is not None and token not in self.special_tokens:
                raise DataError(f"{role} is {token!r}, which is not among the special tokens")
        tokens = [b""] * len(used)
        for token_bytes, token_id in self.ids.items():
            tokens[token_id] = token_bytes
        object.__setattr__(self, "tokens", tokens)

    def _check_merges(self) -> None:
        missing = [byte for byte in range(256) if bytes([byte]) not in self.ids]
        if missing:
            raise DataError(f"{len(missing)} of the 256 bytes have no token, for example 0x{missing[0]:02x}")
        known = {bytes([byte]) for byte in range(256)}
        last_id = -1
        for number, (left, right) in enumerate(self.merges):
            merged = left + right
            if left not in known or right not in known:
                raise DataError(f"merge {number} joins {left!r} and {right!r}, which are not both tokens by then")
            if merged not in self.ids:
                raise DataError(f"merge {number} makes {merged!r}, which has no id")
            # Ids are tiktoken's ranks, so they must rise with the merges; a token made twice fails this as well.
            if self.ids[merged] <= last_id:
                raise DataError(f"the ids do not follow the order of the merges at merge {number} ({merged!r})")
            last_id = self.ids[merged]
            known.add(merged)
        if len(known) != len(self.ids):
            stray = next(token for token in self.ids if token not in known)
            raise DataError(f"{len(self.ids) - len(known)} tokens are made by no merge, for example {stray!r}")

    @classmethod
    def build(cls, pattern: str, merges: Iterable[Merge], special_tokens: Iterable[str]) -> BPEVocabulary:
        """Number bytes, merges and special tokens in that order. The first special token takes all three roles."""
        merges = list(merges)
        names = list(special_tokens)
        check_special_tokens(names)
        tokens = [*BYTES_IN_ORDER, *(left + right for left, right in merges)]
        first = names[0] if names else None
        return cls(
            pattern=pattern,
            merges=merges,
            ids={token: index for index, token in enumerate(tokens)},
            special_tokens={name: len(tokens) + index for index, name in enumerate(names)},
            bos_token=first,
            eos_token=first,
            pad_token=first,
        )

    @property
    def roles(self) -> dict[str, str | None]:
        """Role -> special token."""
        return {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}

    def fingerprint(self) -> str:
        """16 hexadecimal digits over cut, merges, ids and special tokens."""
        return fingerprint(
            {
                "kind": "byte-level BPE",
                "pattern": self.pattern,
                "merges": [[left.hex(), right.hex()] for left, right in self.merges],
                "tokens": [token.hex() for token in self.tokens],
                "special_tokens": self.special_tokens,
                "roles": self.roles,
            }
        )


def check_special_tokens(names: Sequence[str]) -> None:
    """Raise :class:`DataError` unless special tokens are a list of distinct, non-empty texts."""
    if isinstance(names, str):
        raise DataError(f"special_tokens is one text, {names!r}", hint=f"pass a list: [{names!r}]")
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(f"a special token must be a non-empty string, not {name!r}")
        if replace_surrogates(name) != name:
            raise DataError(f"the special token {name!a} holds a lone surrogate, which no file can hold")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the special token {twice!r} is given twice")


def check_vocab_size(vocab_size: object) -> None:
    """Raise :class:`DataError` unless a vocabulary's size is a whole number."""
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool):
        raise DataError(f"vocab_size is {vocab_size!r}", hint="pass a whole number, such as 32000")
