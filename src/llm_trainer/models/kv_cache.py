"""Keys and values of earlier tokens, so that each new token costs one position instead of the whole text.

A slot of the cache *is* an absolute position: the key of the token at position p lies in slot p, and a query at
position p sees exactly slots 0..p. Rows may therefore have different lengths, and a batch of prompts padded on the
right needs no mask at all: a padded slot lies after every real query, and the next real token overwrites it.

Layers with a sliding window see no further back than it, and have a ring of their own (:mod:`.window_cache`), so that
their part of the cache stops growing there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.config import ModelConfig
from llm_trainer.models.patterns import AttentionPattern
from llm_trainer.models.tables import NO_TOKEN
from llm_trainer.models.window_cache import WindowCache


class KVCache:
    """Room for the keys and values of every layer. For inference: nothing that is stored here receives a gradient.

    Args:
        config: the model's.
        batch_size: rows.
        max_length: slots per row; the model's ``max_seq_len`` when left out.
        dtype: that of the activations (bfloat16 under bfloat16 autocast).
        device: the model's.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.max_length = max_length or config.max_seq_len
        self.dtype = dtype
        self.device = torch.device(device)
        windowed = [
            layer
            for layer in range(config.n_layers)
            if config.sliding_window is not None and not config.sees_everything(layer)
        ]
        whole = [layer for layer in range(config.n_layers) if layer not in windowed]
        self._index = {layer: index for group in (whole, windowed) for index, layer in enumerate(group)}
        self.ring: WindowCache | None = None
        """Keys and values of the layers with a sliding window."""
        self._windowed = frozenset(windowed)
        if config.sliding_window is not None and windowed:
            # A window wider than the cache never lets go of anything.
            window = min(config.sliding_window, self.max_length)
            heads, width = config.kv_heads, config.head_dim
            sizes = (len(windowed), batch_size, heads, width, window, config.global_tokens)
            self.ring = WindowCache(*sizes, dtype=dtype, device=self.device)
        shape = (len(whole), batch_size, config.kv_heads, self.max_length, config.head_dim)
        # Zeros, not empty: a slot that was never written is masked, but 0 x NaN from old memory would still be NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (layer, batch, kv_head, slot, head_dim)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        # Token ids by slot, for a model that looks up pairs: the pair of a new token begins in the cache.
        self.tokens: Tensor | None = None  # (batch, slot)
        if config.bigram_embedding is not None:
            self.tokens = torch.zeros(batch_size, self.max_length, dtype=torch.int64, device=device)
        self.length = 0
        """One more than the highest slot written, over all rows."""
        self.visible = 0
        """Slots that the current forward pass looks at."""
        self._start = 0
        self._slots: Tensor | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes for one more position of one row: 2 (keys, values) x layers x kv_heads x head_dim x bytes per number.

        Layers with a sliding window do not count: they have their slots from the beginning.
        """
        itemsize = torch.empty((), dtype=self.dtype).element_size()
        return 2 * self.keys.shape[0] * self.config.kv_heads * self.config.head_dim * itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, of all rows."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.ring is None else self.ring.nbytes)

    def begin(self, seq: int, position_ids: Tensor | None) -> Tensor | None:
        """Announce a forward pass; the layers then call :meth:`update`.

        Args:
            seq: number of new positions per row.
            position_ids: (batch, seq); None continues every row after the highest slot written.

        Returns:
            The positions of the new tokens: None for 0, 1, 2... in every row; (1, seq) when all rows have the same
            consecutive ones, which are then the last in view; else (batch, seq).

        Raises:
            UserError: a position lies beyond ``max_length``.
        """
        if position_ids is None:
            self._start, self.visible, self._slots = self.length, self.length + seq, None
        else:
            self._start, self.visible = int(position_ids[0, 0]), int(position_ids.max()) + 1
            same = torch.arange(self._start, self._start + seq, device=position_ids.device)
            uniform = bool((position_ids == same).all())
            self._slots = None if uniform else position_ids.expand(self.batch_size, seq)
        if self.visible > self.max_length:
            raise UserError(
                f"position {self.visible - 1} does not fit in a cache of {self.max_length} positions",
                hint="make the cache longer, or generate fewer tokens",
            )
        self.length = max(self.length, self.visible)
        if self.ring is not None:
            places = self._slots
            if places is None:
                places = torch.arange(self._start, self.visible, device=self.device).expand(self.batch_size, -1)
            self.ring.begin(places)
        if self._slots is not None:
            return self._slots
        if self._start == 0:
            return None
        return torch.arange(self._start, self.visible, device=self.device).unsqueeze(0)

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of one layer, (batch, kv_heads, seq, head_dim) each.

        Returns:
            All that is in view, (batch, kv_heads, slots, head_dim) each, in the dtype of ``key``.
        """
        index = self._index[layer]
        if self.ring is not None and layer in self._windowed:
            return self.ring.update(index, key, value)
        keys, values = self.keys[index], self.values[index]  # (batch, kv_head, slot, head_dim)
        if self._slots is None:
            keys[:, :, self._start : self.visible] = key
            values[:, :, self._start : self.visible] = value
        else:
            rows = torch.arange(self.batch_size, device=self.device).unsqueeze(1)  # (batch, 1)
            # Two index tensors around a slice put their shape first: (batch, seq, kv_head, head_dim).
            keys[rows, :, self._slots] = key.transpose(1, 2).to(self.dtype)
            values[rows, :, self._slots] = value.transpose(1, 2).to(self.dtype)
        return keys[:, :, : self.visible].to(key.dtype), values[:, :, : self.visible].to(key.dtype)

    def places(self, pattern: AttentionPattern) -> Tensor:
        """The places of the keys in view of the layers with this pattern, (batch or 1, keys); negative if empty."""
        if self.ring is not None and pattern.window is not None:
            return self.ring.places()
        return torch.arange(self.visible, device=self.device).unsqueeze(0)

    def previous_tokens(self, input_ids: Tensor) -> Tensor:
        """Store the new token ids, (batch, seq), and give the one before each; ``NO_TOKEN`` at position 0.

        Call between :meth:`begin` and the layers, if the model has a bigram embedding.
        """
        assert self.tokens is not None
        slots = self._slots
        if slots is None:
            slots = torch.arange(self._start, self.visible, device=self.device).expand(self.batch_size, -1)
        self.tokens.scatter_(1, slots, input_ids)
        return self.tokens.gather(1, (slots - 1).clamp(min=0)).masked_fill(slots == 0, NO_TOKEN)

    def reorder(self, rows: Tensor) -> None:
        """Make row i a copy of the old row ``rows[i]``: what beam search does after choosing its beams.

        Args:
            rows: (new batch,) row numbers; the batch may change its size.
        """
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        self.tokens = None if self.tokens is None else self.tokens.index_select(0, rows)
        if self.ring is not None:
            self.ring.reorder(rows)
        self.batch_size = rows.shape[0]

    def reset(self) -> None:
        """Forget everything; the memory is kept."""
        self.length = 0
        if self.ring is not None:
            self.ring.clear()
