"""Speculation gives way to committed work: what is allowed is nothing before the engine queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from precall_service.agent.engine_load import (
    BRANCH_COST,
    BRANCH_COST_MIN,
    BRANCHED_MIN,
    PACE_TOKENS_MIN,
    SAMPLE_TIMEOUT_S,
    STALE_AFTER_S,
    STEP_TOKENS_MIN,
    STEPS,
    Pace,
)
from precall_service.domain.events import DiscardReason
from precall_service.engine.base import EngineDiedError, EngineLoad
from precall_service.speculation.predictors.fork import Fork
from tests.support.agent import Agent, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import Pause, always, in_turn, says, thinks
from tests.support.speculating import WEATHER, Thinking, Told, first_step, reasons, weather

SLOTS = 10


@pytest.fixture
async def there() -> AsyncGenerator[Agent]:
    async with agent_on(scripted(sequences_max=SLOTS)) as there:
        yield there


class Load:
    """What the engine says of its load."""

    def __init__(self, there: Agent) -> None:
        self.says = EngineLoad(running=0, waiting=0, kv_usage=0.0)
        self.then: EngineLoad | None = None
        """What it says from the second time on."""
        self.error: Exception | None = None
        self.held: asyncio.Event | None = None
        self.asked = 0
        self._allowance = there.speculation.load.allowance

    async def load(self) -> EngineLoad:
        self.asked += 1
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        says, self.says = self.says, self.then or self.says
        return says

    async def allowance(self) -> float:
        """What is allowed by a new sample."""
        self._allowance()
        await settle()
        return self._allowance()


@pytest.fixture
def load(there: Agent, monkeypatch: pytest.MonkeyPatch) -> Load:
    load = Load(there)
    monkeypatch.setattr(there.engine, "load", load.load)
    return load


@pytest.mark.parametrize(
    ("admitted", "allowance"),
    [(0, 1.0), (5, 1.0), (6, 0.75), (7, 0.5), (8, 0.25), (9, 0.0), (10, 0.0)],
)
async def test_less_is_allowed_the_more_turns_are_admitted(
    there: Agent, admitted: int, allowance: float
) -> None:
    shares = [there.admission.enter("ann", 1) for _ in range(admitted)]
    assert there.admission.admitted == admitted
    assert there.speculation.load.allowance() == pytest.approx(allowance)
    for share in shares:
        there.admission.release(share)


async def test_nothing_is_allowed_while_a_turn_waits(there: Agent) -> None:
    with there.admission.enter("ann", 1 << 20), there.admission.enter("bob", 1 << 20):
        assert (there.admission.admitted, there.admission.waiting) == (1, 1)
        assert there.speculation.load.allowance() == 0
    assert there.speculation.load.allowance() == 1


@pytest.mark.parametrize(
    ("running", "waiting", "kv_usage", "allowance"),
    [
        (0, 0, 0.0, 1.0),
        (5, 0, 0.5, 1.0),
        (7, 0, 0.0, 0.5),
        (0, 0, 0.7, 0.5),
        (7, 0, 0.8, 0.25),
        (9, 0, 0.0, 0.0),
        (0, 0, 0.9, 0.0),
        (1, 1, 0.0, 0.0),
        (20, 5, 2.0, 0.0),
    ],
)
async def test_the_engines_own_load_counts(
    load: Load, running: int, waiting: int, kv_usage: float, allowance: float
) -> None:
    load.says = EngineLoad(running=running, waiting=waiting, kv_usage=kv_usage)
    assert await load.allowance() == pytest.approx(allowance)


async def test_nothing_is_allowed_while_the_engine_queues(there: Agent, load: Load) -> None:
    """A request that has just come waits for the next iteration only, which is no queue."""
    load.says = EngineLoad(running=1, waiting=1, kv_usage=0.0)
    assert await load.allowance() == 0
    load.then = EngineLoad(running=2, waiting=0, kv_usage=0.0)
    await there.advance(1.0)
    assert await load.allowance() == 1


async def test_a_sample_from_long_ago_says_nothing(there: Agent, load: Load) -> None:
    load.says = EngineLoad(running=9, waiting=1, kv_usage=0.0)
    assert await load.allowance() == 0
    await there.advance(STALE_AFTER_S)
    assert there.speculation.load.allowance() == 0
    await there.advance(STALE_AFTER_S + 0.1)
    assert there.speculation.load.allowance() == 1


async def test_the_engine_is_asked_at_most_once_a_second_and_only_if_needed(
    there: Agent, load: Load
) -> None:
    await there.advance(100.0)
    assert load.asked == 0
    for _ in range(10):
        await load.allowance()
    assert load.asked == 1
    await there.advance(0.9)
    await load.allowance()
    assert load.asked == 1
    await there.advance(0.1)
    await load.allowance()
    assert load.asked == 2


async def test_a_load_that_is_not_told_changes_nothing(there: Agent, load: Load) -> None:
    load.says = EngineLoad(running=7, waiting=0, kv_usage=0.0)
    assert await load.allowance() == pytest.approx(0.5)
    load.held = asyncio.Event()
    await there.advance(1.0)
    assert await load.allowance() == pytest.approx(0.5)
    for _ in range(int(SAMPLE_TIMEOUT_S)):
        await there.advance(1.0)
        assert await load.allowance() == pytest.approx(0.5)
        assert there.speculation.in_flight <= 1, "it is not asked again before it has answered"
    load.held, load.error = None, EngineDiedError("it died")
    for _ in range(int(SAMPLE_TIMEOUT_S)):
        await there.advance(1.0)
        assert await load.allowance() == pytest.approx(0.5)
    assert there.speculation.in_flight == 0


@pytest.mark.parametrize(("slower", "allowance"), [(1.0, 1.0), (1.5, 0.5), (2.0, 0.0), (9.0, 0.0)])
async def test_slow_tokens_allow_less(there: Agent, slower: float, allowance: float) -> None:
    load = there.speculation.load
    for _ in range(20):
        load.observe_step(Pace(1.0, 100), Pace())
    for _ in range(3):
        load.observe_step(Pace(slower, 100), Pace())
    assert load.allowance() == pytest.approx(allowance)
    for _ in range(STEPS):
        load.observe_step(Pace(slower, 100), Pace())
    assert load.allowance() == 1, "after some time, that is usual"


async def test_one_slow_step_says_nothing(there: Agent) -> None:
    load = there.speculation.load
    for seconds in (1.0, 1.0, 1.0, 1.0, 60.0, 1.0):
        load.observe_step(Pace(seconds, 100), Pace())
        assert load.allowance() == 1


async def test_short_steps_and_the_first_ones_say_nothing(there: Agent) -> None:
    load = there.speculation.load
    for _ in range(STEPS):
        load.observe_step(Pace(0.001, STEP_TOKENS_MIN - 1), Pace())
    for seconds in (1.0, 50.0, 50.0):
        load.observe_step(Pace(seconds, STEP_TOKENS_MIN), Pace())
    assert load.allowance() == 1


async def test_at_a_full_engine_turns_predict_nothing_that_costs() -> None:
    thinking = Thinking()
    told = Told(first_step(weather()))
    engine = scripted(thinking.then(), sequences_max=SLOTS)
    async with agent_on(engine, predictors=[told]) as there:
        shares = [there.admission.enter("bob", 1) for _ in range(8)]
        client = there.open(WEATHER)
        await client.send()
        assert there.admission.admitted == 9
        await thinking.on()
        assert reasons(client) == [DiscardReason.LOAD]
        for share in shares:
            there.admission.release(share)


async def test_steps_of_turns_tell_how_slow_the_engine_is() -> None:
    thinking = Thinking()
    slow = [1.0] * 4 + [3.0] * 3
    steps = [[*thinks("x", "x" * 20), *thinking.then()] for _ in slow]
    async with agent_on(scripted(*steps)) as there:
        client = there.open(WEATHER)
        for step, seconds in enumerate(slow):
            await client.send()
            await there.advance(seconds)
            await thinking.on(step)
        assert there.speculation.load.allowance() == 0


async def test_a_target_for_the_time_of_a_token_allows_less() -> None:
    engine = scripted(sequences_max=SLOTS)
    async with agent_on(engine, token_latency_s=0.05) as there:
        for allowance in (1.0, 0.25, 0.0):
            assert there.speculation.load.allowance() == allowance
            there.clock.advance(10.0)
            there.admission.observe_tokens(1e3, 1000, speculating=True)


# What branches cost.


async def test_the_cost_of_branches_is_measured_in_steps_that_had_both(there: Agent) -> None:
    watch = there.speculation.load
    for number in range(BRANCHED_MIN):
        assert watch.branch_cost == BRANCH_COST, f"after {number} steps"
        watch.observe_step(alone=Pace(1.0, 10), beside=Pace(2.5, 20))
    assert watch.branch_cost == pytest.approx(0.2)
    for _ in range(STEPS):
        watch.observe_step(alone=Pace(2.0, 10), beside=Pace(1.0, 10))
    assert watch.branch_cost == BRANCH_COST_MIN, "noise may make it look like a gain"


async def test_steps_are_not_compared_with_one_another(there: Agent) -> None:
    """A busy engine makes every step slow. That says nothing of branches."""
    watch = there.speculation.load
    for _ in range(STEPS):
        watch.observe_step(alone=Pace(100.0, 10), beside=Pace())
        watch.observe_step(alone=Pace(), beside=Pace(1.0, 10))
    assert watch.branch_cost == BRANCH_COST


async def test_a_few_tokens_say_nothing_of_what_branches_cost(there: Agent) -> None:
    watch = there.speculation.load
    few = PACE_TOKENS_MIN - 1
    for _ in range(STEPS):
        watch.observe_step(alone=Pace(1.0, 10), beside=Pace(2.0, few))
        watch.observe_step(alone=Pace(1.0, few), beside=Pace(2.0, 10))
    assert watch.branch_cost == BRANCH_COST


async def test_a_step_tells_its_pace_beside_a_branch_and_without() -> None:
    """A token takes 1 s while a branch runs beside it, and 0.5 s afterwards."""
    gates = [Pause(asyncio.Event()) for _ in range(20)]
    step = [item for gate in gates for item in (*says("x"), gate)]
    ends = Pause(asyncio.Event())
    script = in_turn(*[step] * BRANCHED_MIN, branches=always([ends]))
    async with agent_on(scripted(script=script), predictors=[Fork()]) as there:
        client = there.open(WEATHER)
        for _ in range(BRANCHED_MIN):
            await client.send()
            for number, gate in enumerate(gates):
                if number == len(gates) // 2:
                    ends.event.set()
                    await settle()
                await there.advance(1.0 if number < len(gates) // 2 else 0.5)
                gate.event.set()
                await settle()
            for gate in (*gates, ends):
                gate.event.clear()
        assert there.speculation.load.branch_cost == pytest.approx(0.5, abs=0.05)
