"""From the logits of one step to the next token.

Pure functions on ``logits`` (rows, vocab). Each filter sets the logits of the tokens it forbids to minus infinity, so
filters compose in any order; :func:`filter_logits` uses the order of Hugging Face's ``generate`` (repetition penalty,
temperature, top-k, top-p, min-p), because published settings were tuned with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.config import GenerationConfig

NEVER = float("-inf")

# A full sort of 32,000 logits takes 1.7 ms on one core, as long as a small model's whole step; the 512 largest take
# 0.1 ms and nearly always hold the nucleus. When they do not, eight times as many are tried.
NUCLEUS_HEAD = 512
NUCLEUS_GROWTH = 8


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely: positive logits are divided by ``penalty``, negative ones multiplied.

    Args:
        logits: (rows, vocab); logits or log-probabilities.
        seen: (rows, vocab) bool, true for the tokens of each row's prompt and continuation so far.
        penalty: 1 changes nothing; CTRL uses 1.2 (Keskar et al. 2019, section 4.1, https://arxiv.org/abs/1909.05858).
    """
    if penalty == 1.0:
        return logits
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide the logits by ``temperature``; 0, the limit, leaves only the most likely token of each row."""
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)  # (rows, 1)
        return torch.full_like(logits, NEVER).scatter(-1, best, 0.0)
    return logits if temperature == 1.0 else logits / temperature


def apply_top_k(logits: Tensor, k: int | None) -> Tensor:
    """Keep the ``k`` most likely tokens (Fan et al. 2018, https://arxiv.org/abs/1805.04833). None or 0 keeps all.

    Tokens as likely as the k-th are kept too, as in Hugging Face's processor.
    """
    if not k or k >= logits.shape[-1]:
        return logits
    kth = torch.topk(logits, k, dim=-1).values[:, -1:]  # (rows, 1)
    return logits.masked_fill(logits < kth, NEVER)


def apply_top_p(logits: Tensor, p: float | None) -> Tensor:
    """Keep the nucleus: the fewest tokens whose total probability reaches ``p``, at least one
    (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751). None or 1 keeps all.
    """
    if p is None or p >= 1.0:
        return logits
    total = torch.logsumexp(logits, dim=-1, keepdim=True)  # (rows, 1)
    head = min(NUCLEUS_HEAD, logits.shape[-1])
    while True:
        ranked, tokens = torch.topk(logits, head, dim=-1)  # (rows, head), the most likely first
        probabilities = torch.exp(ranked - total)
        mass = probabilities.cumsum(dim=-1)
        if head == logits.shape[-1] or bool((mass[:, -1] >= p).all()):
            break
        head = min(head * NUCLEUS_GROWTH, logits.shape[-1])
    # A token belongs to the nucleus while the tokens before it have not reached p; the first always does.
    kept = mass - probabilities < p
    return torch.full_like(logits, NEVER).scatter(-1, tokens, ranked.masked_fill(~kept, NEVER))


def apply_min_p(logits: Tensor, p: float | None) -> Tensor:
    """Keep tokens at least ``p`` times as likely as the most likely one (Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082). None or 0 keeps all.
    """
    if not p:
        return logits
    best = logits.amax(dim=-1, keepdim=True)  # (rows, 1)
    return logits.masked_fill(torch.exp(logits - best) < p, NEVER)


def filter_logits(logits: Tensor, config: GenerationConfig, seen: Tensor | None = None) -> Tensor:
    """Apply every option of ``config`` that shapes the distribution.

    Args:
        logits: (rows, vocab) float, as the model gave them.
        config: which filters.
        seen: (rows, vocab) bool for the repetition penalty; needed only when that is not 1.

    Returns:
        (rows, vocab) logits whose softmax is the distribution to draw from; at least one per row is finite.
    """
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
    logits = apply_temperature(logits, config.temperature)
    logits = apply_top_k(logits, config.top_k)
    logits = apply_top_p(logits, config.top_p)
    return apply_min_p(logits, config.min_p)


def sample(
    logits: Tensor,
    config: GenerationConfig,
    generators: Sequence[torch.Generator],
    seen: Tensor | None = None,
) -> Tensor:
    """Choose the next token of every row.

    Every row draws one number from its own generator, so a row's text does not depend on the rows beside it. The
    number is drawn on the CPU and looked up in the cumulative distribution: the same seed gives the same text on any
    device, and it is twenty times faster than ``torch.multinomial`` at 32,000 tokens on a CPU.

    Args:
        logits: (rows, vocab) float, as the model gave them.
        config: greedy decoding or sampling, and its filters.
        generators: one CPU generator per row; not touched by greedy decoding.
        seen: (rows, vocab) bool for the repetition penalty.

    Returns:
        (rows,) int64 token ids.

    Raises:
        UserError: a row's logits are not numbers.
    """
    check_logits(logits)
    if config.greedy:
        if seen is not None:
            logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
        return logits.argmax(dim=-1)
    # Sums of 100,000 float32 probabilities are off by more than the rare tokens weigh.
    cumulative = filter_logits(logits, config, seen).double().softmax(dim=-1).cumsum(dim=-1)  # (rows, vocab)
    points = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    total = cumulative[:, -1:]  # (rows, 1); 1 only up to rounding
    # Strictly below the total, so that the entry that exceeds it exists and belongs to a token that is possible.
    thresholds = torch.minimum(points.to(logits.device)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, thresholds, right=True).squeeze(-1)


def check_logits(logits: Tensor) -> None:
    """Stop with a clear message when a row has no distribution.

    Minus infinity is a legitimate logit (a token that can never come); a row whose largest logit is NaN or infinite
    is not. The maximum shows both, because it propagates NaN.

    Raises:
        UserError: naming the first such row.
    """
    largest: list[float] = logits.amax(dim=-1).tolist()  # (rows,)
    if not all(map(math.isfinite, largest)):
        row = next(index for index, value in enumerate(largest) if not math.isfinite(value))
        raise UserError(
            f"the model gave logits that are not finite numbers (sequence {row} of this batch), so no token can be "
            "chosen",
            hint="its weights or its arithmetic overflowed: use an earlier checkpoint, or generate in float32",
        )
