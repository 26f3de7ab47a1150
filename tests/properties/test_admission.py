"""Admission follows its rules for any acts of turns in any order, and no turn starves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from precall_service.admission import Admission, AdmissionLimits, Capacity, Share
from precall_service.domain.errors import ServiceError
from tests.support.clock import ManualClock
from tests.support.door import Door

HOLD_S = 5.0
POSITIONS_S = 0.25
LIMITS = AdmissionLimits(
    waiting_max=8,
    waiting_per_tenant_max=4,
    running_per_tenant_max=3,
    hold_s=HOLD_S,
    positions_s=POSITIONS_S,
)
TENANTS = st.sampled_from(["ann", "bob", "cid"])
TOKENS = st.integers(1, 60)
WHICH = st.integers(0, 11)


@dataclass(eq=False)
class Turn:
    """A turn. `told` is the last queue position that was reported to it."""

    share: Share
    tenant: str
    tokens: int
    paused_at: float | None = None
    parked: bool = False
    told: int | None = None
    coming_back: asyncio.Task[None] | None = None


@dataclass
class PlainList:
    """A model of admission: the same rules on plain lists."""

    slots: int = 0
    kv_tokens: int = 0
    holding: list[Turn] = field(default_factory=list[Turn])
    returning: list[Turn] = field(default_factory=list[Turn])
    arrived: list[Turn] = field(default_factory=list[Turn])
    served: list[str] = field(default_factory=list[str])
    """Tenants with waiting turns. The tenant that was served or arrived longest ago is first."""

    @property
    def waiting(self) -> list[Turn]:
        """Those of a tenant that go before its others are first."""
        return [*self.returning, *self.arrived]

    @property
    def overgrown(self) -> bool:
        held = sum(turn.tokens for turn in self.holding)
        return len(self.holding) > 1 and held > 1.5 * self.kv_tokens

    def key(self, tenant: str, holding: list[Turn], served: list[str]) -> tuple[bool, float, int]:
        """The tenant with the lowest key is next: it may have more, and holds least."""
        held = [turn for turn in holding if turn.tenant == tenant]
        of_slots = len(held) / max(self.slots, 1)
        of_cache = sum(turn.tokens for turn in held) / self.kv_tokens
        full = len(held) >= (LIMITS.running_per_tenant_max or 0)
        return full, max(of_slots, of_cache), served.index(tenant)

    def in_order(self) -> list[Turn]:
        """The waiting turns as they would start if none ended."""
        waiting, holding, served = self.waiting, list(self.holding), list(self.served)
        order: list[Turn] = []
        while waiting:
            tenants = {turn.tenant for turn in waiting}
            first = min(tenants, key=lambda tenant: self.key(tenant, holding, served))
            turn = next(turn for turn in waiting if turn.tenant == first)
            order.append(turn)
            waiting.remove(turn)
            holding.append(turn)
            served.remove(first)
            served.append(first)
        return order

    def wait(self, turn: Turn, queue: list[Turn]) -> None:
        if not any(other.tenant == turn.tenant for other in self.waiting):
            self.served.append(turn.tenant)
        queue.append(turn)

    def leave_queue(self, turn: Turn, *, served: bool) -> None:
        (self.returning if turn in self.returning else self.arrived).remove(turn)
        waits = any(other.tenant == turn.tenant for other in self.waiting)
        if served or not waits:
            self.served.remove(turn.tenant)
        if served and waits:
            self.served.append(turn.tenant)

    def let_in(self) -> None:
        while queue := self.in_order():
            head = queue[0]
            if self.key(head.tenant, self.holding, self.served)[0]:
                return
            used = sum(turn.tokens for turn in self.holding)
            room = len(self.holding) < self.slots and used + head.tokens <= self.kv_tokens
            if not room and (self.holding or not self.slots):
                return
            self.leave_queue(head, served=True)
            self.holding.append(head)


class AdmissionMachine(RuleBasedStateMachine):
    """Compares an Admission with the model after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.admission = Admission(self.clock, LIMITS)
        self.model = PlainList()
        self.all: list[Turn] = []
        self.resize(slots=2, kv_tokens=100)

    @rule(slots=st.integers(0, 4), kv_tokens=st.integers(10, 200))
    def resize(self, slots: int, kv_tokens: int) -> None:
        self.model.slots, self.model.kv_tokens = slots, kv_tokens
        self.model.let_in()
        self.admission.resize(Capacity(slots=slots, kv_tokens=kv_tokens))

    @rule(tenant=TENANTS, tokens=TOKENS)
    def enter(self, tenant: str, tokens: int) -> None:
        model = self.model
        of_tenant = sum(turn.tenant == tenant for turn in model.arrived)
        free = LIMITS.waiting_max - len(model.waiting)
        if of_tenant >= min(LIMITS.waiting_per_tenant_max, free) or free <= 0:
            with pytest.raises(ServiceError, match="try again in"):
                self.admission.enter(tenant, tokens)
            return
        turn = Turn(self.admission.enter(tenant, tokens), tenant, tokens)
        self.all.append(turn)
        model.wait(turn, model.arrived)
        model.let_in()

    @precondition(lambda self: self.model.holding)
    @rule(which=WHICH, tokens=TOKENS)
    def grow(self, which: int, tokens: int) -> None:
        turn = self.model.holding[which % len(self.model.holding)]
        turn.tokens = max(turn.tokens, tokens)
        turn.share.grow(tokens)

    @precondition(lambda self: self.model.holding)
    @rule(which=WHICH)
    def pause(self, which: int) -> None:
        turn = self.model.holding[which % len(self.model.holding)]
        if turn.paused_at is None:
            turn.paused_at = self.clock.now()
            if self.model.overgrown:
                self.model.holding.remove(turn)
                turn.paused_at, turn.parked = None, True
                self.model.let_in()
        turn.share.pause()

    @rule(seconds=st.sampled_from([1.0, HOLD_S - 0.5, HOLD_S]))
    def advance(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        paused = [turn for turn in self.model.holding if turn.paused_at is not None]
        for turn in sorted(paused, key=lambda turn: turn.paused_at or 0.0):
            if turn.paused_at is not None and turn.paused_at + HOLD_S <= until:
                self.model.holding.remove(turn)
                turn.paused_at, turn.parked = None, True
                self.model.let_in()
        self.clock.advance(seconds)

    @precondition(lambda self: self.stepped_aside)
    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        turn = self.stepped_aside[which % len(self.stepped_aside)]
        if turn.parked:
            turn.parked = False
            self.model.wait(turn, self.model.returning)
            self.model.let_in()
        turn.paused_at = None
        self.runner.run(self._resume(turn))

    @property
    def stepped_aside(self) -> list[Turn]:
        """The turns whose tools run."""
        return [turn for turn in self.all if turn.parked or turn.paused_at is not None]

    async def _resume(self, turn: Turn) -> None:
        turn.coming_back = asyncio.create_task(turn.share.resume())
        await asyncio.sleep(0)

    @precondition(lambda self: self.all)
    @rule(which=WHICH, times=st.integers(1, 2))
    def release(self, which: int, times: int) -> None:
        turn = self.all.pop(which % len(self.all))
        model = self.model
        if turn in model.holding:
            model.holding.remove(turn)
        elif turn in model.waiting:
            model.leave_queue(turn, served=False)
        model.let_in()
        self.runner.run(self._release(turn, times))

    async def _release(self, turn: Turn, times: int) -> None:
        if turn.coming_back is not None:
            turn.coming_back.cancel()
            await asyncio.wait([turn.coming_back])
        for _ in range(times):
            self.admission.release(turn.share)

    @invariant()
    def the_same_turns_hold_a_share(self) -> None:
        holding = [turn for turn in self.all if turn.share.state.name == "ADMITTED"]
        assert {id(turn) for turn in holding} == {id(turn) for turn in self.model.holding}
        assert self.admission.admitted == len(holding)
        assert self.admission.waiting == len(self.model.waiting)

    @invariant()
    def only_paused_turns_and_the_queue_have_a_timer(self) -> None:
        paused = sum(turn.paused_at is not None for turn in self.all)
        assert self.clock.pending <= paused + bool(self.model.waiting)

    @invariant()
    def resume_returns_once_the_turn_is_admitted(self) -> None:
        self.runner.run(asyncio.sleep(0))
        for turn in self.all:
            if turn.coming_back is not None and not turn.parked:
                assert turn.coming_back.done() == (turn not in self.model.returning)

    @invariant()
    def the_first_position_is_reported_at_once(self) -> None:
        for turn in self.model.arrived:
            if turn.told is None:
                told = self.runner.run(self._reported(turn))
                assert told is not None
                assert told < LIMITS.waiting_max + 4
                turn.told = told

    @rule()
    def tell(self) -> None:
        """All are told their positions once some time has passed, and only if these are new."""
        if not self.stepped_aside:
            self.advance(2 * POSITIONS_S)
            for position, turn in enumerate(self.model.in_order()):
                if turn in self.model.arrived:
                    new = None if position == turn.told else position
                    assert self.runner.run(self._reported(turn)) == new
                    turn.told = position

    async def _reported(self, turn: Turn) -> int | None:
        reading = asyncio.ensure_future(turn.share.queue_position())
        await asyncio.sleep(0)
        if reading.done():
            return reading.result()
        reading.cancel()
        await asyncio.wait([reading])
        return None

    def teardown(self) -> None:
        """Ends all turns one by one. Each turn must be admitted first, and nothing may be left."""
        if not self.model.slots:
            self.resize(slots=1, kv_tokens=10)
        while self.all:
            while self.stepped_aside:
                self.resume(0)
            self.the_same_turns_hold_a_share()
            assert self.model.holding, "turns wait although no turn holds a share"
            self.release(self.all.index(self.model.holding[0]), times=1)
        assert (self.admission.admitted, self.admission.waiting) == (0, 0)
        assert self.clock.pending == 0
        self.runner.close()


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=40)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(2, 6))
def test_no_tenant_starves(random: Random, slots: int, others: int) -> None:
    """Tenants that always have more turns to start, of any size, cannot keep one out.

    Turns end in any order, and each that ends is followed by more from tenants that are new, too.
    A turn of a tenant that holds nothing starts before as many others as there were tenants, plus
    the turns that must end first if it is large.
    """
    door = Door(slots=slots, kv_tokens=100, waiting_max=10_000, waiting_per_tenant_max=10_000)
    running = [door.enter(random.randint(1, 100), f"busy-{i % others}") for i in range(10 * others)]
    victim = door.enter(random.randint(1, 200), "victim")
    started = 0
    for number in range(20 * others):
        if victim.state.name == "ADMITTED":
            break
        holding = [share for share in running if share.state.name == "ADMITTED"]
        ended = random.choice(holding)
        running.remove(ended)
        door.release(ended)
        started += sum(share.state.name == "ADMITTED" for share in running) - len(holding) + 1
        running += [
            door.enter(random.randint(1, 100), tenant)
            for tenant in (f"busy-{random.randrange(others)}", f"new-{number}")
        ]
    assert victim.state.name == "ADMITTED"
    assert started <= others + slots
