"""A branch writes the calls that the model would make now, and costs no turn anything."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    EngineDiedError,
    Feature,
    GenerationFailedError,
    Priority,
    StepSpec,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.speculation.base import Branch, Candidate
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.declarations import declare
from tests.support import scripted_template as template
from tests.support.agent import HOLD_S, Agent, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import Item, Pause, always, calls, in_turn, never, says, thinks, unsure
from tests.support.speculating import WEATHER
from tests.support.tools import tool_limits

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')
PROMPT = TokenPrompt(template.tokens("the prompt"))
SPEC = StepSpec(
    step_id="step-1",
    max_tokens=1000,
    generation=GenerationSettings(temperature=0.7, seed=5),
    tools=(declare(WEATHER, tool_limits()).declaration,),
    tool_choice=ToolChoice(),
    priority=Priority.STARTS_TURN,
    tenant="ann",
)


def writes(*items: Item, **info: int) -> ScriptedEngine:
    """An engine whose branches all write this."""
    return scripted(script=always(items), **info)


def off(
    there: Agent,
    sampled: str = "<think>hm",
    spec: StepSpec = SPEC,
    on_begin: Callable[[], None] = lambda: None,
) -> Branch | None:
    return there.speculation.branches.off(
        there.engine, PROMPT, template.tokens(sampled), spec, on_begin
    )


async def candidates(
    there: Agent, *, temperature: float = 0.0, calls_max: int = 4, sampled: str = "<think>hm"
) -> list[Candidate]:
    """The calls of one branch."""
    branch = off(there, sampled)
    assert branch is not None
    return [each async for each in branch(temperature, calls_max)]


async def running(there: Agent) -> int:
    return (await there.engine.load()).running


async def test_a_branch_skips_the_rest_of_the_reasoning_and_writes_a_call() -> None:
    async with agent_on(writes(*says(" "), *calls(ROME))) as there:
        assert await candidates(there) == [
            Candidate(tool_name="weather", arguments_json='{"city": "Rome"}', probability=1.0)
        ]
        assert template.prompt_text(there.engine.prompts[0]) == "the prompt<think>hm</think>"


async def test_a_branch_is_counted_when_it_begins() -> None:
    begun: list[str] = []
    async with agent_on(writes(*calls(ROME))) as there:
        for name, sampled in (("after", "<think>hm</think>"), ("in", "<think>hm")):
            branch = off(there, sampled, on_begin=lambda name=name: begun.append(name))
            assert branch is not None
            async with aclosing(branch(0.0, 1)) as candidates:
                assert len([each async for each in candidates]) == (name == "in")
    assert begun == ["in"]


async def test_a_branch_is_a_step_of_its_own_below_all_others() -> None:
    async with agent_on(writes(*calls(ROME))) as there:
        await candidates(there, temperature=1.0)
        await candidates(there)
        first, second = there.engine.specs
        assert (first.generation.temperature, second.generation.temperature) == (1.0, 0.0)
        assert first.generation.seed is None
        assert len({"step-1", first.step_id, second.step_id}) == 3
        assert first == replace(
            SPEC,
            step_id=first.step_id,
            max_tokens=192,
            generation=first.generation,
            priority=Priority.SPECULATES,
            log_probabilities=True,
        )


async def test_the_probability_of_a_call_is_that_of_all_its_tokens() -> None:
    items = unsure([*calls(ROME), *calls(OSLO, first=1)], -0.01)
    async with agent_on(writes(*items)) as there:
        first, second = await candidates(there)
        length = len('<call weather>{"city": "Rome"}</call>')
        assert first.probability == pytest.approx(math.exp(-0.01 * length))
        assert second.probability == pytest.approx(math.exp(-0.01 * 2 * length))


async def test_a_branch_ends_with_the_last_call_that_is_wanted() -> None:
    items = [*calls(ROME), *calls(OSLO, first=1), never()]
    async with agent_on(writes(*items)) as there:
        found = await candidates(there, calls_max=2)
        assert [each.arguments_json for each in found] == [ROME[1], OSLO[1]]
        assert await running(there) == 0


@pytest.mark.parametrize(("chars", "found"), [(64, 1), (65, 0)])
async def test_a_long_text_is_an_answer(chars: int, found: int) -> None:
    async with agent_on(writes(*says("x" * chars, "  \n"), *calls(ROME))) as there:
        assert len(await candidates(there)) == found


@pytest.mark.parametrize("sampled", ["<think>hm</think>", "<think>hm</think>So", "So"])
async def test_after_its_reasoning_a_step_has_no_branches(sampled: str) -> None:
    async with agent_on(writes(*calls(ROME))) as there:
        assert await candidates(there, sampled=sampled) == []
        assert not there.engine.specs


async def test_an_engine_may_have_no_branches() -> None:
    info = replace(INFO, features=INFO.features - {Feature.BRANCHES})
    async with agent_on(ScriptedEngine(always(calls(ROME)), info)) as there:
        assert await candidates(there) == []


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, tools=()),
        replace(SPEC, tool_choice=ToolChoice(mode=ToolChoiceMode.NONE)),
    ],
    ids=["no tools", "no choice"],
)
async def test_a_step_that_can_make_no_call_has_no_branches(spec: StepSpec) -> None:
    async with agent_on(writes()) as there:
        assert off(there, spec=spec) is None


@pytest.mark.parametrize(("room", "max_tokens"), [(1000, 192), (100, 100), (1, 1)])
async def test_a_branch_fits_into_the_context(room: int, max_tokens: int) -> None:
    length = len("the prompt<think>hm</think>")
    async with agent_on(writes(*calls(ROME), context_tokens_max=length + room)) as there:
        await candidates(there)
        assert [each.max_tokens for each in there.engine.specs] == [max_tokens]


async def test_without_room_in_the_context_there_is_no_branch() -> None:
    length = len("the prompt<think>hm</think>")
    async with agent_on(writes(*calls(ROME), context_tokens_max=length)) as there:
        assert await candidates(there) == []
        assert not there.engine.specs


async def test_a_call_that_was_cut_is_no_candidate() -> None:
    limits = SpeculationLimits(fork_tokens_max=20)
    async with agent_on(writes(*calls(ROME)), speculation=limits) as there:
        assert await candidates(there) == []


@pytest.mark.parametrize(
    "error",
    [
        GenerationFailedError("no"),
        EngineDiedError("it died"),
        ServiceError(Reason.INTERNAL, "a defect"),
    ],
)
async def test_a_branch_that_fails_ends_quietly(error: ServiceError | EngineDiedError) -> None:
    async with agent_on(writes(*calls(ROME), error)) as there:
        assert len(await candidates(there)) == 1
        assert await candidates(there, calls_max=1)


class Started:
    """Branches that do not end by themselves."""

    def __init__(self, there: Agent) -> None:
        self._there = there
        self._tasks: list[asyncio.Task[list[Candidate]]] = []

    async def start(self, count: int) -> list[bool]:
        """Starts branches. Returns which of all those that were started are still running."""
        for _ in range(count):
            self._tasks.append(asyncio.create_task(candidates(self._there)))
            await settle()
        return self.running

    @property
    def running(self) -> list[bool]:
        return [not each.done() for each in self._tasks]

    @property
    def cancellations(self) -> list[int]:
        """How often each was cancelled."""
        return [each.cancelling() for each in self._tasks]

    async def cancel(self) -> None:
        for each in self._tasks:
            each.cancel()
        await settle()
        assert await running(self._there) == 0


@asynccontextmanager
async def on_engine(
    slots: int, limits: SpeculationLimits | None = None
) -> AsyncGenerator[tuple[Agent, Started]]:
    async with agent_on(writes(never(), sequences_max=slots), speculation=limits) as there:
        started = Started(there)
        yield there, started
        await started.cancel()


async def test_only_so_many_branches_run_at_the_same_time() -> None:
    async with on_engine(20, SpeculationLimits(forks_max=2)) as (_, started):
        assert await started.start(3) == [True, True, False]


async def test_without_forks_there_are_no_branches() -> None:
    async with on_engine(20, SpeculationLimits(forks_max=0)) as (_, started):
        assert await started.start(1) == [False]


@pytest.mark.parametrize(
    ("admitted", "branches"),
    # Of 10 slots and at most 8 branches; the load allows half of those with 7 turns.
    [(0, 8), (5, 5), (6, 4), (7, 3), (8, 2), (9, 0)],
)
async def test_branches_take_only_slots_that_no_turn_has(admitted: int, branches: int) -> None:
    async with on_engine(10) as (there, started):
        shares = [there.admission.enter("ann", 1) for _ in range(admitted)]
        assert sum(await started.start(10)) == branches
        for share in shares:
            there.admission.release(share)


@pytest.mark.parametrize(
    ("admitted", "slots", "left"),
    [
        (0, 10, [True, True, True]),
        (2, 5, [True, True, True]),
        (2, 4, [True, True, False]),
        (2, 3, [True, False, False]),
        (2, 2, [False, False, False]),
        (4, 2, [False, False, False]),
    ],
)
async def test_the_youngest_branches_make_room_for_turns(
    admitted: int, slots: int, left: Sequence[bool]
) -> None:
    async with on_engine(10) as (there, started):
        await started.start(3)
        shares = [there.admission.enter("ann", 1) for _ in range(admitted)]
        there.speculation.branches.make_room(slots)
        await settle()
        assert started.running == left
        assert await running(there) == sum(left)
        for share in shares:
            there.admission.release(share)


async def test_a_branch_that_is_closed_is_aborted() -> None:
    async with agent_on(writes(*calls(ROME), never())) as there:
        branch = off(there)
        assert branch is not None
        async with aclosing(branch(0.0, 4)) as found:
            await anext(found)
            assert await running(there) == 1
        assert await running(there) == 0


async def test_a_turn_that_comes_back_from_its_tools_takes_the_slot_of_a_branch() -> None:
    """Its share was given up, so the branch could take the slot. The engine has no other."""
    script = in_turn(calls(ROME), says("done"), branches=always([never()]))
    async with agent_on(scripted(script=script, sequences_max=2)) as there:
        started = Started(there)
        client = there.open(WEATHER)
        await client.send()
        await there.advance(HOLD_S)
        with there.admission.enter("bob", 1):
            assert await started.start(1) == [True]
            await client.answer()
            assert client.ending().text == "done"
        assert started.running == [False]


async def test_a_step_within_its_hold_time_leaves_branches_alone() -> None:
    script = in_turn(calls(ROME), says("done"), branches=always([never()]))
    async with agent_on(scripted(script=script, sequences_max=2)) as there:
        started = Started(there)
        client = there.open(WEATHER)
        await client.send()
        assert await started.start(2) == [True, False], "the turn keeps its slot"
        await client.answer()
        assert client.ending().text == "done"
        assert started.running == [True, False]
        await started.cancel()


async def test_a_branch_that_makes_room_is_told_once() -> None:
    """A second cancellation would cut the abort in the engine short."""
    async with on_engine(10) as (there, started):
        await started.start(1)
        for _ in range(3):
            there.speculation.branches.make_room(0)
        await settle()
        assert started.cancellations == [1]


async def test_branches_end_when_tokens_come_too_slowly_for_any() -> None:
    gate = Pause(asyncio.Event())
    branch = [*calls(ROME), gate, *calls(OSLO, first=1), never()]
    async with agent_on(writes(*branch), token_latency_s=0.05) as there:
        started = Started(there)
        assert await started.start(1) == [True]
        there.resize()
        for _ in range(2):
            there.clock.advance(10.0)
            there.admission.observe_tokens(1e3, 1000, speculating=True)
        assert there.admission.speculation_width == 0
        gate.event.set()
        await settle()
        assert await started.start(1) == [False, False]


async def test_a_turn_that_is_admitted_takes_the_slot_of_a_branch() -> None:
    script = in_turn([*thinks("hm"), *says("done")], branches=always([never()]))
    async with agent_on(scripted(script=script, sequences_max=2)) as there:
        started = Started(there)
        assert await started.start(1) == [True]
        client = there.open(WEATHER)
        with there.admission.enter("bob", 1):
            ending = await client.ask()
        assert ending.text == "done"
        assert started.running == [False]
