"""The cache of layers that see a sliding window: a ring of as many slots as the window, however long the text grows.

The token at place p lies in slot p modulo the window (behind the global tokens, which keep a slot each), where it takes
the place of one that has just left every window. But a token may be no token: prompts of different lengths are padded
on the right, and a draft may be taken back. So what a pass of several tokens brings is kept beside the ring until the
next pass says, by where it starts, how much of it was real; only that goes into the ring. One token a pass goes there
at once, since repeating that pass overwrites it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError

EMPTY = -1
"""The place of a slot that holds nothing."""


class WindowCache:
    """Keys and values of the windowed layers of a model; part of :class:`~llm_trainer.models.kv_cache.KVCache`.

    Args:
        layers: how many layers have the window.
        batch_size: rows.
        kv_heads: key heads.
        head_dim: width of a head.
        window: places that a query sees, its own included.
        global_tokens: first places that all see.
        dtype: of keys and values.
        device: of everything.
    """

    def __init__(
        self,
        layers: int,
        batch_size: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        global_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.window, self.global_tokens = window, global_tokens
        slots = global_tokens + window
        # Zeros, not empty: a slot that was never written is masked, but 0 x NaN from old memory would still be NaN.
        self.keys = torch.zeros(layers, batch_size, kv_heads, slots, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)  # (layer, batch, kv_head, slot, head_dim)
        self.held = torch.full((batch_size, slots), EMPTY, device=device)
        """The place of the token in each slot, (batch, slot)."""
        self._recent: list[tuple[Tensor, Tensor]] = []
        """What the last pass brought, if it was more than a token a row: by layer, (batch, kv_head, seq, head_dim)."""
        self._recent_places: Tensor | None = None  # (batch, seq)
        self._new: Tensor | None = None  # (batch, seq): places of the pass that is under way
        self._alone, self._is_first = True, True

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that are held now."""
        recent = sum(key.nbytes + value.nbytes for key, value in self._recent)
        return self.keys.nbytes + self.values.nbytes + recent

    def begin(self, places: Tensor) -> None:
        """Announce a pass over the places (batch, seq), consecutive in every row.

        Raises:
            UserError: they are not, or they begin before what the ring still holds.
        """
        if bool((places[:, 1:] != places[:, :-1] + 1).any()):
            raise UserError("a cache with a sliding window takes consecutive positions in every row")
        starts = places[:, :1]
        self._is_first = bool((starts == 0).all())
        if self._is_first:
            self.clear()
        self._settle(starts)
        newest = self.held.amax(dim=1, keepdim=True)
        lost = (newest > starts) & (newest >= self.global_tokens + self.window)  # a needed one has made room
        if bool(lost.any()):
            row = int(lost.squeeze(1).nonzero()[0])
            raise UserError(
                f"row {row} goes back to position {int(starts[row])}, but its window has moved on to position "
                f"{int(newest[row])}",
                hint="read the text again from its start, or take back only what the last pass brought",
            )
        # What is read again lies in the ring already, if it was alone; the new one counts.
        self.held = self.held.masked_fill(self.held >= starts, EMPTY)
        self._new, self._alone = places, places.shape[1] == 1
        self._recent, self._recent_places = [], None if self._alone else places
        if self._alone:
            self.held = self.held.scatter(1, self._slots(places), places)

    def places(self) -> Tensor:
        """The places of the keys in view, (batch, keys); :data:`EMPTY` where there is none."""
        assert self._new is not None
        return self.held if self._alone else torch.cat((self.held, self._new), dim=1)

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values of a layer, counted among the windowed ones: (batch, kv_heads, seq, head_dim).

        Returns:
            All that is in view, in the order of :meth:`places`; only the new ones when nothing came before them.
        """
        assert self._new is not None
        keys, values = self.keys[layer], self.values[layer]  # (batch, kv_head, slot, head_dim)
        if self._alone:
            index = self._slots(self._new)[:, None, :, None].expand(-1, *key.shape[1:])
            keys.scatter_(2, index, key.to(keys.dtype))
            values.scatter_(2, index, value.to(values.dtype))
        else:
            self._recent.append((key.detach().to(keys.dtype), value.detach().to(values.dtype)))
        if self._is_first:
            return key, value
        if self._alone:
            return keys.to(key.dtype), values.to(value.dtype)
        return torch.cat((keys.to(key.dtype), key), dim=2), torch.cat((values.to(value.dtype), value), dim=2)

    def reorder(self, rows: Tensor) -> None:
        """Make row i a copy of the old row ``rows[i]``."""
        self.keys, self.values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        self.held = self.held.index_select(0, rows)
        self._recent = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self._recent]
        if self._recent_places is not None:
            self._recent_places = self._recent_places.index_select(0, rows)

    def clear(self) -> None:
        """Forget everything; the memory of the ring is kept."""
        self.held = torch.full_like(self.held, EMPTY)
        self._recent, self._recent_places = [], None

    def _settle(self, starts: Tensor) -> None:
        """Put into the ring what the last pass brought, up to ``starts``, (batch, 1), not included."""
        if self._recent_places is None:
            return
        first, count = self._recent_places[:, :1], self._recent_places.shape[1]
        slot = torch.arange(self.held.shape[1], device=self.held.device)  # (slot,)
        ring = slot - self.global_tokens
        # The newest place before the start that belongs in each slot: (batch, slot).
        newest = starts - 1 - (starts - 1 - self.global_tokens - ring) % self.window
        wanted = torch.where(ring < 0, slot, newest)
        index = wanted - first
        taken = (index >= 0) & (index < count) & (wanted < starts) & ((ring < 0) | (wanted >= self.global_tokens))
        self.held = torch.where(taken, wanted, self.held)
        index = index.clamp(0, count - 1)[:, None, :, None]
        chosen = taken[:, None, :, None]
        for layer, (key, value) in enumerate(self._recent):
            source = index.expand(-1, key.shape[1], -1, key.shape[3])
            torch.where(chosen, key.gather(2, source), self.keys[layer], out=self.keys[layer])
            torch.where(chosen, value.gather(2, source), self.values[layer], out=self.values[layer])
        self._recent, self._recent_places = [], None

    def _slots(self, places: Tensor) -> Tensor:
        ring = self.global_tokens + (places - self.global_tokens) % self.window
        return torch.where(places < self.global_tokens, places, ring)
