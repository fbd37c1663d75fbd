"""The chat template in a tokenizer's folder: ``chat_template.jinja``, where transformers looks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, UserError
from llm_trainer.common.files import explain_os_errors, read_json, write_json, write_text
from llm_trainer.tokenizer.chat import ChatTemplate
from llm_trainer.tokenizer.chat_templates import TEMPLATES

CHAT_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
_NAMES = {source: name for name, source in TEMPLATES.items()}


def write_chat_template(folder: str | Path, template: ChatTemplate | None) -> None:
    """Add a template to a folder that holds a tokenizer, or remove the one that is there.

    transformers renders a conversation to text and encodes that; control tokens in it must count, so
    ``split_special_tokens`` is off in a folder with a template. There, text that spells a control token is safe in
    transformers only with ``apply_chat_template(..., sanitize_control_tokens=True)``.
    """
    folder = Path(folder)
    config = _config(folder)
    if config.get("split_special_tokens", False) != (template is None):
        config["split_special_tokens"] = template is None
        write_json(folder / CONFIG_FILE, config)
    if template is not None:
        write_text(folder / CHAT_FILE, template.source)
    else:
        with explain_os_errors(folder / CHAT_FILE):
            (folder / CHAT_FILE).unlink(missing_ok=True)


def read_chat_template(folder: str | Path) -> ChatTemplate | None:
    """The template of a folder, or ``None``. One of ours gets its name back.

    Raises:
        CorruptionError: it is damaged; the message names the file.
    """
    folder = Path(folder)
    if (folder / CHAT_FILE).is_file():
        where = folder / CHAT_FILE
        source: str | None = _text(where)
    else:
        where, source = folder / CONFIG_FILE, _default(_config(folder).get("chat_template"))
    if source is None:
        return None
    template = ChatTemplate(source, _NAMES.get(source, f"the chat template in {where}"))
    try:
        template.check()
    except UserError as error:
        raise CorruptionError(error.message, hint="the file is damaged or was edited; copy it again") from None
    return template


def named_template(source: str, where: str) -> ChatTemplate:
    """A template with the name that ours has, else the place where it was found."""
    return ChatTemplate(source, _NAMES.get(source, f"the chat template of {where}"))


def _default(value: Any) -> str | None:
    """Older folders hold the text itself, or a list of named templates of which ``default`` is the one for chats."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except UserError as error:
        raise CorruptionError(error.message, hint="the file is damaged; copy it again") from None
    if not isinstance(content, dict):
        raise CorruptionError(f"{path} is not an object", hint="the file is damaged; copy it again")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptionError(f"{path} cannot be read: {error}", hint="copy it again") from None
