"""The declaration that the model gets for a typed function."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal, Optional, cast

import pydantic
import pytest
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from precall import Tool, ToolContext

Json = dict[str, Any]


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


class Address(pydantic.BaseModel):
    """A postal address."""

    street: str
    number: int = Field(ge=1)


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Options(TypedDict):
    deep: bool


def plain(city: str) -> None: ...
def default(limit: int = 3) -> None: ...
def choice(unit: Literal["C", "F"] = "C") -> None: ...
def optional(city: str | None = None) -> None: ...
def old_optional(city: Optional[str] = None) -> None: ...  # noqa: UP045
def annotated(age: Annotated[int, Field(ge=0, description="In years.")]) -> None: ...
def enumeration(unit: Unit) -> None: ...
def listing(names: list[str]) -> None: ...
def mapping(ages: dict[str, int]) -> None: ...
def when(day: datetime.date) -> None: ...
def anything(value: Any) -> None: ...
def nothing() -> None: ...
def awkward(copy: int, model_config: str, schema: bool) -> None: ...
def in_field(limit: int = Field(default=3, ge=1)) -> None: ...
def in_field_alone(limit: int = Field(ge=1, alias="most")) -> None: ...
def with_context(city: str, context: ToolContext) -> None: ...
def keyword_only(*, city: str) -> None: ...


STRING: Json = {"type": "string"}
MAYBE: Json = {"anyOf": [STRING, {"type": "null"}], "default": None}


@pytest.mark.parametrize(
    ("function", "properties", "required"),
    [
        (plain, {"city": STRING}, ["city"]),
        (default, {"limit": {"type": "integer", "default": 3}}, []),
        (choice, {"unit": {"type": "string", "enum": ["C", "F"], "default": "C"}}, []),
        (optional, {"city": MAYBE}, []),
        (old_optional, {"city": MAYBE}, []),
        (
            annotated,
            {"age": {"type": "integer", "minimum": 0, "description": "In years."}},
            ["age"],
        ),
        (listing, {"names": {"type": "array", "items": STRING}}, ["names"]),
        (
            mapping,
            {"ages": {"type": "object", "additionalProperties": {"type": "integer"}}},
            ["ages"],
        ),
        (when, {"day": {"type": "string", "format": "date"}}, ["day"]),
        (anything, {"value": {}}, ["value"]),
        (nothing, {}, []),
        (
            awkward,
            {"copy": {"type": "integer"}, "model_config": STRING, "schema": {"type": "boolean"}},
            ["copy", "model_config", "schema"],
        ),
        (in_field, {"limit": {"type": "integer", "default": 3, "minimum": 1}}, []),
        (in_field_alone, {"limit": {"type": "integer", "minimum": 1}}, ["limit"]),
        (with_context, {"city": STRING}, ["city"]),
        (keyword_only, {"city": STRING}, ["city"]),
    ],
)
def test_parameters_become_properties(
    function: Callable[..., object], properties: Json, required: list[str]
) -> None:
    schema = dict(Tool.from_function(function).input_schema)
    assert schema.pop("required", []) == required
    assert schema == {"type": "object", "properties": properties, "additionalProperties": False}


def nested(address: Address, point: Point, options: Options, unit: Unit) -> None: ...


def test_nested_types_become_definitions() -> None:
    schema: Any = Tool.from_function(nested).input_schema
    assert set(schema["$defs"]) == {"Address", "Point", "Options", "Unit"}
    assert schema["properties"]["address"] == {"$ref": "#/$defs/Address"}
    assert schema["$defs"]["Address"]["description"] == "A postal address."
    assert schema["$defs"]["Unit"]["enum"] == ["C", "F"]


def google(city: str, days: Annotated[int, Field(description="The field wins.")] = 1) -> None:
    """Forecast of the weather.

    Longer words about it.

    Args:
        city: Name of the city,
            as people write it.
        days: The docstring loses.

    Returns:
        Nothing.
    """


def numpy_style(city: str) -> None:
    """Forecast of the weather.

    Parameters
    ----------
    city : str
        Name of the city.
    """


def numpy_pair(city: str, country: str) -> None:
    """Forecast of the weather.

    Parameters
    ----------
    country, city : str
        Name of the city.
    """


def sphinx(city: str) -> None:
    """Forecast of the weather.

    :param city: Name of the city.
    """


def text_after_sections(city: str) -> None:
    """Forecast of the weather.

    Args:
        city: Name of the city.

    Ask for one city at a time.

    Returns:
        Nothing.
    """


def only_a_section(city: str) -> None: ...


only_a_section.__doc__ = """Args:
        city: Name of the city,
            as people write it.
    """


def test_text_after_the_sections_of_a_docstring_is_kept() -> None:
    tool = Tool.from_function(text_after_sections)
    properties: Any = tool.input_schema["properties"]
    assert tool.description == (
        "Forecast of the weather.\n\nAsk for one city at a time.\n\nReturns:\n    Nothing."
    )
    assert properties["city"]["description"] == "Name of the city."


def test_a_docstring_may_begin_with_a_section() -> None:
    tool = Tool.from_function(only_a_section)
    properties: Any = tool.input_schema["properties"]
    assert tool.description == ""
    assert properties["city"]["description"] == "Name of the city,\nas people write it."


def test_google_docstring_describes_tool_and_parameters() -> None:
    tool = Tool.from_function(google)
    properties: Any = tool.input_schema["properties"]
    assert tool.description == (
        "Forecast of the weather.\n\nLonger words about it.\n\nReturns:\n    Nothing."
    )
    assert properties["city"]["description"] == "Name of the city,\nas people write it."
    assert properties["days"]["description"] == "The field wins."


@pytest.mark.parametrize("function", [numpy_style, numpy_pair, sphinx])
def test_other_docstrings_do_too(function: Callable[..., object]) -> None:
    tool = Tool.from_function(function)
    properties: Any = tool.input_schema["properties"]
    assert tool.description == "Forecast of the weather."
    assert properties["city"]["description"] == "Name of the city."


def test_options_win_over_the_function() -> None:
    tool = Tool.from_function(google, name="forecast", description="Says it.", read_only=True)
    assert (tool.name, tool.description) == ("forecast", "Says it.")
    assert tool.options.get("read_only") is True


class Counter:
    def add(self, amount: int) -> int:
        """Add to the counter."""
        return amount

    def __call__(self, amount: int) -> int:
        return amount


def test_bound_methods_and_callable_objects_can_be_tools() -> None:
    assert Tool.from_function(Counter().add).name == "add"
    assert Tool.from_function(Counter(), name="counter").input_schema["required"] == ["amount"]


def test_a_partial_can_be_a_tool() -> None:
    tool = Tool.from_function(functools.partial(google, days=2), name="forecast")
    assert tool.description.startswith("Forecast")
    assert tool.input_schema["required"] == ["city"]


async def fetch(url: str) -> str:
    return url


@functools.wraps(fetch)
async def wrapped(*args: Any, **kwargs: Any) -> str:
    return await fetch(*args, **kwargs)


def test_a_decorated_function_keeps_its_schema() -> None:
    tool = Tool.from_function(wrapped)
    assert tool.input_schema["required"] == ["url"]
    assert tool.is_async


def args(*values: int) -> None: ...
def kwargs(**values: int) -> None: ...
def positional(value: int, /) -> None: ...
# fmt: off
def bare(value) -> None: ...  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
def unknown(value: Missing) -> None: ...  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]  # noqa: F821
# fmt: on
def unsupported(value: Counter) -> None: ...
def function_argument(callback: Callable[[int], int]) -> None: ...
def two_contexts(one: ToolContext, two: ToolContext) -> None: ...
def contexts(listed: list[ToolContext]) -> None: ...
def impossible(text: Annotated[str, Field(pattern="(")]) -> None: ...
def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def result_unknown(city: str) -> Missing: ...  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]  # noqa: F821


def test_the_type_of_the_result_is_ignored() -> None:
    function = cast(Callable[..., object], result_unknown)
    assert Tool.from_function(function).input_schema["required"] == ["city"]


NOT_TOOLS: list[tuple[Any, str]] = [
    (args, r"tool 'args': \*values does not fit a JSON object; take a list"),
    (kwargs, r"tool 'kwargs': \*\*values has no schema"),
    (positional, "value is positional-only"),
    (bare, "parameter 'value' needs a type annotation"),
    (Counter.add, "parameter 'self' needs a type annotation; register the bound method"),
    (unknown, "'Missing', which is not known in its module"),
    (unsupported, "Counter"),
    (function_argument, "function_argument"),
    (two_contexts, "tool 'two_contexts': 'one' and 'two' take the same context"),
    (contexts, "tool 'contexts': "),
    (impossible, "tool 'impossible': "),
    (min, "tool 'min': its parameters are unknown"),
    (generator, "a generator has no single result"),
    (async_generator, "a generator has no single result"),
    (lambda: 1, "a tool's name is 1 to 64 of"),
    (17, "a tool is a function, not int"),
]


@pytest.mark.parametrize(("function", "says"), NOT_TOOLS)
def test_functions_that_cannot_be_tools_are_refused_at_once(
    function: Callable[..., object], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        Tool.from_function(function)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "two words"}, "tool 'two words': a tool's name is 1 to 64 of"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"timeout_s": 0}, "timeout_s is 0, and must be a number of seconds above 0"),
        ({"max_concurrency": -1}, "max_concurrency is -1"),
        ({"reads": "file:{path}"}, "reads is 'file:{path}', and must be a list of strings"),
        ({"readonly": True}, "there is no option 'readonly'; did you mean 'read_only'"),
        ({"timeout_s": float("inf")}, "timeout_s is inf, and must be a number of seconds above 0"),
        ({"timeout_s": None}, "timeout_s is None"),
        ({"timeout_s": "5"}, "timeout_s is '5'"),
        ({"timeout_s": datetime.timedelta(seconds=5)}, "timeout_s is datetime.timedelta"),
        ({"cache_ttl_s": -1}, "cache_ttl_s is -1, and must be a number of seconds from 0 on"),
        ({"cache_scope": "global"}, "cache_scope is 'global', and must be \"conversation\" or"),
        ({"version": 3}, "version is 3, and must be a string"),
        ({"reads": [1]}, r"reads is \[1\], and must be a list of strings"),
        ({"read_only": "no"}, "read_only is 'no', and must be True or False"),
        ({"max_concurrency": True}, "max_concurrency is True, and must be a whole number"),
    ],
)
def test_bad_options_are_refused_at_once(options: Json, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Tool.from_function(plain, **options)
