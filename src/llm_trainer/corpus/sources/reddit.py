"""Reddit dumps: one JSON object a line, a submission or a comment, usually ``.zst`` with a window of 2 GiB."""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, Literal

from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files import json_records
from llm_trainer.corpus.sources.files_columns import normalise_lines, why_not_text
from llm_trainer.corpus.sources.files_stream import StreamLimits
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

_GONE = frozenset({"[deleted]", "[removed]", "[deleted by user]", "[removed by reddit]", "[ removed by reddit ]"})
# Abbot and Talbot are people: "bot" has to be a word of the name, by its signs or by its capital.
_BOT = re.compile(r"(?:^|[_-])(?i:bot)\d*(?:[_-]|$)|[a-z]Bot\d*(?:[_-]|$)|^(?i:automoderator)$")
_BOT_WORDS = ("i am a bot", "i'm a bot", "this action was performed automatically", "beep boop", "^(i am a bot")
_DEEPEST = 200


class RedditOptions(StreamLimits):
    """Which posts are taken."""

    threads: bool = False
    """Put comments under what they answer and give one document a thread. Submissions and comments have to be in the
    same file; it is kept in a database on the disk meanwhile."""
    min_score: Int = 1
    """Posts with a lower score are left out; new ones begin with 1."""
    nsfw: bool = False
    """Whether to keep posts marked as not safe for work."""
    bots: bool = False
    """Whether to keep posts of accounts that call themselves bots."""
    order: Literal["score", "time"] = "score"
    """Order of comments on the same level of a thread."""


def read_reddit(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a post (id: the byte where it stands), or one a thread (id: that of the submission).

    Counted are ``deleted``, ``low_score``, ``nsfw``, ``bot`` and ``not_a_post``; authors are not kept.
    """
    options = request.options if isinstance(request.options, RedditOptions) else RedditOptions()
    if options.threads:
        yield from _threads(path, options, request, losses)
        return
    for offset, where, record in _posts(path, options, request, losses):
        text = _text(record)
        reason = why_not_text(text, request.max_document_chars)
        if reason:
            losses.add(reason, where)
        else:
            yield Document(text, str(offset), "", _metadata(record))


def _posts(
    path: Path, options: RedditOptions, request: ReadRequest, losses: Losses
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for offset, record in json_records(path, request, losses):
        where = f"{path}:byte {offset}"
        if not isinstance(record, dict) or not ("body" in record or "title" in record):
            losses.add("not_a_post", where, "neither a body nor a title")
        elif reason := _why_not(record, options):
            losses.add(reason, where)
        else:
            yield offset, where, record


def _why_not(record: dict[str, Any], options: RedditOptions) -> str | None:
    content = record.get("body", record.get("selftext", ""))
    if not isinstance(content, (str, type(None))):
        return "not_text"
    if (content or "").strip().lower() in _GONE or record.get("removed_by_category"):
        return "deleted"
    if not options.nsfw and record.get("over_18") is True:
        return "nsfw"
    score = record.get("score")
    if isinstance(score, int) and score < options.min_score:
        return "low_score"
    if not options.bots and _is_bot(record, content or ""):
        return "bot"
    return None


def _is_bot(record: dict[str, Any], content: str) -> bool:
    author = record.get("author")
    if isinstance(author, str) and _BOT.search(author):
        return True
    lowered = content[:3000].lower()
    return any(words in lowered for words in _BOT_WORDS)


def _text(record: dict[str, Any]) -> str:
    """Title and text. The API escapes ``&``, ``<`` and ``>``, and so do the dumps."""
    title, body = record.get("title"), record.get("body", record.get("selftext"))
    parts = [f"# {title.strip()}" if isinstance(title, str) and title.strip() else ""]
    parts.append(body.strip() if isinstance(body, str) else "")
    return normalise_lines(unescape("\n\n".join(part for part in parts if part)))


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"type": "comment" if "body" in record else "submission"}
    for name in ("subreddit", "score", "created_utc", "over_18"):
        if isinstance(record.get(name), (str, int, bool)):
            facts[name] = record[name]
    return facts


def _threads(path: Path, options: RedditOptions, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    with tempfile.TemporaryDirectory(prefix="threads-", ignore_cleanup_errors=True) as folder:
        database = sqlite3.connect(Path(folder) / "posts.sqlite", isolation_level=None)
        try:
            database.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-32000;"
                "CREATE TABLE submissions(name TEXT PRIMARY KEY, text TEXT, subreddit TEXT, score INTEGER,"
                " time INTEGER);"
                "CREATE TABLE comments(parent TEXT, name TEXT PRIMARY KEY, text TEXT, score INTEGER, time INTEGER)"
            )
            _store(database, path, options, request, losses)
            database.execute("CREATE INDEX by_parent ON comments(parent)")
            used = 0
            for row in database.execute("SELECT name, text, subreddit, score FROM submissions ORDER BY name"):
                name, opening, subreddit, score = row
                replies = list(_replies(database, name, options))
                used += len(replies)
                text = "\n\n".join([opening, *replies])
                if len(text) > request.max_document_chars:
                    losses.add("too_large", f"{path}:{name}", f"{len(text):,} characters")
                    continue
                metadata = {"subreddit": subreddit, "score": score, "comments": len(replies), "type": "thread"}
                yield Document(text, name, "", metadata)
            total = database.execute("SELECT COUNT(*) FROM comments").fetchone()[0]
            if total > used:
                detail = "what they answer is not in the file, or was left out"
                losses.add("orphan_comment", str(path), detail, count=total - used)
        finally:
            database.close()


def _store(
    database: sqlite3.Connection, path: Path, options: RedditOptions, request: ReadRequest, losses: Losses
) -> None:
    database.execute("BEGIN")
    for _, where, record in _posts(path, options, request, losses):
        text = _text(record)
        number, score = record.get("id"), record.get("score")
        created = record.get("created_utc")
        reason = why_not_text(text, request.max_document_chars)
        if reason or not isinstance(number, str):
            losses.add(reason or "not_a_post", where)
            continue
        facts = (score if isinstance(score, int) else 0, int(str(created)) if str(created).isdigit() else 0)
        if "body" in record:
            row = (str(record.get("parent_id", "")), f"t1_{number}", text, *facts)
            added = database.execute("INSERT OR IGNORE INTO comments VALUES(?,?,?,?,?)", row)
        else:
            opening = (f"t3_{number}", text, str(record.get("subreddit", "")), *facts)
            added = database.execute("INSERT OR IGNORE INTO submissions VALUES(?,?,?,?,?)", opening)
        if not added.rowcount:
            losses.add("same_id", where, f"a post {number} was there before")
    database.execute("COMMIT")


def _replies(database: sqlite3.Connection, name: str, options: RedditOptions) -> Iterator[str]:
    """Comments below a post, depth first, indented by two spaces a level."""
    order = "score DESC, time, name" if options.order == "score" else "time, name"
    query = f"SELECT name, text FROM comments WHERE parent = ? ORDER BY {order}"
    waiting = [(0, row) for row in reversed(database.execute(query, (name,)).fetchall())]
    while waiting:
        depth, (comment, text) = waiting.pop()
        indent = "  " * depth
        yield indent + "- " + text.replace("\n", f"\n{indent}  ")
        if depth < _DEEPEST:
            below = database.execute(query, (comment,)).fetchall()
            waiting.extend((depth + 1, row) for row in reversed(below))


KIND_REDDIT = Kind(
    name="reddit",
    description="Reddit dumps of submissions and comments, posts or whole threads",
    read=read_reddit,
    options=RedditOptions,
)
