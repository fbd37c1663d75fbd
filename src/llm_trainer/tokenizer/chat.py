"""Conversations as tokens: a template turns messages into ids, and says which of them the assistant wrote.

A template is Jinja text, the form in which models are published, so that a tokenizer saved here renders the same chat
in transformers. Three rules keep training and use honest:

- *What a person writes stays text.* Only control tokens that the template itself writes become control tokens; a
  message that spells ``<|im_end|>`` gets ordinary tokens.
- *The mask is exact.* The loss mask is 1 on what the assistant wrote and on the token that ends its turn, else 0. It
  comes from marks that the template leaves (``{% generation %}``), never from encoding a prefix and counting.
- *A prompt is a prefix.* The ids that a model answers to (``add_generation_prompt=True``) are the beginning of the ids
  that it was trained on. Where text may be encoded in pieces, as with byte-level BPE, answers are therefore encoded
  apart from what stands before them, so that no token crosses the border.

Tools (function calls) are not supported.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer.chat_templates import TEMPLATES, TOKENS_OF
from llm_trainer.tokenizer.pretokenize import replace_surrogates

if TYPE_CHECKING:
    from llm_trainer.tokenizer.base import Tokenizer

Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant")
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class RenderedChat(NamedTuple):
    """A conversation as tokens; both lists have one entry for each token."""

    ids: list[int]
    loss_mask: list[int]
    """1 where the assistant wrote the token, its end of turn included; 0 elsewhere."""


class _Run(NamedTuple):
    """Rendered text between two control tokens, or one control token."""

    text: str
    trained: bool
    control: bool


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become text.

    Args:
        source: the Jinja text. It sees ``messages``, ``add_generation_prompt`` and the tokenizer's special tokens in
            their roles (``bos_token``, ``eos_token``, ``pad_token``).
        name: where it is from, for messages to the person.
    """

    source: str
    name: str = "the chat template"

    @classmethod
    def load(cls, name_or_source: str | Path) -> ChatTemplate:
        """A template by name (``chatml``, ``llama3``, ``alpaca``, ``plain``), from a file, or the Jinja text itself.

        Raises:
            UserError: there is no such name or file, or the text is not valid Jinja.
        """
        text = str(name_or_source)
        if text in TEMPLATES:
            return cls(TEMPLATES[text], text)
        if "{{" in text or "{%" in text:
            template = cls(text)
        else:
            template = cls(_read(Path(name_or_source)), text)
        template.check()
        return template

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Special tokens that a built-in template writes, so that a tokenizer can be trained with them."""
        return TOKENS_OF.get(self.name, ())

    @property
    def marks_answers(self) -> bool:
        """Whether the template itself says what the assistant writes, with ``{% generation %}``."""
        return _GENERATION.search(self.source) is not None

    def check(self) -> None:
        """Raise :class:`UserError` unless the text is valid Jinja."""
        from jinja2.exceptions import TemplateError

        from llm_trainer.tokenizer.jinja_sandbox import compile_template

        try:
            compile_template(self.source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            raise UserError(f"{self.name} is not a usable chat template: {error.message}{where}") from None

    def render_text(self, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as one text, as the template writes it. For reading: ids come from :meth:`render`."""
        chat = _checked(messages)
        return self._run(tokenizer, chat, add_generation_prompt)

    def render(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> RenderedChat:
        """The ids of a conversation and which of them are trained.

        Args:
            tokenizer: whose ids.
            messages: ``{"role": "system" | "user" | "assistant", "content": text}`` in order. ``"train": False`` in a
                message of the assistant leaves it out of the mask.
            add_generation_prompt: end with the header of the assistant's next answer, for generating it.

        Raises:
            DataError: a message has another form, or the template refuses the conversation.
            UserError: the tokenizer lacks the template's special tokens, or the template is not usable.
        """
        chat = _checked(messages)
        self._check_tokens(tokenizer)
        specials = tokenizer.special_tokens
        broken = [{**message, "content": _break_specials(message["content"], specials)} for message in chat]
        text = self._marked(tokenizer, broken, add_generation_prompt)
        runs = _runs(text, [message for message in chat if message["role"] == "assistant"], specials, self.name)
        ids: list[int] = []
        mask: list[int] = []
        plain: list[_Run] = []
        for run in [*runs, _Run("", False, True)]:
            if not run.control:
                plain.append(run)
                continue
            _encode_plain(tokenizer, plain, ids, mask)
            plain = []
            if run.text:
                ids.append(specials[run.text])
                mask.append(int(run.trained))
        return RenderedChat(ids, mask)

    def end_of_turn(self, tokenizer: Tokenizer) -> int | None:
        """The id with which the assistant ends its turn, where generation stops; ``None``: the template has none."""
        rendered = self.render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        trained = [token_id for token_id, counts in zip(*rendered) if counts]
        return trained[-1] if trained and trained[-1] in tokenizer.special_tokens.values() else None

    def _run(self, tokenizer: Tokenizer, chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        text = self._marked(tokenizer, chat, add_generation_prompt) if self.marks_answers else None
        if text is None:
            text = self._render(tokenizer, chat, add_generation_prompt)
        from llm_trainer.tokenizer.jinja_sandbox import RESERVED

        return RESERVED.sub("", text)

    def _marked(self, tokenizer: Tokenizer, chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """The rendered text, with marks around what the assistant wrote."""
        from llm_trainer.tokenizer.jinja_sandbox import ANSWER_END, ANSWER_START

        if self.marks_answers:
            return self._render(tokenizer, chat, add_generation_prompt)
        marked = [
            {**message, "content": _between(message["content"], ANSWER_START, ANSWER_END)}
            if message["role"] == "assistant"
            else message
            for message in chat
        ]
        text = self._render(tokenizer, marked, add_generation_prompt)
        without = text.replace(ANSWER_START, "").replace(ANSWER_END, "")
        answers = sum(message["role"] == "assistant" for message in chat)
        if text.count(ANSWER_START) != answers or without != self._render(tokenizer, chat, add_generation_prompt):
            raise UserError(
                f"{self.name} rewrites answers, so what the assistant wrote cannot be told from the rest",
                hint="put {% generation %} and {% endgeneration %} around what the assistant writes",
            )
        return _with_end_of_turn(text, tokenizer.special_tokens)

    def _render(self, tokenizer: Tokenizer, chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        from jinja2.exceptions import TemplateError

        from llm_trainer.tokenizer.jinja_sandbox import run_template

        roles = {
            role: token
            for role in ("bos_token", "eos_token", "pad_token")
            if (token := getattr(tokenizer, role)) is not None
        }
        shown = [{"role": message["role"], "content": message["content"]} for message in chat]
        variables = {"messages": shown, "add_generation_prompt": add_generation_prompt, **roles}
        try:
            return run_template(self.source, variables)
        except TemplateError as error:
            raise DataError(f"{self.name} cannot render this conversation: {error.message}") from None

    def _check_tokens(self, tokenizer: Tokenizer) -> None:
        missing = [token for token in self.control_tokens if token not in tokenizer.special_tokens]
        if missing:
            raise UserError(
                f"the template {self.name} needs special tokens that this tokenizer lacks: {', '.join(missing)}",
                hint=f"train the tokenizer with them (llm-trainer tokenizer train --chat {self.name}), "
                "or choose the template plain or alpaca, which need none",
            )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"there is no chat template {str(path)!r}", hint=f"choose {', '.join(TEMPLATES)}, or name a Jinja file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the chat template {path} cannot be read: {error}") from None


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as plain dictionaries of known form, so that a template meets nothing else."""
    from llm_trainer.tokenizer.jinja_sandbox import RESERVED

    if isinstance(messages, Mapping | str) or not isinstance(messages, Sequence):
        raise DataError("a conversation must be a list of messages", hint='[{"role": "user", "content": "Hello"}]')
    if not messages:
        raise DataError("the conversation is empty", hint="give it one message or more")
    chat = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise DataError(f"message {number} is {message!r}", hint='write {"role": "user", "content": "Hello"}')
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"message {number} has the role {role!r}", hint=f"the roles are {', '.join(ROLES)}")
        if message.get("tool_calls"):
            raise DataError(f"message {number} calls tools, which are not supported")
        if not isinstance(content, str):
            raise DataError(f"message {number} has no text: its content is {content!r}", hint="content must be a str")
        if not isinstance(message.get("train", True), bool):
            raise DataError(f"message {number} has train: {message['train']!r}", hint="write true or false")
        # The marks that follow are not characters; a text that holds them keeps its length and loses their effect.
        clean = RESERVED.sub("\ufffd", replace_surrogates(content))
        chat.append({"role": role, "content": clean, "train": message.get("train", True)})
    return chat


def _between(content: str, start: str, end: str) -> str:
    """Marks around a content, inside its white space, so that a template may still trim it."""
    inner = content.strip()
    if not inner:
        return content + start + end
    before = content.index(inner)
    return content[:before] + start + inner + end + content[before + len(inner) :]


def _with_end_of_turn(text: str, specials: Mapping[str, int]) -> str:
    """Move each end mark behind the control token that follows, if any: the answer includes its end of turn."""
    from llm_trainer.tokenizer.jinja_sandbox import ANSWER_END

    if not specials:
        return text
    return re.sub(f"{ANSWER_END}(\\s*{_special_pattern(frozenset(specials)).pattern})", rf"\g<1>{ANSWER_END}", text)


@functools.lru_cache(maxsize=64)
def _special_pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    """Any of some tokens; where one starts another, the longer one wins."""
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("(?:" + "|".join(re.escape(token) for token in ordered) + ")")


def _break_specials(content: str, specials: Mapping[str, int]) -> str:
    """Put a mark inside everything in a message that is, or could become, a special token in its surroundings."""
    from llm_trainer.tokenizer.jinja_sandbox import BREAK

    if not specials or not content:
        return content
    tokens = frozenset(specials)
    # A lookahead finds overlapping occurrences too.
    content = re.sub(f"(?=({_special_pattern(tokens).pattern}))(.)", rf"\g<2>{BREAK}", content, flags=re.DOTALL)
    stripped_end = content.rstrip()
    if any(stripped_end.endswith(token[:size]) for token in tokens for size in range(1, len(token))):
        content = stripped_end + BREAK + content[len(stripped_end) :]
    stripped_start = content.lstrip()
    if any(stripped_start.startswith(token[-size:]) for token in tokens for size in range(1, len(token))):
        content = content[: len(content) - len(stripped_start)] + BREAK + stripped_start
    return content


def _runs(text: str, answers: list[dict[str, Any]], specials: Mapping[str, int], name: str) -> list[_Run]:
    """Cut a rendered text at its control tokens and at the borders of answers."""
    from llm_trainer.tokenizer.jinja_sandbox import ANSWER_END, ANSWER_START, BREAK

    border = re.compile(f"([{ANSWER_START}{ANSWER_END}])")
    control = re.compile(f"({_special_pattern(frozenset(specials)).pattern})") if specials else None
    regions = text.count(ANSWER_START)
    if not all(answer["train"] for answer in answers) and regions != len(answers):
        raise UserError(
            f"{name} writes {regions} answers for {len(answers)} messages, so train: false has no clear meaning"
        )
    runs: list[_Run] = []
    inside, number = False, -1
    for part in border.split(text):
        if part in (ANSWER_START, ANSWER_END):
            if inside == (part == ANSWER_START):
                raise UserError(f"{name} has one generation block inside another")
            inside = part == ANSWER_START
            number += inside
            continue
        trained = inside and (number >= len(answers) or answers[number]["train"])
        for piece in control.split(part) if control else [part]:
            if piece:
                runs.append(_Run(piece.replace(BREAK, ""), trained, piece in specials))
    return runs


def _encode_plain(tokenizer: Tokenizer, runs: list[_Run], ids: list[int], mask: list[int]) -> None:
    """Append the ids of neighbouring runs that hold no control token."""
    if tokenizer.exact_pieces:
        for run in runs:
            new = tokenizer.encode(run.text)
            ids += new
            mask += [int(run.trained)] * len(new)
        return
    if not runs:
        return
    # Such a tokenizer treats the beginning of a text differently, so the text stays whole; offsets tell what is whose.
    text = "".join(run.text for run in runs)
    trained = [run.trained for run in runs for _ in run.text]
    new, offsets = tokenizer.encode_with_offsets(text)
    ids += new
    mask += [int(any(trained[start:end])) for start, end in offsets]
