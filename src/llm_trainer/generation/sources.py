"""What a model generates from: the prompt itself, or, for an encoder-decoder, what its encoder made of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from llm_trainer.common.errors import UserError
from llm_trainer.generation.decoder import check_prompts, evaluating
from llm_trainer.models.cross_attention import Memory
from llm_trainer.models.encoder import EncoderModel
from llm_trainer.models.seq2seq import EncoderDecoderLM


def begin(model: nn.Module, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], Memory | None]:
    """What the decoder of a model continues, and what it looks at meanwhile.

    Args:
        model: any model.
        prompts: token ids, lengths may differ.

    Returns:
        The prompts, and nothing beside them; of an encoder-decoder, a start token for each prompt, and the prompts as
        its encoder read them.

    Raises:
        UserError: the model only reads, or a prompt is unusable.
    """
    if isinstance(model, EncoderModel):
        raise UserError(
            "an encoder reads text and does not continue it",
            hint="let it fill gaps: put [MASK] into the prompt of llm-trainer generate, or call "
            "llm_trainer.generation.fill_mask; text is continued by models of family decoder",
        )
    if not isinstance(model, EncoderDecoderLM):
        return [list(prompt) for prompt in prompts], None
    check_prompts(model, prompts)
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)  # (rows, source)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        mask[row, : len(prompt)] = 1
    with torch.no_grad(), evaluating(model):
        memory = model.encode(ids.to(device), mask.to(device))
    return [[model.config.decoder_start_token_id] for _ in prompts], memory
