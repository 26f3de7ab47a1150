"""The client against the real service, over an engine that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

import precall
from precall import Capability, Client, Conversation, ToolCallOutcome, TurnOutcome
from tests.clients.helpers import FAST
from tests.support.scripts import Pause, Script, Step, always, calls, says, thinks
from tests.support.stream import RunningServer, Section, running_server


def client_of(server: RunningServer) -> Client:
    return Client(server.service.address, options=FAST)


@asynccontextmanager
async def talking(
    script: Script | Sequence[Step] = (),
    *functions: Callable[..., object],
    tools: Section | None = None,
) -> AsyncGenerator[tuple[RunningServer, Conversation], None]:
    """Yields the real server, and an open conversation with it."""
    async with (
        running_server(script, tools=tools or {}) as server,
        client_of(server) as client,
        client.conversation(tools=functions) as conversation,
    ):
        yield server, conversation


async def weather(city: str) -> dict[str, object]:
    """The weather in a city.

    Args:
        city: Name of the city.
    """
    if city == "Atlantis":
        raise LookupError("no such city")
    return {"city": city, "degrees": 21}


TWO_CITIES: Sequence[Step] = (
    [
        *thinks("Both."),
        *calls(("weather", '{"city": "Paris"}'), ("weather", '{"city": "Rome"}')),
    ],
    says("Warm ", "in both."),
)


async def test_a_turn_with_parallel_calls() -> None:
    async with running_server(TWO_CITIES) as server, client_of(server) as client:
        client.add_tool(weather, read_only=True)
        async with client.conversation(system_prompt="Be brief.") as conversation:
            answer = await conversation.ask("Paris and Rome?")
            assert [tool.name for tool in conversation.tools] == ["weather"]
            assert conversation.limits.result_bytes_max > 0
    assert (str(answer), answer.reasoning) == ("Warm in both.", "Both.")
    assert answer.outcome is TurnOutcome.ANSWERED
    assert [call.result for call in answer.tool_calls] == [
        {"city": "Paris", "degrees": 21},
        {"city": "Rome", "degrees": 21},
    ]
    assert (answer.report.steps, answer.report.tool_calls) == (2, 2)
    assert answer.report.usage.output_tokens > 0


async def test_every_event_is_understood() -> None:
    async with talking(TWO_CITIES, weather) as (_, conversation):
        kinds = {type(event).__name__ async for event in conversation.send("?")}
    assert kinds == {
        "TurnStarted", "StepStarted", "ReasoningDelta", "ToolCallStarted",
        "ToolCallArgumentsDelta", "ToolCallReady", "StepCompleted", "ToolCallCompleted",
        "TextDelta", "TurnCompleted",
    }  # fmt: skip


async def test_the_model_is_told_that_a_handler_failed() -> None:
    script = [calls(("weather", '{"city": "Atlantis"}')), says("It sank.")]
    async with talking(script, weather) as (_, conversation):
        answer = await conversation.ask("?")
    (call,) = answer.tool_calls
    assert call.outcome is ToolCallOutcome.ERROR
    assert isinstance(call.error, precall.ToolCallError)
    assert (call.error.reason, call.error.message) == ("TOOL_FAILED", "no such city")
    assert call.error.metadata["handler_error_type"] == "LookupError"


async def test_leaving_a_turn_ends_it_on_the_server_and_the_next_starts() -> None:
    released = asyncio.Event()
    script = [[*says("One"), Pause(released)], says("Two")]
    async with talking(script) as (_, conversation):
        async for event in conversation.send("first"):
            if isinstance(event, precall.TextDelta):
                break
        assert str(await conversation.ask("second")) == "Two"


async def test_a_limit_is_an_outcome() -> None:
    async with talking(always(says("x" * 50))) as (_, conversation):
        answer = await conversation.ask("?", max_step_tokens=5)
        assert (answer.outcome, answer.text) == (TurnOutcome.LIMIT, "xxxxx")
        assert answer.error is not None
        assert answer.error.reason == "LIMIT_REACHED"


async def test_refusals_are_typed_and_the_conversation_goes_on() -> None:
    async with talking(always(says("Fine."))) as (_, conversation):
        with pytest.raises(precall.InvalidArgumentError):
            await conversation.ask("")
        with pytest.raises(precall.InvalidArgumentError):
            await conversation.ask("?", temperature=7)
        with pytest.raises(precall.InvalidArgumentError):
            await conversation.ask("?", tool_choice=precall.ToolNamed("missing"))
        with pytest.raises(precall.ContextWindowExceededError) as caught:
            await conversation.ask("long " * 5000)
        assert caught.value.metadata["limit"]
        assert str(await conversation.ask("?")) == "Fine."


async def test_tools_come_and_go() -> None:
    script = [calls(("weather", '{"city": "Oslo"}')), says("Cold.")]
    async with talking(script) as (_, conversation):
        await conversation.add_tool(weather)
        await conversation.add_tool(weather, description="In another form.")
        assert str(await conversation.ask("?", tool_choice=weather)) == "Cold."
        await conversation.remove_tool("weather")
        with pytest.raises(precall.ToolRejectedError):
            await conversation.remove_tool("weather")


async def test_a_refused_tool_raises() -> None:
    async with talking((), weather, tools={"tools_max": 1}) as (_, conversation):
        with pytest.raises(precall.ToolRejectedError) as caught:
            await conversation.add_tool(weather, name="second")
        assert caught.value.reason == "LIMIT_REACHED"
        assert [tool.name for tool in conversation.tools] == ["weather"]


async def test_a_dead_engine_fails_the_turn_with_a_time_to_retry() -> None:
    script = [[*says("One"), Pause(asyncio.Event())]]
    async with talking(script) as (server, conversation):
        turn = conversation.send("?")
        events = aiter(turn)
        while not isinstance(await anext(events), precall.TextDelta):
            pass
        server.engine.die()
        with pytest.raises(precall.EngineUnavailableError) as caught:
            await turn.answer()
        assert caught.value.retry_after_s


async def test_server_info() -> None:
    async with running_server() as server, client_of(server) as client:
        info = await client.server_info()
    assert info.model == "script"
    assert info.version == precall.__version__
    assert info.capabilities >= {Capability.TOOL_CALLS, Capability.STRUCTURED_CALLS}
    assert info.limits.frame_bytes_max > 0
    assert info.load is None, "the load of all tenants is the operator's to tell"


async def test_server_info_has_the_load_if_the_operator_lets_clients_know() -> None:
    async with running_server(server={"info_counts": True}) as server, client_of(server) as client:
        info = await client.server_info()
    assert info.load == precall.EngineLoad(turns_max=64)


async def test_a_second_equal_call_is_answered_from_the_cache_until_a_write() -> None:
    runs: list[str] = []

    async def counted(city: str) -> str:
        """Counts its runs."""
        runs.append(city)
        return f"run {len(runs)}"

    step = calls(("counted", '{"city": "Paris"}'))
    async with (
        running_server([step, says("")] * 3) as server,
        client_of(server) as client,
    ):
        client.add_tool(counted, read_only=True, cache_ttl_s=60, reads=["weather:{city}"])
        async with client.conversation() as conversation:
            first = await conversation.ask("?")
            events = [event async for event in conversation.send("?")]
            await client.cache.invalidate(resource="weather:Paris")
            third = await conversation.ask("?")
            version = conversation.tool_version("counted")
            entry = await client.cache.get(
                "counted", version, {"city": "Paris"}, conversation_id=conversation.id
            )
    (ended,) = [event for event in events if isinstance(event, precall.ToolCallCompleted)]
    assert (ended.source, ended.result) == (precall.ResultSource.CACHE, "run 1")
    assert ended.cache_entry_version > 0
    assert ended.cache_age_s is not None
    last = events[-1]
    assert isinstance(last, precall.TurnCompleted)
    assert (last.report.cache_hits, first.report.cache_hits) == (1, 0)
    for answer, run in ((first, "run 1"), (third, "run 2")):
        assert [call.source for call in answer.tool_calls] == [precall.ResultSource.COMMITTED]
        assert [call.result for call in answer.tool_calls] == [run]
    assert entry is not None
    assert (entry.origin, entry.result) == (precall.CacheOrigin.COMMITTED, "run 2")
    assert entry.execution_id
