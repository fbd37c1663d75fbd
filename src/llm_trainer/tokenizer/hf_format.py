"""The folder that Hugging Face's tools read: written from, and read into, a :class:`BPEVocabulary`.

``tokenizer.json`` (format of the ``tokenizers`` library) holds everything: cut, merges, ids, special tokens; this
module needs no Hugging Face package to write or read it. ``tokenizer_config.json`` tells transformers the roles of
the special tokens and, with ``split_special_tokens``, that text which spells one is plain text, as it is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import read_json, write_json, write_text
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT, BPEVocabulary, printable, unprintable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

# Every ASCII character beside a letter, a digit, a space and a line end; letters, marks and digits of other scripts.
_PROBE = "".join(f"{chr(code)}a{chr(code)}1{chr(code)} {chr(code)}\n{chr(code) * 2}" for code in range(128)) + (
    "aé ñ日本語 ١٢٣ हिन्दी \u00a0\u3000🙂\u0301 x\ufffd\r\n  \t"
)
_PROBE_SECONDS = 5.0

_ROLES = ("bos_token", "eos_token", "pad_token")


class ForeignTokenizerError(DataError):
    """A sound tokenizer of another kind than byte-level BPE as it is here."""


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
    write_json(folder / CONFIG_FILE, _config(vocabulary))
    write_json(folder / TOKENIZER_FILE, _tokenizer_json(vocabulary))
    if not gpt2:  # files of an earlier tokenizer would load as GPT-2's cut, which is not this one
        (folder / VOCAB_FILE).unlink(missing_ok=True)
        (folder / MERGES_FILE).unlink(missing_ok=True)


def _vocab(vocabulary: BPEVocabulary) -> dict[str, int]:
    ordinary = {printable(token): token_id for token, token_id in vocabulary.ids.items()}
    return dict(sorted((ordinary | vocabulary.special_tokens).items(), key=lambda item: item[1]))


def _config(vocabulary: BPEVocabulary) -> dict[str, Any]:
    roles = {role: token for role, token in vocabulary.roles.items() if token is not None}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": [token for token in vocabulary.special_tokens if token not in roles.values()],
        "split_special_tokens": True,
        # Rewrites " ." to "." after decoding, which would break the round trip.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _tokenizer_json(vocabulary: BPEVocabulary) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    by_id = sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": token, **flags} for token, token_id in by_id],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": None,
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
        pattern, vocab, merges, special = _parse_tokenizer_json(path, _load(path))
    elif (folder / VOCAB_FILE).is_file() and (folder / MERGES_FILE).is_file():
        path = folder / VOCAB_FILE
        vocab = _checked_vocab(path, _load(path))
        merges = list(_merge_lines(folder / MERGES_FILE))
        special = {token: vocab[token] for token in _named_special(folder / CONFIG_FILE) if token in vocab}
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
            **_read_roles(folder / CONFIG_FILE, special),
        )
    except KeyError as error:
        raise ForeignTokenizerError(
            f"{path} has tokens that are not byte-level (the character {error.args[0]!r})", hint=_USE_WRAPPER
        ) from None
    except DataError as error:
        raise CorruptionError(f"{path} is not a sound tokenizer: {error.message}", hint=_DAMAGED) from None


_USE_WRAPPER = "load it with HFTokenizerWrapper, which takes any Hugging Face tokenizer"
_DAMAGED = "the file is damaged or was edited; copy it again, or train the tokenizer again"


def _load(path: Path) -> Any:
    try:
        return read_json(path)
    except UserError as error:
        raise CorruptionError(error.message, hint=_DAMAGED) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _parse_tokenizer_json(
    path: Path, content: Any
) -> tuple[str, dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """The cut, ids, merges and special tokens of a ``tokenizer.json``, if it is of our kind."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        _damaged(path, 'it has no "model"')
    model = content["model"]
    kind = model.get("type", "BPE")
    if kind != "BPE":
        _foreign(path, f"its model is {kind}, not BPE")
    # ignore_merges only matters for tokens that no merge makes, and those are refused as damage.
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            _foreign(path, f"its model uses {option}")
    if content.get("normalizer") is not None:
        _foreign(path, "it changes text before encoding (normalizer)")
    if _adds_tokens(content.get("post_processor")):
        _foreign(path, "it adds tokens after encoding (post_processor)")
    pattern = _read_pattern(path, content.get("pre_tokenizer"))
    special = _read_added_tokens(path, content.get("added_tokens") or [])
    vocab = _checked_vocab(path, model.get("vocab")) | special
    return pattern, vocab, list(_json_merges(path, model.get("merges"))), special


def _adds_tokens(post_processor: Any) -> bool:
    """transformers 5 saves a template that names no special token where there was nothing before."""
    if not post_processor:
        return False
    if not isinstance(post_processor, dict):
        return True
    kind = post_processor.get("type")
    return not (kind == "ByteLevel" or (kind == "TemplateProcessing" and not post_processor.get("special_tokens")))


