"""The largest micro-batch that a model trains with on this device, found by trying, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from contestants import Shape
from peers import build_peer
from torch import Tensor

from llm_trainer.models import TransformerLM
from llm_trainer.training.objectives import CausalLM

HEADROOM = 0.9
"""Share of the device's memory that may be used: compiled code and fragments need the rest."""


def find(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Double the batch until it does not fit, uncompiled, which takes more memory than compiled.

    Args:
        spec: ``shape``, ``engine`` (``ours`` or a peer's), ``folders``, ``device``, ``most`` (sequences).

    Returns:
        ``largest`` (sequences; 0 if not even one fits) and ``peak_memory`` (bytes, at that size, on a GPU).
    """
    shape, device = Shape(**spec["shape"]), torch.device(spec["device"])
    with device:
        torch.manual_seed(1)
        ours = TransformerLM(shape.config)
    if spec["engine"] == "ours":
        model: torch.nn.Module = ours.train()
        loss = lambda ids: CausalLM().loss(ours, {"input_ids": ids, "labels": ids}).total  # noqa: E731
    else:
        model = build_peer(spec["engine"], ours, Path(spec["folders"][spec["engine"]])).to(device).train()
        loss = model
        del ours
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    largest, used, size = 0, 0, 1
    while size <= spec["most"]:
        peak = _try(loss, optimizer, shape, size, device)
        if peak is None:
            break
        largest, used, size = size, peak, 2 * size
    return {"largest": largest, "peak_memory": used}


def _try(
    loss: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, shape: Shape, size: int, device: torch.device
) -> int | None:
    """One step; the peak of its memory in bytes, or None if it does not fit."""
    graphics = device.type == "cuda"
    if graphics:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ids = torch.zeros(size, shape.config.max_seq_len, dtype=torch.long, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16) if graphics else contextlib.nullcontext()
    try:
        with autocast:
            result = loss(ids)
        result.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except torch.OutOfMemoryError:
        return None
    finally:
        optimizer.zero_grad(set_to_none=True)
    if not graphics:
        return 0
    peak = torch.cuda.max_memory_allocated()
    return peak if peak < HEADROOM * torch.cuda.get_device_properties(device).total_memory else None


if __name__ == "__main__":
    print(json.dumps(find(json.loads(sys.argv[1]))))
