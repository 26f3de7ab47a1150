"""The versions of the nodes of one tenant, in a bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class NodeVersions:
    """The position of the last change of each node.

    Above `nodes_max` nodes, the one that has not changed for longest is forgotten. A node without a
    version counts as changed at `floor`: the last change of any forgotten node. So what is
    forgotten makes more entries stale than necessary, and never fewer.
    """

    def __init__(self, nodes_max: int, floor: int) -> None:
        self._nodes_max = nodes_max
        self._floor = floor
        self._versions: OrderedDict[str, int] = OrderedDict()
        """In the order of the versions."""

    def of(self, nodes: Iterable[str]) -> int:
        """Returns the position of the last change of these nodes."""
        latest, known = self._floor, self._versions
        for node in nodes:
            version = known.get(node)
            if version is not None and version > latest:
                latest = version
        return latest

    def advance(self, nodes: Iterable[str], position: int) -> None:
        """Notes that these nodes change now, at the highest position so far."""
        for node in nodes:
            self._versions[node] = position
            self._versions.move_to_end(node)
        while len(self._versions) > self._nodes_max:
            _, self._floor = self._versions.popitem(last=False)
