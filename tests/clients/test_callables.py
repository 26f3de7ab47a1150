"""Whatever can be called can be a tool: partials, objects, and functions made at run time."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import types
from collections.abc import Callable
from typing import Any, cast

import pydantic
import pytest

from precall import Tool, ToolCallOutcome, ToolContext
from precall.testing import Call, Say
from tests.clients.helpers import talking

SECRET = "hunter2"


async def call(tool: Any, **arguments: Any) -> Any:
    """Returns what a tool returns to the model, or the kind of its error."""
    finished = Tool.from_function(tool, name="tool")
    script = [Call("tool", arguments), Say("done")]
    async with talking(script, tools=(finished,)) as (server, conversation):  # pyright: ignore[reportArgumentType]
        await conversation.ask("go")
    (result,) = server.results
    return result.value if result.outcome is ToolCallOutcome.RESULT else result.error_type


def read_mail(folder: str, token: str, limit: int = 3) -> list[object]:
    """Read mail.

    Args:
        folder: Where to look.
        token: The token.
        limit: How many.
    """
    return [folder, token, limit]


async def read_mail_async(folder: str, token: str, limit: int = 3) -> list[object]:
    """Read mail."""
    return [folder, token, limit]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Mailbox:
    def read(self, folder: str, token: str, limit: int = 3) -> list[object]:
        """Read mail."""
        return read_mail(folder, token, limit)

    read_with_token = functools.partialmethod(read, token=SECRET)


PARTIALS: dict[str, Any] = {
    "a partial": functools.partial(read_mail, token=SECRET),
    "of a coroutine function": functools.partial(read_mail_async, token=SECRET),
    "of a partial": functools.partial(functools.partial(read_mail, token=SECRET), limit=3),
    "of a method": functools.partial(Mailbox().read, token=SECRET),
    "a partial method": Mailbox().read_with_token,
    "of a decorated function": functools.partial(decorated(read_mail), token=SECRET),
    "decorated": decorated(functools.partial(read_mail, token=SECRET)),
    "of a decorated partial": functools.partial(
        decorated(functools.partial(read_mail, token=SECRET)), limit=3
    ),
}


@pytest.mark.parametrize("kind", PARTIALS)
async def test_what_a_partial_binds_is_hidden_and_cannot_be_replaced(kind: str) -> None:
    tool = Tool.from_function(PARTIALS[kind], name="tool")
    schema: Any = tool.input_schema
    assert "token" not in schema["properties"]
    assert "folder" in schema["properties"]
    assert SECRET not in json.dumps(schema)
    assert SECRET not in tool.description
    assert tool.description.startswith("Read mail.")
    assert await call(PARTIALS[kind], folder="in") == ["in", SECRET, 3]
    assert await call(PARTIALS[kind], folder="in", token="mine") == "arguments_invalid"
    with pytest.raises(ValueError, match="token: "):  # from a server that checks nothing
        tool.signature.bind('{"folder": "in", "token": "mine"}', cast("ToolContext", None))


def untyped(folder: str, session=None) -> object:  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    return [folder, cast(object, session)]


async def test_what_is_bound_needs_no_type() -> None:
    assert await call(functools.partial(untyped, session=1), folder="in") == ["in", 1]
    assert await call(functools.partial(read_mail, "in", SECRET), limit=1) == ["in", SECRET, 1]


def in_context(folder: str, context: ToolContext) -> list[str]:
    return [folder, context.tool_name]


async def test_a_bound_context_is_the_callers() -> None:
    bound = functools.partial(in_context, context=ToolContext(tool_name="mine"))
    assert await call(bound, folder="in") == ["in", "mine"]


def test_a_partial_has_the_name_of_its_function() -> None:
    assert Tool.from_function(functools.partial(read_mail, token=SECRET)).name == "read_mail"
    named: Any = functools.partial(read_mail, token=SECRET)
    named.__name__, named.__doc__ = "inbox", "Read the inbox."
    tool = Tool.from_function(named)
    assert (tool.name, tool.description) == ("inbox", "Read the inbox.")


def test_the_error_for_a_partial_does_not_print_its_values() -> None:
    class Nameless:
        def __call__(self, token: str) -> None: ...

    with pytest.raises(TypeError, match="'partial': a tool's name is") as caught:
        Tool.from_function(functools.partial(Nameless(), token=SECRET))
    assert SECRET not in str(caught.value)


class OnlyCall:
    def __call__(self, city: str, days: int = 1) -> str:
        """Forecast of the weather.

        :param city: Name of the city.
        """
        return f"{city} {days}"


class OnlyClass:
    """Forecast of the weather.

    Args:
        city: Name of the city.
    """

    def __call__(self, city: str, days: int = 1) -> str:
        return f"{city} {days}"


class Both:
    """Holds a connection.

    Args:
        city: Loses.
        days: How many days.
    """

    async def __call__(self, city: str, days: int = 1) -> str:
        """Forecast of the weather.

        :param city: Name of the city.
        """
        return f"{city} {days}"


class Inherited(OnlyCall): ...


@dataclasses.dataclass
class Configured:
    key: str

    def __call__(self, city: str, days: int = 1) -> str:
        """Forecast of the weather.

        :param city: Name of the city.
        """
        return f"{city} {days}"


class Modelled(pydantic.BaseModel):
    def __call__(self, city: str, days: int = 1) -> str:
        """Forecast of the weather.

        :param city: Name of the city.
        """
        return f"{city} {days}"


class Decorated:
    @functools.wraps(OnlyCall.__call__)
    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return OnlyCall()(*args, **kwargs)


@pytest.mark.parametrize(
    "tool",
    [
        OnlyCall(), OnlyClass(), Both(), Inherited(), Configured("k"), Modelled(), Decorated(),
        functools.partial(OnlyCall()), decorated(OnlyCall()),
    ],
    ids=lambda tool: type(tool).__name__,
)  # fmt: skip
async def test_an_object_that_can_be_called_is_described_and_runs(tool: Any) -> None:
    declared = Tool.from_function(tool, name="tool")
    schema: Any = declared.input_schema
    assert declared.description == "Forecast of the weather."
    assert schema["properties"]["city"]["description"] == "Name of the city."
    assert schema["required"] == ["city"]
    assert await call(tool, city="Rome", days=2) == "Rome 2"


def test_a_class_is_a_tool_that_makes_its_objects() -> None:
    @dataclasses.dataclass
    class Place:
        """A place on a map."""

        name: str

    tool = Tool.from_function(Place)
    assert (tool.name, tool.description) == ("Place", "A place on a map.")
    assert tool.input_schema["required"] == ["name"]


def test_parameter_texts_of_class_and_call_add_up() -> None:
    schema: Any = Tool.from_function(Both(), name="tool").input_schema
    assert schema["properties"]["days"]["description"] == "How many days."


def test_an_object_without_words_has_no_description() -> None:
    @dataclasses.dataclass
    class Silent:
        key: str = "k"

        def __call__(self, city: str) -> None: ...

    assert Tool.from_function(Silent(), name="tool").description == ""


def with_signature(function: Any, **annotations: Any) -> Any:
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    return function


def made(names: list[str], kind: Any) -> Any:
    """Makes a function as a bridge to other tools does: from a list of names."""

    def bridge(**arguments: object) -> object:
        return arguments

    bridge.__name__ = "bridge"
    bridge.__doc__ = "Says it.\n\n:param city: Name of the city."
    return with_signature(bridge, **dict.fromkeys(names, kind))


@pytest.mark.parametrize("kind", [str, "str", "Text"])
async def test_annotations_of_a_signature_are_taken(kind: Any) -> None:
    tool = Tool.from_function(made(["city", "country"], kind))
    assert tool.name == "bridge"
    assert tool.description == "Says it."
    assert tool.input_schema == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city."},
            "country": {"type": "string"},
        },
        "required": ["city", "country"],
        "additionalProperties": False,
    }
    said = {"city": "Rome", "country": "Italy"}
    assert await call(made(["city", "country"], kind), **said) == said


Text = str


async def test_a_signature_on_an_object_or_a_decorated_function_is_taken() -> None:
    class Bridge:
        def __call__(self, **arguments: object) -> object:
            return arguments

    assert await call(with_signature(Bridge(), city=str), city="Rome") == {"city": "Rome"}
    narrowed = with_signature(decorated(read_mail), folder=str, token=str)
    assert await call(narrowed, folder="in", token="t") == ["in", "t", 3]


async def test_functions_made_at_run_time_are_tools() -> None:
    namespace: dict[str, Any] = {}
    exec("def doubled(value: int) -> int:\n    'Doubles.'\n    return value * 2", namespace)
    assert Tool.from_function(namespace["doubled"]).description == "Doubles."
    assert await call(namespace["doubled"], value=2) == 4

    shape: Any = pydantic.create_model("Shape", sides=(int, ...))

    def count(shape: Any) -> int:
        return shape.sides

    count.__annotations__ = {"shape": shape}
    assert await call(count, shape={"sides": 4}) == 4

    copied = types.FunctionType(read_mail.__code__, globals(), "copied", (3,))
    copied.__annotations__ = dict(read_mail.__annotations__)
    assert await call(copied, folder="in", token="t") == ["in", "t", 3]

    kind = type("Kind", (OnlyCall,), {})
    assert await call(kind(), city="Rome") == "Rome 1"
