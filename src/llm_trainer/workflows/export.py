"""From a run to what other programs run: transformers, llama.cpp, llama2.c."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, human_bytes, read_json
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.interop import export_hf, is_hf_folder
from llm_trainer.models.interop.gguf_export import export_gguf
from llm_trainer.models.interop.llama2c import export_llama2c
from llm_trainer.models.weights import CONFIG
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.tokenizer.llama2c import write_llama2c
from llm_trainer.workflows.load import LoadedModel, find_run, load_model
from llm_trainer.workflows.whole_folder import whole_folder

Target = Literal["hf", "gguf", "llama2c"]
TARGETS = ("hf", "gguf", "llama2c")
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FORMATS: dict[Target, tuple[str, ...]] = {
    "hf": ("f32", "f16", "bf16"),
    "gguf": ("f32", "f16", "bf16", "q8_0"),
    "llama2c": ("f32",),
}
DEFAULT_FORMAT: dict[Target, str] = {"hf": "f32", "gguf": "f16", "llama2c": "f32"}


@dataclass(frozen=True)
class Exported:
    """What was written, for a person."""

    source: str
    files: list[Path]
    usage: str
    """How to use it, as commands."""
    losses: list[str]
    """In what it differs from the model here, one sentence each."""

    def summary(self) -> str:
        """What was written, how large it is, how to use it, and what was lost."""
        lines = [self.source]
        lines += [f"wrote {path} ({human_bytes(path.stat().st_size)})" for path in self.files]
        lines += [f"differs: {loss}" for loss in self.losses] or ["differs: in nothing"]
        return "\n".join([*lines, "", "Use it:", self.usage])


def export_run(
    run: str | None,
    to: str,
    *,
    output: Path | None = None,
    dtype: str | None = None,
    shard_size: int | None = None,
    checkpoint: str = "best",
    runs_dir: Path = Path("runs"),
) -> Exported:
    """Write a trained model in the format of other programs.

    Args:
        run: a run's name or folder, or a folder with a model; None is the newest run.
        to: ``hf`` (transformers), ``gguf`` (llama.cpp) or ``llama2c``.
        output: folder (hf, llama2c) or file (gguf); left out: beside the run, under ``exports/``.
        dtype: of the weights: f32, f16, bf16 or (gguf) q8_0.
        shard_size: bytes of one file of weights (hf).
        checkpoint: best, last, or the number of a step.
        runs_dir: the folder that holds the runs.

    Raises:
        UserError: there is no such run or format, the other program has no such model (each setting in the way is
            named), or the files cannot be written.
    """
    target = _checked(to, dtype, shard_size)
    dtype = dtype or DEFAULT_FORMAT[target]
    folder = find_run(run, runs_dir)
    loaded = load_model(str(folder), checkpoint=checkpoint, device="cpu")
    place = output or _default_place(folder, loaded, target)
    if place.resolve() == folder.resolve():
        raise UserError(f"{place} is the model itself", hint="name another place with --output")
    if target == "hf":
        return _to_hf(loaded, place, dtype, shard_size)
    if target == "gguf":
        return _to_gguf(loaded, place, dtype, folder.name)
    return _to_llama2c(loaded, place)


def _checked(to: str, dtype: str | None, shard_size: int | None) -> Target:
    for target in FORMATS:
        if target == to:
            break
    else:
        raise UserError(f"there is no export to {to!r}", hint=f"choose one of {', '.join(TARGETS)}")
    if dtype is not None and dtype not in FORMATS[target]:
        raise UserError(f"--to {to} has no dtype {dtype!r}", hint=f"choose one of {', '.join(FORMATS[target])}")
    if shard_size is not None and target != "hf":
        raise UserError("--shard-size is for --to hf", hint="leave it out: the other formats are one file")
    return target


def _default_place(folder: Path, loaded: LoadedModel, target: Target) -> Path:
    # A run keeps its exports; a folder that holds nothing but a model gets a neighbour.
    base = folder / "exports" if loaded.run_dir is not None else folder.with_name(f"{folder.name}-exports")
    return base / (f"{folder.name}.gguf" if target == "gguf" else target)


def _to_hf(loaded: LoadedModel, folder: Path, dtype: str, shard_size: int | None) -> Exported:
    tokenizer, model = loaded.tokenizer, loaded.model
    with _place_for_hf(folder) as unfinished:
        tokenizer.save_pretrained(unfinished)
        written = export_hf(
            model,
            unfinished,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype=DTYPES[dtype],
            shard_size=shard_size,
        )
    written = [folder / path.name for path in written]
    kind = auto_class(read_json(folder / CONFIG)["architectures"][0])
    usage = (
        f"  from transformers import {kind}, AutoTokenizer\n"
        f'  model = {kind}.from_pretrained("{folder}")\n'
        f'  tokenizer = AutoTokenizer.from_pretrained("{folder}")'
    )
    return Exported(loaded.description, written, usage, [*_vocabulary_notes(model, tokenizer), *_rounding(dtype)])


@contextlib.contextmanager
def _place_for_hf(folder: Path) -> Iterator[Path]:
    """Where to write: a new folder appears whole; an export that is there is written over, and is none until the end.

    Raises:
        UserError: the folder holds something else, a model of ours for one.
    """
    if folder.is_dir() and is_hf_folder(folder):
        with explain_os_errors(folder):
            (folder / CONFIG).unlink()
        yield folder
        return
    with whole_folder(folder) as unfinished:
        yield unfinished


def auto_class(architecture: str) -> str:
    """The class of transformers that finds a class by itself, from the name in ``config.json``."""
    for ending in ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"):
        if architecture.endswith(ending):
            return f"AutoModel{ending}"
    return "AutoModelForSeq2SeqLM" if architecture.endswith("ForConditionalGeneration") else "AutoModelForCausalLM"


def _to_gguf(loaded: LoadedModel, path: Path, dtype: str, name: str) -> Exported:
    report = export_gguf(loaded.model, loaded.tokenizer, path, dtype=dtype, name=name)  # type: ignore[arg-type]  # checked
    usage = f'  llama-cli -m {path} -p "Once upon a time" -n 100\n  llama-server -m {path}'
    return Exported(loaded.description, [path], usage, [*report.notes, *_rounding(dtype)])


def _to_llama2c(loaded: LoadedModel, folder: Path) -> Exported:
    model, tokenizer = loaded.model, loaded.tokenizer
    binary, vocabulary = folder / "model.bin", folder / "tokenizer.bin"
    # Rows beyond the tokenizer's tokens are never text; run.c would look for their names.
    export_llama2c(model, binary, tokens=tokenizer.vocab_size)
    notes: list[str] = []
    try:
        write_llama2c(tokenizer, vocabulary)
    except UserError as error:
        notes.append(f"there is no tokenizer.bin: {error.message}; {error.hint}, and run.c needs one for text")
        return Exported(loaded.description, [binary], f"  {binary} holds the weights; see the note", notes)
    usage = f'  gcc -O3 -o run run.c -lm && ./run {binary} -z {vocabulary} -i "Once upon a time"'
    return Exported(loaded.description, [binary, vocabulary], usage, notes)


def _vocabulary_notes(model: BaseLanguageModel, tokenizer: Tokenizer) -> list[str]:
    rows, tokens = model.config.vocab_size, tokenizer.vocab_size
    return [] if rows == tokens else [f"the model has {rows:,} rows for {tokens:,} tokens; the rest are never text"]


def _rounding(dtype: str) -> list[str]:
    rounded = {"f16": "11", "bf16": "8", "q8_0": "8"}
    return [f"weights are rounded to {dtype}: {rounded[dtype]} significant bits"] if dtype in rounded else []
