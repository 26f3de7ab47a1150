"""Paces the work that frames make: one frame in each pass of the event loop, tenants in turn.

gRPC hands over everything that has come in one pass. A client with hundreds of streams could so
make one pass as long as all of its frames take together, and tokens of others would wait behind
that. Here its frames wait for each other instead, with everything else of the loop in between.

Owns: the frames that wait to be processed.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio

from precall_service.fair_turns import FairLine


class Intake:
    """Lets one frame be processed in each pass of the event loop."""

    def __init__(self) -> None:
        self._line = FairLine[asyncio.Future[None]]()
        self._taken = False
        """Whether this pass has had its frame."""

    @property
    def waiting(self) -> int:
        """How many frames wait. A stream has at most one here."""
        return len(self._line)

    async def turn(self, tenant: str) -> None:
        """Returns when a frame of the tenant may be processed. On cancel: it leaves the line."""
        if not self._taken:
            self._take(tenant)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.add(tenant, turn)
        try:
            await turn
        finally:
            self._line.discard(tenant, turn)

    def _take(self, tenant: str) -> None:
        self._taken = True
        self._line.served(tenant)
        asyncio.get_running_loop().call_soon(self._next_pass)

    def _next_pass(self) -> None:
        self._taken = False
        while self._line and not self._taken:
            tenant, turn = self._line.next()
            if not turn.done():
                turn.set_result(None)
                self._take(tenant)
