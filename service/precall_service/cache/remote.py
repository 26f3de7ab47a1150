"""The protocol of a store that is reached over a connection."""

from __future__ import annotations

from typing import Protocol

from precall_service.cache.base import CacheStore, StoreUnavailableError


class StoreLostError(StoreUnavailableError):
    """The connection to the store is lost, or cannot be made."""


class RemoteStore(CacheStore, Protocol):
    """A store that is reached over a connection. It connects when an operation needs it.

    If the store's server has been restarted, it may have lost changes. So everything stored before
    becomes stale before the new connection is used for operations.
    """

    @property
    def name(self) -> str:
        """The name of the server for messages, without credentials."""
        ...

    async def connect(self) -> None:
        """Connects if necessary, and returns when the server has answered.

        Raises:
            StoreUnavailableError: the server has not answered within a bounded time.
        """
        ...

    async def disconnect(self) -> None:
        """Closes the connection. The next operation makes a new one."""
        ...

    async def advance_epoch(self) -> None:
        """Makes everything stale that was stored before, for all tenants."""
        ...
