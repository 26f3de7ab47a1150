"""How far speculation goes: what the operator allows, narrowed by what a client asks for."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from precall_service.domain.events import Predictor

PREDICTORS = frozenset(Predictor) - {Predictor.UNSPECIFIED, Predictor.DRAFT_MODEL}
"""The predictors that need no other model."""


class SpeculationMode(enum.Enum):
    """What is done with predictions. The values are those of the wire contract, and grow with it.

    OFF: there are none. SHADOW: they are scored, but nothing runs early. ISSUE: they run early if
    the policy allows.
    """

    OFF = 1
    SHADOW = 2
    ISSUE = 3

    def at_most(self, other: SpeculationMode) -> SpeculationMode:
        """Returns the narrower of the two modes."""
        return min(self, other, key=lambda mode: mode.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationRequest:
    """What a client asks for.

    None, no predictors, and a depth of 0 leave the choice to the server.
    """

    mode: SpeculationMode | None = None
    predictors: frozenset[Predictor] = frozenset()
    max_depth: int = 0
    verify_drafts: bool | None = None
    send_events: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSettings:
    """The speculation of one conversation, or the most that an operator allows.

    Attributes:
        max_depth: How many calls ahead of the model predictions may run; 1 is its next call.
        verify_drafts: Whether predicted calls are verified in the engine, if it can do that.
        send_events: Whether the client is sent the events of predictions.
    """

    mode: SpeculationMode = SpeculationMode.ISSUE
    predictors: frozenset[Predictor] = PREDICTORS
    max_depth: int = 2
    verify_drafts: bool = True
    send_events: bool = False

    def narrowed(self, asked: SpeculationRequest) -> SpeculationSettings:
        """Returns what a client is granted. Without predictors in common, it is nothing."""
        common = self.predictors & asked.predictors if asked.predictors else self.predictors
        mode = self.mode if asked.mode is None else self.mode.at_most(asked.mode)
        depth = min(asked.max_depth, self.max_depth) if asked.max_depth else self.max_depth
        return SpeculationSettings(
            mode=mode if common else SpeculationMode.OFF,
            predictors=common,
            max_depth=depth,
            verify_drafts=self.verify_drafts and asked.verify_drafts is not False,
            send_events=asked.send_events,
        )
