"""The time that turns take for a token decides how many of them are admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from precall_service.agent.account import DraftsVerified, Happening, Sampled, StepBegan
from precall_service.agent.engine_load import Pace
from precall_service.agent.pace import TurnPace
from precall_service.agent.speculation import Speculation
from precall_service.domain.events import (
    StepCompleted,
    StepFinishReason,
    TextDelta,
    TokenUsage,
    TurnStarted,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.agent import Agent, Client, agent_limits, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import Item, Pause, says
from tests.support.steps import asked, step_spec

TARGET_S = 0.05
PARTS = 4
PART = "x" * 32


class Parts:
    """A step of several parts, each of which the test lets come."""

    def __init__(self) -> None:
        self._gates = [Pause(asyncio.Event()) for _ in range(PARTS)]
        self.step: Sequence[Item] = [
            *says("first"),
            *(item for gate in self._gates for item in (gate, *says(PART))),
        ]

    async def come(self, there: Agent, token_s: float) -> None:
        """Lets all parts come, one after the other, each token in this time."""
        for gate in self._gates:
            await there.advance(token_s * len(PART))
            gate.event.set()
            await settle()


def started(*clients: Client) -> int:
    """How many turns have been admitted."""
    return sum(bool(client.of(TurnStarted)) for client in clients)


@pytest.mark.parametrize(("token_s", "admitted"), [(0.02, 2), (0.048, 1), (0.2, 1)])
async def test_the_time_of_a_token_decides_how_many_turns_run(
    token_s: float, admitted: int
) -> None:
    parts = Parts()
    hold = [*says("1"), Pause(asyncio.Event())]
    engine = scripted([*parts.step, *hold], hold, hold)
    async with agent_on(engine, token_latency_s=TARGET_S) as there:
        clients = [there.open() for _ in range(3)]
        for client in clients:
            await client.send()
        assert started(*clients) == 1
        await parts.come(there, token_s)
        assert started(*clients) == admitted


async def test_without_a_target_all_turns_run() -> None:
    parts = Parts()
    async with agent_on(scripted(parts.step, says("2"))) as there:
        clients = [there.open() for _ in range(2)]
        for client in clients:
            await client.send()
        assert started(*clients) == 2
        await parts.come(there, 10.0)


async def test_the_first_token_of_a_step_does_not_count() -> None:
    """Its time is that of the prompt."""
    gate, parts = Pause(asyncio.Event()), Parts()
    engine = scripted([gate, *parts.step], says("2"))
    async with agent_on(engine, token_latency_s=TARGET_S) as there:
        client, other = there.open(), there.open()
        await client.send()
        await other.send()
        await there.advance(30.0)
        gate.event.set()
        await settle()
        await parts.come(there, 0.02)
        assert started(client, other) == 2


async def test_a_client_that_reads_slowly_makes_no_other_turn_wait() -> None:
    """Its tokens come late because it does not take them. The engine is as fast as ever."""
    slow, fast = Parts(), Parts()
    engine = scripted(fast.step, slow.step)
    limits = agent_limits(events_max=1)
    async with agent_on(engine, limits=limits, token_latency_s=TARGET_S) as there:
        quick, late = there.open(), there.open()
        await quick.send()
        await late.send()
        await fast.come(there, 0.02)
        assert started(quick, late) == 2
        before = there.admission.turns_max
        await late.stop_reading()
        await slow.come(there, 0.0)
        await there.advance(50.0)
        late.reading.set()
        await settle()
        assert "".join(each.text for each in late.of(TextDelta)) == "first" + PARTS * PART
        assert there.admission.turns_max == before


async def test_a_backend_that_does_not_tell_its_tokens_is_measured_by_its_pieces() -> None:
    async with agent_on(scripted(), token_latency_s=TARGET_S) as there:
        pace = TurnPace(there.admission, there.speculation)
        with there.admission.enter("ann", 1):
            for _ in range(PARTS * len(PART)):
                asked_at = there.clock.now()
                there.clock.advance(0.02)
                pace.observe(there.clock.now(), Sampled((), (TextDelta("x"),), asked_at))
        assert there.admission.turns_max == 2


@pytest.mark.parametrize(
    ("drafts", "pace"), [(True, Pace(6.0, 3)), (False, Pace(6.5, 23))], ids=["drafts", "none"]
)
async def test_tokens_that_were_verified_tell_nothing_of_the_load(
    monkeypatch: pytest.MonkeyPatch, *, drafts: bool, pace: Pace
) -> None:
    """In a step without drafts, tokens come together because they had waited for the service."""
    async with agent_on(scripted()) as there:
        seen: list[tuple[Pace, Pace]] = []

        def observe_step(alone: Pace, beside: Pace) -> None:
            seen.append((alone, beside))

        monkeypatch.setattr(there.speculation.load, "observe_step", observe_step)
        turn = TurnPace(there.admission, there.speculation)

        def happens(seconds: float, *happenings: Happening) -> None:
            there.clock.advance(seconds)
            for each in happenings:
                turn.observe(there.clock.now(), each)

        def came(seconds: float, tokens: int) -> None:
            happens(seconds, Sampled(tuple(range(tokens)), (), there.clock.now()))

        for number in range(2):
            happens(0.0, StepBegan(number, TokenPrompt(()), step_spec(), asked("hi")))
            for seconds, tokens in ((9.0, 1), (2.0, 1), (2.0, 1), (0.5, 20), (2.0, 1)):
                came(seconds, tokens)
            if drafts and not number:
                happens(0.0, DraftsVerified(20, 19, ()))
            happens(0.0, StepCompleted(number, StepFinishReason.STOP, TokenUsage()))
        assert seen == [(pace, Pace()), (Pace(6.5, 23), Pace())]


async def test_nothing_is_measured_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target, and if nothing is predicted, turns are not slowed down by it."""
    monkeypatch.setattr("precall_service.agent.turn.TurnPace", _never)
    async with agent_on(scripted(says("1"))) as there:
        assert (await there.open().ask()).text == "1"


def _never(_admission: object, _speculation: Speculation) -> None:
    pytest.fail("a turn is measured")
