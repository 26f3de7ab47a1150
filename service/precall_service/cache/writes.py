"""Records in the cache what a run writes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from precall_service.cache.base import CacheStore, Change, ChangeKind, StoreUnavailableError
from precall_service.cache.counts import TenantCounts
from precall_service.cache.keys import invalidated_nodes
from precall_service.domain.resources import conversation_of
from precall_service.incidents import report_defect

log = logging.getLogger(__name__)

_SERVER_ID = uuid.uuid4().hex
_numbers = itertools.count()

SETTLE_MARGIN_S = 60.0
"""How long after the time limit of a run its server counts as dead."""


@dataclass(frozen=True, slots=True)
class WritePart:
    """The write of one resource."""

    write_id: str
    nodes: Sequence[str]
    change: Change


class ToolWrite:
    """A run that writes resources. Results that read them become stale when it starts and ends.

    No method raises. If the store is not available, its guard remembers the write.
    """

    def __init__(
        self,
        store: CacheStore,
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        counts: TenantCounts,
        *,
        tenant: str,
        resources: Iterable[str],
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._counts = counts
        self._tenant = tenant
        write_id = f"{_SERVER_ID}/{next(_numbers)}"
        self.parts = [
            WritePart(f"{write_id}/{index}", *_written(name))
            for index, name in enumerate(resources)
        ]

    def and_also(self, other: ToolWrite | None) -> ToolWrite:
        """Adds the resources of another write to this one, and returns this one."""
        if other is not None:
            self.parts += other.parts
        return self

    async def begin(self, timeout_s: float) -> None:
        """Announces the write, before a run that may take `timeout_s`.

        Results that are read during the write become stale when it ends. If this server dies before
        that, a store that is shared with other servers ends the write itself.
        """
        await self._each(
            self._store.announce(
                self._tenant, part.write_id, part.nodes, part.change, timeout_s + SETTLE_MARGIN_S
            )
            for part in self.parts
        )

    async def end(self) -> None:
        """Makes everything stale that has read the resources until now.

        On cancel: the write is still recorded.
        """
        if len(self.parts) == 1:  # a store makes a single change even if its caller is cancelled
            await self._record()
        else:
            await asyncio.wait([self._spawn(self._record())])

    def end_later(self) -> None:
        """Does the same as `end`, without waiting for it."""
        self._spawn(self._record())

    async def _record(self) -> None:
        await self._each(
            self._store.advance(self._tenant, part.nodes, part.change, settles=part.write_id)
            for part in self.parts
        )

    async def _each(self, operations: Iterable[Awaitable[object]]) -> None:
        first, *others = map(self._counted, operations)
        if others:
            await asyncio.gather(first, *others)
        else:
            await first

    async def _counted(self, operation: Awaitable[object]) -> None:
        try:
            await operation
        except StoreUnavailableError:
            self._counts.store_failures += 1
        except Exception as defect:  # noqa: BLE001 - no turn may fail because of the cache
            report_defect(log, "a write in the tool cache", defect)


@lru_cache(256)  # many calls of one conversation write the same resource
def _written(name: str) -> tuple[Sequence[str], Change]:
    """Returns the nodes that a write to a resource changes, and the change for the log."""
    conversation_id = conversation_of(name)
    if conversation_id is None:
        change = Change(kind=ChangeKind.RESOURCE, names=(name,))
    else:
        change = Change(kind=ChangeKind.CONVERSATION, names=(conversation_id,))
    return tuple(invalidated_nodes(change)), change
