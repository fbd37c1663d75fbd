"""How a model knows the order of its tokens: sinusoidal, learned, rotary (RoPE) and linear biases (ALiBi)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.models.rope_scaling import Scaling, plain_frequencies


class _Tables(nn.Module):
    """Constant tables that follow the module from device to device and are never rounded, saved or left undefined.

    A plain buffer would be rounded by ``model.to(torch.bfloat16)`` (position 1001 and 1002 then have equal angles) and
    be garbage after ``to_empty``, which is how a model built on the meta device gets its memory. So the tables are
    computed anew after every such move: 1024 positions take 0.2 ms.
    """

    def reset_tables(self, device: torch.device | None = None) -> None:
        """Compute the tables on ``device``."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Tables:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.reset_tables(next(self.buffers()).device)
        return self


class PositionalEncoding(_Tables):
    """The fixed sines and cosines of the original transformer (Vaswani et al. 2017, section 3.5,
    https://arxiv.org/abs/1706.03762), added to the embeddings:

        PE[p, 2i] = sin(p / 10000^(2i/d)),  PE[p, 2i+1] = cos(p / 10000^(2i/d)).

    Args:
        d_model: width of the embeddings.
        max_seq_len: number of positions in the table.
    """

    table: Tensor

    def __init__(self, d_model: int, max_seq_len: int) -> None:
        super().__init__()
        self.d_model, self.max_seq_len = d_model, max_seq_len
        self.register_buffer("table", torch.empty(0), persistent=False)
        self.reset_tables()

    def reset_tables(self, device: torch.device | None = None) -> None:
        """Compute the table, (max_seq_len, d_model), in float32."""
        position = torch.arange(self.max_seq_len, dtype=torch.float32, device=device).unsqueeze(1)
        even = torch.arange(0, self.d_model, 2, dtype=torch.float32, device=device)
        angle = position * torch.exp(even * (-math.log(10000.0) / self.d_model))  # (max_seq_len, ceil(d_model / 2))
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
        self.table = table[:, : self.d_model].contiguous()

    def forward(self, x: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """``x`` (batch, seq, d_model) plus the encoding of ``position_ids`` (batch, seq), or of 0, 1, 2..."""
        return x + take_positions(self.table, x.shape[1], position_ids).to(x.dtype)


class LearnedPositionalEmbedding(nn.Module):
    """One trained vector per position, added to the embeddings (GPT-2).

    Args:
        d_model: width of the embeddings.
        max_seq_len: number of positions.
    """

    def __init__(self, d_model: int, max_seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_seq_len, d_model)

    def forward(self, x: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """``x`` (batch, seq, d_model) plus the vectors of ``position_ids`` (batch, seq), or of 0, 1, 2..."""
        return x + take_positions(self.embedding.weight, x.shape[1], position_ids)


class RotaryEmbedding(_Tables):
    """Rotary positions: each pair of a query's (or key's) numbers is turned by an angle proportional to its position,
    so that a score depends only on the distance of the two tokens (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    Pair i is (i, i + head_dim / 2), "rotate half", the layout of the published Llama weights in transformers. The
    original pairs are (2i, 2i + 1); the two differ by a permutation of the rows of q_proj and k_proj.

    Args:
        head_dim: width of a head, even.
        max_seq_len: number of positions in the tables.
        theta: base of the frequencies; pair i turns by theta^(-2i / head_dim) per position.
        scaling: how positions are stretched for texts longer than those of training; None: not at all.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_seq_len: int, theta: float = 10000.0, scaling: Scaling | None = None) -> None:
        super().__init__()
        self.head_dim, self.max_seq_len, self.theta, self.scaling = head_dim, max_seq_len, theta, scaling
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self.reset_tables()

    def reset_tables(self, device: torch.device | None = None) -> None:
        """Compute both tables, (max_seq_len, head_dim / 2), in float32."""
        self.cos, self.sin = self._tables(None, device)

    def _tables(self, length: int | Tensor | None, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines for a text of ``length`` tokens, which only a dynamic scaling asks for."""
        if self.scaling is None:
            frequency = plain_frequencies(self.head_dim, self.theta, device)  # (head_dim / 2,)
        else:
            frequency = self.scaling.frequencies(self.head_dim, self.theta, length, device)
        angle = torch.arange(self.max_seq_len, dtype=torch.float32, device=device).unsqueeze(1) * frequency
        sharpness = 1.0 if self.scaling is None else self.scaling.attention_factor
        return angle.cos() * sharpness, angle.sin() * sharpness

    def forward(self, seq: int, position_ids: Tensor | None = None, *, cached: bool = False) -> tuple[Tensor, Tensor]:
        """Cosines and sines for :func:`apply_rotary`.

        Args:
            seq: number of positions, when they are 0, 1, 2...
            position_ids: (batch, seq), when they are not.
            cached: whether keys that were turned before will be met.

        Returns:
            Two tensors, (seq, head_dim / 2) or (batch, 1, seq, head_dim / 2).

        Raises:
            UserError: a position is beyond ``max_seq_len``, or the angles of cached keys are no longer right.
        """
        cos, sin = self.cos, self.sin
        if self.scaling is not None and self.scaling.kind == "dynamic":
            length = seq if position_ids is None else position_ids.max() + 1
            if cached and int(length) > self.scaling.trained_length:
                raise UserError(
                    f"beyond {self.scaling.trained_length} tokens, rope_scaling dynamic turns all earlier tokens "
                    "anew for every new one, so their keys cannot be cached",
                    hint="generate with use_cache false, or choose rope_scaling ntk or yarn",
                )
            cos, sin = self._tables(length, self.cos.device)
        cos, sin = take_positions(cos, seq, position_ids), take_positions(sin, seq, position_ids)
        return (cos, sin) if position_ids is None else (cos.unsqueeze(1), sin.unsqueeze(1))


def apply_rotary(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys, (batch, heads, seq, head_dim), by the angles from :class:`RotaryEmbedding`.

    Angles are float32; the multiplication is in the dtype of ``x``, as in transformers. Each pair (a, b), half a head
    apart, becomes (a cos - b sin, b cos + a sin).
    """
    cos, sin = rotary[0].to(x.dtype), rotary[1].to(x.dtype)
    if torch.compiler.is_compiling():
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    result: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


class _Rotation(torch.autograd.Function):
    """Its gradient is the turn back. Written out, both passes are 3.1 times as fast on one core as the usual two
    products and a concatenation, 1.3 times in bfloat16 (``benchmarks/kernels.py``)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, sign=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Turn back."""
        return _rotate(gradient, *ctx.saved_tensors, sign=-1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, sign: int) -> Tensor:
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    (a, b), (new_a, new_b) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=new_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=new_b).addcmul_(a, sin, value=sign)
    return turned


def alibi_slopes(n_heads: int, device: torch.device | None = None) -> Tensor:
    """The slope of each head, (n_heads,), as in Press et al. 2021 (https://arxiv.org/abs/2108.12409).

    For a power of two n: 2^(-8/n), 2^(-16/n), ..., 2^-8. Otherwise the slopes of the power below, filled up with
    every other slope of the power above, as the authors' code does.
    """
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    extra = [2.0 ** (-4.0 * (2 * head + 1) / power) for head in range(n_heads - power)]
    return torch.tensor(slopes + extra, device=device)


class AlibiSlopes(_Tables):
    """The slopes of a model's heads, where the model is."""

    slopes: Tensor

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.register_buffer("slopes", torch.empty(0), persistent=False)
        self.reset_tables()

    def reset_tables(self, device: torch.device | None = None) -> None:
        """Compute the slopes, (heads,), in float32."""
        self.slopes = alibi_slopes(self.n_heads, device)


def alibi_bias(slopes: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """The penalty on the score of a query and a key: slope x their distance, negative for keys in the past.

    Args:
        slopes: (heads,).
        query_positions: (batch or 1, query).
        key_positions: (batch or 1, key).

    Returns:
        (batch or 1, heads, query, key), float32.
    """
    distance = key_positions.unsqueeze(1) - query_positions.unsqueeze(2)  # (batch, query, key)
    return slopes.view(1, -1, 1, 1) * distance.unsqueeze(1)


def take_positions(table: Tensor, seq: int, position_ids: Tensor | None) -> Tensor:
    """Rows of a table of positions: the first ``seq``, (seq, width), or those of ``position_ids``, (batch, seq, width).

    Raises:
        UserError: a position is beyond the table. (On a GPU, where looking would cost a wait, the kernel stops.)
    """
    if position_ids is None:
        return table[:seq]
    try:
        return table[position_ids]
    except IndexError:
        raise UserError(
            f"position {int(position_ids.max())} is beyond the model's max_seq_len of {table.shape[0]}",
            hint="use shorter sequences, or train a model with a larger max_seq_len",
        ) from None
