"""Text in, documents out: files and folders, data sets by name, and the text that is already on the machine."""

from __future__ import annotations

from llm_trainer.corpus.builtin import BuiltinSummary, builtin_documents, builtin_summary
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.factory import DatasetFactory, register_dataset
from llm_trainer.corpus.readers import ReadReport, read_path
from llm_trainer.corpus.resolve import DatasetHandle, open_dataset, open_paths

__all__ = [
    "BuiltinSummary",
    "DatasetFactory",
    "DatasetHandle",
    "Document",
    "ReadReport",
    "builtin_documents",
    "builtin_summary",
    "open_dataset",
    "open_paths",
    "read_path",
    "register_dataset",
]
