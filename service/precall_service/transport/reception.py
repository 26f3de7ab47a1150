"""How what clients send is taken in: first messages by slots, then one message in each pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from precall_service.domain.clock import Clock
from precall_service.transport.decoding import Decoder
from precall_service.transport.first_messages import ArrivalLimits, FirstMessages
from precall_service.transport.intake import Intake


@dataclass(frozen=True, slots=True)
class Reception:
    """What calls share that are treated fairly among each other."""

    arrivals: FirstMessages
    intake: Intake
    decoder: Decoder

    @classmethod
    def of(cls, clock: Clock, limits: ArrivalLimits) -> Self:
        """Returns one with these limits on first messages."""
        intake = Intake()
        return cls(FirstMessages(clock, limits), intake, Decoder(intake))
