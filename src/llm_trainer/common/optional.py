"""Packages that are not part of the core install, imported where they are needed and nowhere else."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from llm_trainer.common.errors import UserError


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Args:
        package: the module to import, for example ``"transformers"``.
        extra: the extra of ours that brings it, for example ``"hf"``.
        purpose: what it is needed for, for the message.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {package!r}, which cannot be imported ({error})",
            hint=f"pip install 'llm-trainer[{extra}]'",
        ) from None


def available(package: str) -> bool:
    """Whether a package is installed, without importing it."""
    return importlib.util.find_spec(package) is not None
