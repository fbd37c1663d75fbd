"""Packing by hand uses all the text it is given; a tokenizer leaves out what a training on the text would hold out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_trainer.data import TokenCache
from llm_trainer.workflows.pack import pack_text
from llm_trainer.workflows.tokenizer import train_tokenizer


@pytest.mark.covers("R211")
def test_every_document_is_packed(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for index in range(40):
        (texts / f"{index}.txt").write_text(f"document number {index} says what the others say\n" * 5)
    said = train_tokenizer(
        tmp_path / "tokenizer", paths=[str(texts)], dataset="", vocab_size=280, pattern="gpt4", allow_smaller=True
    )
    assert "0.05 of its documents held out" in said
    pack_text(
        tmp_path / "cache",
        tokenizer_dir=tmp_path / "tokenizer",
        paths=[str(texts)],
        dataset="",
        split="train",
        seq_len=32,
        packing="bfd",
        compression="lz4",
        force_rebuild=False,
        echo=lambda text: None,
    )
    facts = TokenCache.open(tmp_path / "cache").manifest.totals()
    assert (facts["documents"], facts["tokens_kept"]) == (40, 1.0)
    assert facts["text_bytes"] == sum(path.stat().st_size for path in texts.iterdir())
