"""The door to an engine: an admission, and turns that come to it."""

from __future__ import annotations

import asyncio

from precall_service.admission import Admission, AdmissionLimits, Capacity, Share
from tests.support.clock import ManualClock, settle

HOLD_S = 5.0


class Door:
    """An admission on a clock of its own."""

    def __init__(
        self,
        *,
        slots: int = 2,
        kv_tokens: int = 1000,
        waiting_max: int = 100,
        waiting_per_tenant_max: int = 100,
    ) -> None:
        self.clock = ManualClock()
        limits = AdmissionLimits(
            waiting_max=waiting_max,
            waiting_per_tenant_max=waiting_per_tenant_max,
            hold_s=HOLD_S,
            retry_after_s=3.0,
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

    async def park(self, share: Share) -> None:
        """The share's turn waits for its tools until it has given its share up."""
        share.pause()
        self.clock.advance(HOLD_S)
        await settle()
        assert not admitted(share)

    @property
    def counts(self) -> tuple[int, int]:
        """Turns that hold a share, and turns that wait."""
        return self.admission.admitted, self.admission.waiting


def admitted(*shares: Share) -> bool:
    """Whether all of them hold their share."""
    return all(share.state.name == "ADMITTED" for share in shares)


async def told(share: Share) -> list[int]:
    """The places that the share was not told of yet, as far as they are known."""
    places: list[int] = []
    while True:
        reading = asyncio.ensure_future(share.place())
        await settle()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return places
        if (place := reading.result()) is None:
            return places
        places.append(place)
