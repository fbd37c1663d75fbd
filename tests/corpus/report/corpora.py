"""A small made-up corpus with every kind of event that statistics count."""

from __future__ import annotations

from collections.abc import Sequence

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.report.statistics import Statistics

HOSTILE = '<script>alert(1)</script> "onload=x" &amp; \u202egnp.exe \x1b[2J </pre></details><img src=x onerror=f(2)>'


def document(number: int, text: str | None = None, source: str = "web", **metadata: object) -> Document:
    words = " ".join(f"word{number * 7 % 31 + step}" for step in range(number % 40 + 1))
    return Document(text if text is not None else words, f"{source}/a.txt:{number}", source, metadata)


def fill(numbers: Sequence[int]) -> Statistics:
    """Statistics of the documents with these numbers: every third is dropped, every seventh record is lost."""
    statistics = Statistics()
    for number in numbers:
        source = ("web", "books")[number % 2]
        if number % 7 == 0:
            losses = Losses()
            losses.add("invalid_json", f"a.jsonl:{number}")
            statistics.lose(source, losses)
            continue
        statistics.enter(source)
        tags = {"language": "en" if number % 5 else "ta", "gopher_words": number % 40, "score": number / 97, "ok": True}
        text = document(number, None, source, url=f"https://www.site{number % 4}.example/{number}", date="2021-05-06")
        if number % 3 == 0:
            statistics.drop(text, tags, ["gopher.few_words", "c4.no_sentence"][: 1 + number % 2])
            statistics.duplicate("near", documents=1, size=number)
        else:
            category = "prose" if source == "books" else "web"
            statistics.add(text, {**tags, "category": category, "split": "train"}, tokens=number % 40 + 3)
        statistics.redactions["email"] += number % 2
        statistics.cluster("near", [2 + number % 3])
        statistics.contaminated("quiz", hits=2)
        statistics.spend("read", 0.001 * number)
    return statistics
