"""The limits of conversations and turns."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.domain.turn import TurnLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Limits of conversations and their turns. `text_bytes_max` counts bytes of UTF-8.

    `bytes_max` bounds what all conversations hold in memory, as `HeldBytes` counts it.
    `events_max` and `events_bytes_max` bound the events that wait for a slow reader,
    `ended_turns_max` the endings that are kept to answer repeated turns.
    """

    conversations_max: int = 10_000
    conversations_per_tenant_max: int = 5_000
    bytes_max: int = 2 << 30
    bytes_per_tenant_max: int = 1 << 30
    messages_max: int = 1_000
    text_bytes_max: int = 1 << 20
    idle_expiry_s: float = 3600.0
    events_max: int = 256
    events_bytes_max: int = 4 << 20
    ended_turns_max: int = 32
    turn: TurnLimits
