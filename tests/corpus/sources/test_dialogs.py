"""StackExchange, Reddit and conversations."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
import zstandard

from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.chats_forms import Turn, conversations_of, turns_of_transcript
from tests.corpus.sources.reading import read


def row(**values: Any) -> str:
    return "  <row " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items()) + " />\n"


POSTS = (
    '<?xml version="1.0" encoding="utf-8"?>\n<posts>\n'
    + row(Id=1, PostTypeId=1, AcceptedAnswerId=4, Score=5, Title="How to add?", Tags="<python><math>",
          CreationDate="2020-01-02T03:04:05", ContentLicense="CC BY-SA 4.0",
          Body="<p>I have <code>a</code> &amp; b.</p>\n<pre><code>a + b\n</code></pre>")
    + row(Id=2, PostTypeId=2, ParentId=1, Score=9, Body="<p>Best voted.</p>")
    + row(Id=3, PostTypeId=2, ParentId=1, Score=-2, Body="<p>Wrong.</p>")
    + row(Id=4, PostTypeId=2, ParentId=1, Score=0, Body="<p>Accepted.</p>")
    + row(Id=5, PostTypeId=1, Score=-3, Title="Bad", Body="<p>bad</p>")
    + row(Id=6, PostTypeId=1, Score=3, Title="Lonely", Body="<p>Nobody?</p>")
    + row(Id=7, PostTypeId=2, ParentId=99, Score=3, Body="<p>To whom?</p>")
    + row(Id=8, PostTypeId=5, Body="wiki")
    + "  <row Id=\"9\" PostTypeId=\"1\" Body=\"cut o\n"
    + "</posts>\n"
)  # fmt: skip


@pytest.mark.covers("R178")
@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".zst"])
def test_questions_with_their_answers(tmp_path: Path, compression: str) -> None:
    data = POSTS.encode("utf-8")
    compress = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"Posts.xml{compression}"
    path.write_bytes(compress[compression](data))
    documents, losses = read("stackexchange", path)
    assert [document.id for document in documents] == ["1"]
    assert documents[0].text == (
        "# How to add?\n\nQuestion:\n\nI have `a` & b.\n\n```\na + b\n```\n\nAnswer:\n\n"
        "Accepted.\n\nAnswer:\n\nBest voted."
    )
    assert documents[0].metadata == {
        "title": "How to add?", "score": 5, "answers": 2, "accepted": True, "tags": "python math", "date": "2020-01-02",
        "license": "CC BY-SA 4.0",
    }  # fmt: skip
    assert losses.counts == {"low_score": 2, "unanswered": 1, "orphan_answer": 1, "other_post": 1, "invalid_xml": 1}


def test_thresholds_of_questions_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "Posts.xml"
    path.write_text(POSTS, encoding="utf-8")
    documents, _ = read("stackexchange", path, min_question_score=-10, min_answer_score=-10, unanswered=True)
    assert [document.id for document in documents] == ["1", "5", "6"]
    assert "Wrong." in documents[0].text
    _, losses = read("stackexchange", path, max_answers=1)
    assert losses.counts["too_many_answers"] == 1
    path.write_bytes(b"")
    assert read("stackexchange", path) == ([], Losses())


def posts() -> list[dict[str, Any]]:
    return [
        {"id": "s1", "title": "Cats &amp; dogs", "selftext": "Which?", "score": 10, "subreddit": "pets",
         "over_18": False, "author": "ann"},
        {"id": "c1", "parent_id": "t3_s1", "body": "Cats.\nAlways.", "score": 3, "author": "bob", "subreddit": "pets"},
        {"id": "c2", "parent_id": "t1_c1", "body": "No, dogs.", "score": 2, "author": "cy", "subreddit": "pets"},
        {"id": "c3", "parent_id": "t3_s1", "body": "Fish.", "score": 7, "author": "di", "subreddit": "pets"},
        {"id": "c4", "parent_id": "t3_s1", "body": "[deleted]", "score": 1, "author": "[deleted]"},
        {"id": "c5", "parent_id": "t3_s1", "body": "Bad joke", "score": -5, "author": "ed"},
        {"id": "c6", "parent_id": "t3_s1", "body": "Beep", "score": 5, "author": "AutoModerator"},
        {"id": "c7", "parent_id": "t1_c4", "body": "Reply to nobody", "score": 5, "author": "flo"},
        {"id": "s2", "title": "Adult", "selftext": "", "score": 5, "over_18": True, "author": "gus"},
        {"kind": "modlog"},
    ]  # fmt: skip


@pytest.mark.covers("R178")
def test_reddit_posts_and_their_rules(tmp_path: Path) -> None:
    path = tmp_path / "RC_2011-01.zst"
    data = "".join(json.dumps(post) + "\n" for post in posts()).encode() + b"{broken\n"
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    path.write_bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(data))
    documents, losses = read("reddit", path)
    assert [document.text for document in documents] == [
        "# Cats & dogs\n\nWhich?", "Cats.\nAlways.", "No, dogs.", "Fish.", "Reply to nobody",
    ]  # fmt: skip
    assert documents[0].metadata == {"type": "submission", "subreddit": "pets", "score": 10, "over_18": False}
    assert losses.counts == {"deleted": 1, "low_score": 1, "bot": 1, "nsfw": 1, "not_a_post": 1, "invalid_json": 1}
    assert not any("author" in document.metadata for document in documents)


def test_reddit_threads(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(post) + "\n" for post in posts()), encoding="utf-8")
    documents, losses = read("reddit", path, threads=True)
    assert [(document.id, document.text) for document in documents] == [
        ("t3_s1", "# Cats & dogs\n\nWhich?\n\n- Fish.\n\n- Cats.\n  Always.\n\n  - No, dogs.")
    ]
    assert documents[0].metadata["comments"] == 3
    assert losses.counts["orphan_comment"] == 1


FORMS: dict[str, Any] = {
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "openai": {"messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]},
    "bare list": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    "ultrachat": {"id": "1", "data": ["Hi", "Hello"]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "dolly": {"instruction": "Hi", "context": "", "response": "Hello", "category": "open_qa"},
    "hh": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
    "preference": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
    "tree": {"prompt": {"text": "Hi", "role": "prompter", "replies": [
        {"text": "Worse", "role": "assistant", "rank": 1, "replies": []},
        {"text": "Hello", "role": "assistant", "rank": 0, "replies": []}]}},
}  # fmt: skip


@pytest.mark.covers("R178")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_conversation(form: str) -> None:
    assert conversations_of(FORMS[form]) == [[Turn("user", "Hi"), Turn("assistant", "Hello")]]


@pytest.mark.covers("R178")
def test_conversations_become_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad: list[Any] = [
        {"text": "no conversation"},
        7,
        {"messages": []},
        {"conversations": [{"from": "human", "value": "alone"}]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*FORMS.values(), *bad]), encoding="utf-8")
    documents, losses = read("chat", path)
    assert [document.text for document in documents] == ["User: Hi\n\nAssistant: Hello"] * len(FORMS)
    assert documents[0].metadata == {"roles": ["user", "assistant"], "turns": 2}
    assert losses.counts == {"not_a_conversation": 3, "few_turns": 1}
    documents, _ = read("chat", path, paths="all", names={"user": "Human"})
    assert {document.text for document in documents} == {
        "Human: Hi\n\nAssistant: Hello",
        "Human: Hi\n\nAssistant: Worse",
    }


def test_flat_messages_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    messages = [
        {"message_id": "b", "parent_id": "a", "text": "Hello", "role": "assistant"},
        {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter"},
        {"message_id": "x", "parent_id": "gone", "text": "Lost", "role": "prompter"},
    ]
    path.write_text("".join(json.dumps(message) + "\n" for message in messages), encoding="utf-8")
    documents, losses = read("chat", path)
    assert [(document.id, document.text) for document in documents] == [("a", "User: Hi\n\nAssistant: Hello")]
    assert losses.counts == {"orphan_message": 1}


def test_chats_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"messages": [FORMS["bare list"], FORMS["bare list"]]}), tmp_path / "a.parquet")
    assert [document.text for document in read("chat", tmp_path / "a.parquet")[0]] == [
        "User: Hi\n\nAssistant: Hello"
    ] * 2


def test_plain_transcripts(tmp_path: Path) -> None:
    exported = "[01/02/23, 10:15:00] Ann Lee: Hi there\nsecond line\n[01/02/23, 10:16:00] Bob: Hello: you\n"
    assert turns_of_transcript(exported) == [Turn("ann lee", "Hi there\nsecond line"), Turn("bob", "Hello: you")]
    assert turns_of_transcript("Just some prose.\nNote: nothing here.") is None
    path = tmp_path / "a.txt"
    path.write_text("A: one\nB: two\nA: three\n", encoding="utf-8")
    assert [document.text for document in read("chat", path)[0]] == ["Assistant: one\n\nB: two\n\nAssistant: three"]
    path.write_text("", encoding="utf-8")
    assert read("chat", path)[1].counts == {"not_a_conversation": 1}


@pytest.mark.covers("R178")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sharegpt_format/dummy_conversation.json", 500),
        ("sharegpt_format/glaive_toolcall_en_demo.json", 300),
        ("sharegpt_format/v1_sft_demo.jsonl", 500),
        ("openassistant/en_100_tree.jsonl", 100),
        ("alpaca/llamafactory_alpaca_en_demo.json", 999),
        ("hh_rlhf/harmless-base-test.jsonl.gz", 2309),
        ("gpteacher/roleplay.json", 1923),
    ],
)
def test_real_conversations(shared_data: Path, name: str, count: int) -> None:
    documents, losses = read("chat", shared_data / name)
    assert len(documents) == count
    assert losses.counts in ({}, {"few_turns": 3})
    assert all("user" in document.metadata["roles"] for document in documents)
