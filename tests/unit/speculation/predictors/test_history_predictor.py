"""The history predictor as a whole: its tenants, and what a restart does not forget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.cache.cache import ToolCache
from precall_service.cache.limits import CacheLimits
from precall_service.cache.memory import MemoryStore
from precall_service.speculation.base import Proposal, Situation
from precall_service.speculation.predictors.history import predictor as predictor_module
from precall_service.speculation.predictors.history.predictor import (
    RETRY_USES,
    STEPS_AT_ONCE,
    HistoryLimits,
    HistoryPredictor,
)
from precall_service.speculation.predictors.history.records import FORMAT
from tests.support.clock import ManualClock, settle
from tests.support.predictors import best, call, lesson, proposed, situation

GO = situation("Please find 'one'.")
SEARCH = call("search", query="one")


def broken(_: object) -> None:
    raise ZeroDivisionError


def teach(predictor: HistoryPredictor, where: Situation = GO, count: int = 4) -> None:
    for _ in range(count):
        predictor.learn(lesson(where, SEARCH))


class Kept:
    """Records in memory, in small pages; reading fails or waits as the test says."""

    def __init__(self) -> None:
        self.records: dict[str, list[bytes]] = {}
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    async def remember(self, tenant: str, record: bytes) -> None:
        await asyncio.sleep(0)
        self.records.setdefault(tenant, []).append(record)

    async def recall(self, tenant: str, after: int) -> Sequence[tuple[int, bytes]] | None:
        self.reads += 1
        await self.gate.wait()
        if self.fails:
            return None
        return list(enumerate(self.records.get(tenant, ()), 1))[after : after + 3]


async def loaded(predictor: HistoryPredictor, where: Situation = GO) -> list[Proposal]:
    """What it proposes once it has loaded the tenant."""
    await proposed(predictor, where)
    await settle()
    return [each async for each in predictor.propose(where)]


class TestTenants:
    async def test_tenants_learn_apart(self) -> None:
        predictor = HistoryPredictor()
        teach(predictor)
        teach(predictor, replace(GO, tenant="bob", text="Please find 'other'."))
        assert await proposed(predictor, replace(GO, tenant="eve")) == []
        assert await best(predictor, GO) == ("search", {"query": "one"})

    async def test_the_tenant_that_was_used_longest_ago_is_dropped(self) -> None:
        predictor = HistoryPredictor(limits=HistoryLimits(tenants_max=2))
        for tenant in ("ann", "bob"):
            teach(predictor, replace(GO, tenant=tenant))
        assert await proposed(predictor, GO)
        teach(predictor, replace(GO, tenant="eve"))
        assert await proposed(predictor, GO)
        assert await proposed(predictor, replace(GO, tenant="eve"))
        assert await proposed(predictor, replace(GO, tenant="bob")) == []

    async def test_a_defect_does_not_reach_the_turn(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(predictor_module, "encode", broken)
        teach(HistoryPredictor(), count=1)
        assert "the learning of the history predictor" in caplog.text


class TestRestart:
    async def test_a_restart_does_not_forget(self) -> None:
        store = MemoryStore(ManualClock(), bytes_max=1 << 20, nodes_max=8, changes_max=8)
        async with ToolCache(store, CacheLimits()) as cache:
            async with HistoryPredictor(cache) as predictor:
                teach(predictor, count=20)
                expected = await loaded(predictor)
                assert expected
            async with HistoryPredictor(cache) as predictor:
                assert await loaded(predictor) == expected
                assert await loaded(predictor, replace(GO, tenant="eve")) == []

    async def test_what_is_learned_while_loading_comes_after_what_was_kept(self) -> None:
        kept = Kept()
        new = replace(GO, text="Please find 'two'.")
        async with HistoryPredictor(kept) as predictor:
            teach(predictor, count=STEPS_AT_ONCE + 2)
        async with HistoryPredictor(kept) as predictor:
            kept.gate.clear()
            teach(predictor, new, count=STEPS_AT_ONCE + 2)
            assert await proposed(predictor, new)
            kept.gate.set()
            await settle()
            expected = await loaded(predictor, new)
        assert len(kept.records["ann"]) == 2 * STEPS_AT_ONCE + 4
        async with HistoryPredictor(kept) as predictor:
            assert await loaded(predictor, new) == expected

    async def test_unreadable_records_are_tried_again_later(self) -> None:
        kept = Kept()
        async with HistoryPredictor(kept) as predictor:
            teach(predictor)
        async with HistoryPredictor(kept) as predictor:
            kept.fails = True
            assert await loaded(predictor) == []
            kept.fails = False
            for _ in range(RETRY_USES):
                await proposed(predictor, GO)
            await settle()
            assert await proposed(predictor, GO)
            reads = kept.reads
            for _ in range(2 * RETRY_USES):
                await proposed(predictor, GO)
            await settle()
            assert kept.reads == reads

    @pytest.mark.parametrize(
        "damaged",
        [
            pytest.param(b"", id="empty"),
            pytest.param(bytes((FORMAT + 1,)) + b"\x90", id="another format"),
            pytest.param(bytes((FORMAT,)) + b"\xff\xff", id="not msgpack"),
            pytest.param(bytes((FORMAT,)) + b"\x90", id="too short"),
        ],
    )
    async def test_records_that_it_cannot_read_are_left_out(self, damaged: bytes) -> None:
        kept = Kept()
        async with HistoryPredictor(kept) as predictor:
            teach(predictor)
            expected = await loaded(predictor)
        kept.records["ann"].insert(2, damaged)
        async with HistoryPredictor(kept) as predictor:
            assert await loaded(predictor) == expected

    async def test_a_record_that_makes_no_sense_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept = Kept()
        kept.records["ann"] = [b"x"]
        monkeypatch.setattr(predictor_module, "decode", broken)
        async with HistoryPredictor(kept) as predictor:
            assert await loaded(predictor) == []
            teach(predictor)
            assert await proposed(predictor, GO)
        assert "the loading of learned history" in caplog.text
        assert len(kept.records["ann"]) == 5

    async def test_a_tenant_that_is_dropped_while_it_loads_keeps_its_records(self) -> None:
        kept = Kept()
        limits = HistoryLimits(tenants_max=1)
        async with HistoryPredictor(kept, limits) as predictor:
            kept.gate.clear()
            teach(predictor)
            await settle()
            await proposed(predictor, replace(GO, tenant="bob"))
            kept.gate.set()
            await settle()
        assert len(kept.records["ann"]) == 4

    async def test_the_end_waits_for_no_load(self) -> None:
        kept = Kept()
        async with HistoryPredictor(kept) as predictor:
            kept.gate.clear()
            teach(predictor)
            await settle()
        assert len(kept.records["ann"]) == 4
        assert len(asyncio.all_tasks()) == 1

    async def test_without_a_store_nothing_runs(self) -> None:
        async with HistoryPredictor() as predictor:
            teach(predictor)
            assert await loaded(predictor)
            assert len(asyncio.all_tasks()) == 1
