"""The errors that a person sees.

Everything that a person can get wrong, or that their machine can do to them, is a :class:`UserError`: its text says
what was wrong, where, and what to do. The command line prints that text alone, without a traceback, and exits with
``exit_code``. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the person can put right. ``hint`` is the one thing to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}\n  -> {hint}")


class ConfigError(UserError):
    """One or more problems in a configuration; all of them are listed, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, source: str | None = None) -> None:
        self.problems = list(problems)
        where = f" in {source}" if source else ""
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{count}{where}:\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class DataError(UserError):
    """A text, data set or cache that cannot be used as it is."""


class CorruptionError(DataError):
    """Bytes on disk are not the bytes that were written."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


class TrainingError(UserError):
    """Training had to stop (for example, the loss is not a number)."""
