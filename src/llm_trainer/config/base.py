"""What every section of the configuration has in common.

A section is a pydantic model that is stricter than pydantic's default: an unknown key is an error that names the
nearest real key, ``"4"`` is not a number, and *all* problems are reported at once, as one :class:`ConfigError`.
Names that people bring from other tools (``n_embd``, ``hidden_size``, ``micro_batch_size``...) are accepted as aliases
and become the one canonical name; giving two names of one value is an error, never a silent choice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from llm_trainer.common.errors import ConfigError

S = TypeVar("S", bound="Settings")


def _integral(value: Any) -> Any:
    """``1e5`` is how people write 100000, and YAML reads it as a float; 0.5 stays an error."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]


class Settings(BaseModel):
    """Base of all sections. Build one with keywords, with :meth:`from_dict`, or from YAML (``config.loading``)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        validate_assignment=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    ALIASES: ClassVar[Mapping[str, str]] = {}
    """Foreign name -> canonical name."""

    def __init__(self, **values: Any) -> None:
        translated, _ = self.translate(values)
        try:
            super().__init__(**translated)
        except ValidationError as error:
            raise ConfigError(describe_errors(error, type(self))) from None
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign by canonical name or alias; the value's type and range are checked at once (see :meth:`validate`)."""
        name = self.ALIASES.get(name, name)
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(describe_errors(error, type(self))) from None
        except ValueError:
            raise ConfigError([unknown_key(name, type(self))]) from None

    def __getattr__(self, name: str) -> Any:
        canonical = type(self).ALIASES.get(name)
        if canonical is not None:
            return getattr(self, canonical)
        # BaseModel defines __getattr__ outside type checking, for private attributes.
        return super().__getattr__(name)  # type: ignore[misc]

    @classmethod
    def translate(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Rename aliases to canonical names.

        Returns:
            The renamed values, and one note for each rename made.

        Raises:
            ConfigError: two names of the same value are given.
        """
        renamed: dict[str, Any] = {}
        origin: dict[str, str] = {}
        notes: list[str] = []
        problems: list[str] = []
        for key, value in values.items():
            canonical = cls.ALIASES.get(key, key)
            if canonical in renamed:
                problems.append(f"{origin[canonical]!r} and {key!r} are two names of {canonical!r}; give one of them")
                continue
            if canonical != key:
                notes.append(f"{key} is read as {canonical}")
            renamed[canonical], origin[canonical] = value, key
        if problems:
            raise ConfigError(problems)
        return renamed, notes

    @classmethod
    def from_dict(cls: type[S], values: Mapping[str, Any]) -> S:
        """Build from a plain dictionary, in any of the accepted dialects."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All values, as plain Python data that YAML and JSON can hold."""
        return self.model_dump(mode="json")

    def given(self, name: str) -> bool:
        """Whether a person set this value (as opposed to its default standing)."""
        return name in self.model_fields_set

    def validate(self) -> None:  # type: ignore[override]
        """Check the values against each other; single values are checked when they are set.

        Runs when the object is built. After assigning attributes one by one, call it again: in between, a set of
        values may be inconsistent for a moment (a new width before the new number of heads).

        Raises:
            ConfigError: naming every contradiction.
        """
        problems = list(self.contradictions())
        if problems:
            raise ConfigError(problems)

    def contradictions(self) -> Iterable[str]:
        """The contradictions between values, as sentences. Sections override this."""
        return ()


def describe_errors(error: ValidationError, section: type[BaseModel]) -> list[str]:
    """Every problem of a pydantic error as one sentence for a person: key, what came, what was expected."""
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"] if not str(part).startswith("function-"))
        if item["type"] in ("extra_forbidden", "no_such_attribute"):
            problems.append(unknown_key(key, section))
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            problems.append(f"{key}: expected {message}, got {item['input']!r}")
    return problems


def unknown_key(key: str, section: type[BaseModel]) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    aliases = section.ALIASES if issubclass(section, Settings) else {}
    match = difflib.get_close_matches(key, [*section.model_fields, *aliases], n=1, cutoff=0.6)
    return f"{key}: unknown key" + (f"; did you mean {match[0]!r}?" if match else "")
