"""Turns a typed function into a JSON Schema of its arguments and a way to call it with them.

Owns: which kinds of parameters a tool may have, and the errors for the others.
Never: calls the function.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pydantic
from pydantic.fields import FieldInfo

from precall._context import ToolContext
from precall._layers import bound_by_partials, documentation_of, layers_of, namespace_of
from precall._schemas import Schema, first_line, input_schema

_UNSUPPORTED = {
    inspect.Parameter.VAR_POSITIONAL: "*{} does not fit a JSON object; take a list instead",
    inspect.Parameter.VAR_KEYWORD: "**{} has no schema; take a dict or name the parameters",
    inspect.Parameter.POSITIONAL_ONLY: "{} is positional-only; arguments come by name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The description and the parameters of a function that is a tool."""

    description: str
    """The docstring without what it says of the parameters."""
    input_schema: Schema
    """JSON Schema of the arguments."""
    arguments: type[pydantic.BaseModel]
    """Validates arguments; its fields have the parameters' names as aliases."""
    python_defaults: frozenset[str]
    """Fields that are left out of a call without them, so that Python's defaults apply."""
    context_parameter: str | None
    """The parameter that takes a ToolContext; None if there is none."""

    def bind(self, arguments_json: str, context: ToolContext) -> dict[str, object]:
        """Returns the keyword arguments of one call.

        Missing arguments take Python's default, or that of their `Field(default=...)`.

        Raises:
            ValueError: Arguments are invalid; the message has the path of each of them.
        """
        try:
            values = self.arguments.model_validate_json(arguments_json or "{}")
        except pydantic.ValidationError as error:
            raise ValueError(_explain(error)) from None
        left_out = self.python_defaults - values.model_fields_set
        bound: dict[str, object] = {
            field.alias or name: getattr(values, name)
            for name, field in self.arguments.model_fields.items()
            if name not in left_out
        }
        if self.context_parameter is not None:
            bound[self.context_parameter] = context
        return bound


def read_signature(function: Callable[..., object], label: str) -> Signature:
    """Returns the signature of a function that is to become a tool.

    Args:
        function: The function.
        label: Its name in errors.

    Raises:
        TypeError: It has a parameter that a JSON object cannot carry; the message names it.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{label}: a generator has no single result; return a list instead")
    parameters = _parameters(function, label)
    layers = layers_of(function)
    hidden = bound_by_partials(layers)
    shown = {name: parameters[name] for name in parameters if name not in hidden}
    hints = _hints(shown, namespace_of(layers), label)
    documentation = documentation_of(layers)
    fields: dict[str, tuple[object, FieldInfo]] = {}
    python_defaults: set[str] = set()
    context_parameter: str | None = None
    for name, parameter in shown.items():
        if parameter.kind in _UNSUPPORTED:
            raise TypeError(f"{label}: " + _UNSUPPORTED[parameter.kind].format(name))
        if name not in hints:
            hint = "; register the bound method" if name in {"self", "cls"} else ""
            raise TypeError(f"{label}: parameter {name!r} needs a type annotation{hint}")
        if _is_context(hints[name]):
            if context_parameter is not None:
                raise TypeError(
                    f"{label}: {context_parameter!r} and {name!r} take the same context"
                )
            context_parameter = name
            continue
        # Our own field names: a parameter may be called `copy` or `_x`, a field may not.
        field = f"p{len(fields)}"
        fields[field] = _field(name, hints[name], parameter, documentation.parameters.get(name, ""))
        if _has_python_default(parameter):
            python_defaults.add(field)
    arguments = _arguments_model(fields, label)
    return Signature(
        description=documentation.description,
        input_schema=_input_schema(arguments, label),
        arguments=arguments,
        python_defaults=frozenset(python_defaults),
        context_parameter=context_parameter,
    )


def _parameters(function: Callable[..., object], label: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:  # some functions written in C
        raise TypeError(f"{label}: its parameters are unknown: {error}") from None


def _hints(
    parameters: Mapping[str, inspect.Parameter], names: Mapping[str, object], label: str
) -> Mapping[str, object]:
    """Returns the parameters' types, with strings resolved among `names`.

    The type of the result is left out: it is not needed, and often known to type checkers only.
    """
    annotations = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__=annotations),
            globalns={},
            localns=names,
            include_extras=True,
        )
    except NameError as error:
        raise TypeError(
            f"{label}: its annotations name {error.name!r}, which is not known in its module; "
            "types of a tool must be defined or imported at module level"
        ) from None
    except Exception as error:  # an annotation can be any expression
        raise TypeError(f"{label}: its annotations cannot be read: {error!r}") from error


def _is_context(annotation: object) -> bool:
    """Returns whether an annotation is ToolContext, or a union with it."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return ToolContext in typing.get_args(annotation)
    return annotation is ToolContext


def _field(
    name: str, annotation: object, parameter: inspect.Parameter, described: str
) -> tuple[object, FieldInfo]:
    """Returns the model field for one parameter. Field(description=...) wins over the docstring."""
    if isinstance(parameter.default, FieldInfo):  # `= Field(default=3, ge=1)`, as in a model
        annotation = typing.Annotated[annotation, parameter.default]
    extras: tuple[object, ...] = getattr(annotation, "__metadata__", ())
    own = any(isinstance(extra, FieldInfo) and extra.description for extra in extras)
    if described and not own:
        annotation = typing.Annotated[annotation, pydantic.Field(description=described)]
    if _has_python_default(parameter):
        return annotation, pydantic.Field(default=parameter.default, alias=name)
    return annotation, pydantic.Field(alias=name)


def _has_python_default(parameter: inspect.Parameter) -> bool:
    empty = parameter.default is inspect.Parameter.empty
    return not empty and not isinstance(parameter.default, FieldInfo)


def _arguments_model(
    fields: dict[str, tuple[object, FieldInfo]], label: str
) -> type[pydantic.BaseModel]:
    definitions: dict[str, typing.Any] = dict(fields)
    try:
        return pydantic.create_model(
            "Arguments", __config__=pydantic.ConfigDict(extra="forbid"), **definitions
        )
    except Exception as error:  # pydantic raises many kinds of errors for types
        raise TypeError(f"{label}: {first_line(error)}") from error


def _input_schema(arguments: type[pydantic.BaseModel], label: str) -> Schema:
    try:
        return input_schema(arguments)
    except TypeError as error:
        raise TypeError(f"{label}: {error}") from error


def _explain(error: pydantic.ValidationError) -> str:
    """Returns which arguments are wrong and why, so that a model can correct them."""
    problems = [
        f"{'.'.join(map(str, entry['loc'])) or 'arguments'}: {entry['msg']}"
        for entry in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return "; ".join(problems)
