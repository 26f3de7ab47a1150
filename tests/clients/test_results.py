"""What a handler returns becomes JSON as it is meant, or is refused by its place."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pydantic
import pydantic.dataclasses
import pytest

from precall import Client, ServerLimits, ToolCallOutcome
from precall.testing import Call, FakeServer, Say, ToolResult
from tests.clients.helpers import FAST, result_of

LOOP_THREAD = threading.main_thread()


@dataclasses.dataclass
class Report:
    rows: Any


@pydantic.dataclasses.dataclass
class CheckedReport:
    rows: Any


class Model(pydantic.BaseModel):
    rows: Any = None


class Lazy(pydantic.BaseModel):
    rows: Iterable[int]


class Extra(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Measured(pydantic.BaseModel):
    value: float


class Spelled(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")
    value: float


class Excluding(pydantic.BaseModel):
    value: float = pydantic.Field(default=math.inf, exclude=True)


class Level(enum.IntEnum):
    HIGH = 2


class Kind(enum.StrEnum):
    A = "a"


class Pair(NamedTuple):
    left: int
    right: float


def gives(value: Callable[[], object]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Returns a synchronous handler and an asynchronous one that return what `value` makes."""

    def handler() -> object:
        return value()

    async def handler_async() -> object:
        return value()

    handler_async.__name__ = "handler"
    return handler, handler_async


def squares() -> Iterator[int]:
    for number in range(3):
        yield number * number


async def squares_async() -> AsyncIterator[int]:
    for number in range(3):
        yield number * number


VALUES: list[tuple[Callable[[], object], object]] = [
    (squares, [0, 1, 4]),
    (lambda: (number for number in "ab"), ["a", "b"]),
    (lambda: map(str, [1, 2]), ["1", "2"]),
    (lambda: filter(None, [0, 1]), [1]),
    (lambda: zip("ab", [1, 2], strict=True), [["a", 1], ["b", 2]]),
    (lambda: enumerate("a"), [[0, "a"]]),
    (lambda: iter({"a": 1}), ["a"]),
    (lambda: itertools.islice(itertools.count(), 2), [0, 1]),
    (lambda: {"rows": squares(), "in": [(squares(),)]}, {"rows": [0, 1, 4], "in": [[[0, 1, 4]]]}),
    (lambda: Report(squares()), {"rows": [0, 1, 4]}),
    (lambda: (squares() for _ in range(2)), [[0, 1, 4]] * 2),
    (squares_async, [0, 1, 4]),
    (lambda: {1: 0, 1.5: 0, None: 0}, {"1": 0, "1.5": 0, "null": 0}),
    (lambda: [Level.HIGH, Kind.A, {Kind.A: Level.HIGH}], [2, "a", {"a": 2}]),
    (lambda: Counter("aab"), {"a": 2, "b": 1}),
    (lambda: deque([1]), [1]),
    (lambda: Pair(1, 0.5), [1, 0.5]),
    (lambda: {1: None, None: b"x"}, {"1": None, "null": "x"}),
    (lambda: Model(rows=[Report(1), CheckedReport((2,))]), {"rows": [{"rows": 1}, {"rows": [2]}]}),
    (lambda: Spelled(value=math.inf), {"value": "Infinity"}),
    (lambda: [Spelled(value=math.nan), Measured(value=1)], [{"value": "NaN"}, {"value": 1.0}]),
    (Excluding, {}),
    (lambda: "é 天 \U0001f600", "é 天 \U0001f600"),
    (lambda: {"good": "text", "bad": "a\ud83db"}, {"good": "text", "bad": "a?b"}),
    (lambda: {"\ud83d": ["\udc00"]}, {"?": ["?"]}),
    (lambda: Report("\ud800"), {"rows": "?"}),
    (lambda: Model(rows="\ud800"), {"rows": "?"}),
    (lambda: (text for text in ["\ud800", "b"]), ["?", "b"]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), VALUES)
async def test_a_result_becomes_json(value: Callable[[], object], expected: object) -> None:
    for handler in gives(value):
        result = await result_of(handler)
        assert (result.outcome, result.value) == (ToolCallOutcome.RESULT, expected), (
            result.error_message
        )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: math.nan, "float, which does not become JSON: JSON has no number nan;"),
        (lambda: {"rows": [1.0, -math.inf]}, "no number -inf (at result['rows'][1])"),
        (lambda: Pair(1, math.inf), "no number inf (at result[1])"),
        (lambda: Report([math.inf]), "no number inf (at result['rows'][0])"),
        (lambda: Measured(value=math.nan), "no number nan (at result['value'])"),
        (lambda: [Model(rows={"a": math.inf})], "no number inf (at result[0]['rows']['a'])"),
        (lambda: Model(rows=Report((math.inf,))), "no number inf (at result['rows']['rows'][0])"),
        (lambda: Model(rows=Model(rows=math.nan)), "no number nan (at result['rows']['rows'])"),
        (lambda: CheckedReport({"a": math.nan}), "no number nan (at result['rows']['a'])"),
        (lambda: (number for number in [0.0, math.inf]), "no number inf (at result[1])"),
        (lambda: [object()], "unknown type: <class 'object'> (at result[0])"),
        (lambda: Lazy(rows=[1]), "Lazy holds a ValidatorIterator, which is not drawn; make it a"),
        (lambda: Model(rows=[squares()]), "Model holds a generator"),
        (lambda: CheckedReport(squares()), "CheckedReport holds a generator"),
        (lambda: [Extra.model_validate({"x": squares()})], "Extra holds a generator"),
        (lambda: {"rows": squares_async()}, "unknown type: <class 'async_generator'>"),
        (lambda: 10**5000, "Exceeds the limit"),
    ],
)  # fmt: skip
async def test_what_does_not_become_json_is_named(value: Callable[[], object], says: str) -> None:
    for handler in gives(value):
        result = await result_of(handler)
        assert (result.outcome, result.error_type) == (
            ToolCallOutcome.ERROR,
            "ResultNotSerializable",
        )
        assert says in result.error_message


