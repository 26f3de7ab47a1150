"""Every call is answered once, in words, whatever its handler does; the conversation goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import pydantic
import pytest
from pydantic import Field

import precall
from precall import Client, ClientOptions, ServerLimits, Tool, ToolCallOutcome, ToolContext
from precall.testing import Call, FakeServer, Parallel, Say
from tests.clients.helpers import FAST, result_of, talking


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date


@dataclasses.dataclass
class Pair:
    left: int
    right: float


def person(name: str) -> Person:
    return Person(name=name, born=datetime.date(1815, 12, 10))


async def pair(left: int) -> Pair:
    return Pair(left, 0.5)


async def nothing() -> None: ...
def numbers() -> set[int]:
    return {1}


def later(value: int) -> Any:
    async def resolve() -> int:
        return value + 1

    return resolve()  # like a decorator that is unaware of coroutines


@pytest.mark.parametrize(
    ("function", "arguments", "value"),
    [
        (person, {"name": "Ada"}, {"name": "Ada", "born": "1815-12-10"}),
        (pair, {"left": 1}, {"left": 1, "right": 0.5}),
        (nothing, {}, None),
        (numbers, {}, [1]),
        (later, {"value": 1}, 2),
    ],
)
async def test_results_become_json(
    function: Callable[..., object], arguments: dict[str, object], value: object
) -> None:
    result = await result_of(function, **arguments)
    assert (result.outcome, result.value) == (ToolCallOutcome.RESULT, value)


async def converted(
    day: datetime.date,
    who: Person,
    many: Annotated[int, Field(le=10)],
    unit: Literal["C", "F"] = "C",
    context: ToolContext | None = None,
) -> str:
    assert isinstance(day, datetime.date)
    assert context is not None
    return f"{day.year} {who.name} {many + 1} {unit} {context.tool_name}"


async def test_arguments_are_converted_and_defaults_are_those_of_python() -> None:
    who = {"name": "Ada", "born": "1815-12-10"}
    result = await result_of(converted, day="2024-02-29", who=who, many=3.0)
    assert result.value == "2024 Ada 4 C converted"


async def in_field(limit: int = Field(default=3, ge=1)) -> int:
    return limit + 1


async def test_a_default_of_a_field_is_what_the_handler_gets() -> None:
    assert (await result_of(in_field)).value == 4
    assert (await result_of(in_field, limit=5)).value == 6
    assert (await result_of(in_field, limit=0)).error_type == "arguments_invalid"


async def test_arguments_that_fit_the_schema_alone_are_an_error_of_the_client() -> None:
    result = await result_of(converted, day="never", who={"name": "", "born": "soon"}, many=1)
    assert (result.outcome, result.error_type) == (ToolCallOutcome.ERROR, "ArgumentsInvalid")
    for path in ("day: ", "who.born: "):
        assert path in result.error_message


def test_arguments_that_do_not_fit_are_named_with_their_path() -> None:
    bind = Tool.from_function(converted).signature.bind
    wrong = {"day": "never", "who": {"name": 1}, "many": 11, "other": True}
    with pytest.raises(ValueError, match="day: ") as caught:
        bind(json.dumps(wrong), cast("ToolContext", None))
    for path in ("who.name: ", "who.born: Field required", "many: ", "other: Extra"):
        assert path in str(caught.value)


async def raises() -> None:
    raise LookupError("no such city: Atlantis")


def raises_in_thread() -> None:
    raise ValueError


def stops() -> object:
    return next(iter(()))


def exits() -> None:
    raise SystemExit(3)


async def exits_too() -> None:
    raise SystemExit(3)


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def not_json() -> object:
    return threading.Lock()


async def not_text() -> bytes:
    return b"\xff"


async def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def surrogate() -> None:
    raise ValueError("\ud800")


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (raises, "LookupError", "no such city: Atlantis"),
        (raises_in_thread, "ValueError", "the handler gave no message"),
        (stops, "RuntimeError", "the handler raised StopIteration()"),
        (exits, "RuntimeError", "the handler raised SystemExit(3)"),
        (exits_too, "RuntimeError", "the handler raised SystemExit(3)"),
        (cancels_itself, "CancelledError", "the handler was cancelled within the client"),
        (not_json, "ResultNotSerializable", "the handler returned lock, which does not become"),
        (not_text, "ResultNotSerializable", "the handler returned bytes"),
        (circular, "ResultNotSerializable", "Circular reference"),
        (surrogate, "ValueError", "?"),
    ],
)
async def test_the_model_gets_failures_without_a_stack_trace(
    function: Callable[..., object], kind: str, message: str
) -> None:
    result = await result_of(function)
    assert (result.outcome, result.error_type) == (ToolCallOutcome.ERROR, kind)
    assert message in result.error_message
    assert "Traceback" not in result.error_message
    assert __file__ not in result.error_message


@pytest.mark.parametrize(
    ("function", "where"), [(raises, "in raises"), (not_json, "Unable to serialize unknown type")]
)
async def test_failures_leave_their_traceback_in_the_log(
    function: Callable[..., object], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    await result_of(function)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("precall", "WARNING")
    assert f"tool {function.__name__}" in record.getMessage()
    assert where in caplog.text


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


async def speechless() -> None:
    raise SpeechlessError


def picky(value: str) -> str:
    raise KeyError(value)


async def validated(value: Annotated[str, pydantic.AfterValidator(picky)]) -> str:
    return value


@pytest.mark.parametrize(("function", "arguments"), [(speechless, {}), (validated, {"value": "x"})])
async def test_failures_outside_the_handler_are_answered_too(
    function: Callable[..., object], arguments: dict[str, object]
) -> None:
    result = await result_of(function, **arguments)
    assert (result.outcome, result.error_type) == (ToolCallOutcome.ERROR, "RuntimeError")
    assert "see its log" in result.error_message


async def long_message() -> None:
    raise ValueError("x" * 100_000)


async def test_a_long_message_is_cut() -> None:
    assert len((await result_of(long_message)).error_message) < 2100


async def large(size: int) -> str:
    return "x" * size


async def test_a_result_over_the_limit_fails_its_call_with_the_numbers() -> None:
    script = [Call("large", {"size": 2000}), Call("large", {"size": 10}), Say("done")]
    limits = ServerLimits(result_bytes_max=1000)
    async with FakeServer(script, limits=limits) as server, Client(server.address) as client:
        client.add_tool(large)
        async with client.conversation() as conversation:
            await conversation.ask("go")
    too_large, fits = server.results
    assert too_large.error_type == "ResultTooLarge"
    assert "2,002 bytes, the limit is 1,000" in too_large.error_message
    assert fits.value == "x" * 10


async def test_parallel_calls_run_concurrently() -> None:
    inside = 0
    both = asyncio.Event()

    async def meet(name: str) -> str:
        nonlocal inside
        inside += 1
        if inside == 2:
            both.set()
        await asyncio.wait_for(both.wait(), 5)
        return name

    script = [Parallel([Call("meet", {"name": "a"}), Call("meet", {"name": "b"})]), Say("met")]
    async with talking(script, tools=(meet,)) as (server, conversation):
        answer = await conversation.ask("go")
    assert [result.value for result in server.results] == ["a", "b"]
    assert [call.result for call in answer.tool_calls] == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_concurrency_is_bounded_per_tool(limit: int) -> None:
    running: list[int] = []
    most = 0

    async def count(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        await asyncio.sleep(0.02)
        running.remove(number)
        return number

    calls = [Call("count", {"number": number}) for number in range(6)]
    async with FakeServer([Parallel(calls), Say("x")]) as server, Client(server.address) as client:
        client.add_tool(count, max_concurrency=limit)
        async with client.conversation() as conversation:
            await conversation.ask("go")
    assert most == limit
    assert [result.value for result in server.results] == list(range(6))


async def test_more_invocations_than_the_client_takes_are_answered_by_an_error() -> None:
    async def wait() -> None:
        await asyncio.sleep(0.05)

    script = [Parallel([Call("wait")] * 3), Say("x")]
    options = ClientOptions(invocations_max=2)
    async with (
        FakeServer(script) as server,
        Client(server.address, options=options) as client,
        client.conversation(tools=[wait]) as conversation,
    ):
        await conversation.ask("go")
    assert [result.error_type for result in server.results] == ["", "", "TooManyInvocations"]


async def test_progress_reaches_the_reader_of_the_turn() -> None:
    async def work(context: ToolContext) -> str:
        await context.progress("half", 0.5)
        await context.progress("nearly")
        return context.conversation_id

    def work_in_thread(context: ToolContext) -> str:
        context.progress_from_thread("from a thread", 0.1)
        time.sleep(0.05)
        return context.tool_name

    script = [Call("work"), Call("work_in_thread"), Say("done")]
    async with talking(script, tools=(work, work_in_thread)) as (server, conversation):
        said = [
            (event.message, event.fraction)
            async for event in conversation.send("go")
            if isinstance(event, precall.ToolCallProgress)
        ]
        assert said == [("half", 0.5), ("nearly", None), ("from a thread", 0.1)]
        assert [result.value for result in server.results] == [conversation.id, "work_in_thread"]


async def test_a_default_context_is_enough_to_call_a_tool() -> None:
    context = ToolContext()
    await context.progress("discarded")
    context.progress_from_thread("discarded")
    assert (context.cancelled, context.remaining_s, context.call_id) == (False, None, "")


async def test_a_handler_is_cancelled_at_its_deadline() -> None:
    ended: list[str] = []

    async def sleeps(context: ToolContext) -> None:
        assert 0 < (context.remaining_s or 0) <= 0.1
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    script = [Call("sleeps"), Say("it took too long")]
    async with FakeServer(script) as server, Client(server.address, options=FAST) as client:
        client.add_tool(sleeps, timeout_s=0.1)
        async with client.conversation() as conversation:
            answer = await conversation.ask("go")
    assert ended == ["cancelled"]
    assert answer.tool_calls[0].outcome is ToolCallOutcome.TIMEOUT
    assert isinstance(answer.tool_calls[0].error, precall.ToolCallError)


async def test_a_handler_that_ignores_its_deadline_does_not_delay_the_turn() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    script = [Call("stubborn"), Say("went on")]
    async with FakeServer(script) as server, Client(server.address, options=FAST) as client:
        client.add_tool(stubborn, timeout_s=0.1)
        async with client.conversation() as conversation:
            answer = await asyncio.wait_for(conversation.ask("go"), 5)
            release.set()
    assert (str(answer), answer.tool_calls[0].outcome) == ("went on", ToolCallOutcome.TIMEOUT)


def test_the_context_shows_a_handler_only_what_it_needs() -> None:
    shown = {name for name in dir(ToolContext) if not name.startswith("_")}
    assert shown == {
        "call_id", "cancelled", "committed", "committed_from_thread", "conversation_id",
        "execution_id", "prediction_id", "progress", "progress_from_thread", "remaining_s",
        "speculative", "tool_name", "traceparent", "tracestate", "turn_id",
    }  # fmt: skip
