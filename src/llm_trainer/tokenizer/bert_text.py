"""What BERT does to text before WordPiece: clean it, fold it, and cut it into words and punctuation.

The rules are those of BERT's published tokenization (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), as the
``tokenizers`` library runs them:

- control characters go, white space of any kind becomes a space;
- a Chinese character is a word of its own;
- accents are taken off (decompose, then drop combining marks) and letters become small, each where asked for;
- a punctuation mark is a word of its own. All of ASCII that is neither letter nor digit counts, ``$`` and ``^`` too.

Python and ``tokenizers`` know different versions of Unicode. Python 3.11 and ``tokenizers`` 0.23 differ on 559 code
points: combining marks, punctuation and new letters of rare scripts. A slow test counts them.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

# Chunks for counting and encoding: none of the rules looks across white space.
CHUNKS = r"[^\t\n\r\p{Z}]+"

# The blocks that `tokenizers` treats as Chinese. 0x2B920 is what it has; the block itself begins at 0x2B820.
_CJK = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)  # fmt: skip


class _Table(dict[int, str]):
    """Code point -> text, computed when it is first met; for ``str.translate``."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


@dataclass(frozen=True)
class BertText:
    """Text to words.

    Args:
        lowercase: make letters small, each by itself (a final sigma is an ordinary one).
        strip_accents: ``é`` becomes ``e``.
        split_cjk: each Chinese character is a word.
    """

    lowercase: bool = True
    strip_accents: bool = True
    split_cjk: bool = True
    _clean: _Table = field(init=False, repr=False, compare=False)
    _fold: _Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_clean", _Table(self._cleaned))
        object.__setattr__(self, "_fold", _Table(self._folded))

    def words(self, text: str) -> list[str]:
        """The words and punctuation marks of a text, in order."""
        text = text.translate(self._clean)
        if self.strip_accents and not text.isascii():
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._fold).split()

    def words_with_places(self, text: str) -> list[tuple[str, list[int]]]:
        """Words as :meth:`words` gives them, and for each of their characters the place in ``text`` it comes from."""
        words: list[tuple[list[str], list[int]]] = []
        within = False
        for place, char in enumerate(text):
            # Accents that are taken off have no place, so it does not matter in which order they would stand.
            clean = char.translate(self._clean)
            shown = (unicodedata.normalize("NFD", clean) if self.strip_accents else clean).translate(self._fold)
            for part in shown:
                if part == " ":
                    within = False
                    continue
                if not within:
                    words.append(([], []))
                    within = True
                words[-1][0].append(part)
                words[-1][1].append(place)
        return [("".join(parts), places) for parts, places in words]

    def stands_alone(self, char: str) -> bool:
        """Whether a character is always a word of its own."""
        return _is_punctuation(char) or (self.split_cjk and _is_cjk(char))

    def _cleaned(self, char: str) -> str:
        if char in "\t\n\r":
            return " "
        if char in "\0\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co"):
            return ""
        if char.isspace():
            return " "
        return f" {char} " if self.split_cjk and _is_cjk(char) else char

    def _folded(self, char: str) -> str:
        if self.strip_accents and unicodedata.category(char) == "Mn":
            return ""
        if _is_punctuation(char):
            return f" {char} "
        return char.lower() if self.lowercase else char

    def __reduce__(self) -> tuple[type[BertText], tuple[bool, bool, bool]]:
        return BertText, (self.lowercase, self.strip_accents, self.split_cjk)


def _is_cjk(char: str) -> bool:
    code = ord(char)
    return code >= _CJK[0][0] and any(low <= code <= high for low, high in _CJK)


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
