"""The versions of the nodes of one tenant; their number is limited."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class NodeVersions:
    """The position of the last change to each node.

    Above `nodes_max` nodes, the one whose last change is the oldest is forgotten. A node without a
    version counts as changed at the floor: the last change to any forgotten node. So forgetting may
    make more entries stale than necessary, but never fewer.
    """

    def __init__(self, nodes_max: int, floor: int) -> None:
        self._nodes_max = nodes_max
        self._floor = floor
        self._versions: OrderedDict[str, int] = OrderedDict()
        """Ordered by version, the lowest first."""

    def of(self, nodes: Iterable[str]) -> int:
        """Returns the position of the last change to these nodes."""
        latest, known = self._floor, self._versions
        for node in nodes:
            version = known.get(node)
            if version is not None and version > latest:
                latest = version
        return latest

    def advance(self, nodes: Iterable[str], position: int) -> None:
        """Notes that these nodes change at this position, the highest so far."""
        for node in nodes:
            self._versions[node] = position
            self._versions.move_to_end(node)
        while len(self._versions) > self._nodes_max:
            _, self._floor = self._versions.popitem(last=False)