def _read_pattern(path: Path, pre_tokenizer: Any) -> str:
    """The cut: ours (a Split, then bytes), or GPT-2's own (ByteLevel with its built-in expression)."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        _damaged(path, "its pre_tokenizer is not made of objects")
    byte_level = steps[-1] if steps else {}
    if byte_level.get("type") != "ByteLevel" or byte_level.get("add_prefix_space"):
        _foreign(path, "it is not byte-level BPE without a prefix space")
    uses_builtin = byte_level.get("use_regex", True)
    if len(steps) == 1 and uses_builtin:
        return SPLIT_PATTERNS["gpt2"]
    split = steps[0]
    rule = split.get("pattern")
    expression = rule.get("Regex") if split.get("type") == "Split" and isinstance(rule, dict) else None
    plain = split.get("behavior") == "Isolated" and not split.get("invert")
    if len(steps) != 2 or uses_builtin or not plain or not isinstance(expression, str):
        _foreign(path, "it cuts text in a way that is not one expression")
    if expression not in SPLIT_PATTERNS.values():
        _check_expression(path, expression)
    return expression


def _check_expression(path: Path, expression: str) -> None:
    """Refuse what our engines cannot run, or what leaves text between its matches: we would lose that text."""
    import regex
    import tiktoken

    single_bytes = {bytes([byte]): byte for byte in range(256)}
    try:
        tiktoken.Encoding("probe", pat_str=expression, mergeable_ranks=single_bytes, special_tokens={})
        found = regex.compile(expression).finditer(_PROBE, timeout=_PROBE_SECONDS)
        covered = "".join(match.group() for match in found) == _PROBE
    except (ValueError, regex.error):
        _damaged(path, "its pre_tokenizer has an expression that cannot be run")
    except TimeoutError:
        _damaged(path, "its pre_tokenizer has an expression that takes too long")
    if not covered:
        _foreign(path, "its expression does not cover all text")


def _read_added_tokens(path: Path, added: Any) -> dict[str, int]:
    special: dict[str, int] = {}
    if not isinstance(added, list):
        _damaged(path, f"its added_tokens are {added!r}")
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or type(entry.get("id")) is not int:
            _damaged(path, f"an entry of added_tokens is {entry!r}")
        if not entry.get("special") or entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
            _foreign(path, f"its added token {entry['content']!r} is not a plain special token")
        special[entry["content"]] = entry["id"]
    return special


def _checked_vocab(path: Path, vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        _damaged(path, "it has no table of tokens")
    wrong = next((token for token, token_id in vocab.items() if type(token_id) is not int or token_id < 0), None)
    if wrong is not None:
        _damaged(path, f"the id of {wrong!r} is {vocab[wrong]!r}")
    return dict(vocab)


def _json_merges(path: Path, merges: Any) -> Iterator[tuple[str, str]]:
    """Merges as pairs, or as ``"left right"`` in files of tokenizers before 0.20."""
    if not isinstance(merges, list):
        _damaged(path, "it has no list of merges")
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            _damaged(path, f"merge {number} is {merge!r}")
        yield pair[0], pair[1]


def _merge_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        _damaged(path, "it is not UTF-8")
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            _damaged(path, f"line {number} is {line!r}, not two tokens")
        yield left, right


def _named_special(path: Path) -> list[str]:
    """Special tokens of a folder whose files do not mark them: those that the configuration names, and GPT-2's one."""
    config = _load(path) if path.is_file() else {}
    if not isinstance(config, dict):
        _damaged(path, "it is not an object")
    roles = [token for token in _roles_in(config).values() if token]
    # transformers 5 calls them extra_special_tokens when it saves.
    lists = [config.get("additional_special_tokens"), config.get("extra_special_tokens")]
    others = [token for names in lists if isinstance(names, list) for token in names]
    return list(dict.fromkeys([END_OF_TEXT, *roles, *(token for token in others if isinstance(token, str))]))


def _roles_in(config: dict[str, Any]) -> dict[str, str | None]:
    """The three roles; a value is the token itself or, in older files, an object with its ``content``."""
    values = {role: config.get(role) for role in _ROLES}
    named = {role: value.get("content") if isinstance(value, dict) else value for role, value in values.items()}
    return {role: value if isinstance(value, str) else None for role, value in named.items()}


def _read_roles(path: Path, special: dict[str, int]) -> dict[str, str | None]:
    """The roles of special tokens; without a configuration, ``<|endoftext|>`` or else the first takes all three."""
    if not path.is_file():
        default = END_OF_TEXT if END_OF_TEXT in special else next(iter(special), None)
        return dict.fromkeys(_ROLES, default)
    config = _load(path)
    if not isinstance(config, dict):
        _damaged(path, "it is not an object")
    roles = _roles_in(config)
    roles["pad_token"] = roles["pad_token"] or roles["eos_token"]  # GPT-2 names no padding token
    return roles


def _damaged(path: Path, what: str) -> NoReturn:
    raise CorruptionError(f"{path} is not a sound tokenizer file: {what}", hint=_DAMAGED)


def _foreign(path: Path, what: str) -> NoReturn:
    raise ForeignTokenizerError(f"{path} is not a byte-level BPE of our kind: {what}", hint=_USE_WRAPPER)
