"""Byte-level BPE as files: ``tokenizer.json`` for every Hugging Face tool, and GPT-2's own two files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import write_json, write_text
from llm_trainer.tokenizer.json_folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    damaged,
    foreign,
    load_object,
    read_config,
    read_definition,
    role,
    write_definition,
)
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS, check_pattern
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT, BPEVocabulary, printable, unprintable

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

_ROLES = ("bos_token", "eos_token", "pad_token")


# ---- writing ----


def write_folder(vocabulary: BPEVocabulary, folder: str | Path) -> None:
    """Write the folder. ``tokenizer.json`` comes last: while it is absent there is no tokenizer.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    gpt2 = vocabulary.pattern == SPLIT_PATTERNS["gpt2"]
    if gpt2:
        write_json(folder / VOCAB_FILE, _vocab(vocabulary), indent=None)
        lines = [f"{printable(left)} {printable(right)}" for left, right in vocabulary.merges]
        write_text(folder / MERGES_FILE, "\n".join(["#version: 0.2", *lines]) + "\n")
    write_definition(folder, vocabulary.special_tokens, parts(vocabulary), vocabulary.roles)
    if not gpt2:  # files of an earlier tokenizer would load as GPT-2's cut, which is not this one
        (folder / VOCAB_FILE).unlink(missing_ok=True)
        (folder / MERGES_FILE).unlink(missing_ok=True)


def _vocab(vocabulary: BPEVocabulary) -> dict[str, int]:
    ordinary = {printable(token): token_id for token, token_id in vocabulary.ids.items()}
    return dict(sorted((ordinary | vocabulary.special_tokens).items(), key=lambda item: item[1]))


def parts(vocabulary: BPEVocabulary) -> dict[str, Any]:
    """What ``tokenizer.json`` says of the algorithm."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": _vocab(vocabulary),
            "merges": [[printable(left), printable(right)] for left, right in vocabulary.merges],
        },
    }


# ---- reading ----


def read_folder(folder: str | Path) -> BPEVocabulary:
    """Read ``tokenizer.json``, or else ``vocab.json`` and ``merges.txt``.

    Raises:
        DataError: there is neither.
        CorruptionError: a file is damaged.
        ForeignTokenizerError: it is a tokenizer of another kind.
    """
    folder = Path(folder)
    if (folder / TOKENIZER_FILE).is_file():
        path = folder / TOKENIZER_FILE
        pattern, vocab, merges, special = _read_json(folder)
    elif (folder / VOCAB_FILE).is_file() and (folder / MERGES_FILE).is_file():
        path = folder / VOCAB_FILE
        vocab = _checked_vocab(path, load_object(path))
        merges = list(_merge_lines(folder / MERGES_FILE))
        special = {token: vocab[token] for token in _named_special(folder) if token in vocab}
        pattern = SPLIT_PATTERNS["gpt2"]
    elif folder.exists():
        raise DataError(
            f"there is no tokenizer in {folder}: no {TOKENIZER_FILE}, and no {VOCAB_FILE} with {MERGES_FILE}",
            hint="name the folder that save_pretrained wrote",
        )
    else:
        raise DataError(f"the folder {folder} does not exist", hint="name the folder that save_pretrained wrote")
    try:
        return BPEVocabulary(
            pattern=pattern,
            merges=[(unprintable(left), unprintable(right)) for left, right in merges],
            ids={unprintable(token): i for token, i in vocab.items() if token not in special},
            special_tokens=special,
            **_read_roles(folder, special),
        )
    except KeyError as error:
        foreign(path, f"it has tokens that are not byte-level (the character {error.args[0]!r})")
    except DataError as error:
        damaged(path, error.message)


def _read_json(folder: Path) -> tuple[str, dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """The cut, ids, merges and special tokens of a ``tokenizer.json``, if it is of our kind."""
    path = folder / TOKENIZER_FILE
    content, special = read_definition(folder, "BPE")
    model = content["model"]
    # ignore_merges only matters for tokens that no merge makes, and those are refused as damage.
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            foreign(path, f"its model uses {option}")
    if content.get("normalizer") is not None:
        foreign(path, "it changes text before encoding (normalizer)")
    pattern = _read_pattern(path, content.get("pre_tokenizer"))
    vocab = _checked_vocab(path, model.get("vocab")) | special
    return pattern, vocab, list(_json_merges(path, model.get("merges"))), special


def _read_pattern(path: Path, pre_tokenizer: Any) -> str:
    """The cut: ours (a Split, then bytes), or GPT-2's own (ByteLevel with its built-in expression)."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        damaged(path, "its pre_tokenizer is not made of objects")
    byte_level = steps[-1] if steps else {}
    if byte_level.get("type") != "ByteLevel" or byte_level.get("add_prefix_space"):
        foreign(path, "it is not byte-level BPE without a prefix space")
    uses_builtin = byte_level.get("use_regex", True)
    if len(steps) == 1 and uses_builtin:
        return SPLIT_PATTERNS["gpt2"]
    split = steps[0]
    rule = split.get("pattern")
    expression = rule.get("Regex") if split.get("type") == "Split" and isinstance(rule, dict) else None
    plain = split.get("behavior") == "Isolated" and not split.get("invert")
    if len(steps) != 2 or uses_builtin or not plain or not isinstance(expression, str):
        foreign(path, "it cuts text in a way that is not one expression")
    try:
        check_pattern(expression)
    except CorruptionError as error:
        damaged(path, f"its pre_tokenizer has {error.message}")
    except DataError as error:
        foreign(path, f"it has {error.message}")
    return expression


def _checked_vocab(path: Path, vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        damaged(path, "it has no table of tokens")
    wrong = next((token for token, token_id in vocab.items() if type(token_id) is not int or token_id < 0), None)
    if wrong is not None:
        damaged(path, f"the id of {wrong!r} is {vocab[wrong]!r}")
    return dict(vocab)


def _json_merges(path: Path, merges: Any) -> Iterator[tuple[str, str]]:
    """Merges as pairs, or as ``"left right"`` in files of tokenizers before 0.20."""
    if not isinstance(merges, list):
        damaged(path, "it has no list of merges")
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            damaged(path, f"merge {number} is {merge!r}")
        yield pair[0], pair[1]


def _merge_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        damaged(path, "it is not UTF-8")
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            damaged(path, f"line {number} is {line!r}, not two tokens")
        yield left, right


def _named_special(folder: Path) -> list[str]:
    """Special tokens of a folder whose files do not mark them: those that the configuration names, and GPT-2's one."""
    config = read_config(folder)
    # transformers 5 calls them extra_special_tokens when it saves.
    lists = [config.get("additional_special_tokens"), config.get("extra_special_tokens")]
    others = [token for names in lists if isinstance(names, list) for token in names]
    named = [END_OF_TEXT, *(role(config, name) for name in _ROLES), *others]
    return list(dict.fromkeys(token for token in named if isinstance(token, str)))


def _read_roles(folder: Path, special: dict[str, int]) -> dict[str, str | None]:
    """The roles of special tokens; without a configuration, ``<|endoftext|>`` or else the first takes all three."""
    if not (folder / CONFIG_FILE).is_file():
        default = END_OF_TEXT if END_OF_TEXT in special else next(iter(special), None)
        return dict.fromkeys(_ROLES, default)
    config = read_config(folder)
    roles = {name: role(config, name) for name in _ROLES}
    roles["pad_token"] = roles["pad_token"] or roles["eos_token"]  # GPT-2 names no padding token
    return roles
