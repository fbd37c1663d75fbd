"""Encodings of tiktoken: rank files (``.tiktoken``), and the published ones by name (``gpt2``, ``cl100k_base``, ...).

A rank file has one token a line, base64 and rank, and nothing else: neither the cut nor the special tokens. The rank of
a token is its id and says when it was learned, so the merges can be had back: a token's two halves are what its bytes
become when only lower ranks are applied.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import write_text
from llm_trainer.tokenizer.bpe import BPETokenizer
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS, check_pattern
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT, BPEVocabulary, Merge, check_special_tokens

_DAMAGED = "the file is damaged or of another kind; copy it again"
_LONGEST_TOKEN = 4096


def read_tiktoken_file(
    path: str | Path,
    *,
    pattern: str = "gpt4-digits3",
    special_tokens: Sequence[str] | Mapping[str, int] = (END_OF_TEXT,),
) -> BPETokenizer:
    """A tokenizer from a ``.tiktoken`` rank file.

    Args:
        path: the file.
        pattern: how text is cut, which the file does not say: a name in ``pretokenize.SPLIT_PATTERNS`` or a regular
            expression. The default is the cut of GPT-4 (``cl100k_base``).
        special_tokens: which the file does not say either: texts, numbered behind the ranks, or texts with ids.

    Raises:
        CorruptionError: the file is damaged; the message says which line.
        DataError: it cannot be read, or the ids of the special tokens are taken.
        UserError: the expression cannot be run, or leaves text out.
    """
    path = Path(path)
    ranks = _read_ranks(path)
    if not isinstance(special_tokens, Mapping):
        check_special_tokens(special_tokens)
        behind = max(ranks.values(), default=-1) + 1
        special_tokens = {token: behind + index for index, token in enumerate(special_tokens)}
    try:
        return _tokenizer(ranks, dict(special_tokens), SPLIT_PATTERNS.get(pattern, pattern))
    except CorruptionError as error:
        raise CorruptionError(f"{path} is not a sound rank file: {error.message}", hint=_DAMAGED) from None


def load_tiktoken_encoding(name: str) -> BPETokenizer:
    """A published encoding of tiktoken by name, from its cache or, where there is a network, from where it is kept.

    Ids that an encoding leaves unused become reserved special tokens, so that every id is in ``range(vocab_size)``.

    Raises:
        UserError: tiktoken knows no encoding of that name.
        DataError: it is neither cached nor reachable.
    """
    import tiktoken

    names = tiktoken.list_encoding_names()
    if name not in names:
        raise UserError(f"tiktoken has no encoding called {name!r}", hint=f"it has {', '.join(sorted(names))}")
    try:
        encoding: Any = tiktoken.get_encoding(name)
    except Exception as error:  # noqa: BLE001 - the network, the cache and a checksum each raise errors of their own
        raise DataError(
            f"the encoding {name} is not in tiktoken's cache and cannot be fetched ({type(error).__name__})",
            hint="where there is a network, load it once with TIKTOKEN_CACHE_DIR set, and copy that folder here; or "
            "give the path of its .tiktoken file",
        ) from None
    return _tokenizer(dict(encoding._mergeable_ranks), dict(encoding._special_tokens), encoding._pat_str)


def write_tiktoken_file(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write the ordinary tokens as a rank file. Cut and special tokens have no place in it.

    Raises:
        UserError: special tokens stand between the ordinary ones, or the file cannot be written.
    """
    ids = tokenizer.vocabulary.ids
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError("a rank file needs the ordinary tokens at the ids from 0 on, the special ones behind them")
    by_rank = sorted(ids.items(), key=lambda item: item[1])
    write_text(path, "".join(f"{base64.b64encode(token).decode('ascii')} {rank}\n" for token, rank in by_rank))


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (binascii.Error, ValueError, IndexError):
            _wrong(path, number, "is not a token in base64 and its rank")
        if len(parts) != 2 or not token or rank < 0 or len(token) > _LONGEST_TOKEN:
            _wrong(path, number, "is not a token in base64 and its rank")
        if token in ranks:
            _wrong(path, number, f"has the token {token!r} a second time")
        ranks[token] = rank
    return ranks


def _wrong(path: Path, number: int, what: str) -> NoReturn:
    raise CorruptionError(f"{path} is not a sound rank file: line {number} {what}", hint=_DAMAGED)


def _tokenizer(ranks: dict[bytes, int], special: dict[str, int], pattern: str) -> BPETokenizer:
    if not ranks:
        raise CorruptionError("it has no tokens")
    if len(set(ranks.values())) != len(ranks):
        raise CorruptionError("a rank occurs twice")
    top = max(*ranks.values(), *special.values()) if special else max(ranks.values())
    if top > 2 * len(ranks) + 10_000:
        raise CorruptionError(f"its ranks go up to {top} for {len(ranks)} tokens")
    taken = set(ranks.values()) & set(special.values())
    if taken or len(set(special.values())) != len(special):
        raise DataError(f"the ids of the special tokens are taken ({special})", hint="give each an id of its own")
    free = set(range(top + 1)) - set(ranks.values()) - set(special.values())
    special |= {f"<|reserved_{token_id}|>": token_id for token_id in free}
    role = END_OF_TEXT if END_OF_TEXT in special else next(iter(special), None)
    try:
        check_pattern(pattern)
    except DataError as error:
        raise UserError(f"{pattern!r} is {error.message}", hint=error.hint) from None
    try:
        vocabulary = BPEVocabulary(
            pattern=pattern,
            merges=_merges(ranks),
            ids=ranks,
            special_tokens=special,
            bos_token=role,
            eos_token=role,
            pad_token=role,
        )
    except DataError as error:
        raise CorruptionError(error.message) from None
    return BPETokenizer(vocabulary)


def _merges(ranks: dict[bytes, int]) -> list[Merge]:
    """The merges behind the ranks."""
    merges: list[Merge] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _apply_below(token, ranks, rank)
            if len(parts) != 2:
                raise CorruptionError(f"the token {token!r} (rank {rank}) cannot be joined from two of lower rank")
            merges.append((parts[0], parts[1]))
    return merges


def _apply_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """What the bytes of a token become with the merges of lower rank only."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        best, place = limit, -1
        for index in range(len(parts) - 1):
            rank = ranks.get(parts[index] + parts[index + 1], limit)
            if rank < best:
                best, place = rank, index
        if place < 0:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts
