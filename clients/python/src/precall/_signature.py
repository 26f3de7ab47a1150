"""Turns a typed function into a JSON Schema of its arguments and a way to call it with them.

Owns: what of Python's parameters a tool may have, and the words that say what it may not.
Never: calls the function.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import docstring_parser
import pydantic
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from precall._context import ToolContext

Schema = dict[str, pydantic.JsonValue]

_UNSUPPORTED = {
    inspect.Parameter.VAR_POSITIONAL: "*{} has no place in a JSON object; take a list instead",
    inspect.Parameter.VAR_KEYWORD: "**{} has no schema; take a dict or name the parameters",
    inspect.Parameter.POSITIONAL_ONLY: "{} is positional-only; arguments come by name",
}


class _SchemaWithoutNoise(GenerateJsonSchema):
    """A schema that a model reads: no titles made from names, no warnings about defaults."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A function as a tool sees it."""

    name: str
    """Name of the function."""
    description: str
    """The docstring without its sections."""
    input_schema: Schema
    """JSON Schema of the arguments."""
    arguments: type[pydantic.BaseModel]
    """Checks arguments; its fields have the parameters' names as aliases."""
    context_parameter: str | None
    """The parameter that takes a ToolContext."""

    def bind(self, arguments_json: str, context: ToolContext) -> dict[str, object]:
        """Returns the keyword arguments of one call. What is left out takes Python's default.

        Raises:
            ValueError: The arguments do not fit; the message has the path of each that does not.
        """
        try:
            values = self.arguments.model_validate_json(arguments_json or "{}")
        except pydantic.ValidationError as error:
            raise ValueError(_explain(error)) from None
        fields = self.arguments.model_fields
        bound: dict[str, object] = {
            fields[name].alias or name: getattr(values, name) for name in values.model_fields_set
        }
        if self.context_parameter is not None:
            bound[self.context_parameter] = context
        return bound


def read_signature(function: Callable[..., object], label: str) -> Signature:
    """Returns what a tool needs to know of a function.

    Args:
        function: What is to become a tool.
        label: What to call it in errors.

    Raises:
        TypeError: It has parameters that no JSON object can carry; the message names them.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{label}: a generator has no one result; return a list instead")
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    hints = _hints(target, label)
    documentation = docstring_parser.parse(inspect.getdoc(target) or "")
    described = {entry.arg_name: entry.description or "" for entry in documentation.params}
    fields: dict[str, tuple[object, FieldInfo]] = {}
    context_parameter: str | None = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in _UNSUPPORTED:
            raise TypeError(f"{label}: " + _UNSUPPORTED[parameter.kind].format(name))
        if name not in hints:
            hint = "; register the bound method" if name in {"self", "cls"} else ""
            raise TypeError(f"{label}: parameter {name!r} needs a type annotation{hint}")
        if ToolContext in (hints[name], *typing.get_args(hints[name])):  # also where it may be None
            context_parameter = name
            continue
        # Field names of our own: a parameter may be called `copy` or `_x`, a field may not.
        fields[f"p{len(fields)}"] = _field(name, hints[name], parameter, described.get(name, ""))
    arguments = _arguments_model(fields, label)
    return Signature(
        name=getattr(function, "__name__", ""),
        description=(documentation.description or "").strip(),
        input_schema=_input_schema(arguments, label),
        arguments=arguments,
        context_parameter=context_parameter,
    )


def _hints(function: Callable[..., object], label: str) -> Mapping[str, object]:
    """Returns the parameters' types, with strings resolved."""
    target = inspect.unwrap(function)
    if not inspect.isroutine(target):  # an object with __call__
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{label}: its annotations name {error.name!r}, which is not known in its module; "
            "types of a tool must be defined or imported at module level"
        ) from None


def _field(
    name: str, annotation: object, parameter: inspect.Parameter, described: str
) -> tuple[object, FieldInfo]:
    """Returns the model field for one parameter. Field(description=...) beats the docstring."""
    extras: tuple[object, ...] = getattr(annotation, "__metadata__", ())
    own = any(isinstance(extra, FieldInfo) and extra.description for extra in extras)
    if described and not own:
        annotation = typing.Annotated[annotation, pydantic.Field(description=described)]
    if parameter.default is inspect.Parameter.empty:
        return annotation, pydantic.Field(alias=name)
    return annotation, pydantic.Field(default=parameter.default, alias=name)


def _arguments_model(
    fields: dict[str, tuple[object, FieldInfo]], label: str
) -> type[pydantic.BaseModel]:
    definitions: dict[str, typing.Any] = dict(fields)
    try:
        return pydantic.create_model(
            "Arguments", __config__=pydantic.ConfigDict(extra="forbid"), **definitions
        )
    except pydantic.PydanticUserError as error:
        raise TypeError(f"{label}: {_first_line(error)}") from None


def _input_schema(arguments: type[pydantic.BaseModel], label: str) -> Schema:
    try:
        schema = arguments.model_json_schema(schema_generator=_SchemaWithoutNoise)
    except pydantic.PydanticUserError as error:
        raise TypeError(f"{label}: {_first_line(error)}") from None
    del schema["title"]
    return schema


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _explain(error: pydantic.ValidationError) -> str:
    """Returns what was wrong with which argument, in words that a model can act on."""
    problems = [
        f"{'.'.join(map(str, entry['loc'])) or 'arguments'}: {entry['msg']}"
        for entry in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return "; ".join(problems)
