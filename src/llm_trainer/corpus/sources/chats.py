"""Conversations and instructions, in the forms that people share them, as readable transcripts.

``User: ...`` and ``Assistant: ...`` paragraphs with a blank line between; the roles are in the metadata too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.chats_forms import MessageForest, Turn, conversations_of, turns_of_transcript
from llm_trainer.corpus.sources.files import json_records
from llm_trainer.corpus.sources.files_columns import normalise_lines, why_not_text
from llm_trainer.corpus.sources.files_json import json_values
from llm_trainer.corpus.sources.files_parquet import parquet_records
from llm_trainer.corpus.sources.files_stream import StreamLimits, as_utf8, format_name, read_blocks
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest


class ChatOptions(StreamLimits):
    """Options of conversations."""

    paths: Literal["best", "all"] = "best"
    """Of a tree of answers (OpenAssistant): the best-ranked path, or every path from the root to a leaf."""
    min_turns: Int = 2
    """Conversations with fewer turns are left out; a question without an answer has one."""
    names: dict[str, str] = {}
    """How roles are written in the transcript, for example ``{"user": "Human"}``."""


def read_chats(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a conversation, from JSON, JSON Lines, Parquet or a plain transcript, each record in any known form.

    Counted are ``not_a_conversation`` and ``few_turns``, and of messages one by one ``deleted``, ``no_message_id``,
    ``same_message_id``, ``too_many_messages`` (their trees have to be in memory) and ``orphan_message``.
    """
    options = request.options if isinstance(request.options, ChatOptions) else ChatOptions()
    form = format_name(path)[0]
    if form in (".txt", ".md", ".log", ""):
        yield from _read_transcript(path, options, request, losses)
        return
    values: Iterator[tuple[int, object]]
    if form == ".json":
        unit, values = "item", json_values(path, request, losses)
    elif form == ".parquet":
        unit, values = "row", parquet_records(path, losses)
    else:
        unit, values = "byte", json_records(path, request, losses)
    messages = MessageForest()
    for number, record in values:
        where = f"{path}:{unit} {number}"
        if messages.takes(record):
            if refusal := messages.refuse(record):
                losses.add(refusal, where)
            else:
                messages.add(record)
            continue
        conversations = conversations_of(record, options.paths)
        if conversations is None:
            losses.add("not_a_conversation", where, _describe(record))
            continue
        for index, turns in enumerate(conversations):
            name = str(number) if len(conversations) == 1 else f"{number}:{index + 1}"
            document = _document(turns, name, where, options, request, losses)
            if document:
                yield document
    for name, turns in messages.conversations(options.paths):
        document = _document(turns, name, f"{path}:message {name}", options, request, losses)
        if document:
            yield document
    if messages.lost:
        losses.add("orphan_message", str(path), "the message that it answers is not there", count=messages.lost)


def _describe(record: object) -> str:
    return "keys " + ", ".join(map(repr, list(record)[:6])) if isinstance(record, dict) else type(record).__name__


def _read_transcript(path: Path, options: ChatOptions, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    held = bytearray()
    for block in as_utf8(read_blocks(path, losses, options), request.encoding, path, losses):
        held += block
        if len(held) > 4 * request.max_document_chars:
            losses.add("too_large", str(path))
            return
    try:
        text = normalise_lines(held.decode("utf-8"))
    except UnicodeDecodeError as error:
        losses.add("invalid_encoding", f"{path}:byte {error.start}", error.reason)
        return
    turns = turns_of_transcript(text)
    if turns is None:
        losses.add("not_a_conversation", str(path), "no lines of the form NAME: text" if text.strip() else "empty")
        return
    document = _document(turns, "", str(path), options, request, losses)
    if document:
        yield document


def _document(
    turns: list[Turn], name: str, where: str, options: ChatOptions, request: ReadRequest, losses: Losses
) -> Document | None:
    turns = [turn for turn in turns if turn.text.strip()]
    if len([turn for turn in turns if turn.role != "system"]) < options.min_turns:
        losses.add("few_turns", where, f"{len(turns)}")
        return None
    text = render(turns, options.names)
    reason = why_not_text(text, request.max_document_chars)
    if reason:
        losses.add(reason, where)
        return None
    metadata = {"roles": [turn.role for turn in turns], "turns": len(turns)}
    return Document(normalise_lines(text), name, "", metadata)


def render(turns: list[Turn], names: dict[str, str] | None = None) -> str:
    """A transcript: ``User: ...``, a blank line, ``Assistant: ...``.

    Args:
        turns: who said what.
        names: role -> how it is written; the role with a capital where none is given.
    """
    written = names or {}
    return "\n\n".join(
        f"{written.get(turn.role, turn.role.replace('_', ' ').capitalize())}: {turn.text.strip()}" for turn in turns
    )


KIND_CHAT = Kind(
    name="chat",
    description="conversations and instructions: ShareGPT, messages, OpenAssistant, Alpaca, Dolly, hh-rlhf",
    read=read_chats,
    options=ChatOptions,
)