async def many_nested() -> AsyncIterator[object]:
    yield [1]
    yield squares()


async def not_finite_async() -> AsyncIterator[float]:
    yield 0.0
    yield math.inf


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (many_nested, "it gave an iterator, which may block; give lists (at result[1])"),
        (not_finite_async, "no number inf (at result[1])"),
    ],
)
async def test_what_an_async_iterator_gives_is_named_too(
    value: Callable[[], object], says: str
) -> None:
    for handler in gives(value):
        assert says in (await result_of(handler)).error_message


async def endless_async() -> AsyncIterator[int]:
    for number in itertools.count():
        yield number


@pytest.mark.parametrize(
    "value",
    [itertools.count, lambda: {"rows": itertools.repeat("x")}, endless_async,
     lambda: ([number] for number in itertools.count())],
)  # fmt: skip
async def test_an_endless_iterator_is_drawn_to_the_limit_of_a_result(
    value: Callable[[], object],
) -> None:
    for handler in gives(value):
        result = await result_with(handler, ServerLimits(result_bytes_max=1000))
        assert result.error_type == "ResultTooLarge"
        assert "more than 1,000 bytes, the limit, after" in result.error_message


async def result_with(
    handler: Callable[..., object], limits: ServerLimits, **options: Any
) -> ToolResult:
    script = [Call("handler"), Say("done")]
    async with (
        FakeServer(script, limits=limits) as server,
        Client(server.address, options=FAST) as client,
    ):
        client.add_tool(handler, name="handler", **options)
        async with client.conversation() as conversation:
            await conversation.ask("go")
    return server.results[0]


async def test_an_iterator_is_drawn_outside_the_event_loop_and_ends_with_its_run() -> None:
    seen: set[threading.Thread] = set()
    closed = threading.Event()

    def slow() -> Iterator[int]:
        try:
            for number in itertools.count():
                seen.add(threading.current_thread())
                yield number
        finally:
            closed.set()

    for handler in gives(slow):
        seen.clear()
        closed.clear()
        result = await result_with(handler, ServerLimits(), timeout_s=0.2)
        assert result.outcome is ToolCallOutcome.TIMEOUT
        assert await asyncio.to_thread(closed.wait, 5)
        assert LOOP_THREAD not in seen
        assert len(seen) == 1


async def test_an_async_iterator_is_closed_at_its_deadline() -> None:
    began, closed = asyncio.Event(), asyncio.Event()

    async def stuck() -> AsyncIterator[int]:
        began.set()
        try:
            yield 1
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    for handler in gives(stuck):
        began.clear()
        closed.clear()
        result = await result_with(handler, ServerLimits(), timeout_s=0.5)
        assert result.outcome is ToolCallOutcome.TIMEOUT
        assert closed.is_set() == began.is_set()  # a busy machine may not have begun in time


def broken() -> Iterator[int]:
    yield 1
    raise LookupError("no more rows")


async def broken_async() -> AsyncIterator[int]:
    yield 1
    raise LookupError("no more rows")


@pytest.mark.parametrize("value", [broken, broken_async])
async def test_an_iterator_that_fails_is_the_handlers_failure(value: Callable[[], object]) -> None:
    for handler in gives(value):
        result = await result_of(handler)
        assert (result.error_type, result.error_message) == ("LookupError", "no more rows")


async def fails(number: int) -> None:
    raise LookupError(f"no row {number}")


async def group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fails(1))


def nested_group() -> None:
    inner = ExceptionGroup("inner", [ValueError("bad"), KeyError("k")])
    raise ExceptionGroup("outer", [inner, RuntimeError()])


def base_group() -> None:
    raise BaseExceptionGroup("base", [asyncio.CancelledError("why"), ValueError("\ud800")])


def large_group() -> None:
    raise ExceptionGroup("many", [ValueError("x" * 10_000) for _ in range(1000)])


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        (
            group,
            "ExceptionGroup",
            "unhandled errors in a TaskGroup: LookupError: no row 1",
        ),
        (nested_group, "ExceptionGroup", "outer: ValueError: bad; KeyError: 'k'; RuntimeError: "),
        (base_group, "BaseExceptionGroup", "base: CancelledError: why; ValueError: ?"),
    ],
)
async def test_a_group_of_errors_says_what_was_inside(
    function: Callable[..., object], kind: str, says: str
) -> None:
    result = await result_of(function)
    assert (result.error_type, result.error_message) == (kind, says)


async def test_a_large_group_of_errors_is_shortened() -> None:
    result = await result_of(large_group)
    assert result.error_message.endswith("; and 992 more")
    assert len(result.error_message) < 2000


async def test_a_result_is_as_long_as_its_bytes() -> None:
    text = "é" * 10
    fits = await result_with(gives(lambda: text)[0], ServerLimits(result_bytes_max=22))
    assert fits.value == text
    above = await result_with(gives(lambda: text)[0], ServerLimits(result_bytes_max=21))
    assert "22 bytes, the limit is 21" in above.error_message
