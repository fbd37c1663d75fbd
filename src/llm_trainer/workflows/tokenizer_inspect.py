"""Look at a text or a conversation as a model sees it: its tokens, and which of them a training would count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import ChatTemplate, Tokenizer, load_tokenizer

# Backgrounds that neighbours alternate between, so that borders of tokens show; 256-colour codes for dark and light.
_BACKGROUNDS = (24, 60)
_TRAINED = 22


@dataclass(frozen=True)
class TokenView:
    """One token.

    Attributes:
        id: its id.
        data: its bytes; of a special token, the bytes of its name.
        special: whether it is a special token.
        trained: whether a fine-tuning counts it in the loss; ``None`` for a text, where everything counts.
    """

    id: int
    data: bytes
    special: bool
    trained: bool | None

    @property
    def shown(self) -> str:
        """Its text, safe to print: what is not printable, or not a whole character, is escaped."""
        try:
            text = self.data.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in self.data)
        return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return repr(character)[1:-1]


def open_tokenizer(source: str | None, runs_dir: Path) -> Tokenizer:
    """The tokenizer that is named, or else that of the newest run."""
    if source is not None:
        return load_tokenizer(source)
    # Imports torch, which takes a second that a named tokenizer need not wait for.
    from llm_trainer.workflows.load import find_run

    folder = find_run(None, runs_dir)
    return load_tokenizer(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder)


def view(tokenizer: Tokenizer, text_or_file: str, *, chat_template: str | None = None) -> list[TokenView]:
    """The tokens of a text, of a text file, or of a conversation in a ``.json`` file.

    Args:
        tokenizer: whose tokens.
        text_or_file: the text itself; or the name of a file. A ``.json`` file holds a list of messages, or an object
            with ``messages``.
        chat_template: a name, file or Jinja text, for a tokenizer that has none or to try another.

    Raises:
        DataError: the file cannot be read, or is not a conversation.
        UserError: there is no chat template.
    """
    names = {token_id: token for token, token_id in tokenizer.special_tokens.items()}
    path = Path(text_or_file)
    if path.suffix == ".json":
        if chat_template is not None:
            tokenizer.chat_template = ChatTemplate.load(chat_template)
        if tokenizer.chat_template is None:
            raise UserError(
                "this tokenizer has no chat template", hint="choose one with --chat, for example --chat plain"
            )
        ids, mask = tokenizer.render(_read_messages(path))
        trained: Sequence[bool | None] = [bool(counts) for counts in mask]
    else:
        ids = tokenizer.encode(_read_text(path) if _is_file(path) else text_or_file)
        trained = [None] * len(ids)
    return [
        TokenView(i, names[i].encode() if i in names else tokenizer.token_bytes(i), i in names, counts)
        for i, counts in zip(ids, trained)
    ]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a long text is no name of a file
        return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None


def _read_messages(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", hint="check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file: {error}") from None
    return content.get("messages") if isinstance(content, dict) else content


def running_text(tokens: Sequence[TokenView], *, color: bool) -> str:
    """The text with its tokens told apart: by colour (green: trained), else by bars, with trained parts in ⟦ ⟧."""
    if color:
        parts = []
        for number, token in enumerate(tokens):
            background = _TRAINED + 6 * (number % 2) if token.trained else _BACKGROUNDS[number % 2]
            style = f"\x1b[48;5;{background};97m" + ("\x1b[1m" if token.special else "")
            parts.append(f"{style}{token.shown}\x1b[0m" + _line_end(token))
        return "".join(parts)
    parts = []
    inside = False
    for token in tokens:
        if bool(token.trained) != inside:
            parts.append("⟧" if inside else "⟦")
            inside = not inside
        elif parts and not parts[-1].endswith("\n"):
            parts.append("|")
        parts.append(token.shown + _line_end(token))
    return "".join(parts) + ("⟧" if inside else "")


def _line_end(token: TokenView) -> str:
    return "\n" if b"\n" in token.data else ""


def table(tokens: Sequence[TokenView]) -> str:
    """A line for each token: position, id, bytes, whether it is trained, text."""
    lines = [f"{'#':>5} {'id':>7}  {'trained':<8} {'bytes':<26} text"]
    for number, token in enumerate(tokens):
        trained = "" if token.trained is None else "yes" if token.trained else "-"
        data = "(special)" if token.special else token.data.hex(" ")
        data = data if len(data) <= 26 else data[:23] + "..."
        lines.append(f"{number:>5} {token.id:>7}  {trained:<8} {data:<26} {token.shown}".rstrip())
    return "\n".join(lines)


def summary(tokens: Sequence[TokenView]) -> str:
    """How many tokens, how many bytes each, how many trained."""
    size = sum(len(token.data) for token in tokens if not token.special)
    said = f"{len(tokens):,} tokens for {size:,} bytes"
    if tokens:
        said += f" ({size / len(tokens):.2f} bytes a token)"
    if any(token.trained is not None for token in tokens):
        said += f", {sum(bool(token.trained) for token in tokens):,} trained"
    return said
