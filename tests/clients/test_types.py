"""What the schema allows is what the function takes: types that differ agree or are refused."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from pydantic import Field

from precall import Tool, ToolCallOutcome
from tests.clients.helpers import result_of


class Color(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Corner(enum.Enum):
    ORIGIN = (0, 0)


class Raw(enum.Enum):
    BYTES = b"x"


class Bound(enum.Enum):
    NONE = math.inf


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = "Tom"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Puppy(pydantic.BaseModel):
    kind: Literal["puppy"] = Field(default="puppy")
    mother: Pet | None = None


@dataclasses.dataclass
class Bird:
    kind: Literal["bird"] = "bird"


class Renamed(pydantic.BaseModel):
    kind: Literal["renamed"] = Field(default="renamed", alias="type")


class RenamedToo(pydantic.BaseModel):
    kind: Literal["too"] = Field(default="too", alias="type")


Dogs = Annotated[Dog | Puppy, Field(discriminator="kind")]
Pet = Annotated[Cat | Dogs | Bird, Field(discriminator="kind")]
Puppy.model_rebuild()


class Owner(pydantic.BaseModel):
    pets: list[Pet]


class Limits(pydantic.BaseModel):
    most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Point:
    x: int = 0


def pet(value: Pet) -> str: return type(value).__name__  # fmt: skip


def maybe_pet(value: Pet | None = None) -> str: return type(value).__name__  # fmt: skip


def pets(value: list[Pet]) -> str: return type(value[0]).__name__  # fmt: skip


def owner(value: Owner) -> str: return type(value.pets[0]).__name__  # fmt: skip


def renamed(value: Annotated[Renamed | RenamedToo, Field(discriminator="kind")]) -> str:
    return type(value).__name__


@pytest.mark.parametrize("function", [pet, maybe_pet, pets, owner])
@pytest.mark.parametrize("kind", ["cat", "dog", "puppy", "bird"])
async def test_a_tag_is_required_whatever_its_default(
    function: Callable[..., object], kind: str
) -> None:
    def value_of(one: object) -> dict[str, object]:
        """Returns arguments that hold one pet."""
        within: dict[str, object] = {"pets": [one], "owner": {"pets": [one]}}
        return {"value": within.get(function.__name__, one)}

    schema = Tool.from_function(function).input_schema
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value_of({}), schema)
    jsonschema.validate(value_of({"kind": kind}), schema)
    result = await result_of(function, **value_of({"kind": kind}))
    assert result.value == kind.title()


def kind_of(value: Any) -> object:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def by_function(
    value: Annotated[
        Annotated[Cat, pydantic.Tag("cat")] | Annotated[Dog, pydantic.Tag("dog")],
        pydantic.Discriminator(kind_of),
    ],
) -> str:
    return type(value).__name__


async def test_a_tag_that_a_function_reads_is_required_too() -> None:
    schema: Any = Tool.from_function(by_function).input_schema
    assert [found["required"] for found in schema["$defs"].values()] == [["kind"]] * 2
    assert (await result_of(by_function, value={"kind": "dog"})).value == "Dog"


async def test_a_renamed_tag_is_required_by_its_name_in_json() -> None:
    schema: Any = Tool.from_function(renamed).input_schema
    assert [found["required"] for found in schema["$defs"].values()] == [["type"]] * 2
    assert (await result_of(renamed, value={"type": "too"})).value == "RenamedToo"


def naive_datetime(value: pydantic.NaiveDatetime) -> str: return value.isoformat()  # fmt: skip


def aware_datetime(value: pydantic.AwareDatetime) -> str: return value.isoformat()  # fmt: skip


def any_datetime(value: datetime.datetime) -> str: return value.isoformat()  # fmt: skip


def str_member(value: Literal[Shade.DARK]) -> str: return value.name  # fmt: skip


def member(value: Color) -> str: return value.name  # fmt: skip


def literal(value: Literal["a", 1, True] | None) -> object: return value  # fmt: skip


def counts(value: dict[int, str]) -> object: return value[1]  # fmt: skip


def enum_keys(value: dict[Color, str]) -> object: return value[Color.RED]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        (naive_datetime, "2024-02-29T23:59:59", "2024-02-29T23:59:59"),
        (aware_datetime, "2024-02-29T23:59:59Z", "2024-02-29T23:59:59+00:00"),
        (any_datetime, "2024-02-29T23:59:59Z", "2024-02-29T23:59:59+00:00"),
        (str_member, "dark", "DARK"),
        (member, "red", "RED"),
        (literal, None, None),
        (literal, 1, 1),
        (counts, {"1": "one"}, "one"),
        (enum_keys, {"red": "rot"}, "rot"),
    ],
)
async def test_a_value_of_the_schema_is_taken(
    function: Callable[..., object], value: object, result: object
) -> None:
    jsonschema.validate({"value": value}, Tool.from_function(function).input_schema)
    taken = await result_of(function, value=value)
    assert (taken.outcome, taken.value) == (ToolCallOutcome.RESULT, result), taken.error_message


def test_a_time_that_must_have_no_offset_has_none_in_the_schema() -> None:
    schema: Any = Tool.from_function(naive_datetime).input_schema["properties"]
    assert set(schema["value"]) == {"type", "pattern"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate("2024-02-29T23:59:59Z", schema["value"])


def literal_member(value: Literal[Color.RED]) -> None: ...
def nested_literal_member(value: list[Literal[Color.RED] | None]) -> None: ...
def literal_bytes(value: Literal[b"x"]) -> None: ...
def tuple_member(value: Corner) -> None: ...
def bytes_member(value: Raw) -> None: ...
def infinite_member(value: Bound) -> None: ...
def a_class(value: type[int]) -> None: ...
def tuple_keys(value: dict[tuple[int, int], str]) -> None: ...
def object_keys(value: dict[Point, str]) -> None: ...
def infinite(value: float = math.inf) -> None: ...
def minus_infinite(value: float = -math.inf) -> None: ...
def no_number(value: float = math.nan) -> None: ...
def infinite_field(value: float = Field(default=math.inf)) -> None: ...
def infinite_list(value: list[float] = [0.0, math.inf]) -> None: ...  # noqa: B006
def infinite_object(value: Limits = Limits()) -> None: ...  # noqa: B008
def infinite_within(value: Limits) -> None: ...
def literal_in_a_union(value: Literal[Color.RED] | int) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (literal_member, r"'literal_member': parameter 'value': no JSON value becomes <Color.RED"),
        (nested_literal_member, "parameter 'value': no JSON value becomes <Color.RED"),
        (literal_bytes, "no JSON value becomes b'x'; take an Enum of strings"),
        (tuple_member, "no JSON value becomes <Corner.ORIGIN"),
        (bytes_member, "no JSON value becomes <Raw.BYTES"),
        (infinite_member, r"its schema has inf at \$defs.Bound.enum.0, and JSON has no such"),
        (literal_in_a_union, "no JSON value becomes <Color.RED"),
        (a_class, "parameter 'value': a JSON value cannot be a class, such as int"),
        (tuple_keys, "the keys of a dict must be strings or numbers"),
        (object_keys, "the keys of a dict must be strings or numbers"),
        (infinite, "'infinite': parameter 'value': its default has inf, and JSON has no such"),
        (minus_infinite, "its default has -inf"),
        (no_number, "its default has nan"),
        (infinite_field, "its default has inf"),
        (infinite_list, "its default has inf at 1"),
        (infinite_object, "its default has inf"),
        (infinite_within, "its default has inf"),
    ],
)
def test_what_no_json_can_carry_is_refused_when_it_is_declared(
    function: Callable[..., object], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        Tool.from_function(function)
