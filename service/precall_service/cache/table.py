"""The entries of the in-process store: a table with a limit on its bytes.

The table is kept in columns, because an object for each entry, with its fields, would take as much
memory as a result of 300 bytes.

Owns: which entry is dropped to make room. The value of an entry is measured as in "Hyperbolic
    Caching" (Blankstein, Sen and Freedman, USENIX ATC 2017): the seconds that it takes to compute
    the result again, times its uses per second since it was stored, per byte. As in the paper, the
    entry with the lowest value of a random sample is dropped. Only entries of the tenant that holds
    the most bytes are considered, so that no tenant displaces the entries of a smaller one.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from precall_service.cache.base import Entry, Origin, ResourceVersion, Value

T = TypeVar("T")

SAMPLE: Final = 32
WORST_OF_SAMPLE: Final = 8
"""The most entries that one sample may cost, when much room is needed at once."""
ENTRY_BYTES: Final = 300
"""What an entry takes besides its own bytes: its place in each column and in its tenant's rows."""
NAME_BYTES: Final = 57
"""What a short text takes besides its own bytes."""
SHARED_MAX: Final = 4096
COST_MIN_S: Final = 0.001
COST_MAX_S: Final = 86_400.0
"""Clients state the cost of their results. The limit keeps one entry from staying forever."""

_HEAD: Final = struct.Struct("<BQQ")
_ORIGINS: Final = {origin.value: origin for origin in Origin}


@dataclass(slots=True)
class Rows:
    """The rows of the table that belong to a tenant, by the digests of their keys."""

    by_digest: dict[bytes, int] = field(default_factory=dict[bytes, int])
    bytes: int = 0
    evictions: int = 0


