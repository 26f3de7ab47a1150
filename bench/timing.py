"""Times pieces of work in one process. They take turns, so a drift of the machine cancels out."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

Work = Callable[[], Awaitable[object]]


async def medians_s(arms: Mapping[str, Work], turns: int) -> dict[str, float]:
    """The median time of each arm's work, in seconds. The arms take turns.

    Each arm works once before that, to warm up. Garbage is collected between the arms, not in them.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        await work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(turns):
            for name, work in arms.items():
                began = time.perf_counter()
                await work()
                times[name].append(time.perf_counter() - began)
            gc.collect(0)
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in times.items()}
