"""What a model consists of and what it costs, from a configuration, a run, a preset or a folder; nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import human_bytes, write_text
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.base import read_config
from llm_trainer.models.drawing import draw_model, draw_page, token_costs
from llm_trainer.models.extensions import adopt_extensions
from llm_trainer.models.factory import build_model
from llm_trainer.models.interop import config_from_hf
from llm_trainer.models.interop.llama2c_tree import llama2c_tree
from llm_trainer.models.parts import parameters_by_part
from llm_trainer.models.plausible import require_plausible_sizes
from llm_trainer.models.presets import ALIASES, PRESETS
from llm_trainer.models.summary import describe
from llm_trainer.workflows.estimate import memory_lines
from llm_trainer.workflows.footprint import footprint
from llm_trainer.workflows.load import find_run
from llm_trainer.workflows.target import load_target

STYLES = ("parameters", "tree", "llama2c")
PICTURES = (".svg", ".html")


@dataclass(frozen=True)
class Inspection:
    """A model that has shapes and no memory."""

    name: str
    config: ModelConfig
    training: TrainingConfig
    """Of the run or the configuration; the defaults of a preset or a folder."""
    model: BaseLanguageModel

    def text(self, style: str = "parameters", *, batch: int | None = None, length: int | None = None) -> str:
        """For a person.

        Args:
            style: ``parameters`` (a line for each), ``tree`` (the modules), or ``llama2c`` (the modules as llama2.c's
                model prints them, and no more than that).
            batch: sequences; with it or with ``length``, memory is added.
            length: tokens of a sequence; left out: the context.

        Raises:
            UserError: there is no such style; or, for llama2c, llama2.c has no such model.
        """
        if style not in STYLES:
            raise UserError(f"there is no style {style!r}", hint=f"choose one of {', '.join(STYLES)}")
        if style == "llama2c":
            return llama2c_tree(self.config)
        top = describe(self.model) if style == "parameters" else str(self.model)
        sections = [top, self._parts(), self._costs()]
        if batch is not None or length is not None:
            sections.append(self._memory(batch or 1, length or self.config.max_seq_len))
        return "\n\n".join(sections)

    def picture(self, path: Path, *, batch: int | None = None, length: int | None = None) -> None:
        """Draw the architecture into an ``.svg`` file, or an ``.html`` page with the text below it.

        Raises:
            UserError: the name has another ending, or the file cannot be written.
        """
        if path.suffix.lower() not in PICTURES:
            raise UserError(f"{path} is no name for a picture", hint="end it with .svg or .html")
        svg = draw_model(self.model, self.name)
        if path.suffix.lower() == ".html":
            svg = draw_page(svg, self.name, self.text(batch=batch, length=length))
        write_text(path, svg)

    def _parts(self) -> str:
        total = self.model.num_parameters()
        lines = [
            f"{part:<14}{count:>16,}  {count / total:>6.1%}" for part, count in parameters_by_part(self.model).items()
        ]
        return "\n".join(["Parameters by part", *lines])

    def _costs(self) -> str:
        length = self.config.max_seq_len
        flops = self.model.flops_per_token(length) / 1e6
        lines = [f"{flops:,.1f} MFLOP a token (forward and backward, context {length:,})"]
        lines += [f"{name}: {value} a token" for name, value in token_costs(self.model).items() if "FLOP" not in value]
        return "\n".join(lines)

    def _memory(self, batch: int, length: int) -> str:
        training = self.training.model_copy(deep=True)
        training.batch_size = batch
        config = self.config.model_copy(deep=True)
        config.max_seq_len = max(length, config.max_seq_len)
        memory = footprint(config, training, length, "fp32")
        lines = [f"Memory of a training step, {batch} x {length:,} tokens, {training.optimizer}, float32"]
        lines += memory_lines(memory)
        lines += ["", f"Memory of generation, {batch} x {length:,} tokens"]
        width = 0 if config.family == "encoder" else 2 * config.n_layers * config.kv_heads * config.head_dim
        for name, size in (("float32", 4), ("16 bits", 2)):
            weights, cache = size * self.model.num_parameters(), size * width * batch * length
            total = human_bytes(weights + cache)
            lines.append(f"{name:<14}{total:>12}  weights {human_bytes(weights)}, cache {human_bytes(cache)}")
        return "\n".join(lines)


def inspect_model(target: str, *, runs_dir: Path = Path("runs")) -> Inspection:
    """Build a model on the meta device: any size, in no memory.

    Args:
        target: a configuration file, a run, a preset, or a folder with a model of ours or of transformers.
        runs_dir: the folder that holds the runs.

    Raises:
        UserError: there is nothing of that name, or it is of a kind that we do not have.
    """
    name, config, training = _find(target, runs_dir)
    with torch.device("meta"):
        model = build_model(config)
    return Inspection(name, config, training, model)


def _find(target: str, runs_dir: Path) -> tuple[str, ModelConfig, TrainingConfig]:
    path = Path(target)
    named = path.suffix in (".yaml", ".yml", ".json") or target in (*PRESETS, *ALIASES)
    if named and not path.is_dir() and not (runs_dir / target).is_dir():
        run = load_target(target, runs_dir=runs_dir)
        return path.stem, run.model, run.training
    try:
        folder = find_run(target, runs_dir)
    except UserError as error:
        names = f"name a .yaml or .json file, a run, a folder with a model, or a preset: {', '.join(PRESETS)}"
        raise UserError(f"there is no configuration file, run, folder or preset {target!r}", hint=names) from error
    if (folder / "config.yaml").exists():
        run = load_target(str(folder), runs_dir=runs_dir)
        return folder.name, run.model, run.training
    values = read_config(folder)
    config = config_from_hf(values) if "model_type" in values else ModelConfig.from_dict(values)
    require_plausible_sizes(config, str(folder))
    adopt_extensions(config, folder)
    return folder.resolve().name, config, TrainingConfig()
