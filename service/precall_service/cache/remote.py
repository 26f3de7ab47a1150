"""What a store behind a connection adds to a store."""

from __future__ import annotations

from typing import Protocol

from precall_service.cache.base import CacheStore, StoreUnavailableError


class StoreLostError(StoreUnavailableError):
    """The connection to the store is lost, or cannot be made."""


class RemoteStore(CacheStore, Protocol):
    """A store behind a connection. It connects when it is needed.

    Before a new connection serves anything, everything stored before becomes stale if the server
    was started anew, since it may have lost changes.
    """

    @property
    def name(self) -> str:
        """Names the server in messages, without credentials."""
        ...

    async def connect(self) -> None:
        """Returns when the server has answered.

        Raises:
            StoreUnavailableError: it does not answer, in a bounded time.
        """
        ...

    async def disconnect(self) -> None:
        """Gives up the connection, so that the next operation makes a new one."""
        ...

    async def advance_epoch(self) -> None:
        """Makes everything stale that was stored before, of all tenants."""
        ...
