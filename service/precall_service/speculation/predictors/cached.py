"""P0: a call whose result the tool cache holds. Its result is ready at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from precall_service.domain.events import Predictor
from precall_service.domain.json import JsonError, canonical
from precall_service.speculation.base import Moment, PastCall, Proposal, Situation

PROPOSALS_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedCall:
    """A call with a usable result in the cache. `uses` is how often it was made or stored."""

    tool_name: str
    arguments_json: str
    uses: int


CachedCallsOf = Callable[[Situation], Awaitable[Sequence[CachedCall]]]
"""Returns the calls that the cache can answer now, the most recent one first; bounded."""


class CachePredictor:
    """Proposes the calls that were made most often, among those that the cache can answer."""

    name = Predictor.CACHE
    moments = frozenset({Moment.STEP_BEGAN})

    def __init__(self, cached_calls: CachedCallsOf) -> None:
        self._cached_calls = cached_calls

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`. A call that the turn has made already is not proposed again."""
        made = set(map(_key, situation.calls))
        found = [
            call
            for call in await self._cached_calls(situation)
            if call.tool_name in situation.tools
            and (call.tool_name, call.arguments_json) not in made
        ]
        uses = sum(call.uses for call in found)
        best = sorted(found, key=lambda call: -call.uses)[:PROPOSALS_MAX]
        for call in best:  # two uses more, for the calls that were never made before
            yield Proposal(
                tool_name=call.tool_name,
                arguments_json=call.arguments_json,
                confidence=call.uses / (uses + 2),
            )


def _key(call: PastCall) -> tuple[str, str]:
    try:
        return call.tool_name, canonical(call.arguments).decode()
    except JsonError:
        return call.tool_name, ""
