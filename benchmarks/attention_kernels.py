"""Milliseconds of attention alone, forward and backward: PyTorch's fused kernels against compiled flex attention."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

REPEATS = 20


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Causal attention, and causal attention within documents, which is what packed rows need.

    Args:
        spec: ``batch``, ``heads``, ``length``, ``head_dim``, ``documents`` (per row), ``device``, ``flex`` (or not).
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device = torch.device(spec["device"])
    length = spec["length"]
    shape = (spec["batch"], spec["heads"], length, spec["head_dim"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    document = torch.arange(length, device=device) // (length // spec["documents"])
    allowed = (document[:, None] == document[None, :]).tril()  # (query, key)
    kernels: dict[str, Callable[[], Tensor]] = {
        "sdpa_causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "sdpa_document_mask": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=allowed),
    }
    if spec["flex"]:

        def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            both: Tensor = (query >= key) & (document[query] == document[key])
            return both

        mask = create_block_mask(same_document, None, None, length, length, device=device.type)
        compiled: Any = torch.compile(flex_attention)
        kernels["flex_documents"] = lambda: compiled(q, k, v, block_mask=mask)
    result: dict[str, Any] = {"flash_enabled": torch.backends.cuda.flash_sdp_enabled(), **spec}  # type: ignore[no-untyped-call]
    expected = kernels["sdpa_document_mask"]().detach().float()
    for name, kernel in kernels.items():
        result[f"{name}_ms"] = round(1000 * _seconds(kernel, device), 3)
        if name.startswith("flex"):
            assert torch.allclose(kernel().detach().float(), expected, atol=3e-2), "flex attention is not equal"
    return result


def _seconds(kernel: Callable[[], Tensor], device: torch.device) -> float:
    """Forward and backward, after three to warm up."""
    for step in range(REPEATS + 3):
        if step == 3:
            _wait(device)
            start = time.perf_counter()
        kernel().sum().backward()  # type: ignore[no-untyped-call]
    _wait(device)
    return (time.perf_counter() - start) / REPEATS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
