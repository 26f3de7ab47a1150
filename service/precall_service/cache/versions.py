"""The versions of the nodes of one tenant; their number and size are limited."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

NODE_CHARS_MEAN: Final = 64
"""Nodes may have this many characters on average."""


class NodeVersions:
    """The position of the last change to each node.

    Above `nodes_max` nodes, or fewer long ones, the one whose last change is the oldest is
    forgotten. A node without a version counts as changed at the floor: the last change to any
    forgotten node. So forgetting may make more entries stale than necessary, but never fewer.
    """

    def __init__(self, nodes_max: int, floor: int) -> None:
        self._nodes_max = nodes_max
        self._chars_max = nodes_max * NODE_CHARS_MEAN
        self._chars = 0
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
            if node not in self._versions:
                self._chars += len(node)
            self._versions[node] = position
            self._versions.move_to_end(node)
        while len(self._versions) > self._nodes_max or self._chars > self._chars_max:
            node, self._floor = self._versions.popitem(last=False)
            self._chars -= len(node)
