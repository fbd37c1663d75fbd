"""The block on the page about attention runs, and prints what the page says of the cache."""

from __future__ import annotations

import contextlib
import io

from tests.docs.pages import DOCS, blocks


def test_the_block_runs() -> None:
    (code,) = (block.code for block in blocks(DOCS / "concepts" / "attention.md") if block.language == "python")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    full, windowed = 2 * 4 * 64 * 4 * 4096, 2 * 64 * 4 * (3 * 256 + 4096)
    assert f"{full:,} bytes of cache, {windowed:,} with windows" in out.getvalue()
