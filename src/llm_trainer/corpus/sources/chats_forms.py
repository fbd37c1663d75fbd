"""The forms in which conversations are shared, each to turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """One contribution to a conversation."""

    role: str
    """``system``, ``user``, ``assistant``, ``tool``, or the speaker's name in a plain transcript, lower case."""
    text: str


ROLES = {
    "human": "user", "prompter": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "system": "system", "developer": "system", "function_call": "tool_call", "observation": "tool", "tool": "tool",
    "function": "tool", "function_response": "tool", "function-response": "tool", "tool_call": "tool_call",
    "instruction": "user", "output": "assistant", "q": "user", "a": "assistant", "question": "user",
    "answer": "assistant",
}  # fmt: skip
"""Names of roles, as they are found -> ours."""

_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_SPEAKER = re.compile(
    r"^(?:\[?\d[\d/.:, \-APMapm]{3,24}\]?[ \t]*(?:-[ \t]*)?)?([A-Za-z][\w .'’-]{0,30}?):[ \t]*(?=\S|$)", re.MULTILINE
)
_QUESTIONS = ("instruction", "prompt", "question", "query")
_ANSWERS = ("output", "response", "answer", "completion")
_CONTEXTS = ("input", "context")


def conversations_of(record: object, paths: str = "best") -> list[list[Turn]] | None:
    """The conversations in a record, or None if it is of no known form.

    Args:
        record: one JSON value.
        paths: of a tree, the ``"best"`` path or ``"all"``.
    """
    if isinstance(record, list):
        turns = _from_messages(record)
        return None if turns is None else [turns]
    if not isinstance(record, Mapping):
        return None
    tree = record.get("prompt") if isinstance(record.get("prompt"), Mapping) else record
    if isinstance(tree, Mapping) and isinstance(tree.get("replies"), list) and isinstance(tree.get("text"), str):
        return _from_tree(tree, paths)
    for read in (_from_listed, _from_hh, _from_instances, _from_instruction):
        turns = read(record)
        if turns is not None:
            return [turns]
    return None


def _from_listed(record: Mapping[str, Any]) -> list[Turn] | None:
    """ShareGPT's ``conversations``, OpenAI's ``messages``, UltraChat's ``data``, and the like."""
    for key in ("conversations", "conversation", "messages", "dialog", "dialogue", "turns", "items", "data"):
        if isinstance(record.get(key), list):
            if key == "turns" and all(isinstance(turn, str) for turn in record[key]):
                continue  # MT-bench: what a user asks one after the other, without the answers
            turns = _from_messages(record[key])
            if turns is None:
                continue
            system = record.get("system") or record.get("system_prompt")
            if isinstance(system, str) and system.strip() and not (turns and turns[0].role == "system"):
                turns.insert(0, Turn("system", system))
            answer = record.get("chosen")  # preference data: the prompt and the better answer
            if isinstance(answer, Mapping) and (last := _message(answer)):
                turns.append(last)
            return turns
    prompt, chosen = record.get("prompt"), record.get("chosen")
    if isinstance(prompt, list) and isinstance(chosen, list) and chosen[: len(prompt)] != prompt:
        return _from_messages(prompt + chosen)  # the chosen list is the answer alone
    for listed in (chosen, prompt):
        if isinstance(listed, list):
            return _from_messages(listed)
    return None


def _from_messages(messages: list[Any]) -> list[Turn] | None:
    if messages and all(isinstance(message, str) for message in messages):  # turns about, the user first
        return [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(messages)]
    turns = [_message(message) for message in messages if isinstance(message, Mapping)]
    if not turns or any(turn is None for turn in turns):
        return None
    return [turn for turn in turns if turn is not None]


def _message(message: Mapping[str, Any]) -> Turn | None:
    role = next((message[key] for key in ("role", "from", "speaker", "author", "user") if key in message), None)
    if isinstance(role, Mapping):  # {"author": {"role": "user"}}
        role = role.get("role")
    if not isinstance(role, str):
        return None
    content = next(
        (message[key] for key in ("content", "value", "text", "message", "utterance") if key in message), None
    )
    if isinstance(content, Mapping):
        content = content.get("parts", content.get("text"))
    if isinstance(content, list):
        content = "\n".join(filter(None, map(_piece, content)))
    if content is None and message.get("tool_calls"):
        return Turn("tool_call", str(message["tool_calls"]))
    if content is None and any(key in message for key in ("content", "value", "text")):
        content = ""  # said nothing; the rest of the conversation is as good as before
    return Turn(_role(role), content) if isinstance(content, str) else None


