"""StackExchange dumps (``Posts.xml``): every question with its answers as one document.

Posts stand in the order of their numbers, answers far behind their question, so they are first put into a database on
the disk; the memory stays the same for 60 million posts as for 60.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.books_html import html_text
from llm_trainer.corpus.sources.files_stream import StreamLimits, read_blocks, split_lines
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

_ATTRIBUTE = re.compile(r'([A-Za-z]+)="([^"]*)"')
_ROW = re.compile(rb"<row\b[^<]*")  # in a value < is written &lt;
_NUMBER = re.compile(r"-?\d+")
_TAGS = re.compile(r"[<|]([^<>|]+)[>|]?")
_BATCH = 500


class StackExchangeOptions(StreamLimits):
    """Options of StackExchange dumps."""

    min_question_score: Int = 0
    """Questions with a lower score are left out, with their answers."""
    min_answer_score: Int = 0
    """Answers with a lower score are left out, unless they are the accepted one."""
    max_answers: Int = 10
    """Answers of one question: the accepted one, then by score."""
    unanswered: bool = False
    """Whether to keep questions without an answer."""


def read_posts(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a question; the id is its number.

    Counted are broken rows (``invalid_xml``), questions and answers with a ``low_score``, ``orphan_answer``,
    ``unanswered`` and ``too_many_answers``.
    """
    options = request.options if isinstance(request.options, StackExchangeOptions) else StackExchangeOptions()
    with tempfile.TemporaryDirectory(prefix="posts-", ignore_cleanup_errors=True) as folder:
        database = sqlite3.connect(Path(folder) / "posts.sqlite", isolation_level=None)
        try:
            database.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-32000;"
                "CREATE TABLE questions(id INTEGER PRIMARY KEY, accepted INTEGER, score INTEGER, title TEXT, body TEXT,"
                " tags TEXT, licence TEXT, date TEXT);"
                "CREATE TABLE answers(parent INTEGER, id INTEGER, score INTEGER, body TEXT);"
            )
            _fill(database, path, options, request, losses)
            database.execute("CREATE INDEX by_parent ON answers(parent, score DESC, id)")
            orphans = database.execute(
                "SELECT parent, COUNT(*) FROM answers WHERE parent NOT IN (SELECT id FROM questions)"
                " GROUP BY parent ORDER BY parent"
            )
            for parent, count in orphans:
                losses.add("orphan_answer", f"{path}:question {parent}", "the question is not there", count=count)
            yield from _questions(database, path, options, request, losses)
        finally:
            database.close()


def _fill(
    database: sqlite3.Connection, path: Path, options: StackExchangeOptions, request: ReadRequest, losses: Losses
) -> None:
    database.execute("BEGIN")
    for where, row in _rows(path, options, request, losses):
        kind, number = row.get("PostTypeId"), _integer(row.get("Id"))
        body = row.get("Body", "")
        if number is None or kind not in ("1", "2"):  # tag wikis, moderators' notes
            losses.add("invalid_row" if number is None else "other_post", where, f"post type {kind}")
            continue
        score = _integer(row.get("Score")) or 0
        if kind == "1":
            licence = row.get("ContentLicense", "")
            values = (number, _integer(row.get("AcceptedAnswerId")), score, row.get("Title", ""), body)
            tags = " ".join(_TAGS.findall(row.get("Tags", "")))
            added = database.execute(
                "INSERT OR IGNORE INTO questions VALUES(?,?,?,?,?,?,?,?)",
                (*values, tags, licence, row.get("CreationDate", "")[:10]),
            )
            if not added.rowcount:
                losses.add("same_number", where, f"question {number} was there before")
        else:
            parent = _integer(row.get("ParentId"))
            database.execute("INSERT INTO answers VALUES(?,?,?,?)", (parent or 0, number, score, body))
    database.execute("COMMIT")


def _rows(
    path: Path, options: StackExchangeOptions, request: ReadRequest, losses: Losses
) -> Iterator[tuple[str, dict[str, str]]]:
    """The attributes of every ``<row .../>``: one a line in all dumps, so that one broken row costs one
    row; other programs write them all on one."""
    for line in split_lines(read_blocks(path, losses, options), 4 * request.max_document_chars):
        where = f"{path}:byte {line.offset}"
        if not (line.first and line.last):
            if line.first:
                losses.add("too_large", where)
            continue
        for found in _ROW.finditer(line.data):
            try:
                text = found[0].decode("utf-8").strip()
            except UnicodeDecodeError as error:
                losses.add("invalid_encoding", where, error.reason)
                continue
            if not text.endswith(">"):
                losses.add("invalid_xml", where, "the row does not end")
                continue
            yield where, {name: unescape(value) for name, value in _ATTRIBUTE.findall(text)}


def _questions(
    database: sqlite3.Connection, path: Path, options: StackExchangeOptions, request: ReadRequest, losses: Losses
) -> Iterator[Document]:
    for row in database.execute(
        "SELECT id, accepted, score, title, body, tags, licence, date FROM questions ORDER BY id"
    ):
        number, accepted, score, title, body, tags, licence, date = row
        where = f"{path}:question {number}"
        if score < options.min_question_score:
            lost = database.execute("SELECT COUNT(*) FROM answers WHERE parent = ?", (number,)).fetchone()[0]
            losses.add("low_score", where, f"score {score}, with its answers", count=1 + lost)
            continue
        answers = _answers(database, number, accepted, where, options, losses)
        if not answers and not options.unanswered:
            losses.add("unanswered", where)
            continue
        text = _render(title, body, [answer for _, answer in answers])
        if not text:
            losses.add("empty", where)
        elif len(text) > request.max_document_chars:
            losses.add("too_large", where, f"{len(text):,} characters")
        else:
            metadata: dict[str, Any] = {
                "title": title,
                "score": score,
                "answers": len(answers),
                "accepted": bool(answers) and answers[0][0] == accepted,
                "tags": tags,
                "date": date,
            }
            if licence:
                metadata["license"] = licence
            yield Document(text, str(number), "", metadata)


def _answers(
    database: sqlite3.Connection,
    number: int,
    accepted: int | None,
    where: str,
    options: StackExchangeOptions,
    losses: Losses,
) -> list[tuple[int, str]]:
    rows = database.execute(
        "SELECT id, score, body FROM answers WHERE parent = ? ORDER BY id = ? DESC, score DESC, id",
        (number, accepted or 0),
    )
    kept: list[tuple[int, str]] = []
    for answer, score, body in rows:
        if score < options.min_answer_score and answer != accepted:
            losses.add("low_score", f"{where}, answer {answer}", f"score {score}")
        elif len(kept) >= options.max_answers:
            losses.add("too_many_answers", f"{where}, answer {answer}")
        else:
            kept.append((answer, body))
    return kept


def _render(title: str, body: str, answers: list[str]) -> str:
    question = html_text(body)
    parts = [f"# {title.strip()}" if title.strip() else "", f"Question:\n\n{question}" if question else ""]
    parts += [f"Answer:\n\n{text}" for text in map(html_text, answers) if text]
    return "\n\n".join(part for part in parts if part)


def _integer(value: str | None) -> int | None:
    return int(value) if value and len(value) < 19 and _NUMBER.fullmatch(value) else None


KIND_STACKEXCHANGE = Kind(
    name="stackexchange",
    description="StackExchange dumps: Posts.xml, also compressed",
    read=read_posts,
    suffixes=("posts.xml", "posts.xml.gz", "posts.xml.bz2", "posts.xml.xz", "posts.xml.zst"),
    options=StackExchangeOptions,
)
