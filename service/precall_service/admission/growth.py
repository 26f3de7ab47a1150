"""How much turns grow: the running record behind the KV share that a new turn is given.

Owns: growth in tokens (last prompt plus last step, less the first prompt) of ended turns, by tenant
    and tool set. A tenant's record is never consulted for another.
Never: waits, or reads a clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

WINDOW = 64
"""Turns that are remembered per key: enough for a quantile, and quick to follow a change."""

TURNS_BEFORE_TRUST = 4
"""Turns of a key before its record replaces the safe first value."""

QUANTILE = 0.9
"""Share of turns that should stay within what is expected. The rest costs a re-prefill at worst."""

KEYS_MAX = 4096
"""Keys that are remembered; the one used longest ago is forgotten."""


class GrowthRecord:
    """What turns like this one have grown by."""

    def __init__(self) -> None:
        self._grown: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def expected(self, tenant: str, tool_set: str, *, safe: int) -> int:
        """Tokens by which such a turn is expected to grow.

        The tenant's turns with the same tools decide, then all its turns, and before there are
        enough of either, `safe`. Never more than `safe`, which is what the limits of the turn
        allow.
        """
        for key in ((tenant, tool_set), (tenant, "")):
            grown = self._grown.get(key)
            if grown is not None and len(grown) >= TURNS_BEFORE_TRUST:
                rank = math.ceil(QUANTILE * len(grown)) - 1
                return min(sorted(grown)[rank], safe)
        return safe

    def observe(self, tenant: str, tool_set: str, tokens: int) -> None:
        """Remembers that a turn ended by itself after growing by `tokens`.

        One that was cut is not to be remembered: it says nothing of where it would have ended.
        """
        for key in {(tenant, tool_set), (tenant, "")}:
            grown = self._grown.setdefault(key, deque(maxlen=WINDOW))
            grown.append(tokens)
            self._grown.move_to_end(key)
        while len(self._grown) > KEYS_MAX:
            self._grown.popitem(last=False)
