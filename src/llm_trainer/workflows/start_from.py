"""Train on from weights that exist (``training.init_from``): a run, an import, or a folder of transformers."""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import RunConfig, load_config
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.base import read_config
from llm_trainer.models.encoder import EncoderModel
from llm_trainer.models.extensions import adopt_extensions, find_extensions
from llm_trainer.models.factory import load_pretrained
from llm_trainer.models.interop import config_from_hf
from llm_trainer.models.weights import load_into
from llm_trainer.training.checkpoint import load_averages
from llm_trainer.training.run_folder import CONFIG, TOKENIZER
from llm_trainer.workflows.load import choose_checkpoint, find_run

# What may differ from the model that is started from: nothing here changes what its weights mean.
CHANGEABLE = frozenset(
    {
        *("dropout", "resid_dropout", "embd_dropout", "attn_dropout", "attention_backend", "max_seq_len"),
        *("rope_theta", "rope_scaling", "rope_factor", "rope_original_length", "rope_attention_factor"),
        *("rope_beta_fast", "rope_beta_slow", "rope_low_freq_factor", "rope_high_freq_factor", "sliding_window"),
    }
)


def adopt_start(run: RunConfig, *, run_dir: Path | None = None) -> None:
    """Give ``run`` the model and the tokenizer of what ``training.init_from`` names; nothing, if it names nothing.

    Args:
        run: changed in place. Its own settings of the model win where they can (dropout, positions, length).
        run_dir: of a run that is resumed: it remembers both, and the start may be gone.

    Raises:
        UserError: there is no such model, a setting contradicts it, or it brings code that is not trusted.
    """
    if run.training.init_from is None:
        return
    if run_dir is not None and (run_dir / CONFIG).is_file():
        saved = load_config(run_dir / CONFIG).run
        run.model, run.tokenizer = saved.model, saved.tokenizer
        find_extensions(run.model, run_dir)
        return
    weights, tokenizer = _folders(run.training.init_from)
    values = read_config(weights)
    model = config_from_hf(values) if "model_type" in values else type(run.model).from_dict(values)
    # Before they become settings of this run, which the person is taken to have written.
    adopt_extensions(model, weights)
    given = {name: getattr(run.model, name) for name in run.model.model_fields_set}
    problems = [
        f"model.{name}={value!r}, but the model in {run.training.init_from} has {getattr(model, name)!r}"
        for name, value in given.items()
        if name not in CHANGEABLE and value != getattr(model, name)
    ]
    if run.tokenizer.path is None and run.tokenizer.model_fields_set:
        names = ", ".join(sorted(run.tokenizer.model_fields_set))
        problems.append(f"tokenizer.{names}: the tokenizer comes with the model; leave these out")
    if problems:
        raise ConfigError(problems, source="a run that starts from weights that exist")
    changed = {name: value for name, value in given.items() if name in CHANGEABLE}
    run.model = type(run.model).from_dict({**model.to_dict(), **changed})
    if run.tokenizer.path is None:
        run.tokenizer.path = str(tokenizer)


def load_start(model: BaseLanguageModel, init_from: str) -> None:
    """Copy the weights of what ``training.init_from`` names into ``model``; where heads differ, those of the encoder.

    Raises:
        UserError: there is no such model, or its weights have other shapes; the message names the first.
    """
    weights, _ = _folders(init_from)
    source = load_pretrained(weights)
    averages = load_averages(weights) if weights.name.startswith("step-") else None
    if averages:
        source.load_state_dict(averages, strict=False)
    tensors = source.state_dict()
    if isinstance(model, EncoderModel) and model.config.head != source.config.head:
        # What an encoder has learnt goes over to a model with another head, which begins anew.
        learnt = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
        tensors = {**model.state_dict(), **learnt}
    load_into(model, tensors, source=str(weights))


def _folders(name: str) -> tuple[Path, Path]:
    """The folders with the weights and with the tokenizer."""
    folder = find_run(name, Path("runs"))
    if (folder / "checkpoints").is_dir():
        return choose_checkpoint(folder, "best"), folder / TOKENIZER
    if (folder / "config.json").is_file():
        return folder, folder
    raise UserError(
        f"training.init_from: {folder} holds neither a run nor a model",
        hint="name a run, or a folder with config.json (llm-trainer import makes one)",
    )
