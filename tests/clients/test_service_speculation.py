"""Speculation in the client against the real service, over an engine that follows a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

import precall
from precall import (
    Client,
    Predictor,
    ResultSource,
    Speculation,
    SpeculationMode,
    ToolCallCompleted,
    ToolContext,
)
from tests.clients.helpers import FAST
from tests.support.scripts import Item, Pause, calls, says
from tests.support.stream import running_server

ON = Speculation("on", events=True)


def two_calls(pause: asyncio.Event) -> Sequence[Sequence[Item]]:
    """The model writes a call, pauses, writes another one, and answers in the next step."""
    first = calls(("look", '{"name": "a"}'))
    return [[*first, Pause(pause), *says("and")], says("Done.")]


async def events_of(
    handler: Callable[..., object], pause: asyncio.Event, speculation: Speculation = ON
) -> tuple[list[precall.Event], precall.SpeculationStats]:
    """Takes a turn in which the model goes on writing after its call until the pause ends."""
    async with (
        running_server(two_calls(pause)) as server,
        Client(server.service.address, options=FAST) as client,
    ):
        client.add_tool(handler, name="look", read_only=True, speculation_safe=True)
        async with client.conversation(speculation=speculation) as conversation:
            assert conversation.speculation.mode is speculation.mode
            assert conversation.speculation.events == speculation.events
            events = [event async for event in conversation.send("?")]
        return events, await client.speculation_stats()


async def test_a_call_runs_while_the_model_still_writes() -> None:
    pause = asyncio.Event()

    async def look(name: str, context: ToolContext) -> str:
        seen.append((context.speculative, context.call_id, bool(context.prediction_id)))
        pause.set()
        await context.committed()
        return f"{name} for {context.call_id}"

    seen: list[tuple[bool, str, bool]] = []
    events, stats = await events_of(look, pause)
    names = [type(event).__name__ for event in events if "Prediction" in type(event).__name__]
    assert names == ["PredictionProposed", "PredictionLaunched", "PredictionConfirmed"]
    (completed,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert completed.source is ResultSource.SPECULATIVE
    assert completed.result == f"a for {completed.call_id}"
    assert seen == [(True, "", True)]
    (tool,) = stats.tools
    (record,) = tool.predictors
    assert (tool.tool_name, tool.coverage) == ("look", 1.0)
    assert (record.predictor, record.stage) == (Predictor.EARLY_DISPATCH, SpeculationMode.ISSUE)
    assert (record.proposed, record.launched, record.confirmed, record.acceptance) == (1, 1, 1, 1.0)


async def test_a_synchronous_handler_waits_for_the_model() -> None:
    pause, loop = asyncio.Event(), asyncio.get_running_loop()
    threads: list[str] = []

    def look(name: str, context: ToolContext) -> bool:
        threads.append(threading.current_thread().name)
        loop.call_soon_threadsafe(pause.set)
        return context.committed_from_thread()

    events, _ = await events_of(look, pause)
    (completed,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert (completed.source, completed.result) == (ResultSource.SPECULATIVE, True)
    assert threads[0].startswith("precall-tool")


@pytest.mark.parametrize("mode", ["off", "shadow"])
async def test_nothing_runs_early_if_it_is_not_granted(mode: Literal["off", "shadow"]) -> None:
    pause = asyncio.Event()
    pause.set()

    async def look(name: str, context: ToolContext) -> bool:
        return context.speculative

    events, _ = await events_of(look, pause, Speculation(mode, events=True))
    (completed,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert (completed.source, completed.result) == (ResultSource.COMMITTED, False)
    launched = [event for event in events if isinstance(event, precall.PredictionLaunched)]
    assert launched == []


async def test_a_discarded_prediction_cancels_its_handler() -> None:
    """The turn is cancelled while the model still writes."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def look(name: str, context: ToolContext) -> None:
        started.set()
        try:
            await context.committed()
        finally:
            cancelled.set()

    async with (
        running_server(two_calls(asyncio.Event())) as server,
        Client(server.service.address, options=FAST) as client,
    ):
        client.add_tool(look, read_only=True, speculation_safe=True)
        async with client.conversation(speculation=ON) as conversation:
            turn = conversation.send("?")
            answer = asyncio.ensure_future(turn.answer())
            await asyncio.wait_for(started.wait(), 5)
            await turn.cancel()
            await asyncio.wait_for(cancelled.wait(), 5)
            assert (await answer).outcome is precall.TurnOutcome.CANCELLED
