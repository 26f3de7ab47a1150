"""Plans that are made once, beside the event loop; a fake makes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice
from tests.support.prompt_renderers import tokenizer
from tests.support.steps import NONE, REQUIRED, declared, step_spec

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.planning import Planning

WEATHER = step_spec(tools=(declared("get_weather"),))
THINKING = step_spec(tools=WEATHER.tools, template_variables={"thinking": True})


@dataclass(frozen=True)
class Plan:
    """What `Planning` reads of a StepPlan."""

    structured_outputs: str | None = "whole"
    limited: dict[bool, str] = field(default_factory=dict[bool, str])


class Plans:
    """As StepPlans; `make` is called for each plan."""

    def __init__(self, make: Callable[[], Plan] = Plan) -> None:
        self._make = make
        self.threads: list[str] = []

    def plan(
        self,
        _tools: Sequence[ToolDeclaration],
        _choice: ToolChoice,
        _variables: JsonObject,
        _grammars: Sequence[Any],
    ) -> Plan:
        self.threads.append(threading.current_thread().name)
        return self._make()


def planning(plans: Any, verify: Callable[[Any], None] = lambda _grammar: None) -> Planning:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.planning import Planning

    return Planning(plans, verify)


def grammar(text: str) -> Any:
    from precall_service.engine.vllm.grammars import AS_JSON
    from precall_service.engine.vllm.tool_grammars import ToolGrammar

    return ToolGrammar(schema=True, texts={AS_JSON: text})


async def test_steps_that_differ_in_nothing_of_it_have_one_plan() -> None:
    plans = Plans()
    made = planning(plans)
    first = await made.plan(WEATHER, [grammar("a")])
    again = step_spec(tools=WEATHER.tools, max_tokens=3, tenant="other")
    assert await made.plan(again, [grammar("a")]) is first
    for other in (step_spec(tools=WEATHER.tools, tool_choice=NONE), THINKING):
        assert await made.plan(other, [grammar("a")]) is not first
    assert await made.plan(WEATHER, [grammar("b")]) is not first  # was not made in time before
    assert len(plans.threads) == 4
    made.close()


async def test_plans_are_made_beside_the_event_loop_one_after_the_other() -> None:
    plans = Plans()
    made = planning(plans)
    specs = [step_spec(tools=(declared(f"tool_{number}"),)) for number in range(3)]
    await asyncio.gather(*(made.plan(spec, []) for spec in specs))
    assert len(set(plans.threads)) == 1
    assert threading.current_thread().name not in plans.threads
    made.close()


async def test_steps_that_wait_for_the_same_plan_share_it() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make() -> Plan:
        begun.set()
        assert go_on.wait(30)
        return Plan()

    plans = Plans(make)
    made = planning(plans)
    waiting = [asyncio.create_task(made.plan(WEATHER, [])) for _ in range(3)]
    await asyncio.to_thread(begun.wait, 30)
    waiting[0].cancel()  # the first one has it made; the others want it
    go_on.set()
    first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert second is third
    assert len(plans.threads) == 1
    made.close()


async def test_every_grammar_of_a_plan_is_verified_once() -> None:
    verified: list[str] = []
    made = planning(
        Plans(lambda: Plan("whole", {True: "opened", False: "begins"})), verified.append
    )
    for _ in range(2):
        await made.plan(WEATHER, [])
    assert verified == ["whole", "opened", "begins"]
    without = planning(Plans(lambda: Plan(None)), verified.append)
    await without.plan(step_spec(tool_choice=NONE), [])
    assert len(verified) == 3
    made.close()
    without.close()


async def test_a_plan_that_failed_is_made_again() -> None:
    def refuse(_grammar: str) -> None:
        raise ValueError("no backend takes it")

    plans = Plans()
    made = planning(plans, refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="no backend takes it"):
            await made.plan(WEATHER, [])
    assert len(plans.threads) == 2
    made.close()


async def test_the_plans_are_bounded_in_number() -> None:
    plans = Plans()
    made = planning(plans)
    from precall_service.engine.vllm.planning import PLANS_MAX

    for number in range(PLANS_MAX + 1):
        await made.plan(step_spec(tools=(declared(f"tool_{number}"),), tool_choice=REQUIRED), [])
    await made.plan(step_spec(tools=(declared("tool_0"),), tool_choice=REQUIRED), [])
    assert len(plans.threads) == PLANS_MAX + 2  # the first had gone
    made.close()
    made.close()