def _piece(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        value = part.get("text", part.get("value"))
        return value if isinstance(value, str) else ""
    return ""


def _role(name: str) -> str:
    plain = name.strip().lower()
    return ROLES.get(plain, plain)


def _from_tree(root: Mapping[str, Any], paths: str) -> list[list[Turn]]:
    """OpenAssistant: answers to answers. Ranked replies first, as its annotators voted; deleted ones are left out."""
    found: list[list[Turn]] = []
    waiting: list[tuple[Mapping[str, Any], list[Turn]]] = [(root, [])]
    while waiting:
        node, above = waiting.pop()
        text = node.get("text")
        turns = [*above, Turn(_role(str(node.get("role", "user"))), text if isinstance(text, str) else "")]
        listed = node.get("replies")
        replies = [reply for reply in listed if _is_reply(reply)] if isinstance(listed, list) else []
        replies.sort(key=lambda reply: reply["rank"] if isinstance(reply.get("rank"), int) else 1 << 30)
        if not replies:
            found.append(turns)
        if paths == "best":
            replies = replies[:1]
        waiting.extend((reply, turns) for reply in reversed(replies))
    return found


class MessageForest:
    """Messages one by one, each naming the one that it answers (OpenAssistant's flat form), put together as trees."""

    def __init__(self, most: int = 500_000) -> None:
        self._most = most
        self._nodes: dict[str, dict[str, Any]] = {}
        self._parents: dict[str, str | None] = {}
        self.lost = 0
        """Messages whose parent is not there; known when all conversations have been given."""

    @staticmethod
    def takes(record: object) -> bool:
        """Whether a record is such a message."""
        if not isinstance(record, Mapping) or "replies" in record:
            return False
        return isinstance(record.get("text"), str) and isinstance(record.get("role"), str) and _parent_key(record) != ""

    def refuse(self, record: Any) -> str:
        """Why a message cannot be taken in, as a reason for the losses; empty if it can."""
        if record.get("deleted"):
            return "deleted"
        if not _name(record):
            return "no_message_id"
        if _name(record) in self._nodes:
            return "same_message_id"
        return "too_many_messages" if len(self._nodes) >= self._most else ""

    def add(self, record: Any) -> None:
        """Take in one message that :meth:`refuse` has nothing against."""
        name = _name(record)
        parent = record.get(_parent_key(record))
        fields = {key: record[key] for key in ("text", "role", "rank") if key in record}
        self._nodes[name] = {**fields, "replies": []}
        self._parents[name] = None if parent is None else str(parent)

    def conversations(self, paths: str) -> Iterator[tuple[str, list[Turn]]]:
        """Every tree's paths with the name of its root."""
        roots = []
        for name, parent in self._parents.items():
            if parent is None:
                roots.append(name)
            elif parent in self._nodes:
                self._nodes[parent]["replies"].append(self._nodes[name])
        reached = 0
        for name in roots:
            reached += _size(self._nodes[name])
            found = _from_tree(self._nodes[name], paths)
            for index, turns in enumerate(found):
                yield (name if len(found) == 1 else f"{name}:{index + 1}"), turns
        self.lost = len(self._nodes) - reached


def _name(record: Mapping[str, Any]) -> str:
    return str(record.get("message_id") or record.get("user_message_id") or record.get("id") or "")


def _parent_key(record: Mapping[str, Any]) -> str:
    return next((key for key in ("parent_id", "parent_message_id") if key in record), "")


def _size(node: Mapping[str, Any]) -> int:
    count, waiting = 0, [node]
    while waiting:
        count += 1
        waiting.extend(waiting.pop()["replies"])
    return count


def _is_reply(reply: Any) -> bool:
    return isinstance(reply, Mapping) and isinstance(reply.get("text"), str) and not reply.get("deleted")


def _from_hh(record: Mapping[str, Any]) -> list[Turn] | None:
    """hh-rlhf: one string, ``\\n\\nHuman: ...\\n\\nAssistant: ...``; the chosen one of the pair."""
    text = record.get("chosen", record.get("transcript"))
    if not isinstance(text, str):
        return None
    if "\n\nHuman:" in text or text.startswith("Human:"):
        parts = _HH_TURN.split("\n\n" + text.lstrip("\n"))
        return [Turn(_role(role), said) for role, said in zip(parts[1::2], parts[2::2], strict=True)]
    question = next((record[key] for key in _QUESTIONS if isinstance(record.get(key), str)), None)
    return [Turn("user", question), Turn("assistant", text)] if question else None


def _from_instances(record: Mapping[str, Any]) -> list[Turn] | None:
    """Self-Instruct's seeds: an instruction and examples of input and output; the first is taken."""
    examples = record.get("instances")
    if not isinstance(examples, list) or not examples or not isinstance(examples[0], Mapping):
        return None
    return _from_instruction({"instruction": record.get("instruction"), **examples[0]})


def _from_instruction(record: Mapping[str, Any]) -> list[Turn] | None:
    """Alpaca, Dolly, GPTeacher: an instruction, perhaps an input, and the answer."""
    pick: Callable[[tuple[str, ...]], str | None] = lambda keys: next(  # noqa: E731 - three uses on three lines
        (record[key] for key in keys if isinstance(record.get(key), str) and record[key].strip()), None
    )
    question, context, answer = pick(_QUESTIONS), pick(_CONTEXTS), pick(_ANSWERS)
    if question is None and context is not None and answer is not None:
        question, context = context, None
    if question is None or not any(key in record for key in _ANSWERS):
        return None
    turns = [Turn("user", f"{question}\n\n{context}" if context else question), Turn("assistant", answer or "")]
    system = record.get("system") or record.get("system_prompt")
    history = record.get("history")
    if isinstance(history, list):
        pairs = [pair for pair in history if isinstance(pair, list) and len(pair) == 2]
        turns = [Turn(role, str(text)) for pair in pairs for role, text in zip(("user", "assistant"), pair)] + turns
    return [Turn("system", system), *turns] if isinstance(system, str) and system.strip() else turns


def turns_of_transcript(text: str) -> list[Turn] | None:
    """``A: ...`` lines, also with the time before the name, as messengers export them; None if there are not two.

    Lines without a name go on with what was said before.
    """
    matches = list(_SPEAKER.finditer(text))
    speakers = {match[1].strip().lower() for match in matches}
    # A speaker speaks more than once, or there are no more than a few: "Note:" and "PS:" are no people.
    if len(matches) < 2 or len(speakers) > max(4, len(matches) // 2) or text[: matches[0].start()].strip():
        return None
    stops = [match.start() for match in matches[1:]] + [len(text)]
    return [Turn(_role(match[1]), text[match.end() : stop].strip()) for match, stop in zip(matches, stops, strict=True)]
