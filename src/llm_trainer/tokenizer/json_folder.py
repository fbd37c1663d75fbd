"""Parts of a folder with ``tokenizer.json`` that do not depend on the algorithm, written and read.

``tokenizer.json`` (format of the ``tokenizers`` library) holds everything: cut, vocabulary, ids, special tokens; no
Hugging Face package is needed to write or read it. ``tokenizer_config.json`` tells transformers the roles of the
special tokens and, with ``split_special_tokens``, that text which spells one is plain text, as it is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import read_json, write_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_USE_WRAPPER = "load it with HFTokenizerWrapper, which takes any Hugging Face tokenizer"
_DAMAGED = "the file is damaged or was edited; copy it again, or train the tokenizer again"


class ForeignTokenizerError(DataError):
    """A sound tokenizer of another kind than those that are computed here."""


# ---- writing ----


def write_definition(
    folder: Path, special_tokens: Mapping[str, int], parts: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write ``tokenizer_config.json``, then ``tokenizer.json``: while that is absent there is no tokenizer.

    Args:
        folder: where to.
        special_tokens: text of each special token -> its id.
        parts: normalizer, pre_tokenizer, decoder and model.
        config: roles of special tokens and settings for transformers.

    Raises:
        UserError: the folder cannot be written.
    """
    roles = {name: value for name, value in config.items() if value is not None}
    named = set(map(str, roles.values()))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": [token for token in special_tokens if token not in named],
        # Text that spells a special token is plain text, as it is here.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / CONFIG_FILE, settings)
    write_json(folder / TOKENIZER_FILE, definition(parts, special_tokens))


def definition(parts: Mapping[str, Any], special_tokens: Mapping[str, int]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` that adds no tokens of its own."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": token, **flags} for token, token_id in by_id],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
    }


# ---- reading ----


def read_definition(folder: Path, model_type: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The content of ``tokenizer.json`` and its special tokens, if its model is of a type and it adds no tokens.

    Raises:
        DataError: there is no such file.
        CorruptionError: it is damaged.
        ForeignTokenizerError: it is a tokenizer of another kind.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        missing = f"there is no {TOKENIZER_FILE} in {folder}" if folder.exists() else f"{folder} does not exist"
        raise DataError(missing, hint="name the folder that save_pretrained wrote")
    content = load_object(path)
    model = content.get("model")
    if not isinstance(model, dict):
        damaged(path, 'it has no "model"')
    kind = model.get("type", "BPE")
    if kind != model_type:
        foreign(path, f"its model is {kind}, not {model_type}")
    if _adds_tokens(part(path, content, "post_processor")):
        foreign(path, "it adds tokens after encoding (post_processor)")
    special: dict[str, int] = {}
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        damaged(path, "its added_tokens are not a list")
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or type(entry.get("id")) is not int:
            damaged(path, f"an entry of added_tokens is {entry!r}")
        if not entry.get("special") or entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
            foreign(path, f"its added token {entry['content']!r} is not a plain special token")
        special[entry["content"]] = entry["id"]
    return content, special


def _adds_tokens(post_processor: Mapping[str, Any]) -> bool:
    kind = post_processor.get("type")
    # transformers 5 saves a template that names no special token where there was nothing before.
    harmless = kind == "ByteLevel" or (kind == "TemplateProcessing" and not post_processor.get("special_tokens"))
    return bool(post_processor) and not harmless


def part(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A step of a tokenizer, empty where there is none; :class:`CorruptionError` if it is not an object."""
    value = content.get(name)
    if value is not None and not isinstance(value, dict):
        damaged(path, f"its {name} is {value!r}")
    return value or {}


def read_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, or nothing where it is absent."""
    path = folder / CONFIG_FILE
    return load_object(path) if path.is_file() else {}


def role(config: Mapping[str, Any], *names: str) -> str | None:
    """The first role that is filled: the token itself or, in older files, an object with its ``content``."""
    for name in names:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None


def load_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; :class:`CorruptionError` if it does not."""
    try:
        content = read_json(path)
    except UserError as error:
        raise CorruptionError(error.message, hint=_DAMAGED) from None
    except RecursionError:
        damaged(path, "its parts are nested too deeply")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    if not isinstance(content, dict):
        damaged(path, "it is not an object")
    return content


def damaged(path: Path, what: str) -> NoReturn:
    """Refuse a file that cannot be right."""
    raise CorruptionError(f"{path} is not a sound tokenizer file: {what}", hint=_DAMAGED)


def foreign(path: Path, what: str) -> NoReturn:
    """Refuse a file that is right but means something that we do not do."""
    raise ForeignTokenizerError(f"{path} is not a tokenizer of our kind: {what}", hint=_USE_WRAPPER)
