"""What the parts of one turn share."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.agent.account import TurnAccount
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.outbox import Emit, Offer
from precall_service.agent.transcript import TurnTranscript
from precall_service.agent.turn_speculation import TurnSpeculation
from precall_service.domain.turn import TurnSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnScope:
    """One turn: what was asked, where, with what, and the two ways to tell the client."""

    spec: TurnSpec
    context: TurnContext
    services: TurnServices
    transcript: TurnTranscript
    account: TurnAccount
    speculation: TurnSpeculation
    emit: Emit
    offer: Offer

    @property
    def who(self) -> str:
        """The turn, its conversation and its tenant, for the log."""
        return f"turn {self.spec.turn_id!r} of {self.context.who}"
