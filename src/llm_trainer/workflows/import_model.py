"""From the files of other programs to a folder of ours, to generate with, to chat with and to train on from."""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import human_bytes
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.factory import load_pretrained
from llm_trainer.models.interop.gguf_import import GGUFFile
from llm_trainer.models.interop.llama2c import load_llama2c
from llm_trainer.models.weights import CONFIG, WEIGHTS
from llm_trainer.tokenizer import Tokenizer, load_tokenizer
from llm_trainer.workflows.whole_folder import require_empty, whole_folder

PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def import_model(source: Path, *, output: Path | None = None, tokenizer: str | None = None) -> str:
    """Read a model and its tokenizer and save both in one folder of ours.

    Args:
        source: a folder of transformers (GPT-2, Llama, Mistral, Qwen2, Qwen3, ...), a ``.gguf`` file, or the ``.bin``
            of llama2.c.
        output: the folder to write; left out: ``imported/NAME``.
        tokenizer: a folder or file with the tokenizer, where ``source`` holds none that can be read.

    Returns:
        What was read and written, for a person.

    Raises:
        UserError: there is nothing to read, it is of a kind that we do not have, or it is damaged.
    """
    folder = output or Path("imported") / (source.stem if source.is_file() else source.resolve().name)
    require_empty(folder)  # before minutes of reading
    model, own = _read(source, tokenizer)
    if own.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {own.vocab_size:,} tokens and the model has rows for {model.config.vocab_size:,}",
            hint="the two do not belong together; name the model's own tokenizer with --tokenizer",
        )
    with whole_folder(folder) as unfinished:
        own.save_pretrained(unfinished)
        model.save_pretrained(unfinished)
    size = human_bytes((folder / WEIGHTS).stat().st_size)
    return "\n".join(
        (
            f"read {source}: {model.num_parameters():,} parameters, {own.vocab_size:,} tokens, "
            f"context {model.config.max_seq_len:,}",
            f"wrote {folder} ({WEIGHTS}: {size})",
            "",
            "Use it:",
            f'  llm-trainer generate {folder} --prompt "Once upon a time"',
            f"  llm-trainer train training.init_from={folder} data.dataset_name=my_texts/",
        )
    )


def _read(source: Path, tokenizer: str | None) -> tuple[BaseLanguageModel, Tokenizer]:
    if not source.exists():
        raise UserError(f"there is no file or folder {source}", hint="download it first, with the tools of its hub")
    if source.is_dir():
        if not (source / CONFIG).is_file():
            raise UserError(f"{source} holds no {CONFIG}", hint="name the folder of a model")
        model = load_pretrained(source)
        return model, load_tokenizer(tokenizer or source)
    if source.suffix == ".gguf":
        file = GGUFFile(source)
        return file.model(), load_tokenizer(tokenizer) if tokenizer is not None else file.tokenizer()
    if source.suffix in PICKLES or (source.suffix == ".bin" and _is_pickle(source)):
        raise UserError(
            f"{source} is a pickle, and a pickle can run code, so it is not opened",
            hint="save the model as safetensors (in transformers: model.save_pretrained(folder)) and name that folder",
        )
    if source.suffix == ".bin":
        return load_llama2c(source), _llama2c_tokenizer(source, tokenizer)
    raise UserError(
        f"{source} is no model that can be recognised by its name",
        hint="name a folder of transformers, a .gguf file or the .bin of llama2.c",
    )


def _is_pickle(path: Path) -> bool:
    """PyTorch's files are ZIP archives, older ones bare pickles of protocol 2."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    return start[:4] == b"PK\x03\x04" or start[:2] == b"\x80\x02"


def _llama2c_tokenizer(source: Path, tokenizer: str | None) -> Tokenizer:
    """The SentencePiece model beside the file: a ``tokenizer.bin`` says too little to make one of it."""
    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    beside = source.with_name("tokenizer.model")
    if beside.is_file():
        return load_tokenizer(beside)
    raise UserError(
        f"{source} holds no tokenizer, and there is no {beside.name} beside it",
        hint="name the SentencePiece model that it was trained with: --tokenizer tokenizer.model",
    )
