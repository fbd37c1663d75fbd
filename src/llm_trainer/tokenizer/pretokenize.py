r"""Cutting text into pre-tokens: the pieces that merges never cross.

Without cuts, BPE learns tokens such as ``dog.`` and ``dog!`` and spends its vocabulary on punctuation
(Radford et al. 2019, section 2.2). The cut is one regular expression. Every expression here means the same in the three
engines that run it: the ``regex`` package (training), Rust's fancy-regex (tiktoken, encoding) and Oniguruma
(``tokenizers``, after export). Hence no possessive quantifiers, and letter classes instead of ``(?i:...)``, which
would let ``'ſ`` (long s) count as ``'s`` in some engines.

The engines differ in one thing, the version of Unicode: a letter that was assigned last year is a letter only in the
newest. On all code points, ``\p{L}``, ``\p{N}`` and ``\s`` are equal in tiktoken 0.14 and tokenizers 0.23.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import regex

from llm_trainer.common.errors import UserError

_CONTRACTIONS = r"'(?:[sStTmMdD]|[lL][lL]|[vV][eE]|[rR][eE])"


def _gpt4_style(max_digits: int) -> str:
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{max_digits}}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


SPLIT_PATTERNS: dict[str, str] = {
    # The pattern of GPT-2 as it was released: lower-case contractions, numbers of any length.
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # The cut of GPT-4, but with numbers in groups of two digits: 1,110 possible groups of up to three digits take
    # too large a share of a small vocabulary.
    "gpt4": _gpt4_style(max_digits=2),
    "gpt4-digits3": _gpt4_style(max_digits=3),
}


def split_pattern(name: str) -> str:
    """The regular expression of a named pattern.

    Args:
        name: a key of :data:`SPLIT_PATTERNS`: ``"gpt4"`` (the default everywhere), ``"gpt4-digits3"`` or ``"gpt2"``.

    Raises:
        UserError: there is no pattern of that name.
    """
    if name not in SPLIT_PATTERNS:
        raise UserError(f"no split pattern is called {name!r}", hint=f"choose one of {', '.join(SPLIT_PATTERNS)}")
    return SPLIT_PATTERNS[name]


@functools.lru_cache(maxsize=16)
def compile_pattern(pattern: str) -> Any:
    """The compiled expression; compiling takes milliseconds, so it is done once for each pattern."""
    return regex.compile(pattern)


def pretokens(text: str, pattern: str) -> Iterator[str]:
    """Yield the pre-tokens of ``text`` in order; joined, they are ``text`` again."""
    for match in compile_pattern(pattern).finditer(text):
        yield match.group()


def replace_surrogates(text: str) -> str:
    """Make any Python string encodable: a lone surrogate becomes U+FFFD, a pair of them the character it stands for.

    Surrogates are not characters and have no UTF-8 form (Unicode 15, section 3.9, D92), yet Python strings can hold
    them, for example after ``open(errors="surrogateescape")``. This is also tiktoken's rule.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
