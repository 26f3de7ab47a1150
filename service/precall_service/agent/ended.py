"""The endings of a conversation's last turns, so that a turn that is sent twice runs only once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cachetools import FIFOCache

from precall_service.agent import refusals
from precall_service.agent.held_bytes import ending_size
from precall_service.domain.events import TraceContext, TurnCompleted
from precall_service.domain.turn import TurnSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndedTurn:
    digest: str
    """A hash of the spec, whose text may be a mebibyte long."""
    completed: TurnCompleted


class EndedTurns:
    """Remembers the endings of the last `turns_max` turns by turn id."""

    def __init__(self, turns_max: int) -> None:
        self._turns: FIFOCache[str, _EndedTurn] = FIFOCache(turns_max)

    @property
    def size(self) -> int:
        """The bytes of the endings."""
        return sum(ending_size(each.completed) for each in self._turns.values())

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._turns

    def add(self, spec: TurnSpec, completed: TurnCompleted) -> None:
        """Remembers how a turn ended; at the limit, forgets the oldest turn."""
        self._turns[spec.turn_id] = _EndedTurn(digest=_digest(spec), completed=completed)

    def ending_of(self, spec: TurnSpec) -> TurnCompleted | None:
        """Returns how this turn ended; None if it is not remembered.

        Raises:
            ServiceError: TURN_ID_REUSED if the id was used with another text or other settings.
        """
        ended = self._turns.get(spec.turn_id)
        if ended is None:
            return None
        if ended.digest != _digest(spec):
            raise refusals.turn_id_reused(spec.turn_id)
        return ended.completed


def same_turn(one: TurnSpec, other: TurnSpec) -> bool:
    """Returns whether two turns are the same except for their trace context."""
    return _untraced(one) == _untraced(other)


def _digest(spec: TurnSpec) -> str:
    return hashlib.sha256(repr(_untraced(spec)).encode()).hexdigest()


def _untraced(spec: TurnSpec) -> TurnSpec:
    return replace(spec, trace_context=TraceContext())
