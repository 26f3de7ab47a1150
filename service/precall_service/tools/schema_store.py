"""Keeps the compiled schemas of all streams within bounds of memory, and of time to make them.

Owns: the one thread in which tools are checked, and the memory of schemas by tenant.
Never: which tools a stream has (`toolset`).
Concurrency: one event loop. A tenant's tools are checked one after the other, and tenants take
    turns: compiling keeps Python's lock, and several threads would keep the loop from running.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import weakref
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonObject, dump
from precall_service.fair_turns import FairTurns
from precall_service.tools.declarations import CheckedTool, ToolLimits, ToolProposal, declare
from precall_service.tools.schema import Schema

TRIM_BYTES: Final = 64 << 20
"""The memory of schemas that are freed before the allocator is told to return it to the system. It
would keep it otherwise, in pieces that are of no use to others."""

_REMEDY: Final = "use simpler or shorter schemas, or withdraw other tools first"


class SchemaStore:
    """Makes declarations of proposed tools. Equal schemas of one tenant are compiled once.

    Tenants share nothing, so that none can tell from the time what another has registered.
    """

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._turns = FairTurns()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tools")
        self._shared: WeakValueDictionary[tuple[str, bytes], Schema] = WeakValueDictionary()
        self._held: Counter[str] = Counter()
        """The memory of all schemas that are in use, by tenant."""
        self._held_bytes = 0
        """The memory of all of them."""
        self._untrimmed_bytes = 0
        """What was freed since the allocator was told."""
        self._freed: deque[tuple[str, int]] = deque()
        """What is to be subtracted. Objects may be freed in any thread, even amid a count."""

    @property
    def held_bytes(self) -> dict[str, int]:
        """The memory of the schemas in use, by tenant, as it is estimated."""
        self._count_freed()
        return dict(self._held)

    def close(self) -> None:
        """Ends the thread once it has done what it is doing. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def declare(
        self, tenant: str, proposal: ToolProposal, *, path: str, stream_bytes: int
    ) -> CheckedTool:
        """Returns the declaration of a proposed tool.

        `stream_bytes` is the memory of the schemas of the stream's other tools.

        Raises:
            ServiceError: as `declarations.declare`; also LIMIT_REACHED if the schemas of the
                stream, the tenant or all tenants would take too much memory.
        On cancel: the tool is not declared. The thread ends what it is doing.
        """
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        async with self._turns.of(tenant):
            self._count_freed()
            if self._untrimmed_bytes > TRIM_BYTES:
                self._untrimmed_bytes = 0
                await in_thread(trim_memory)
            tool, fresh = await in_thread(self._declared, tenant, proposal, path)
            self._admit(tenant, tool, fresh, path, stream_bytes)
        return tool

    def _declared(
        self, tenant: str, proposal: ToolProposal, path: str
    ) -> tuple[CheckedTool, list[tuple[bytes, Schema]]]:
        """Returns the declaration, and the schemas that no other tool of the tenant has."""
        fresh: list[tuple[bytes, Schema]] = []
        compiled = partial(self._compiled, tenant, fresh)
        return declare(proposal, self._limits, path=path, compiled=compiled), fresh

    def _compiled(
        self, tenant: str, fresh: list[tuple[bytes, Schema]], schema: JsonObject
    ) -> Schema:
        digest = hashlib.sha256(dump(schema).encode()).digest()
        known = self._shared.get((tenant, digest)) or dict(fresh).get(digest)
        if known is None:
            known = Schema(schema)
            fresh.append((digest, known))
        return known

    def _admit(
        self,
        tenant: str,
        tool: CheckedTool,
        fresh: list[tuple[bytes, Schema]],
        path: str,
        stream_bytes: int,
    ) -> None:
        """Counts the new schemas of a tool, and shares them.

        Raises:
            ServiceError: LIMIT_REACHED.
        """
        self._count_freed()
        limits = self._limits
        new_bytes = sum(schema.held_bytes for _, schema in fresh)
        for whose, size_bytes, limit in (
            ("stream", stream_bytes + tool.held_bytes, limits.schemas_stream_bytes_max),
            ("tenant", self._held[tenant] + new_bytes, limits.schemas_tenant_bytes_max),
            ("server", self._held_bytes + new_bytes, limits.schemas_bytes_max),
        ):
            if size_bytes > limit:
                self._untrimmed_bytes += new_bytes
                name = tool.declaration.name
                raise ServiceError(
                    Reason.LIMIT_REACHED,
                    f"with tool {name!r} the schemas of this {whose} would take {size_bytes} bytes"
                    f" of memory, the limit is {limit}; {_REMEDY}",
                    field=f"{path}input_schema_json",
                    metadata={"tool_name": name, "size": str(size_bytes), "limit": str(limit)},
                )
        for digest, schema in fresh:
            self._shared[tenant, digest] = schema
            self._count(tenant, schema.held_bytes)
            weakref.finalize(schema, self._freed.append, (tenant, schema.held_bytes)).atexit = False

    def _count_freed(self) -> None:
        while self._freed:
            tenant, size_bytes = self._freed.popleft()
            self._count(tenant, -size_bytes)
            self._untrimmed_bytes += size_bytes

    def _count(self, tenant: str, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        self._held[tenant] += size_bytes
        if not self._held[tenant]:
            del self._held[tenant]


def trim_memory() -> None:
    """Has the allocator return what it does not use, if it can. Python's lock is not held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
