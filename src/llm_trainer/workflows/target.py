"""What a command is to look at: a configuration file, a run, or a well-known shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.config import ModelConfig, RunConfig, load_config
from llm_trainer.models.extensions import find_extensions, import_extensions
from llm_trainer.models.presets import ALIASES, PRESETS, preset
from llm_trainer.workflows.load import find_run


def load_target(target: str, overrides: Sequence[str] = (), *, runs_dir: Path = Path("runs")) -> RunConfig:
    """The whole configuration behind a name.

    Args:
        target: a ``.yaml`` or ``.json`` file, a run's name or folder, or a preset (``gpt2_124m``).
        overrides: ``section.key=value``; they win.
        runs_dir: the folder that holds the runs.

    Raises:
        UserError: there is nothing of that name; the message says what there is.
    """
    path = Path(target)
    if path.suffix in (".yaml", ".yml", ".json"):
        run = load_config(path, overrides).run
        find_extensions(run.model, path.parent)
        import_extensions(run.model.extensions, named_by_person=True)
        return run
    if not path.is_dir() and not (runs_dir / target).is_dir() and target in (*PRESETS, *ALIASES):
        shape = {name: value for name, value in preset(target).to_dict().items() if value is not None}
        return load_config(None, [*(f"model.{name}={_word(value)}" for name, value in shape.items()), *overrides]).run
    try:
        folder = find_run(target, runs_dir)
    except UserError as error:
        names = f"name a .yaml or .json file, a run, or a preset: {', '.join(PRESETS)}"
        raise UserError(f"{target!r} is no configuration file, run or preset", hint=names) from error
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not the folder of a run: it holds no config.yaml")
    run = load_config(folder / "config.yaml", overrides).run
    find_extensions(run.model, folder)
    import_extensions(run.model.extensions, named_by_person=False)
    return run


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def training_shape(run: RunConfig) -> tuple[ModelConfig, int]:
    """The model as it will be built, as far as that is known without a tokenizer, and the tokens of a sequence."""
    model = run.model.model_copy()
    if not run.model.given("vocab_size") and run.tokenizer.vocab_size is not None:
        model.vocab_size = run.tokenizer.vocab_size
    length = run.data.max_length or run.training.sequence_length or model.max_seq_len
    if not run.model.given("max_seq_len"):
        model.max_seq_len = length
    return model, length


UNITS = {"": 1 << 30, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def parse_memory(text: str) -> int:
    """``8GB``, ``8 GiB``, ``512MB``; a number alone means GB. Powers of 1024, as everywhere here. In bytes.

    Raises:
        UserError: it is not an amount of memory.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?(B?)", text.strip().upper())
    size = 0 if match is None else int(float(match[1]) * UNITS[match[2] + "B" if match[2] else match[3]])
    if size <= 0:
        raise UserError(f"{text!r} is not an amount of memory", hint="write it as 8GB or 512MB")
    return size
