"""How a model is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_trainer.common.errors import ConfigError
from llm_trainer.config.base import Int, Settings

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "adafactor", "lion", "muon", "sgd"]
SchedulerName = Literal["cosine", "linear", "polynomial", "constant", "wsd", "inverse_sqrt"]
WarmupShape = Literal["linear", "log"]
ObjectiveName = Literal["causal_lm", "mlm", "span_corruption", "seq2seq", "classification", "token_classification"]


LOSS_SCALING = ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale")
DEEPSPEED: dict[str, tuple[str, ...]] = {"fp16": ("enabled", *LOSS_SCALING), "bf16": ("enabled",)}
"""What DeepSpeed's dictionaries of these names may hold (https://www.deepspeed.ai/docs/config-json/)."""


class TrainingConfig(Settings):
    """One training run. A *step* is one optimizer update, over ``batch_size x gradient_accumulation_steps`` sequences
    on each device.

    Example:
        >>> TrainingConfig(batch_size=2, gradient_accumulation_steps=8).sequences_per_step()
        16
    """

    # How much
    num_epochs: Int | None = Field(None, gt=0)
    """Passes over the data. Unset: 1, unless max_steps or max_minutes is given."""
    max_steps: Int | None = Field(None, gt=0)
    """Stop after this many steps, whatever num_epochs says."""
    max_minutes: float | None = Field(None, gt=0)
    """Plan the run for this much wall-clock time: the schedule ends when the time does."""
    batch_size: Int = Field(8, gt=0)
    """Sequences per device and micro-step."""
    gradient_accumulation_steps: Int = Field(1, gt=0)
    """Micro-steps per step."""
    sequence_length: Int | None = Field(None, gt=1)
    """Tokens per sequence; the same as data.max_length."""
    epoch_dataset_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the data in one epoch; every epoch takes another part."""
    use_packed_cache: bool = True
    """False: the packed cache is temporary and is removed after the run."""

    # What is learnt
    objective: ObjectiveName | None = None
    """causal_lm (next token), mlm (masked tokens), span_corruption (missing stretches), seq2seq (data.target_column
    from data.source_column), classification or token_classification (data.label_column). Unset: by model.family."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """mlm and span_corruption: share of the tokens that are to be guessed."""
    whole_word_masking: bool = False
    """mlm: guess whole words."""
    mean_span_length: float = Field(3.0, ge=1.5)
    """span_corruption: mean length of a missing stretch, in tokens."""

    # Optimizer
    optimizer: OptimizerName = "adamw"
    """adamw, adafactor (little memory), lion (half of adamw's), muon (hidden matrices, AdamW for the rest), sgd."""
    learning_rate: float = Field(6e-4, gt=0)
    """Peak learning rate. With muon it is that of the AdamW part."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of the hidden matrices with muon."""
    embedding_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of tables of tokens, positions and the like. Unset: learning_rate."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of an output layer that is not the table of tokens. Unset: learning_rate."""
    vector_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of norms, biases and scalars. Unset: learning_rate."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay (sgd: added to the gradient); norms, biases and embeddings have none."""
    cautious_weight_decay: bool | None = None
    """Decay only where update and weight agree in sign. Unset: true for muon's matrices, false for all else."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment (lion: its share in the direction; sgd: the momentum)."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the second moment (lion: of the momentum)."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of muon's momentum."""
    momentum_warmup_steps: Int = Field(0, ge=0)
    """Steps in which muon's momentum rises from 0.85 to momentum."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    z_loss: float = Field(0.0, ge=0)
    """Adds this times the squared log-normaliser of each prediction to the training loss; 1e-4 keeps logits small."""
    router_bias_rate: float = Field(0.001, ge=0)
    """Mixture of experts: how far the bias of each expert moves per step towards balanced loads; 0 turns it off."""
    router_aux_loss: float = Field(0.0, ge=0)
    """Mixture of experts: weight of Switch's auxiliary loss for balance, per sequence; the biases mostly suffice."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns it off."""

    # Schedule
    lr_scheduler: SchedulerName = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_steps: Int | None = Field(None, ge=0)
    """Steps of warm-up. Unset: warmup_ratio."""
    warmup_ratio: float = Field(0.025, ge=0, lt=1)
    """Share of all steps used for warm-up when warmup_steps is unset."""
    warmup_shape: WarmupShape = "linear"
    """How the learning rate rises: linear, or log (steep at first; DeepSpeed's WarmupLR)."""
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    """The schedule ends at this share of the peak (inverse_sqrt: never goes below it; constant: not used)."""
    decay_ratio: float = Field(0.6, gt=0, le=1)
    """wsd: share of all steps in the final linear decay."""
    polynomial_power: float = Field(1.0, gt=0)
    """polynomial: its exponent."""

    # Device and precision
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """fp32, bf16, fp16 (with loss scaling, see loss_scale), or auto."""
    use_amp: bool | None = None
    """The other way to say it: false is fp32, true is bf16 (fp16 on a GPU without bf16)."""
    loss_scale: float = Field(0.0, ge=0)
    """fp16: losses are multiplied by it so that small gradients do not vanish; 0 finds it while training."""
    initial_scale_power: Int = Field(16, ge=0, le=24)
    """fp16 with loss_scale 0: the scale begins at 2 to this power."""
    loss_scale_window: Int = Field(1000, gt=0)
    """fp16 with loss_scale 0: the scale doubles after this many steps in a row without overflow."""
    hysteresis: Int = Field(2, gt=0)
    """fp16 with loss_scale 0: the scale halves at this overflow, and at every further one until the window is over."""
    min_loss_scale: float = Field(1.0, gt=0)
    """fp16 with loss_scale 0: the scale never goes below it."""
    compile: bool | None = None
    """torch.compile each block; without a compiler the run goes on uncompiled and says so. Unset: see tune."""
    use_flash_attention: bool | None = None
    """false: attention written out; otherwise PyTorch's fused kernels."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    gradient_checkpointing_every: Int = Field(1, gt=0)
    """Checkpoint every k-th block only."""
    num_threads: Int | None = Field(None, gt=0)
    """CPU threads. Unset: see tune."""
    reuse_memory: bool | None = None
    """Keep freed memory for the next step instead of giving it back to the kernel (glibc). Unset: see tune."""
    tune: bool = True
    """Measure for about two seconds what is fastest here among what is unset of precision, num_threads, reuse_memory
    and compile. False: two matrix products decide the precision, PyTorch the threads, and the others are off."""

    # Regularity
    init_from: str | None = None
    """Start from the weights and the tokenizer of a run, or of a folder with a model. Unset: fresh weights."""
    seed: Int = 1337
    """Initial weights, order of the data and dropout all follow from it."""
    use_ema: bool = False
    """Keep an exponential moving average of the weights and evaluate with it."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Decay of that average, per step."""
    max_skipped_steps: Int = Field(20, gt=0)
    """Stop after this many steps in a row whose gradients were not finite."""

    # What is looked at, and when
    logging_steps: Int = Field(10, gt=0)
    """Steps between lines of metrics."""
    eval_steps: Int | None = Field(None, gt=0)
    """Steps between validations. Unset: about 10 in a run."""
    save_steps: Int | None = Field(None, gt=0)
    """Steps between checkpoints. Unset: 10 in a run, at most 1000 apart."""
    keep_last: Int = Field(2, gt=0)
    """Checkpoints to keep, besides the best one."""
    early_stopping_patience: Int | None = Field(None, gt=0)
    """Stop after this many validations in a row without a better loss."""
    sample_prompts: list[str] = ["The future of AI is"]
    """Prompts continued at every validation, to watch the model learn."""
    report_to: list[Literal["tensorboard", "wandb"]] | None = None
    """Besides metrics.jsonl. Unset: tensorboard when it is installed."""
    wandb_project: str = "custom-llm-training"
    """Project name for wandb."""

    # Loader
    dataloader_num_workers: Int = Field(1, ge=0)
    """Background threads that read and collate."""
    dataloader_pin_memory: bool = True
    """Page-locked batches, when there is a GPU."""

    # Adapters and launchers
    use_peft: bool = False
    """Train low-rank adapters only; the base model is frozen."""
    peft_type: Literal["lora"] = "lora"
    """Kind of adapter."""
    peft_r: Int = Field(8, gt=0)
    """Rank of the adapters."""
    peft_alpha: float = Field(16, gt=0)
    """Adapters are scaled by alpha / r."""
    peft_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    peft_target_modules: list[str] = ["q_proj", "v_proj"]
    """Linear layers that get an adapter, by the end of their name."""
    use_accelerate: bool = False
    """Started by ``accelerate launch``: same loop, and its precision comes from accelerate_mixed_precision."""
    accelerate_mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision under use_accelerate."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("epochs", "num_train_epochs", "target_epochs"), "num_epochs"),
        **dict.fromkeys(("max_iters", "total_steps", "max_train_steps"), "max_steps"),
        **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size", "device_batch_size"), "batch_size"),
        **dict.fromkeys(("grad_accum_steps", "accumulation_steps"), "gradient_accumulation_steps"),
        **dict.fromkeys(("lr", "max_lr"), "learning_rate"),
        **dict.fromkeys(("mlm_probability", "noise_density"), "mask_probability"),
        "mean_noise_span_length": "mean_span_length",
        **dict.fromkeys(("adam_beta1",), "beta1"),
        **dict.fromkeys(("adam_beta2",), "beta2"),
        **dict.fromkeys(("adam_epsilon", "eps"), "epsilon"),
        **dict.fromkeys(("router_aux_loss_coef",), "router_aux_loss"),
        **dict.fromkeys(("grad_clip", "gradient_clip", "max_norm", "clip_grad_norm"), "max_grad_norm"),
        **dict.fromkeys(("lr_scheduler_type", "scheduler"), "lr_scheduler"),
        **dict.fromkeys(("warmup_iters",), "warmup_steps"),
        **dict.fromkeys(("use_torch_compile", "torch_compile", "compile_model"), "compile"),
        **dict.fromkeys(("log_steps", "log_interval", "log_every"), "logging_steps"),
        **dict.fromkeys(("eval_interval", "eval_every"), "eval_steps"),
        **dict.fromkeys(("save_interval", "save_every"), "save_steps"),
        **dict.fromkeys(("save_total_limit", "keep_last_n"), "keep_last"),
        **dict.fromkeys(("lora_r",), "peft_r"),
        **dict.fromkeys(("lora_alpha",), "peft_alpha"),
        **dict.fromkeys(("lora_dropout",), "peft_dropout"),
        **dict.fromkeys(("max_length", "seq_len"), "sequence_length"),
        "use_mixed_precision": "use_amp",
        "use_lora": "use_peft",
        "activation_checkpointing": "gradient_checkpointing",
        "num_workers": "dataloader_num_workers",
        "min_lr_ratio": "min_learning_rate_ratio",
    }

    @classmethod
    def translate(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Rename aliases; ``fp16: true`` and ``bf16: true`` become ``precision``.

        They may also be the dictionaries of DeepSpeed's configuration: ``fp16: {enabled: true, loss_scale: 0, ...}``.
        """
        values = dict(values)
        for key, known in DEEPSPEED.items():
            if isinstance(values.get(key), Mapping):
                values.update(_unfold(key, values.pop(key), known, values))
        flags = {key: values.pop(key) for key in ("fp16", "bf16") if key in values}
        renamed, notes = super().translate(values)
        for key, wanted in flags.items():
            if not isinstance(wanted, bool):
                raise ConfigError([f"{key}: expected true or false, got {wanted!r}"])
            if wanted and renamed.get("precision", key) != key:
                raise ConfigError([f"{key}: true contradicts precision: {renamed['precision']}"])
            if wanted:
                renamed["precision"] = key
                notes.append(f"{key}=true is read as precision={key}")
        return renamed, notes

    def sequences_per_step(self, world_size: int = 1) -> int:
        """The effective batch size: sequences that one optimizer update averages over."""
        return self.batch_size * self.gradient_accumulation_steps * world_size

    def contradictions(self) -> Iterable[str]:
        """Settings that say opposite things."""
        if self.use_amp is False and self.precision in ("bf16", "fp16"):
            yield f"use_amp: false contradicts precision: {self.precision}"
        if self.use_amp is True and self.precision == "fp32":
            yield "use_amp: true contradicts precision: fp32"
        if self.max_steps is not None and self.warmup_steps is not None and self.warmup_steps > self.max_steps:
            yield f"warmup_steps ({self.warmup_steps}) is more than max_steps ({self.max_steps})"
        if self.cautious_weight_decay and self.optimizer in ("adafactor", "sgd"):
            yield f"cautious_weight_decay is for adamw, lion and muon; {self.optimizer} has only the plain decay"
        if self.use_peft and self.use_ema:
            yield "use_ema averages the whole model; with use_peft only adapters change, so choose one"


def _unfold(key: str, inner: Mapping[str, Any], known: tuple[str, ...], outer: Mapping[str, Any]) -> dict[str, Any]:
    """``fp16: {enabled: true, hysteresis: 2}`` -> ``{fp16: true, hysteresis: 2}``; without enabled it is off."""
    problems = [f"{key}.{name}: unknown key; there are {', '.join(known)}" for name in inner if name not in known]
    problems += [f"{key}.{name} and {name} are both given" for name in inner if name in outer]
    if problems:
        raise ConfigError(problems)
    settings = dict(inner)
    return {key: settings.pop("enabled", False), **settings}


class SFTConfig(TrainingConfig):
    """The usual values for instruction tuning: small steps, few epochs.

    Example:
        >>> SFTConfig.from_dict({"learning_rate": 5e-5, "batch_size": 8, "max_length": 2048}).num_epochs
        3
    """

    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate."""
    batch_size: Int = Field(8, gt=0)
    """Sequences per device and micro-step."""
    num_epochs: Int | None = Field(3, gt=0)
    """Passes over the data."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of all steps used for warm-up."""
    sequence_length: Int | None = Field(2048, gt=1)
    """Tokens per sequence."""
