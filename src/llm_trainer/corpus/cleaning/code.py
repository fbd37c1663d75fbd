"""Which documents are programs: cleaners of prose leave them alone."""

from __future__ import annotations

from llm_trainer.corpus.document import Document

_KEYS = ("programming_language", "code_language", "is_code")
_KINDS = frozenset({"code", "source_code", "program"})
# What a repository holds besides programs.
_PROSE = frozenset({"", "Markdown", "reStructuredText", "AsciiDoc", "Org", "TeX", "Text"})


def is_code(document: Document) -> bool:
    """Whether the metadata say that a document is code.

    By ``kind``, ``type`` or ``content_type``, by a key that names a programming language, or as a file of a repository
    (``path`` and ``licence``) whose ``language`` is not one of prose.
    """
    metadata = document.metadata
    if not metadata:
        return False
    if any(metadata.get(key) for key in _KEYS):
        return True
    if "path" in metadata and "license" in metadata and (metadata.get("language") or "") not in _PROSE:
        return True
    return any(str(metadata.get(key, "")).lower() in _KINDS for key in ("kind", "type", "content_type"))
