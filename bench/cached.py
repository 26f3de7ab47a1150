"""What the arms of the `cache` bench share: the tool, its arguments and results, and the caches."""

from __future__ import annotations

import hashlib
import json

from precall_service.cache.base import Origin
from precall_service.cache.cache import ToolCache
from precall_service.cache.memory import MemoryStore
from precall_service.cache.query import CacheQuery, cache_query
from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.tools import CacheScope, ToolDeclaration, ToolEffects
from precall_service.loop_clock import LoopClock
from precall_service.settings import CacheSection
from precall_service.tools.declarations import ToolProposal, declare
from tests.support.tools import tool_limits

TENANT, CONVERSATION = "tenant", "conversation-1"
TTL_S = 3600.0
RESULT_BYTES = 1024
READ = "file:{path}"
SETTINGS = CacheSection()


def proposal(*reads: str) -> ToolProposal:
    """A cacheable tool that declares these reads, as a client registers it."""
    return ToolProposal(
        name="search",
        version="1",
        effects=ToolEffects(read_only=True, reads=reads),
        timeout_s=20.0,
        cache_ttl_s=TTL_S,
        cache_scope=CacheScope.CONVERSATION,
    )


def declaration(*reads: str) -> ToolDeclaration:
    """A cacheable tool that declares these reads, as the service holds it."""
    return declare(proposal(*reads), tool_limits()).declaration


def arguments(number: int = 0, *, floats: bool = False, depth: int = 5) -> JsonObject:
    """The arguments of a call: about 1 KiB of JSON, with a path of this depth."""
    place: dict[str, JsonValue] = {"street": "Via dei Condotti", "number": 61, "country": "IT"}
    if floats:
        place |= {"latitude": 41.9058, "longitude": 12.4823, "precision": 0.0005}
    return {
        "path": path(number, depth),
        "query": "restaurants near the office that are open late and take a party of eight people",
        "limit": 50,
        "offset": number,
        "descending": True,
        "cursor": None,
        "place": place,
        "filters": [
            {"field": "cuisine", "any_of": ["italian", "japanese", "georgian"], "weight": 3},
            {"field": "price", "at_most": 45, "currency": "EUR", "with_tax": True},
            {"field": "open_until", "at_least": "23:30", "on": ["thu", "fri", "sat"]},
            {"field": "distance_m", "at_most": 1500, "on_foot": True, "avoid": ["ferry", "toll"]},
        ],
        "columns": ["name", "address", "rating", "price", "phone", "opening_hours", "distance"],
        "options": {
            "language": "en",
            "timeout_ms": 2500,
            "retries": 2,
            "explain": False,
            "session": "0b6e1f8c-5a0f-4c57-9b59-3f0a7b1d2c4e",
            "notes": "The party includes two children. One guest cannot eat nuts, so the answer"
            " should say which kitchens can guarantee that, and whether they want to be called.",
        },
    }


def path(number: int, depth: int) -> str:
    """A path with this number of levels, of which the last one is the number's own."""
    return "/" + "".join(f"folder{level}/" for level in range(depth - 1)) + f"file{number}"


def result(number: int = 0) -> str:
    """A result of 1 KiB that no other number has."""
    head = f"result {number} "
    return json.dumps(head + "x" * (RESULT_BYTES - len(head) - 2))


def query(tool: ToolDeclaration, of: JsonObject) -> CacheQuery:
    """The query of a call."""
    found = cache_query(TENANT, CONVERSATION, tool, of)
    assert found is not None
    return found


def plain_key(of: JsonObject) -> bytes:
    """The key of a call as a cache without canonical JSON may make it."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).digest()


def memory_cache() -> ToolCache:
    """An empty cache in memory, with the service's own settings."""
    store = MemoryStore(
        LoopClock(),
        bytes_max=SETTINGS.memory_bytes_max,
        nodes_max=SETTINGS.nodes_max,
        changes_max=SETTINGS.changes_max,
    )
    return ToolCache(store, SETTINGS.limits())


async def keep(cache: ToolCache, asked: CacheQuery, result_json: str) -> None:
    """Stores a result, as a turn does after a run."""
    lookup = await cache.find(asked)
    assert lookup is not None
    await cache.keep(
        asked,
        lookup.snapshot,
        result_json=result_json,
        content="",
        execution_id="0d9f6a0e5b6c4b6f8f6f0c1e2d3a4b5c",
        origin=Origin.COMMITTED,
        cost_s=0.5,
    )


async def hit(cache: ToolCache, tool: ToolDeclaration, of: JsonObject) -> str:
    """The stored result of a call, found from its arguments."""
    lookup = await cache.find(query(tool, of))
    assert lookup is not None
    assert lookup.entry is not None
    return lookup.entry.value.result_json
