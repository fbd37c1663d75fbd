"""What a cleaner is: text in, better text out, with a count of what it did."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from llm_trainer.config.base import Settings
from llm_trainer.corpus.document import Document


class Cleaner(Settings):
    """Settings of one repair, and the repair. ``name`` is its key in the pipeline file."""

    name: ClassVar[str]

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The repaired text; ``""`` if nothing is worth keeping.

        Args:
            document: its metadata may say what the text is (code is not prose).
            counts: add what was done: ``counts["boilerplate.lines"] += 3``.
        """
        raise NotImplementedError
