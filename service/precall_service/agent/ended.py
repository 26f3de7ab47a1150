"""The endings of a conversation's last turns, so that a turn that is sent again starts nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cachetools import FIFOCache

from precall_service.agent import refusals
from precall_service.domain.events import TraceContext, TurnCompleted
from precall_service.domain.turn import TurnSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndedTurn:
    digest: str
    """Of what was asked, which may be a mebibyte long."""
    completed: TurnCompleted


class EndedTurns:
    """Remembers the last `turns_max` turns by their ids."""

    def __init__(self, turns_max: int) -> None:
        self._turns: FIFOCache[str, _EndedTurn] = FIFOCache(turns_max)

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._turns

    def add(self, spec: TurnSpec, completed: TurnCompleted) -> None:
        """Remembers how a turn ended, and forgets the oldest beyond the limit."""
        self._turns[spec.turn_id] = _EndedTurn(digest=_digest(spec), completed=completed)

    def ending_of(self, spec: TurnSpec) -> TurnCompleted | None:
        """How this turn ended; None for one that is not known.

        Raises:
            ServiceError: TURN_ID_REUSED, a turn of that id asked for something else.
        """
        ended = self._turns.get(spec.turn_id)
        if ended is None:
            return None
        if ended.digest != _digest(spec):
            raise refusals.turn_id_reused(spec.turn_id)
        return ended.completed


def same_turn(one: TurnSpec, other: TurnSpec) -> bool:
    """Whether two turns ask for the same; the parents of their spans do not count."""
    return replace(one, trace_context=TraceContext()) == replace(
        other, trace_context=TraceContext()
    )


def _digest(spec: TurnSpec) -> str:
    asked = replace(spec, trace_context=TraceContext())
    return hashlib.sha256(repr(asked).encode()).hexdigest()
