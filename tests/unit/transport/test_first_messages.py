"""Slots for first messages: how many there are, whose turn it is, and who has to give way."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.first_messages import RETRY_AFTER_S, ArrivalLimits, FirstMessages
from tests.support.clock import ManualClock, settle


class Arrivals:
    """Slots, and the calls that want one. A call's message comes when its event is set."""

    def __init__(self, *, reading_max: int = 2, waiting_max: int = 100) -> None:
        self.clock = ManualClock()
        limits = ArrivalLimits(
            reading_max=reading_max, waiting_max=waiting_max, timeout_s=30.0, patience_s=1.0
        )
        self.slots = FirstMessages(self.clock, limits)
        self.asked: list[str] = []
        """The calls that gRPC was asked for a message of, in order."""

    def call(self, name: str, tenant: str = "ann") -> tuple[asyncio.Task[str], asyncio.Event]:
        come = asyncio.Event()

        async def read() -> str:
            async with self.slots.slot(tenant):
                self.asked.append(name)
                await come.wait()
                return name

        return asyncio.create_task(read()), come

    async def assert_empty(self) -> None:
        await settle()
        assert (self.slots.reading, self.slots.waiting) == (0, 0)


async def refused(call: asyncio.Task[str]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await call
    assert caught.value.reason is Reason.OVERLOADED
    after_s = caught.value.retry_after_s
    assert after_s is not None
    assert RETRY_AFTER_S / 2 <= after_s <= RETRY_AFTER_S * 1.5
    return caught.value


async def test_only_so_many_are_asked_for_at_once() -> None:
    there = Arrivals()
    calls = [there.call(name) for name in "abc"]
    await settle()
    assert there.asked == ["a", "b"]
    assert (there.slots.reading, there.slots.waiting) == (2, 1)
    calls[0][1].set()
    assert await calls[0][0] == "a"
    await settle()
    assert there.asked == ["a", "b", "c"]
    for call, come in calls[1:]:
        come.set()
        await call
    await there.assert_empty()


async def test_tenants_take_turns_however_many_calls_one_has() -> None:
    there = Arrivals(reading_max=1)
    first = there.call("first")
    await settle()
    calls = [there.call(f"ann {number}") for number in range(3)]
    calls += [there.call(f"bob {number}", "bob") for number in range(2)]
    await settle()
    for task, come in [first, *calls]:
        come.set()
        del task
    await asyncio.gather(first[0], *(task for task, _ in calls))
    assert there.asked == ["first", "bob 0", "ann 0", "bob 1", "ann 1", "ann 2"]
    await there.assert_empty()


async def test_a_message_that_does_not_come_ends_with_a_timeout() -> None:
    there = Arrivals()
    call, _ = there.call("a")
    await settle()
    there.clock.advance(29.0)
    await settle()
    assert not call.done(), "no one waits, so it has all its time"
    there.clock.advance(1.0)
    with pytest.raises(TimeoutError):
        await call
    await there.assert_empty()


async def test_slow_messages_give_way_to_those_that_wait() -> None:
    there = Arrivals()
    slow, fresh = there.call("slow"), None
    await settle()
    there.clock.advance(0.5)
    fresh = there.call("fresh")
    await settle()
    waiting = there.call("waiting", "bob")
    await settle()
    assert there.asked == ["slow", "fresh"]
    there.clock.advance(0.5)
    assert "slowly" in (await refused(slow[0])).message
    await settle()
    assert there.asked == ["slow", "fresh", "waiting"]
    there.clock.advance(10.0)
    await settle()
    assert not fresh[0].done(), "only as many give way as others wait"
    for call, come in (fresh, waiting):
        come.set()
        await call
    await there.assert_empty()


async def test_no_more_wait_than_may_and_of_one_tenant_half_as_many() -> None:
    there = Arrivals(reading_max=1, waiting_max=4)
    calls = [there.call("a")]
    await settle()
    calls += [there.call("ann", "ann") for _ in range(2)]
    await settle()
    await refused(there.call("ann", "ann")[0])
    calls += [there.call(name, name) for name in ("bob", "cleo")]
    await settle()
    assert there.slots.waiting == 4
    await refused(there.call("dan", "dan")[0])
    for _, come in calls:
        come.set()
    await asyncio.gather(*(task for task, _ in calls))
    await there.assert_empty()


async def test_a_call_that_waits_in_vain_is_told_to_try_again() -> None:
    there = Arrivals(reading_max=1)
    slow = [there.call("slow")[0] for _ in range(40)]  # each gives way to the next, after a second
    await settle()
    last = there.call("last")
    for _ in range(31):
        await settle()
        there.clock.advance(1.0)
    assert "waited 30 s" in (await refused(last[0])).message
    for call in slow:
        call.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    await there.assert_empty()


@pytest.mark.parametrize("when", ["waiting", "given a slot", "reading"])
async def test_a_call_that_is_cancelled_leaves_its_slot_to_the_next(when: str) -> None:
    there = Arrivals(reading_max=1)
    first, first_came = there.call("first")
    await settle()
    second, _ = there.call("second")
    await settle()
    third, third_came = there.call("third")
    await settle()
    if when == "waiting":
        second.cancel()
        await settle()
        first_came.set()
    else:
        first_came.set()
        while there.slots.waiting == 2:  # noqa: ASYNC110 - nothing else may run meanwhile
            await asyncio.sleep(0)  # until the slot is given, and not taken yet
        if when == "reading":
            await settle()
        assert there.asked == ["first", "second"][: 1 if when == "given a slot" else 2]
        second.cancel()
    third_came.set()
    assert await third == "third"
    assert second.cancelled()
    await first
    await there.assert_empty()


async def test_a_slot_is_not_lost_on_a_call_that_was_just_cancelled() -> None:
    there = Arrivals(reading_max=1)
    first, first_came = there.call("first")
    await settle()
    second, _ = there.call("second")
    third, third_came = there.call("third")
    await settle()
    second.cancel()  # it has not run since
    first_came.set()
    third_came.set()
    assert (await first, await third) == ("first", "third")
    await there.assert_empty()


async def test_those_that_followed_slow_messages_give_way_as_well() -> None:
    there = Arrivals(reading_max=1)
    slow = [there.call(f"slow {number}")[0] for number in range(3)]
    last, came = there.call("last")
    came.set()
    for _ in slow:
        await settle()
        there.clock.advance(1.0)
    assert await last == "last"
    for call in slow:
        await refused(call)
    await there.assert_empty()
