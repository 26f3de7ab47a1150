"""The layers of a callable: partials, decorators and objects around the function that runs.

Never: calls any of them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from typing_extensions import TypeIs

from precall._docstring import Documentation, read_docstring

AnyCallable: TypeAlias = Callable[..., object]

# Functions inherit these, and decorators copy them.
_OF_PYTHON: Final = frozenset(
    inspect.cleandoc(kind.__doc__ or "")
    for kind in (functools.partial, type.__call__, object.__init__)
)


def layers_of(function: AnyCallable) -> tuple[AnyCallable, ...]:
    """Returns a callable and everything that it calls in turn, as far as Python shows it."""
    layers = [function]
    while (inner := _inside(layers[-1])) is not None and inner not in layers:
        layers.append(inner)
    return tuple(layers)


def name_of(function: AnyCallable) -> str:
    """Returns the name of a function; that of a partial is its function's. Objects have none."""
    while _is_partial(function) and "__name__" not in vars(function):
        function = function.func
    name: object = getattr(function, "__name__", "")
    return name if isinstance(name, str) else ""


def bound_by_partials(layers: tuple[AnyCallable, ...]) -> frozenset[str]:
    """Returns the parameters whose values partials have fixed by keyword."""
    bound: set[str] = set()
    for layer in layers:
        if _is_partial(layer):
            bound.update(layer.keywords)
        if getattr(layer, "__signature__", None) is not None:
            break  # it says itself what it takes, whatever is inside
    return frozenset(bound)


def namespace_of(layers: tuple[AnyCallable, ...]) -> Mapping[str, Any]:
    """Returns the names that annotations of the layers can use; the innermost module's win."""
    return ChainMap(*(getattr(layer, "__globals__", {}) for layer in reversed(layers)))


def documentation_of(layers: tuple[AnyCallable, ...]) -> Documentation:
    """Returns the first description among the layers, and the parameter texts of all of them.

    The `__call__` of an object comes before its class: it says what a call does.
    """
    # False sorts before True, and the order is kept otherwise.
    functions_first = sorted(layers, key=_is_object)
    read = [read_docstring(_docstring(layer)) for layer in functions_first]
    parameters: dict[str, str] = {}
    for documentation in reversed(read):
        parameters.update(documentation.parameters)
    description = next((found.description for found in read if found.description), "")
    return Documentation(description=description, parameters=parameters)


def _inside(layer: AnyCallable) -> AnyCallable | None:
    if _is_partial(layer):
        return layer.func
    wrapped = getattr(layer, "__wrapped__", None)
    if callable(wrapped):
        return wrapped
    if isinstance(layer, types.MethodType):
        return layer.__func__
    if isinstance(layer, type):
        return layer.__init__
    return None if inspect.isroutine(layer) else type(layer).__call__


def _is_partial(layer: AnyCallable) -> TypeIs[functools.partial[object]]:
    return isinstance(layer, functools.partial)


def _is_object(layer: AnyCallable) -> bool:
    return not inspect.isroutine(layer) and not _is_partial(layer)


def _docstring(layer: AnyCallable) -> str:
    """Returns what the owner of a layer has written, not what Python says of its kind."""
    text: object = getattr(layer, "__dict__", {}).get("__doc__")
    if inspect.isroutine(layer):
        text = inspect.getdoc(layer)
    elif text is None and not _is_partial(layer):
        kind = layer if isinstance(layer, type) else type(layer)
        text = kind.__doc__
        if dataclasses.is_dataclass(kind) and (text or "").startswith(f"{kind.__name__}("):
            text = None
    cleaned = inspect.cleandoc(text) if isinstance(text, str) else ""
    return "" if cleaned in _OF_PYTHON else cleaned
