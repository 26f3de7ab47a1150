"""Costly grammars are compiled one after the other, and tenants take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support.clock import settle
from tests.support.prompt_renderers import tokenizer

tokenizer()  # first, since it imports vLLM as precall does

from precall_service.engine.vllm import compiling  # noqa: E402
from precall_service.engine.vllm.compiling import COSTLY_S, Compiling  # noqa: E402

if TYPE_CHECKING:
    from precall_service.engine.vllm.plans import StepPlan


@dataclass
class Plan:
    """As much of a plan as counts here."""

    compile_s: float = COSTLY_S


class Turns:
    """Generations, in the order in which their turns begin."""

    def __init__(self) -> None:
        self.compiling = Compiling()
        self.begun: list[str] = []
        self.outputs: dict[str, Callable[[], None]] = {}
        self._over = asyncio.Event()

    def take(self, name: str, tenant: str, plan: Plan | None = None) -> asyncio.Task[None]:
        return asyncio.ensure_future(self._take(name, tenant, plan or Plan()))

    async def _take(self, name: str, tenant: str, plan: Plan) -> None:
        async with self.compiling.turn(cast("StepPlan", plan), tenant) as compiled:
            self.begun.append(name)
            self.outputs[name] = compiled
            await self._over.wait()

    async def until_begun(self, count: int) -> None:
        """Waits for the timers by which turns end."""
        async with asyncio.timeout(5):
            while len(self.begun) < count:  # noqa: ASYNC110  (nothing else tells of a timer)
                await asyncio.sleep(0)

    async def end(self, *tasks: asyncio.Task[Any]) -> None:
        self._over.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_tenants_take_turns() -> None:
    turns = Turns()
    tasks = [turns.take(f"hostile {number}", "hostile") for number in range(4)]
    await settle()
    tasks.append(turns.take("victim", "victim"))
    for count in range(1, 6):
        await settle()
        assert len(turns.begun) == count
        turns.outputs[turns.begun[-1]]()
    assert turns.begun == ["hostile 0", "victim", "hostile 1", "hostile 2", "hostile 3"]
    await turns.end(*tasks)


async def test_what_costs_little_and_what_is_compiled_takes_no_turn() -> None:
    turns = Turns()
    plan = Plan()
    tasks = [turns.take("first", "a", plan)]
    await settle()
    turns.outputs["first"]()
    tasks += [
        turns.take("other", "a"),
        turns.take("again", "b", plan),
        turns.take("ordinary", "b", Plan(0.1)),
    ]
    await settle()
    assert turns.begun == ["first", "other", "again", "ordinary"]
    await turns.end(*tasks)


async def test_a_generation_that_ends_without_an_output_passes_its_turn_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at once: the engine goes on compiling."""
    monkeypatch.setattr(compiling, "COSTLY_S", 0.0)
    turns = Turns()
    first, second, third = (
        turns.take(name, "a", Plan(compile_s))
        for name, compile_s in (("first", 30.0), ("second", 1.0), ("third", 0.0))
    )
    await settle()
    second.cancel()
    first.cancel()
    await settle()
    assert first.done()
    assert turns.begun == ["first"]
    turns.outputs["first"]()
    await settle()
    assert turns.begun == ["first", "third"]
    third.cancel()
    fourth = turns.take("fourth", "a")
    await turns.until_begun(3)
    await turns.end(first, second, third, fourth)


async def test_a_turn_that_is_given_and_cancelled_at_once_is_passed_on() -> None:
    turns = Turns()
    first, second, third = (turns.take(name, "a") for name in ("first", "second", "third"))
    await settle()
    turns.outputs["first"]()
    second.cancel()
    await settle()
    assert turns.begun == ["first", "third"]
    await turns.end(first, second, third)


async def test_a_turn_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "HOLD_MAX_S", 0.0)
    turns = Turns()
    tasks = [turns.take("first", "a"), turns.take("second", "a")]
    await turns.until_begun(2)
    turns.outputs["first"]()
    await turns.end(*tasks)
