"""Components by name, so that a person's own file can add one and a configuration can choose it.

Example:
    >>> from torch import nn
    >>> from llm_trainer.models.registry import register
    >>> @register("feed_forward", "one_matrix")
    ... class OneMatrix(nn.Module):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.linear = nn.Linear(config.d_model, config.d_model)
    ...     def forward(self, x):
    ...         return self.linear(x).relu()

and then ``ModelConfig(feed_forward="one_matrix")``. What each kind is built with, and what its ``forward`` gets:

==============  =============================  ===========================================================
kind            built with                     called with
==============  =============================  ===========================================================
attention       ``(config, layer_index)``      ``(x, context)``: (batch, seq, d_model), AttentionContext
feed_forward    ``(config)``                   ``(x)``: (batch, seq, d_model)
norm            ``(config, width)``            ``(x)``: (..., width)
block           ``(config, layer_index)``      ``(x, context)``: (batch, seq, d_model), AttentionContext
==============  =============================  ===========================================================

Each returns a tensor of the shape of ``x``. An attention or block that stores what it needs of earlier tokens in
``context.cache`` says so with the attribute ``supports_cache = True``; with any other, generation reads the whole text
at every step. ``nn.Linear`` and ``nn.Embedding`` inside are initialised by the model; a
linear layer named ``o_proj`` or ``down_proj`` gets the smaller scale of layers that write into the residual stream.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Literal, TypeVar

from torch import nn

from llm_trainer.common.errors import ConfigError

Kind = Literal["attention", "feed_forward", "norm", "block"]
Component = TypeVar("Component", bound=Callable[..., nn.Module])

_COMPONENTS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "attention": {},
    "feed_forward": {},
    "norm": {},
    "block": {},
}


def register(kind: Kind, name: str) -> Callable[[Component], Component]:
    """Decorate a class or function that builds a component.

    Args:
        kind: attention, feed_forward, norm or block.
        name: what a configuration calls it.

    Raises:
        ConfigError: the kind is unknown, or the name belongs to a component from another place. (The same definition
            run again, as in a notebook, replaces the older one.)
    """
    if kind not in _COMPONENTS:
        raise ConfigError([f"{kind!r} is not a kind of component; the kinds are {', '.join(_COMPONENTS)}"])

    def add(component: Component) -> Component:
        old = _COMPONENTS[kind].get(name)
        if old is not None and _origin(old) != _origin(component):
            raise ConfigError([f"{kind} {name!r} is already registered by {'.'.join(_origin(old))}; take another name"])
        _COMPONENTS[kind][name] = component
        return component

    return add


def lookup(kind: Kind, name: str) -> Callable[..., nn.Module]:
    """What builds the component ``name``.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    known = _COMPONENTS[kind]
    if name not in known:
        match = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {match[0]!r}? " if match else ""
        raise ConfigError(
            [
                f"model.{kind}: no component is named {name!r}; {guess}known: {', '.join(sorted(known))} "
                "(a file of your own must be named in model.extensions, or imported before the model is built)"
            ]
        )
    return known[name]


def supports_cache(component: nn.Module) -> bool:
    """Whether an attention or a block reads earlier tokens from ``context.cache``; it says so with an attribute of this
    name. Of a component that says nothing it is not assumed: text would come out wrong, and nobody would notice."""
    return bool(getattr(component, "supports_cache", False))


def registered(kind: Kind) -> list[str]:
    """The names of all components of a kind."""
    return sorted(_COMPONENTS[kind])


def _origin(component: Callable[..., nn.Module]) -> tuple[str, str]:
    return component.__module__, getattr(component, "__qualname__", type(component).__qualname__)
