"""To transformers and back, layout by layout, as files and as dictionaries, without importing it."""

from llm_trainer.models.interop.convert import export_hf, from_hf, is_hf_folder, load_hf, to_hf
from llm_trainer.models.interop.layouts import ExportTarget, config_from_hf, export_statement, export_targets

__all__ = [
    "ExportTarget",
    "config_from_hf",
    "export_hf",
    "export_statement",
    "export_targets",
    "from_hf",
    "is_hf_folder",
    "load_hf",
    "to_hf",
]
