"""The block on the page about longer texts runs, and the model of its numbers is as large as it says."""

from __future__ import annotations

from tests.docs.pages import DOCS, blocks


def test_the_block_runs() -> None:
    page = DOCS / "how_to" / "extend_context.md"
    (code,) = (block.code for block in blocks(page) if block.language == "python")
    made: dict[str, object] = {}
    exec(code, made)
    short, longer = made["short"], made["longer"]
    assert short.num_parameters() == longer.num_parameters()  # type: ignore[attr-defined]
    assert round(short.num_parameters(), -4) == 380_000  # type: ignore[attr-defined]
    assert longer.rotary.cos.shape[0] == 1024  # type: ignore[attr-defined]
