"""What a person sees while packing."""

from __future__ import annotations

import re

import pytest

from llm_trainer.data import build_cache, format_progress
from llm_trainer.data.progress import PackProgress
from tests.byte_tokenizer import ByteTokenizer

PROGRESS = PackProgress(
    documents=1250,
    total_documents=10_000,
    found_documents=0,
    chunks=15,
    tokens=312_500,
    chunk_tokens=300_000,
    text_bytes=1_000_000,
    stored_bytes=420_000,
    dtype="uint16",
    seconds=10,
)


@pytest.mark.covers("R216")
def test_progress_names_samples_chunks_speed_reduction_and_time_left():
    assert format_progress(PROGRESS).splitlines() == [
        "Progress: 1,250/10,000 samples (12.5%)",
        "Cache: 15 chunks created",
        "Speed: 125 samples/sec, 31,250 tokens/sec",
        "Compression: 82% size reduction (against int64 tokens; 30% against uint16)",
        "Remaining: 1m 10s",
    ]


@pytest.mark.covers("R216")
def test_progress_without_a_known_total_and_before_the_first_chunk():
    values = {**vars(PROGRESS), "total_documents": None, "chunks": 0, "chunk_tokens": 0, "stored_bytes": 0}
    assert format_progress(PackProgress(**values)).splitlines() == [
        "Progress: 1,250 samples",
        "Cache: 0 chunks created",
        "Speed: 125 samples/sec, 31,250 tokens/sec",
    ]


def test_hours_and_resumed_documents():
    values = {**vars(PROGRESS), "found_documents": 1240}
    assert PackProgress(**values).documents_per_second == 1
    assert "Remaining: 2h 25m" in format_progress(PackProgress(**values))


@pytest.mark.covers("R216")
def test_packing_reports_as_it_goes_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_trainer.data.progress.PROGRESS_SECONDS", 0)
    seen: list[PackProgress] = []
    texts = ["some text that is packed"] * 2000
    build_cache(texts, ByteTokenizer(), tmp_path, seq_len=64, unit_bytes=9000, progress=seen.append)
    assert len(seen) > 3
    assert [progress.documents for progress in seen] == sorted(progress.documents for progress in seen)
    assert seen[-1].documents == 2000
    assert seen[-1].chunks == len(list(tmp_path.glob("*.tok")))
    assert re.match(r"Progress: 2,000/2,000 samples \(100.0%\)\nCache: \d+ chunks created\n", format_progress(seen[-1]))
