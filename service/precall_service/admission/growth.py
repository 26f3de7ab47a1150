"""Records how much turns grow, and so decides how much KV the share of a new turn has.

Growth is counted in tokens: the last prompt plus the last step, less the first prompt.

Owns: the growth of turns that the model has answered, by tenant and tool set. The record of one
    tenant is never consulted for another.
Never: waits, or reads a clock.
"""

from __future__ import annotations

import math
from collections import deque

from cachetools import LRUCache

WINDOW = 64
"""Turns remembered per key: enough for a quantile, and few enough to follow a change."""

TURNS_BEFORE_TRUST = 4
"""Turns that a key needs before its record replaces the safe first value."""

QUANTILE = 0.9
"""The fraction of turns that should stay within the expectation. The rest may cost a re-prefill."""

KEYS_MAX = 4096
"""Keys that are remembered; the least recently observed one is forgotten."""


class GrowthRecord:
    """The growth of earlier turns."""

    def __init__(self) -> None:
        self._grown: LRUCache[tuple[str, str], deque[int]] = LRUCache(KEYS_MAX)

    def expected(self, tenant: str, tool_set: str, *, safe: int) -> int:
        """The tokens by which such a turn is expected to grow, at most `safe`.

        The expectation comes from the tenant's turns with the same tools, else from all turns of
        the tenant, else it is `safe`: what the limits of the turn allow.
        """
        for key in ((tenant, tool_set), (tenant, "")):
            grown = self._grown.get(key)
            if grown is not None and len(grown) >= TURNS_BEFORE_TRUST:
                rank = math.ceil(QUANTILE * len(grown)) - 1
                return min(sorted(grown)[rank], safe)
        return safe

    def observe(self, tenant: str, tool_set: str, tokens: int) -> None:
        """Remembers that a turn was answered after it had grown by `tokens`.

        The caller leaves out turns that failed or were cut by a limit or a cancel: their growth
        does not tell where they would have ended.
        """
        for key in {(tenant, tool_set), (tenant, "")}:
            self._grown.setdefault(key, deque(maxlen=WINDOW)).append(tokens)
