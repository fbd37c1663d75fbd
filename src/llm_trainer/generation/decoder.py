"""Rows of tokens that grow, and the forward pass that gives the logits of each row's next token.

Sampling and beam search see only this: ``next_logits()``, ``append()``, ``select()``. Whether keys and values are
cached, prompts differ in length, or a text has outgrown the model's context is decided here, once.

The window rule: a row's model input is a *window* of its last tokens. When the window would exceed the context
length, it is cut to its last ``context // 2`` tokens, whose positions then count from 0, and grows again. Cutting by
half rather than by one keeps the cache valid for ``context // 2`` steps at a time: positions inside a window never
change, while a window that slides by one token would have to be read anew at every step. The same rule holds without
a cache, so both give the same text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.cross_attention import Memory
from llm_trainer.models.kv_cache import KVCache

UNLIMITED = 1 << 62
# Where models of other libraries keep their context length.
CONTEXT_NAMES = ("max_seq_len", "max_position_embeddings", "n_positions")


class Decoder:
    """The tokens of every row so far, and the model that reads them.

    A :class:`BaseLanguageModel` whose ``hidden_states`` takes a ``cache`` reads the prompts once and then one token a
    step. One without reads the whole window at every step, and so does any other module that maps ``input_ids`` and
    ``attention_mask`` to an output with ``logits``, a transformers model for example.

    Args:
        model: put in evaluation mode during each forward pass, and back in its mode after it.
        prompts: token ids, at least one each; lengths may differ.
        max_new_tokens: how many tokens may be appended to any row.
        copies: rows per prompt, side by side. The prompt is still read only once.
        use_cache: False reads the whole window at every step: the same tokens, slower.
        vocab_size: ids at and above it are never predicted (a model's vocabulary is often padded). None: the model's.
        memory: what the encoder of an encoder-decoder made of its source, one row for each prompt.

    Raises:
        UserError: no prompt, an empty prompt, or an id that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        copies: int = 1,
        use_cache: bool = True,
        vocab_size: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        check_prompts(model, prompts)
        self.model = model
        self.device = next(model.parameters()).device
        self.context = context_length(model)
        self.vocab_size = vocab_size
        self._copies = copies
        self._lengths = [len(prompt) for prompt in prompts]
        self._starts = [0] * len(prompts)  # where each row's window begins
        capacity = max(self._lengths) + max_new_tokens
        tokens = torch.zeros(len(prompts), capacity, dtype=torch.int64)  # (rows, capacity)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        self._tokens = tokens.to(self.device)
        self._ends = torch.tensor(self._lengths, device=self.device)[:, None]  # (rows, 1): the same as _lengths
        self._positions = self._ends  # (rows, 1) of the next token in its window; right once windows are read
        self._cache: KVCache | None = None
        self._windows_are_cached = False
        self._memory = memory
        if use_cache and takes_cache(model):
            weight = next(model.parameters())
            slots = min(capacity, self.context)
            self._cache = model.make_cache(len(prompts), slots, dtype=weight.dtype, device=self.device)

    @torch.no_grad()
    def next_logits(self) -> Tensor:
        """The logits of the token after each row's last one, (rows, vocab) float32. Call once between appends."""
        self._cut_windows()
        with evaluating(self.model):
            logits = self._read_newest() if self._windows_are_cached else self._read_windows()  # (rows, vocab)
        if self._copies > 1:  # at the first call: from here on, copies go their own ways
            rows = torch.arange(len(self._lengths), device=self.device).repeat_interleave(self._copies)
            self._copies = 1
            self.select(rows)
            logits = logits[rows]
        return logits[:, : self.vocab_size].float()

    def append(self, tokens: Tensor) -> None:
        """Add one token, (rows,) int64, to every row."""
        self._tokens.scatter_(1, self._ends, tokens[:, None])
        self._ends = self._ends + 1
        self._lengths = [length + 1 for length in self._lengths]

    def select(self, rows: Tensor) -> None:
        """Let row ``i`` continue from what row ``rows[i]`` is now. Rows may be repeated, and left out."""
        indices: list[int] = rows.tolist()
        if indices == list(range(len(self._lengths))):
            return  # nothing moves, as often in a beam search: the cache would be copied for nothing
        self._tokens, self._ends, self._positions = self._tokens[rows], self._ends[rows], self._positions[rows]
        self._lengths = [self._lengths[index] for index in indices]
        self._starts = [self._starts[index] for index in indices]
        if self._memory is not None:
            self._memory = self._memory.select(rows)
        if self._cache is not None:
            self._cache.reorder(rows)

    def seen(self, vocab_size: int) -> Tensor:
        """(rows, vocab) bool: the tokens that occur in each row, prompt included and padding not."""
        width = max(self._lengths)
        real = torch.arange(width, device=self.device) < self._ends  # (rows, width)
        tokens = torch.where(real, self._tokens[:, :width], self._tokens[:, :1])
        mask = torch.zeros(len(self._lengths), vocab_size, dtype=torch.bool, device=self.device)
        return mask.scatter(-1, tokens, True)

    def _cut_windows(self) -> None:
        """Apply the window rule. One row that is cut makes all windows be read again, which changes no other row."""
        for row, length in enumerate(self._lengths):
            if length - self._starts[row] > self.context:
                self._starts[row] = length - max(1, self.context // 2)
                self._windows_are_cached = False

    def _read_windows(self) -> Tensor:
        """Read every window from its start. Shorter ones are padded on the right, where no real token sees it."""
        starts = torch.tensor(self._starts, device=self.device)[:, None]  # (rows, 1)
        widths = self._ends - starts  # (rows, 1)
        offsets = torch.arange(int(widths.max()), device=self.device)  # (width,)
        window = self._tokens.gather(1, (starts + offsets).clamp(max=self._tokens.shape[1] - 1))  # (rows, width)
        rows, last = torch.arange(len(self._lengths), device=self.device), widths[:, 0] - 1
        if not isinstance(self.model, BaseLanguageModel):
            every: Tensor = self.model(input_ids=window, attention_mask=(offsets < widths).long()).logits
            return every[rows, last]
        known: dict[str, Any] = {} if self._memory is None else {"memory": self._memory}
        if self._cache is not None:
            known |= {"position_ids": offsets.expand_as(window), "cache": self._cache}
            self._positions, self._windows_are_cached = widths, True
        hidden = self.model.hidden_states(window, **known)  # (rows, width, d_model)
        # Only the last position of each row needs logits; all of them would cost more than the layers do.
        return self.model.logits_from(hidden[rows, last])

    def _read_newest(self) -> Tensor:
        """Read only the newest token of every row; the cache has the others."""
        assert isinstance(self.model, BaseLanguageModel)
        known: dict[str, Any] = {"position_ids": self._positions, "cache": self._cache}
        if self._memory is not None:
            known["memory"] = self._memory
        newest = self._tokens.gather(1, self._ends - 1)  # (rows, 1)
        hidden = self.model.hidden_states(newest, **known)  # (rows, 1, d_model)
        self._positions = self._positions + 1
        return self.model.logits_from(hidden[:, 0])


def takes_cache(model: nn.Module) -> TypeGuard[BaseLanguageModel]:
    """Whether ``model`` is one of ours and can read one token at a time, with the others in a cache."""
    if not isinstance(model, BaseLanguageModel) or not getattr(model, "supports_cache", True):
        return False
    return "cache" in inspect.signature(model.hidden_states).parameters


def context_length(model: nn.Module) -> int:
    """The most tokens that ``model`` can read at once; practically unlimited when its configuration does not say."""
    config = getattr(model, "config", None)
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return UNLIMITED


def check_prompts(model: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts that the model cannot read.

    Raises:
        UserError: none at all, an empty one, or an id outside the vocabulary.
    """
    if not prompts:
        raise UserError("there is no prompt to continue")
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(
                f"prompt {row} has no tokens, so there is nothing to continue",
                hint="begin it with the tokenizer's bos token",
            )
        if vocab_size is not None and not (min(prompt) >= 0 and max(prompt) < vocab_size):
            wrong = max(prompt) if max(prompt) >= vocab_size else min(prompt)
            raise UserError(
                f"prompt {row} holds token id {wrong}, but the model's ids go from 0 to {vocab_size - 1}",
                hint="use the tokenizer that the model was trained with",
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the block; then every module is in the mode that it was in before."""
    training = [module for module in model.modules() if module.training] if model.training else []
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
