"""One turn's share of the engine: a slot, and the tokens of KV that the turn is expected to hold.

Owns: the state of the share, the countdown of the hold time, what the turn was told.
Never: decides who is admitted; that is the `Admission`.
Concurrency: one event loop; all methods but `queue_position` and `resume` are synchronous.
"""

from __future__ import annotations

import asyncio
import enum
from types import TracebackType
from typing import Protocol, Self

from precall_service.domain.clock import Clock, Timer


class ShareState(enum.Enum):
    """Where the turn of a share stands."""

    WAITING = "waiting for its first admission"
    ADMITTED = "holds its share"
    PARKED = "gave its share up while its tools run"
    RETURNING = "waits to get its share back"
    RELEASED = "has ended"


class Shares(Protocol):
    """What a share asks of its admission."""

    @property
    def clock(self) -> Clock:
        """Counts down the hold time."""
        ...

    @property
    def hold_s(self) -> float:
        """How long a turn keeps its share while its tools run."""
        ...

    def grow(self, share: Share, tokens: int) -> None:
        """Enlarges a share, as `Share.grow` says."""
        ...

    def paused(self, share: Share) -> None:
        """Notes that a turn waits for its tools."""
        ...

    def park(self, share: Share) -> None:
        """Takes the share from a turn that waits for its tools."""
        ...

    def enqueue_returning(self, share: Share) -> None:
        """Queues a parked turn whose tools have answered."""
        ...

    def release(self, share: Share) -> None:
        """Takes the share of a turn that has ended, in any state. Idempotent."""
        ...


class Share:
    """One turn's share of the engine: awaited, held, given up while tools are slow, returned.

    A context manager: leaving it gives the share back in any state.
    """

    def __init__(self, admission: Shares, tenant: str, tokens: int) -> None:
        self._admission = admission
        self._state = ShareState.WAITING
        self._hold: Timer | None = None
        self._changed = asyncio.Event()
        self._position: int | None = None
        self._told: int | None = None
        self.tenant = tenant
        self.tokens = tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.release(self)

    @property
    def state(self) -> ShareState:
        """The state of the share."""
        return self._state

    @property
    def queued(self) -> bool:
        """Whether the turn waits for its share, for the first time or to get it back."""
        return self._state in (ShareState.WAITING, ShareState.RETURNING)

    @property
    def paused(self) -> bool:
        """Whether the turn holds its share while its tools run."""
        return self._hold is not None

    @property
    def placed(self) -> bool:
        """Whether the share has had a queue position."""
        return self._position is not None

    async def queue_position(self) -> int | None:
        """Waits for a queue position that this method has not returned last; None once admitted.

        On cancel: the turn keeps its queue position; leaving the context gives it up.
        """
        while True:
            if self._state is ShareState.ADMITTED:
                return None
            if self._position is not None and self._position != self._told:
                self._told = self._position
                return self._position
            self._changed.clear()
            await self._changed.wait()

    def grow(self, tokens: int) -> None:
        """Tells that the turn now holds `tokens` of KV; more than expected enlarges its share."""
        self._admission.grow(self, tokens)

    def pause(self) -> None:
        """Tells that the turn waits for tools; it loses its share after the hold time, or at once.

        It does so at once if the admitted turns have grown far beyond the engine's KV cache.
        """
        if self._state is ShareState.ADMITTED and self._hold is None:
            admission = self._admission
            self._hold = admission.clock.call_later(admission.hold_s, lambda: admission.park(self))
            admission.paused(self)

    async def resume(self) -> None:
        """Returns once the turn may generate again, which is at once within the hold time.

        On cancel: the turn keeps its state; leaving the context gives the share back.
        """
        self.unhold()
        if self._state is ShareState.PARKED:
            self._admission.enqueue_returning(self)
        while self._state is not ShareState.ADMITTED:
            self._changed.clear()
            await self._changed.wait()

    def unhold(self) -> None:
        """Stops the countdown to the loss of the share."""
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def become(self, state: ShareState) -> None:
        """Changes the state and wakes the turn. Only the admission calls this."""
        self._state = state
        self._changed.set()

    def move_to(self, position: int) -> None:
        """Sets the queue position of a turn that has not been admitted; a new one wakes it."""
        if position != self._position and self._state is ShareState.WAITING:
            self._position = position
            self._changed.set()
