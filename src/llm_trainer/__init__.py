"""LLM Trainer: from raw text to a language model that you trained yourself.

Importing this package imports nothing heavy; the parts live in ``llm_trainer.config``, ``.tokenizer``, ``.models``,
``.training``, ``.generation`` and so on.
"""

__version__ = "0.1.0"
