"""Products of sorted rows with the matrices of their groups: rows 0..ends[0] with matrix 0, the next with matrix 1...

No group has a capacity, so no row is dropped and none is padded. PyTorch has one kernel for it (``grouped_mm``): on a
GPU a single launch in bfloat16; on a CPU a loop over the groups in C++. Where it cannot be used (float64, widths that
do not fill 16 bytes) the loop is ours, one product per group. Padding the groups to one ``bmm`` instead took 1.7 times
as long, with 2048 rows and with 4096 in 8 uneven groups (float32, forward and backward, one core; see
``benchmarks/moe.py``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.models.roles import Role

ALIGNMENT = 16
"""Bytes of which a row must be a multiple for PyTorch's kernel."""


@torch.library.custom_op("llm_trainer::grouped_rows", mutates_args=())
def _grouped_rows(rows: Tensor, matrices: Tensor, ends: Tensor, transposed: bool) -> Tensor:
    """(rows, in) x (groups, out, in), or x (groups, in, out) if ``transposed`` -> (rows, out)."""
    right = matrices if transposed else matrices.transpose(1, 2)  # (groups, in, out)
    # With few rows, as when a single token is generated, most groups are empty, and PyTorch's loop takes them all.
    few = rows.shape[0] < len(ends) and rows.device.type == "cpu"
    if not few and _has_kernel(rows, right):
        return F.grouped_mm(rows, right, offs=ends)
    result = rows.new_empty(rows.shape[0], right.shape[2])
    for group, (start, end) in enumerate(_spans(ends)):
        if end > start:
            torch.mm(rows[start:end], right[group], out=result[start:end])
    return result


@_grouped_rows.register_fake
def _(rows: Tensor, matrices: Tensor, ends: Tensor, transposed: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2 if transposed else 1])


@torch.library.custom_op("llm_trainer::grouped_outer", mutates_args=())
def _grouped_outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """(rows, out), (rows, in) -> (groups, out, in): of each group, the sum of the outer products of its rows."""
    if len(left) and _has_kernel(left, right):
        return F.grouped_mm(left.t(), right, offs=ends)
    result = left.new_empty(ends.shape[0], left.shape[1], right.shape[1])
    for group, (start, end) in enumerate(_spans(ends)):
        torch.mm(left[start:end].t(), right[start:end], out=result[group])
    return result


@_grouped_outer.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty(ends.shape[0], left.shape[1], right.shape[1])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, matrices, ends, ctx.transposed = inputs
    ctx.save_for_backward(rows, matrices, ends)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    rows, matrices, ends = ctx.saved_tensors
    gradient = gradient.contiguous()
    wanted = ctx.needs_input_grad
    of_rows = _grouped_rows(gradient, matrices, ends, not ctx.transposed) if wanted[0] else None
    pair = (rows, gradient) if ctx.transposed else (gradient, rows)
    return of_rows, _grouped_outer(*pair, ends) if wanted[1] else None, None, None


_grouped_rows.register_autograd(_gradients, setup_context=_remember)


def grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Each row times the (transposed) matrix of its group, as :func:`torch.nn.functional.linear` multiplies.

    Args:
        rows: (rows, in), the rows of one group next to each other.
        matrices: (groups, out, in), in the dtype of ``rows``.
        ends: (groups,) int32, where each group ends; the last is the number of rows. A group may be empty.

    Returns:
        (rows, out).
    """
    result: Tensor = _grouped_rows(rows, matrices, ends, False)
    return result


def _has_kernel(*tensors: Tensor) -> bool:
    """Whether PyTorch's kernel takes these: a dtype it knows, and rows of whole 16 bytes."""
    dtype, size = tensors[0].dtype, tensors[0].element_size()
    known = dtype in (torch.bfloat16, torch.float16, torch.float32)
    return known and all(
        side * size % ALIGNMENT == 0 and tensor.data_ptr() % ALIGNMENT == 0
        for tensor in tensors
        for side in tensor.shape[-2 if tensor.ndim == 3 else -1 :]
    )


def _spans(ends: Tensor) -> list[tuple[int, int]]:
    """Start and end of each group, on the host."""
    stops: list[int] = ends.tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


class ExpertLinear(nn.Module):
    """One linear layer for each expert, over rows sorted by expert.

    Args:
        n_experts: number of layers.
        in_features, out_features: widths.
        bias: whether each has a bias.
        active: how many of them a token meets; for counting arithmetic.
    """

    def __init__(self, n_experts: int, in_features: int, out_features: int, *, bias: bool, active: int) -> None:
        super().__init__()
        self.n_experts, self.in_features, self.out_features, self.active = n_experts, in_features, out_features, active
        self.weight = nn.Parameter(torch.empty(n_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(n_experts, out_features)) if bias else None

    def parameter_roles(self) -> dict[str, Role]:
        """A bias of each expert is a vector, though they lie in a matrix."""
        return {} if self.bias is None else {"bias": "vector"}

    @property
    def active_weights(self) -> int:
        """Weights that a token is multiplied with."""
        return self.active * self.in_features * self.out_features

    @property
    def idle_parameters(self) -> int:
        """Parameters that a token does not meet."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return total // self.n_experts * (self.n_experts - self.active)

    def forward(self, rows: Tensor, ends: Tensor, expert_of_row: Tensor) -> Tensor:
        """Multiply every row with its expert's weights.

        Args:
            rows: (rows, in_features), sorted by expert.
            ends: (n_experts,) int32, where the rows of each expert end.
            expert_of_row: (rows,), ascending.

        Returns:
            (rows, out_features).
        """
        result = grouped_product(rows, self.weight.to(rows.dtype), ends)
        return result if self.bias is None else result + self.bias.to(rows.dtype).index_select(0, expert_of_row)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        bias = self.bias is not None
        return f"{self.n_experts} x ({self.in_features} -> {self.out_features}), active={self.active}, bias={bias}"
