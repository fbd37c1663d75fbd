"""What is done to a model before it is trained, from outside and by name: adapters, recomputation, compilation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llm_trainer.config import TrainingConfig
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from llm_trainer.models.lora import apply_lora


def prepare_model(
    model: nn.Module,
    config: TrainingConfig,
    device: torch.device,
    *,
    compile: bool | None = None,
    message: Callable[[str], None],
) -> None:
    """Apply, in this order: adapters, recomputed activations, compilation.

    Args:
        model: changed in place.
        config: says what to apply.
        device: where the model is.
        compile: whether to compile; what ``config`` says when left out, and unset is no.
        message: called with a sentence when something asked for cannot be had.
    """
    if config.use_peft:
        apply_lora(
            model,
            r=config.peft_r,
            alpha=config.peft_alpha,
            dropout=config.peft_dropout,
            targets=tuple(config.peft_target_modules),
        )
    if config.gradient_checkpointing:
        if isinstance(model, BaseLanguageModel):
            apply_activation_checkpointing(model, every=config.gradient_checkpointing_every)
        else:
            model.gradient_checkpointing_enable()  # type: ignore[operator]
    if config.compile if compile is None else compile:
        compile_blocks(model, device, message=message)


def compile_blocks(model: nn.Module, device: torch.device, *, message: Callable[[str], None]) -> bool:
    """torch.compile each block, which compiles once for all of them; without a compiler, say so and go on.

    Only passes with gradients run compiled. Validation would compile everything a second time, and samples again for
    every layer and length of a key-value cache: minutes of compiling for seconds of computing.

    Returns:
        Whether the blocks will run compiled.
    """
    problem = compiler_problem(device)
    if problem is not None:
        message(f"compile: true, but this machine cannot compile ({problem}); training uncompiled")
        return False
    blocks = getattr(model, "blocks", None)
    for module in blocks if blocks is not None else [model]:
        module.compile()
        # Where nn.Module.compile keeps it; copies and pickles of the module leave it out.
        compiled: Any = module._compiled_call_impl
        module._compiled_call_impl = functools.partial(_compiled_with_gradients, compiled, module._call_impl)
    return True


def _compiled_with_gradients(compiled: Callable[..., Any], plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return (compiled if torch.is_grad_enabled() else plain)(*args, **kwargs)


def compiler_problem(device: torch.device) -> str | None:
    """Compile the smallest function there is; the first line of what went wrong, or None."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - any failure means the same: run uncompiled
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return None
