"""Tenants take turns, whatever each of them waits with."""

from __future__ import annotations

import asyncio

from precall_service.tools.turns import FairTurns
from tests.support.clock import settle


async def test_a_tenant_waits_for_one_turn_of_each_other() -> None:
    turns, order = FairTurns(), list[str]()
    begin = asyncio.Event()

    async def use(tenant: str) -> None:
        async with turns.of(tenant):
            await begin.wait()
            order.append(tenant)

    async with asyncio.TaskGroup() as group:
        for tenant in "aaaaabbc":
            group.create_task(use(tenant))
        await settle()
        begin.set()
    assert "".join(order) == "abcabaaa"


async def test_a_turn_is_given_on_by_whoever_is_cancelled() -> None:
    turns = FairTurns()

    async def use(tenant: str) -> None:
        async with turns.of(tenant):
            await asyncio.Event().wait()

    holder, waiting = [asyncio.create_task(use(tenant)) for tenant in "ab"]
    await settle()
    for task in (holder, waiting):
        task.cancel()
    await asyncio.wait([holder, waiting])
    async with asyncio.timeout(5), turns.of("c"):
        pass
    assert not turns._queues  # pyright: ignore[reportPrivateUsage]