class EntryTable:
    """Entries in rows. A row may move when another one is removed."""

    def __init__(self, bytes_max: int, chance: random.Random) -> None:
        self._bytes_max = bytes_max
        self._chance = chance
        self._bytes = 0
        self._shared: dict[str, str] = {}
        """Nodes that several entries are likely to have."""
        self._owners: list[Rows] = []
        self._digests: list[bytes] = []
        self._packed: list[bytes] = []
        self._nodes: list[tuple[str, ...]] = []
        self._resources: list[tuple[ResourceVersion, ...]] = []
        self._snapshots = array("Q")
        self._entry_versions = array("Q")
        self._stored_at = array("d")
        self._expires_at = array("d")
        self._costs_s = array("d")
        self._uses = array("I")

    def __len__(self) -> int:
        return len(self._digests)

    def add(
        self,
        owner: Rows,
        digest: bytes,
        entry: Entry,
        *,
        nodes: tuple[str, ...],
        snapshot: int,
        now: float,
    ) -> None:
        """Adds an entry, which replaces one with the same digest; drops others to make room.

        An entry that is larger than the whole table is dropped at once.
        """
        self.remove(owner, digest)
        packed = _pack(entry.value)
        if entry.resources:
            nodes = tuple(map(self._share, nodes))
        size = _size(digest, packed, entry.resources, nodes)
        if size > self._bytes_max:
            owner.evictions += 1
            return
        for _ in range(2):
            self._drop_expired(now)
        while self._bytes + size > self._bytes_max:
            self._evict(self._bytes + size - self._bytes_max, now)
        owner.by_digest[digest] = len(self._digests)
        self._owners.append(owner)
        self._digests.append(digest)
        self._packed.append(packed)
        self._nodes.append(nodes)
        self._resources.append(entry.resources)
        self._snapshots.append(snapshot)
        self._entry_versions.append(entry.entry_version)
        self._stored_at.append(now)
        self._expires_at.append(now + entry.value.ttl_s)
        self._costs_s.append(entry.value.cost_s)
        self._uses.append(0)
        self._count(owner, size)

    def nodes(self, row: int) -> tuple[str, ...]:
        """Returns the nodes of an entry."""
        return self._nodes[row]

    def snapshot(self, row: int) -> int:
        """Returns the position since which the nodes of an entry must not have changed."""
        return self._snapshots[row]

    def entry_version(self, row: int) -> int:
        """Returns the version of an entry."""
        return self._entry_versions[row]

    def expired(self, row: int, now: float) -> bool:
        """Returns whether an entry has expired."""
        return self._expires_at[row] <= now

    def read(self, row: int, now: float) -> Entry:
        """Returns an entry."""
        stored_at, expires_at = self._stored_at[row], self._expires_at[row]
        return Entry(
            value=_unpack(self._packed[row], self._costs_s[row], expires_at - stored_at),
            entry_version=self._entry_versions[row],
            resources=self._resources[row],
            age_s=now - stored_at,
            expires_in_s=expires_at - now,
        )

    def use(self, row: int) -> None:
        """Counts one use of an entry."""
        if self._uses[row] < 0xFFFFFFFF:
            self._uses[row] += 1

    def remove(self, owner: Rows, digest: bytes) -> bool:
        """Removes the entry with this digest; returns whether there was one."""
        row = owner.by_digest.pop(digest, None)
        if row is None:
            return False
        size = _size(digest, self._packed[row], self._resources[row], self._nodes[row])
        self._count(owner, -size)
        if row < len(self._digests) - 1:
            self._owners[-1].by_digest[self._digests[-1]] = row
        _fill_from_end(self._owners, row)
        _fill_from_end(self._digests, row)
        _fill_from_end(self._packed, row)
        _fill_from_end(self._nodes, row)
        _fill_from_end(self._resources, row)
        _fill_from_end(self._snapshots, row)
        _fill_from_end(self._entry_versions, row)
        _fill_from_end(self._stored_at, row)
        _fill_from_end(self._expires_at, row)
        _fill_from_end(self._costs_s, row)
        _fill_from_end(self._uses, row)
        return True

    def _count(self, owner: Rows, size: int) -> None:
        owner.bytes += size
        self._bytes += size

    def _drop_expired(self, now: float) -> None:
        """Removes one entry at random if it has expired."""
        if not self._digests:
            return
        row = self._chance.randrange(len(self._digests))
        if self.expired(row, now):
            self.remove(self._owners[row], self._digests[row])

    def _share(self, node: str) -> str:
        if node.startswith("="):  # the node of one name
            return node
        if len(self._shared) >= SHARED_MAX:
            self._shared.clear()
        return self._shared.setdefault(node, node)

    def _evict(self, room: int, now: float) -> None:
        """Drops the entries with the lowest value of a sample, until there is this much room."""
        count = len(self._digests)
        rows = (
            range(count)
            if count <= SAMPLE
            else {self._chance.randrange(count) for _ in range(SAMPLE)}
        )
        largest = max((self._owners[row] for row in rows), key=lambda owner: owner.bytes)
        worst = sorted(
            (row for row in rows if self._owners[row] is largest),
            key=lambda row: 0.0 if self.expired(row, now) else self._value(row, now),
        )
        before = self._bytes
        for digest in [self._digests[row] for row in worst[:WORST_OF_SAMPLE]]:
            largest.evictions += 1
            self.remove(largest, digest)
            if before - self._bytes >= room:
                return

    def _value(self, row: int, now: float) -> float:
        in_cache_s = max(now - self._stored_at[row], 1e-3)
        uses_a_second = (self._uses[row] + 1) / in_cache_s
        cost_s = min(max(self._costs_s[row], COST_MIN_S), COST_MAX_S)
        return cost_s * uses_a_second / len(self._packed[row])


def _fill_from_end(column: MutableSequence[T], row: int) -> None:
    """Removes the value of a row by moving the last one there."""
    last = column.pop()
    if row < len(column):
        column[row] = last


def _size(
    digest: bytes,
    packed: bytes,
    resources: tuple[ResourceVersion, ...],
    nodes: tuple[str, ...],
) -> int:
    """Returns the size of an entry. Entries without resources share their nodes."""
    size = ENTRY_BYTES + len(digest) + len(packed)
    if resources:
        size += sum(len(each.resource) + 2 * NAME_BYTES for each in resources)
        size += sum(len(node) + NAME_BYTES for node in nodes)
    return size


def _pack(value: Value) -> bytes:
    """Returns a value as bytes: its origin, the lengths of two texts, and then the texts."""
    execution_id, content = value.execution_id.encode(), value.content.encode()
    head = _HEAD.pack(value.origin.value, len(execution_id), len(content))
    return head + execution_id + content + value.result_json.encode()


def _unpack(packed: bytes, cost_s: float, ttl_s: float) -> Value:
    origin, first, second = _HEAD.unpack_from(packed)
    middle = _HEAD.size + first
    end = middle + second
    return Value(
        result_json=packed[end:].decode(),
        content=packed[middle:end].decode(),
        execution_id=packed[_HEAD.size : middle].decode(),
        origin=_ORIGINS[origin],
        cost_s=cost_s,
        ttl_s=ttl_s,
    )
