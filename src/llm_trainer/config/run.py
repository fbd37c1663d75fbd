"""The whole run: one YAML file, one object, saved whole in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from llm_trainer.common.hashing import fingerprint
from llm_trainer.config.base import Settings
from llm_trainer.config.data import DataConfig
from llm_trainer.config.generation import GenerationConfig
from llm_trainer.config.model import Family, ModelConfig
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.config.training import ObjectiveName, TrainingConfig


class RunConfig(Settings):
    """Everything that decides what a run does."""

    name: str | None = None
    """Name of the run. Unset: made from the parameter count, the data set and the sequence length."""
    output_dir: str | None = None
    """Folder of the run. Unset: ``runs/<name>``."""
    model: ModelConfig
    """Shape of the model."""
    tokenizer: TokenizerConfig
    """Tokenizer to load or train."""
    data: DataConfig
    """Text to train on."""
    training: TrainingConfig
    """How to train."""
    generation: GenerationConfig
    """How samples are drawn while training."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "run_name": "name",
        "model_config": "model",
        "training_config": "training",
        "data_config": "data",
    }

    # Written at the top level of a file, these mean the section's value.
    SHORTCUTS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "device": ("training", "device"),
        "seed": ("training", "seed"),
        "precision": ("training", "precision"),
    }

    def __init__(self, **values: Any) -> None:
        for key, default in section_defaults().items():
            values.setdefault(key, default)
        super().__init__(**values)

    def fingerprint(self) -> str:
        """A stable name of the whole configuration: equal for a run and for its re-run from the saved file."""
        return fingerprint({key: value for key, value in self.to_dict().items() if key not in ("name", "output_dir")})

    @property
    def objective(self) -> ObjectiveName:
        """What is learnt, resolved: what was asked for, else what suits the model's family and the columns named."""
        if self.training.objective is not None:
            return self.training.objective
        if self.model.family == "encoder":
            return "classification" if self.data.label_column is not None else "mlm"
        if self.model.family == "encoder_decoder":
            return "seq2seq" if self.data.target_column is not None else "span_corruption"
        return "causal_lm"

    def contradictions(self) -> Iterable[str]:
        """Sections that do not fit together."""
        yield from self._objective_contradictions()
        length, limit = self.data.max_length, self.model.max_seq_len
        if length is not None and self.model.given("max_seq_len") and length > limit:
            yield (
                f"data.max_length ({length}) is longer than model.max_seq_len ({limit}); "
                "lower the first or raise the second"
            )
        other = self.training.sequence_length
        if other is not None and length is not None and other != length:
            yield f"training.sequence_length ({other}) and data.max_length ({length}) are the same thing; give one"
        tokenizer_size = self.tokenizer.vocab_size
        if tokenizer_size is not None and self.model.given("vocab_size") and tokenizer_size > self.model.vocab_size:
            yield (
                f"tokenizer.vocab_size ({tokenizer_size}) is larger than model.vocab_size ({self.model.vocab_size}); "
                "the model could not embed every token"
            )

    def _objective_contradictions(self) -> Iterable[str]:
        """An objective that the model's family cannot learn, or that its data lacks columns for."""
        objective = self.objective
        family, columns = OBJECTIVES[objective]
        if self.model.family != family:
            yield f"training.objective: {objective} is for model.family {family}, not {self.model.family}"
        missing = [name for name in columns if getattr(self.data, name) is None]
        if missing:
            yield f"training.objective: {objective} needs {' and '.join(f'data.{name}' for name in missing)}"
        for name in ("label_column", "source_column", "target_column"):
            if getattr(self.data, name) is not None and name not in columns:
                yield f"data.{name} means nothing to training.objective {objective}; leave it out"


OBJECTIVES: dict[ObjectiveName, tuple[Family, tuple[str, ...]]] = {
    "causal_lm": ("decoder", ()),
    "mlm": ("encoder", ()),
    "span_corruption": ("encoder_decoder", ()),
    "seq2seq": ("encoder_decoder", ("source_column", "target_column")),
    "classification": ("encoder", ("label_column",)),
    "token_classification": ("encoder", ("label_column",)),
}
"""Which family learns what, and the columns that its data must have."""


def section_defaults() -> dict[str, Settings]:
    """Fresh default sections. Samples while training are drawn at a temperature that shows what was learnt."""
    return {
        "model": ModelConfig(),
        "tokenizer": TokenizerConfig(),
        "data": DataConfig(),
        "training": TrainingConfig(),
        "generation": GenerationConfig(temperature=0.8, top_p=0.95, max_new_tokens=80, seed=1),
    }


SECTIONS: dict[str, type[Settings]] = {
    "model": ModelConfig,
    "tokenizer": TokenizerConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "generation": GenerationConfig,
}
