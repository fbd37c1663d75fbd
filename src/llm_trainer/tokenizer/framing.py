"""What stands around and between the tokens of a text that an encoder reads: begin and end, masks, and the sentinels
``<extra_id_0>``, ``<extra_id_1>``... that stand for missing stretches (the names are BERT's and T5's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_trainer.common.errors import UserError

if TYPE_CHECKING:
    from llm_trainer.tokenizer.base import Tokenizer

MASK_TOKEN = "[MASK]"


def mask_token_id(tokenizer: Tokenizer) -> int:
    """The id of ``[MASK]``.

    Raises:
        UserError: the tokenizer has none, or it is the begin or end token as well.
    """
    if MASK_TOKEN not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer has no {MASK_TOKEN} token",
            hint=f"train one with it: special_tokens=[..., {MASK_TOKEN!r}], or type wordpiece, which has it always",
        )
    mask: int = tokenizer.special_tokens[MASK_TOKEN]
    if mask in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise UserError(
            f"the tokenizer's {MASK_TOKEN} also begins or ends texts, so a gap could not be told from a border",
            hint=f"train one with another token before it: special_tokens=['<|endoftext|>', {MASK_TOKEN!r}]",
        )
    return mask


def document_ids(tokenizer: Tokenizer, ids: list[int], most: int | None = None) -> list[int]:
    """A text as an encoder reads it, in training and after: between the begin and end tokens that there are.

    Args:
        tokenizer: has the two.
        ids: the tokens of the text.
        most: tokens in all; what is too long loses its end, never the end token.
    """
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    room = None if most is None else max(0, most - len(before) - len(after))
    return [*before, *ids[:room], *after]


def sentinel_names(count: int) -> list[str]:
    """The names of ``count`` sentinels in the order of their ids: the first one last, at the end of the vocabulary."""
    return [f"<extra_id_{index}>" for index in reversed(range(count))]


def sentinel_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of a tokenizer's sentinels, ``<extra_id_0>`` first; an empty list if it has none."""
    known = tokenizer.special_tokens
    ids: list[int] = []
    while (name := f"<extra_id_{len(ids)}>") in known:
        ids.append(known[name])
    return ids


def source_ids(tokenizer: Tokenizer, text: str, most: int | None = None) -> list[int]:
    """A text as an encoder reads it in an encoder-decoder: its tokens and the end token, if there is one; at most
    ``most`` in all.

    Sentinels that the text spells are gaps. Other special tokens stay text.
    """
    gaps = [f"<extra_id_{index}>" for index in range(len(sentinel_ids(tokenizer)))]
    ids: list[int] = tokenizer.encode(text, allowed_special=gaps) if gaps else tokenizer.encode(text)
    return with_end(tokenizer, ids, most)


def with_end(tokenizer: Tokenizer, ids: list[int], most: int | None = None) -> list[int]:
    """Tokens and the end token, if there is one; at most ``most`` in all."""
    if tokenizer.eos_token_id is None:
        return ids[:most]
    return [*ids[: None if most is None else max(0, most - 1)], tokenizer.eos_token_id]
