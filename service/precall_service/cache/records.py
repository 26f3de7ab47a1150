"""Logs of what is learned about the calls of each tenant, and how much of it is kept.

A store keeps such records as they are, and does not know what they mean.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

RECORDS_MAX: Final = 10_000
"""The most records of a tenant; the newest are kept."""
RECORDS_BYTES_MAX: Final = 8 << 20
"""The most bytes of the records of a tenant."""
RECORD_BYTES_MAX: Final = 16 << 10
"""Larger records are not kept."""
PAGE_RECORDS_MAX: Final = 256
PAGE_BYTES_MAX: Final = 128 << 10
"""A page ends with the record that reaches this size."""
MEMORY_BYTES_MAX: Final = 64 << 20
"""The most bytes of the records of all tenants in this process's memory."""
MEMORY_TENANTS_MAX: Final = 1024
"""The most tenants with records in this process's memory."""


@dataclass(slots=True)
class _Log:
    records: deque[bytes] = field(default_factory=deque[bytes])
    last: int = 0
    """The number of the newest record."""
    bytes: int = 0


class RecordLogs:
    """The records of all tenants, in memory.

    If they are too many in all, the oldest records of the tenant with the most bytes are dropped.
    If the tenants are too many, the one that was used longest ago loses its records.
    """

    def __init__(
        self, bytes_max: int = MEMORY_BYTES_MAX, tenants_max: int = MEMORY_TENANTS_MAX
    ) -> None:
        self._bytes_max = bytes_max
        self._tenants_max = tenants_max
        self._bytes = 0
        self._logs: OrderedDict[str, _Log] = OrderedDict()

    def add(self, tenant: str, record: bytes) -> None:
        """Adds a record, and drops the oldest ones above the limits."""
        if len(record) > RECORD_BYTES_MAX:
            return
        log = self._logs.setdefault(tenant, _Log())
        self._logs.move_to_end(tenant)
        if len(self._logs) > self._tenants_max:
            _, forgotten = self._logs.popitem(last=False)
            self._bytes -= forgotten.bytes
        log.records.append(record)
        log.last += 1
        self._count(log, len(record))
        while len(log.records) > RECORDS_MAX or log.bytes > RECORDS_BYTES_MAX:
            self._drop_oldest(log)
        while self._bytes > self._bytes_max:
            largest = max(self._logs, key=lambda name: self._logs[name].bytes)
            self._drop_oldest(self._logs[largest])

    def page(self, tenant: str, after: int) -> list[tuple[int, bytes]]:
        """Returns the oldest records after a number, with their numbers."""
        log = self._logs.get(tenant)
        if log is None:
            return []
        self._logs.move_to_end(tenant)
        first = log.last - len(log.records) + 1
        skipped = max(0, after - first + 1)
        found: list[tuple[int, bytes]] = []
        size = 0
        for number, record in enumerate(islice(log.records, skipped, None), first + skipped):
            found.append((number, record))
            size += len(record)
            if size >= PAGE_BYTES_MAX or len(found) == PAGE_RECORDS_MAX:
                break
        return found

    def _drop_oldest(self, log: _Log) -> None:
        self._count(log, -len(log.records.popleft()))

    def _count(self, log: _Log, size: int) -> None:
        log.bytes += size
        self._bytes += size
