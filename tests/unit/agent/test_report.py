"""The report of a turn that ended early: its times count what has happened, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.domain.events import TurnOutcome
from tests.support.agent import LIMITS, ROME, WEATHER, agent, agent_limits
from tests.support.clock import settle
from tests.support.scripts import Pause, Step, calls, says


@pytest.mark.parametrize(
    ("step", "generated_s", "tools_s"),
    [([*says("Let me "), Pause(asyncio.Event())], 3.0, 0.0), (calls(ROME), 0.0, 3.0)],
    ids=["generating", "waiting for a tool"],
)
async def test_the_time_of_an_aborted_step_and_its_calls_counts(
    step: Step, generated_s: float, tools_s: float
) -> None:
    async with agent(step) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(3.0)
        client.conversation.cancel_turn("")
        await settle()
        report = client.ending().report
        assert (report.generation_time_s, report.tool_time_exposed_s) == (generated_s, tools_s)
        assert report.wall_time_s == 3.0


async def test_a_turn_that_was_never_admitted_spent_its_whole_time_in_the_queue() -> None:
    async with agent() as there:
        there.admission.suspend()
        client = there.open()
        await client.send()
        await there.advance(2.0)
        client.conversation.cancel_turn("")
        await settle()
        report = client.ending().report
        assert (report.queue_time_s, report.wall_time_s) == (2.0, 2.0)
        there.resize()


async def test_a_slow_reader_is_not_counted_as_tool_time() -> None:
    """The step limit ends the turn before its call is made, so that no tool was waited for."""
    hold = asyncio.Event()
    async with agent([*calls(ROME), Pause(hold)], limits=agent_limits(events_max=1)) as there:
        client = there.open(WEATHER)
        await client.send(limits=replace(LIMITS, max_steps=1))
        await client.stop_reading()
        hold.set()
        await there.advance(30.0)
        client.reading.set()
        await settle()
        ending = client.ending()
        assert (ending.outcome, ending.report.wall_time_s) == (TurnOutcome.LIMIT, 30.0)
        assert ending.report.tool_time_exposed_s == 0.0
