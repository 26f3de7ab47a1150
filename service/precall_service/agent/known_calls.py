"""Finds the calls of a turn that the tool cache can answer now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from precall_service.cache.cache import ToolCache
from precall_service.cache.query import cache_query
from precall_service.domain.json import parse_object
from precall_service.speculation.base import Situation
from precall_service.speculation.predictors.cached import CachedCall

LOOK_UPS_MAX: Final = 8
"""The look-ups at one moment: those of the calls that were made most often."""


class KnownCalls:
    """See `speculation.predictors.cached.CachedCallsOf`."""

    def __init__(self, cache: ToolCache) -> None:
        self._cache = cache

    async def __call__(self, situation: Situation) -> Sequence[CachedCall]:
        """Returns the calls of this conversation and tenant that have a usable result."""
        recent = self._cache.recent.of(situation.tenant, situation.conversation_id)
        found: list[CachedCall] = []
        for key, uses in sorted(recent, key=lambda each: -each[1])[:LOOK_UPS_MAX]:
            tool = situation.tools.get(key.tool_name)
            if tool is None or tool.version != key.tool_version:
                continue
            query = cache_query(
                situation.tenant,
                situation.conversation_id,
                tool,
                parse_object(key.arguments_json),
            )
            lookup = None if query is None else await self._cache.find(query)
            if lookup is not None and lookup.entry is not None:
                found.append(
                    CachedCall(
                        tool_name=key.tool_name, arguments_json=key.arguments_json, uses=uses
                    )
                )
        return found
