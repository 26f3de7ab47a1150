"""Turns that end early, in every phase: everything ends once, and nothing is left behind.

`agent_on` checks after each test that the engine, the admission and the dispatcher are idle, and
that every step and call that the client was told of has ended exactly once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    Invoke,
    StepCompleted,
    StepFinishReason,
    StepStarted,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallStarted,
    TurnCompleted,
    TurnOutcome,
    TurnQueued,
    TurnStarted,
)
from precall_service.domain.tools import ToolEffects
from precall_service.engine.base import CallBegun
from tests.support.agent import (
    HOLD_S,
    OSLO,
    ROME,
    WEATHER,
    Agent,
    Client,
    agent,
    agent_limits,
    agent_on,
    scripted,
)
from tests.support.client_events import finishes
from tests.support.clock import settle
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Pause, Step, calls, says

PHASES = (
    "queued",
    "before its first piece",
    "in text",
    "in a call",
    "after a call",
    "tools",
    "one tool of two",
    "tools, its share given up",
    "resuming",
    "second step",
)
STARTED = PHASES[1:]
CALLED = PHASES[5:]
"""The phases in which a tool that may have effects has been called."""


def steps_to(phase: str) -> list[Step]:
    """Returns the script of the engine up to this phase."""
    never = Pause(asyncio.Event())
    match phase:
        case "queued":
            return []
        case "before its first piece":
            return [[never]]
        case "in text":
            return [[*says("Let me "), never]]
        case "in a call":
            return [[*says("See: "), CallBegun(0, "weather"), never]]
        case "after a call":
            return [[*calls(ROME), never]]
        case "tools" | "one tool of two":
            return [calls(ROME, OSLO)]
        case "second step":
            return [calls(ROME), [*says("It is "), never]]
        case _:
            return [calls(ROME)]


async def go_to(phase: str, there: Agent, client: Client) -> None:
    """Brings a turn of the client to this phase."""
    if phase == "queued":
        there.resize(slots=0)
    await client.send("the cut one")
    if phase in ("one tool of two", "second step"):
        await client.answer(0, result_json='"clear"')
    if phase in ("tools, its share given up", "resuming"):
        await there.advance(HOLD_S)
    if phase == "resuming":
        there.resize(slots=0)
        await client.answer(0, result_json='"clear"')
        assert there.admission.waiting == 1


@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled_by_the_client(phase: str) -> None:
    async with agent(*steps_to(phase), says("And on.")) as there:
        client = there.open(WEATHER)
        await go_to(phase, there, client)
        client.conversation.cancel_turn("turn-1")
        await settle()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.CANCELLED
        assert ending.error is not None
        assert ending.error.reason is Reason.CANCELLED
        assert len(client.of(TurnCompleted)) == 1
        _check_endings(phase, client)
        _check_usage(phase, client)
        await there.assert_idle()

        there.resize()
        assert (await client.ask("the next one")).text == "And on."
        kept = prompt_text(there.engine.prompts[-1])
        assert kept == _kept(phase) + "<user>the next one\n<model>"


def _check_endings(phase: str, client: Client) -> None:
    outcomes = [completed.outcome for completed in client.of(ToolCallCompleted)]
    assert len(outcomes) == len(client.of(ToolCallStarted))
    answered = phase in ("one tool of two", "resuming", "second step")
    if answered:
        assert outcomes.pop(0) is ToolCallOutcome.RESULT
    assert set(outcomes) <= {ToolCallOutcome.CANCELLED}
    cut = phase.startswith(("before", "in", "after", "second"))
    last = finishes(client.events)[-1:]
    expected = (
        []
        if phase == "queued"
        else [StepFinishReason.ABORTED if cut else StepFinishReason.TOOL_CALLS]
    )
    assert last == expected


def _check_usage(phase: str, client: Client) -> None:
    """An aborted step counts its prompt if it was computed."""
    steps = client.of(StepCompleted)
    prompts = [started.prompt_tokens for started in client.of(StepStarted)]
    if phase == "before its first piece":
        prompts = [0]
    assert [step.usage.input_tokens for step in steps] == prompts
    assert client.ending().report.usage.input_tokens == sum(prompts)


def _kept(phase: str) -> str:
    """Returns what the conversation keeps of the turn: user and assistant still alternate."""
    gone = "the turn ended before the call did; whether it took effect is not known"
    gone = f'<tool>weather: {{"error":{{"type":"cancelled","message":"{gone}"}}}}\n'
    rome, oslo = (f"<call {name}>{arguments}</call>" for name, arguments in (ROME, OSLO))
    clear = "<tool>weather: clear\n"
    kept = {
        "queued": "<model>\n",
        "before its first piece": "<model>\n",
        "in text": "<model>Let me \n",
        "in a call": "<model>See: \n",
        "after a call": "<model>\n",
        "tools": f"<model>{rome}{oslo}\n{gone}{gone}<model>\n",
        "one tool of two": f"<model>{rome}{oslo}\n{clear}{gone}<model>\n",
        "tools, its share given up": f"<model>{rome}\n{gone}<model>\n",
        "resuming": f"<model>{rome}\n{clear}<model>\n",
        "second step": f"<model>{rome}\n{clear}<model>It is \n",
    }[phase]
    return f"<system> tools: weather\n<user>the cut one\n{kept}"


@pytest.mark.parametrize("phase", PHASES)
async def test_ended_by_the_server(phase: str) -> None:
    async with agent(*steps_to(phase)) as there:
        client = there.open(WEATHER)
        await go_to(phase, there, client)
        draining = ServiceError(Reason.DRAINING, "the server is shutting down")
        client.conversation.end(draining, TurnOutcome.FAILED, status=draining)
        await settle()
        ending = client.ending()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.DRAINING
        assert (ending.error is draining) == (phase not in CALLED)
        assert client.running.done()
        assert client.conversation.error is draining


@pytest.mark.parametrize("phase", PHASES)
async def test_the_client_is_gone(phase: str) -> None:
    async with agent(*steps_to(phase)) as there:
        client = there.open(WEATHER)
        await go_to(phase, there, client)
        told = len(client.events)
        await client.vanish()
        await there.assert_idle()
        assert len(client.events) == told
        assert client.conversation.outbox.closed


@pytest.mark.parametrize("phase", STARTED)
async def test_the_engine_dies(phase: str) -> None:
    async with agent_on(scripted(*steps_to(phase)), scripted(says("And on."))) as there:
        client = there.open(WEATHER)
        await go_to(phase, there, client)
        there.engine.die()
        await settle()
        there.resize()  # else a turn that gave up its share would wait for the next engine
        await settle()
        for index, _ in enumerate(client.of(Invoke)):
            if not client.of(TurnCompleted) and not (index == 0 and phase == "one tool of two"):
                await client.answer(index)
        ending = client.ending()
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.ENGINE_UNAVAILABLE
        # The same turn again could repeat the effects.
        assert (ending.error.retry_after_s is None) == (phase in CALLED)
        assert ending.error.metadata.get("called") == ("weather" if phase in CALLED else None)

        await there.advance(60)
        await client.ask("the next one")
        kept = prompt_text(there.engines[1].prompts[-1])
        assert ("<user>the cut one\n<model><call weather>" in kept) == (phase in CALLED)


@pytest.mark.parametrize("call", [("weather", '{"town":7}'), ("weather", "{"), ("nothing", "{}")])
async def test_a_call_that_reached_no_handler_had_no_effects(call: tuple[str, str]) -> None:
    dies = [*says("So "), Pause(asyncio.Event())]
    async with agent_on(scripted(calls(call), dies), scripted(says("And on."))) as there:
        client = there.open(WEATHER)
        await client.send("the cut one")
        assert not client.of(Invoke)
        await there.restart()
        error = client.ending().error
        assert error is not None
        assert error.retry_after_s is not None
        assert "called" not in error.metadata
        await client.ask("the next one")
        assert "the cut one" not in prompt_text(there.engines[1].prompts[-1])


async def test_nothing_is_kept_of_a_turn_without_effects_when_the_engine_dies() -> None:
    steps = steps_to("second step")
    async with agent_on(scripted(*steps), scripted(says("And on."))) as there:
        client = there.open(replace(WEATHER, effects=ToolEffects(read_only=True)))
        await go_to("second step", there, client)
        await there.restart()
        error = client.ending().error
        assert error is not None
        assert error.retry_after_s is not None
        await client.ask("the next one")
        assert "the cut one" not in prompt_text(there.engines[1].prompts[-1])


@pytest.mark.parametrize("phase", STARTED)
async def test_time_is_up(phase: str) -> None:
    async with agent(*steps_to(phase), says("And on.")) as there:
        client = there.open(WEATHER)
        await go_to(phase, there, client)
        await there.advance(60.0)
        while not client.of(TurnCompleted):  # its calls timed out first
            assert len(there.engine.prompts) <= 2
            await there.advance(60.0)
        ending = client.ending()
        if phase not in ("tools", "one tool of two", "tools, its share given up"):
            assert ending.outcome is TurnOutcome.LIMIT
            assert ending.error is not None
            assert ending.error.reason is Reason.TURN_TIMEOUT
            assert "60 s" in ending.error.message


async def test_cancelled_before_it_ran() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open()
        sending = asyncio.ensure_future(client.send())
        await asyncio.sleep(0)
        client.conversation.cancel_turn("turn-1")
        await sending
        assert client.ending().outcome is TurnOutcome.CANCELLED
        assert client.of(TurnStarted) == []
        assert (await client.ask()).text == "Yes."


async def test_the_first_reason_counts() -> None:
    async with agent(*steps_to("in text")) as there:
        client = there.open()
        await client.send()
        client.conversation.cancel_turn("")
        draining = ServiceError(Reason.DRAINING, "the server is shutting down")
        client.conversation.end(draining, TurnOutcome.FAILED)
        await settle()
        assert client.ending().outcome is TurnOutcome.CANCELLED


# A client that reads slowly, or not at all.


@pytest.mark.parametrize("events_max", range(1, 13))
async def test_cancelled_while_the_client_does_not_read(events_max: int) -> None:
    """Whichever event waits to be sent at the cancel, every start has its end, and only those."""
    steps = ([*says("a"), *calls(ROME, OSLO)], says("b"))
    async with agent(*steps, limits=agent_limits(events_max=events_max)) as there:
        client = there.open(WEATHER)
        client.reading.clear()
        await client.send()
        client.conversation.cancel_turn("turn-1")
        await settle()
        client.reading.set()
        await settle()
        if client.of(Invoke) and not client.of(TurnCompleted):
            await client.answer(0)
        assert client.of(TurnCompleted)
        assert len(client.of(StepStarted)) == len(client.of(StepCompleted))
        assert len(client.of(ToolCallStarted)) == len(client.of(ToolCallCompleted))


@pytest.mark.parametrize("events_max", range(1, 13))
async def test_a_client_that_reads_late_gets_every_event(events_max: int) -> None:
    steps = ([*says("a"), *calls(ROME, OSLO)], says("b"))
    async with agent(*steps, limits=agent_limits(events_max=events_max)) as there:
        client = there.open(WEATHER)
        client.reading.clear()
        await client.send()
        client.reading.set()
        await settle()
        await client.answer(0)
        await client.answer(1)
        assert client.ending().text == "b"


async def test_a_client_that_does_not_read_cannot_keep_its_share() -> None:
    limits = agent_limits(events_max=1)
    async with agent(says("Other."), limits=limits) as there:
        there.resize(slots=0)
        ahead = there.admission.enter("ann", 1)
        stuck, other = there.open(), there.open()
        stuck.reading.clear()
        await stuck.send()
        there.admission.release(ahead)
        await settle()
        there.resize(slots=1)
        await settle()
        await other.send()
        assert other.of(TurnQueued) == [TurnQueued(0)]
        await there.advance(60.0)
        assert other.ending().text == "Other."
        stuck.reading.set()
        await settle()
        assert stuck.ending().outcome is TurnOutcome.LIMIT


async def test_a_result_that_came_before_the_cancel_is_sent_to_the_client() -> None:
    async with agent(calls(ROME), limits=agent_limits(events_max=1)) as there:
        client = there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        client.reading.clear()
        for _ in range(2):  # one is taken by the read in progress, one fills the outbox
            client.conversation.progress(invocation.invocation_id, "half", None)
            await settle()
        await client.answer(result_json='"clear"')
        client.conversation.cancel_turn("")
        await settle()
        client.reading.set()
        await settle()
        assert client.ending().outcome is TurnOutcome.CANCELLED
        [completed] = client.of(ToolCallCompleted)
        assert (completed.outcome, completed.result_json) == (ToolCallOutcome.RESULT, '"clear"')
