"""Records how much turns grow, and so decides how much KV the share of a new turn has.

Growth is counted in tokens: the last prompt plus the last step, less the first prompt.

What is expected comes from what is likely, and not from the worst: too small a guess costs a
re-prefill, since the engine recomputes what it had to evict, and each step corrects the share. Too
large a guess leaves slots empty for the whole turn.

Owns: the growth of turns, by tenant and tool set. What one tenant's turns grew by is never
    consulted for another, but for one number of the whole server: the median over tenants, and only
    of so many that no single one decides it.
Never: waits, or reads a clock.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

from cachetools import LRUCache

PRIOR: Final = 1024
"""What a turn is expected to grow by before anything is known: an answer of some hundred tokens,
and a few calls with their results. Four turns of the tenant, or the records of four other tenants,
replace it."""

WINDOW: Final = 64
"""Turns remembered per key: enough for a quantile, and few enough to follow a change."""

TURNS_BEFORE_TRUST: Final = 4
"""Turns that a key needs before its record stands alone."""

TENANTS_BEFORE_TRUST: Final = 4
"""Tenants with such a record that the server needs before their median replaces the prior."""

TENANTS_MAX: Final = 64
"""Tenants whose records the median is taken over: those with the latest turns."""

QUANTILE: Final = 0.9
"""The fraction of turns that should stay within the expectation. The rest may cost a re-prefill."""

KEYS_MAX: Final = 4096
"""Keys that are remembered; the least recently observed one is forgotten."""


class GrowthRecord:
    """The growth of earlier turns."""

    def __init__(self) -> None:
        self._grown: LRUCache[tuple[str, str], deque[int]] = LRUCache(KEYS_MAX)
        self._tenants: LRUCache[str, int] = LRUCache(TENANTS_MAX)
        """What is expected of the turns of each tenant that has a record."""

    def expected(self, tenant: str, tool_set: str, *, safe: int) -> int:
        """The tokens by which such a turn is expected to grow, at most `safe`.

        `safe` is what the limits of the turn allow. The expectation comes from the tenant's turns
        with the same tools, else from all turns of the tenant, else from the whole server, else it
        is the prior. Of the last two, the tenant's own few turns may only make more.
        """
        for key in ((tenant, tool_set), (tenant, "")):
            grown = self._grown.get(key)
            if grown is not None and len(grown) >= TURNS_BEFORE_TRUST:
                return min(_quantile(grown), safe)
        return min(max(self._of_the_server(), *self._grown.get((tenant, ""), ()), 0), safe)

    def observe(self, tenant: str, tool_set: str, tokens: int) -> None:
        """Remembers that a turn grew by `tokens`.

        Turns that failed or were cut tell how far they came, but not where they would have ended:
        the caller leaves them out unless they came further than was expected.
        """
        for key in {(tenant, tool_set), (tenant, "")}:
            self._grown.setdefault(key, deque(maxlen=WINDOW)).append(tokens)
        grown = self._grown[tenant, ""]
        if len(grown) >= TURNS_BEFORE_TRUST:
            self._tenants[tenant] = _quantile(grown)

    def _of_the_server(self) -> int:
        if len(self._tenants) < TENANTS_BEFORE_TRUST:
            return PRIOR
        return statistics.median_low(self._tenants.values())


def _quantile(grown: deque[int]) -> int:
    rank = math.ceil(QUANTILE * len(grown)) - 1
    return sorted(grown)[rank]
