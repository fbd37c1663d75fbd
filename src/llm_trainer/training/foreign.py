"""Models that are not ours, such as those of transformers: what they are given, and whether documents stay apart.

Several documents share a row of packed data. Our models keep them apart by ``document_ids``. Models of transformers
find the borders in ``position_ids``, which start again at each document, but only if they keep no cache (4.55 and
later; GPT-2, Llama, Mistral, Qwen and most others). What a model really does is seen once, on its first row with two
documents: if the second changes with the first, the person is told.
"""

from __future__ import annotations

import inspect
import warnings
import weakref

import torch
import torch.distributed as dist
from torch import Tensor, nn

NOTICEABLE = 1e-3
"""Change of a logit, relative to their spread, that rounding does not make."""
_looked_at: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def foreign_logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, (batch, seq, vocab), of a model whose call gives ``.logits``.

    Args:
        model: of another library.
        inputs: ``input_ids`` and, where documents are packed, ``position_ids`` and ``document_ids``.
    """
    accepted = _accepted(_inside(model))
    document_ids = inputs.get("document_ids")
    given = {name: value for name, value in inputs.items() if name in accepted}
    settings = {"use_cache": False} if "use_cache" in accepted else {}
    if document_ids is not None and _inside(model) not in _looked_at:
        _look(_inside(model), given, settings, document_ids)
    logits: Tensor = model(**given, **settings).logits
    return logits


def _inside(model: nn.Module) -> nn.Module:
    """Without what DistributedDataParallel and torch.compile put around it."""
    for name in ("module", "_orig_mod"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return _inside(inner)
    return model


def _accepted(model: nn.Module) -> set[str]:
    """The arguments that a model's call names. Those that it would only pass on are left out: ``document_ids``, say,
    means something else elsewhere."""
    return set(inspect.signature(model.forward).parameters)


def _look(model: nn.Module, given: dict[str, Tensor], settings: dict[str, bool], document_ids: Tensor) -> None:
    """Read one row twice, the second time with another first document, and tell if the next one notices."""
    # With a sharded model, all ranks would have to look at the same moment.
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return
    first = document_ids[:, :1]
    second = (document_ids != first) & (document_ids != 0)  # (batch, seq); 0 is padding
    rows = second.any(dim=1).nonzero().flatten()
    if len(rows) == 0:
        return
    _looked_at.add(model)
    row = slice(int(rows[0]), int(rows[0]) + 1)
    one = {name: value[row] for name, value in given.items()}
    marked = second[row]
    tokens = one["input_ids"]
    other = torch.where(marked, tokens, tokens.roll(1, dims=1).where(tokens.roll(1, dims=1) != tokens, tokens.min()))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(**one, **settings).logits[marked].float()
            changed = model(**{**one, "input_ids": other}, **settings).logits[marked].float()
    finally:
        model.train(training)
    if (logits - changed).abs().max() > NOTICEABLE * logits.std():
        warnings.warn(
            f"{type(model).__name__} sees across documents: where several share a row, later ones are predicted with "
            "the help of earlier ones. Train one document per row, or use a model whose attention reads position_ids",
            stacklevel=4,
        )
