"""An admission, and the turns that enter and leave it."""

from __future__ import annotations

import asyncio

from precall_service.admission import Admission, AdmissionLimits, Capacity, Share
from tests.support.clock import ManualClock, settle

HOLD_S = 5.0
POSITIONS_S = 0.5


class Door:
    """An admission with its own clock."""

    def __init__(
        self,
        *,
        slots: int = 2,
        kv_tokens: int = 1000,
        waiting_max: int = 100,
        waiting_per_tenant_max: int = 100,
        running_per_tenant_max: int | None = None,
        token_latency_s: float | None = None,
    ) -> None:
        self.clock = ManualClock()
        limits = AdmissionLimits(
            waiting_max=waiting_max,
            waiting_per_tenant_max=waiting_per_tenant_max,
            running_per_tenant_max=running_per_tenant_max,
            positions_s=POSITIONS_S,
            hold_s=HOLD_S,
            retry_after_s=3.0,
            token_latency_s=token_latency_s,
        )
        self.admission = Admission(self.clock, limits)
        self.resize(slots=slots, kv_tokens=kv_tokens)

    def resize(self, *, slots: int, kv_tokens: int = 1000) -> None:
        self.admission.resize(Capacity(slots=slots, kv_tokens=kv_tokens))

    def enter(self, tokens: int = 100, tenant: str = "ann") -> Share:
        return self.admission.enter(tenant, tokens)

    def release(self, *shares: Share) -> None:
        for share in shares:
            self.admission.release(share)

    def tell(self) -> None:
        """Lets enough time pass that all turns are told their positions."""
        self.clock.advance(2 * POSITIONS_S)

    async def come_back(self, share: Share) -> asyncio.Task[None]:
        """Has the tools of a parked turn answer. Returns the task in which it waits to go on."""
        coming_back = asyncio.create_task(share.resume())
        await settle()
        return coming_back

    async def park(self, share: Share) -> None:
        """Pauses the share's turn for its tools until the turn has lost the share."""
        share.pause()
        self.clock.advance(HOLD_S)
        await settle()
        assert not admitted(share)

    @property
    def counts(self) -> tuple[int, int]:
        """The number of turns that hold a share, and of turns that wait."""
        return self.admission.admitted, self.admission.waiting


def admitted(*shares: Share) -> bool:
    """Whether all these turns hold their share."""
    return all(share.state.name == "ADMITTED" for share in shares)


async def told(share: Share) -> list[int]:
    """The new queue positions that `queue_position` returns without waiting."""
    positions: list[int] = []
    while True:
        reading = asyncio.ensure_future(share.queue_position())
        await settle()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return positions
        if (position := reading.result()) is None:
            return positions
        positions.append(position)
