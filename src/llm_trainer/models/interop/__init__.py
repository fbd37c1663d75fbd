"""To transformers and back: GPT-2, Llama and Qwen3 layouts, as files and as dictionaries, without importing it."""

from llm_trainer.models.interop.convert import (
    ExportTarget,
    export_hf,
    export_statement,
    export_targets,
    from_hf,
    is_hf_folder,
    load_hf,
    to_hf,
)

__all__ = [
    "ExportTarget",
    "export_hf",
    "export_statement",
    "export_targets",
    "from_hf",
    "is_hf_folder",
    "load_hf",
    "to_hf",
]
