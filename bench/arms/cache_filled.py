"""A cache in memory that is filled with entries, to see how much memory they take."""

from __future__ import annotations

import gc

from bench import cached
from bench.process import Link, run_child
from precall_service.cache.table import ENTRY_BYTES
from precall_service.domain.json import JsonObject


async def main(_config: JsonObject, link: Link) -> None:
    """Fills the cache when the bench asks for it."""
    cache = cached.memory_cache()

    async def fill(fields: JsonObject) -> JsonObject:
        """Adds entries; returns the bytes that count, the entries' own, and their results'."""
        entries, reads = int(str(fields["entries"])), (cached.READ,) if fields["reads"] else ()
        tool = cached.declaration(*reads)
        for number in range(entries):
            asked = cached.query(tool, cached.arguments(number))
            await cached.keep(cache, asked, cached.result(number))
        gc.collect()
        stats = await cache.stats(cached.TENANT)
        assert stats.entries == entries, f"{entries - stats.entries} entries were dropped"
        return {
            "bytes": stats.bytes,
            "own": stats.bytes - entries * ENTRY_BYTES,
            "results": entries * cached.RESULT_BYTES,
        }

    # What the first call imports and compiles is not memory of the entries.
    warm = cached.memory_cache()
    await cached.keep(warm, cached.query(cached.declaration(), {}), cached.result())
    gc.collect()
    await link.answer({}, {"fill": fill})


if __name__ == "__main__":
    run_child(main)
