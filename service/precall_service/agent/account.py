"""The account of a turn: the one record of what happened and when, for all observers.

The turn notes each happening once. The account adds the time and passes both to the observers: the
report, the spans, and the turn's speculation, which notes what happens to its predictions in turn.
Events for the client are sent separately and may be sent later, because a client may read slowly.

Owns: the times of a turn. Observers use these times and never read the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.clock import Clock
from precall_service.domain.events import (
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    ReasoningDelta,
    StepCompleted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnStarted,
)
from precall_service.domain.messages import Transcript
from precall_service.engine.base import Prompt, StepSpec
from precall_service.engine.drafts import VerifiedDraft

Piece = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta | ToolCallReady
"""An event that is sent to the client while a step is generated."""


@dataclass(frozen=True, slots=True)
class StepBegan:
    """The engine was asked to generate a step from this prompt, with these settings.

    The transcript is what the prompt says.
    """

    step: int
    prompt: Prompt
    spec: StepSpec
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Sampled:
    """The engine sampled these tokens, which completed these pieces.

    The step's prompt and all tokens sampled so far are exactly what the model has read, so a
    branch or a draft can start there at any moment. `asked_at` is when the turn had delivered what
    came before and asked for them: a client that reads slowly delays that.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[Piece, ...]
    asked_at: float


@dataclass(frozen=True, slots=True)
class DraftsVerified:
    """The engine verified this many tokens in the step that has just ended, and kept some.

    `drafts` tells of the drafts among what it verified.
    """

    proposed: int
    accepted: int
    drafts: tuple[VerifiedDraft, ...]


@dataclass(frozen=True, slots=True)
class DraftSaved:
    """A draft of the step that has just ended has saved this time, by an estimate.

    `prediction_id` names the prediction that was drafted; empty for the ends of calls.
    """

    prediction_id: str
    proposed: int
    accepted: int
    saved_s: float


@dataclass(frozen=True, slots=True)
class DraftsSaved:
    """All verified tokens of the step have saved this time, by an estimate.

    It is negative if they cost more than they saved. `drafts` has the parts that are due to drafts.
    """

    proposed: int
    accepted: int
    saved_s: float
    drafts: tuple[DraftSaved, ...]


@dataclass(frozen=True, slots=True)
class CallTaken:
    """A call of the finished step enters its path; ToolCallCompleted follows at the end."""

    call_id: str
    tool_name: str


Happening = (
    TurnStarted
    | StepBegan
    | Sampled
    | DraftsVerified
    | DraftsSaved
    | StepCompleted
    | CallTaken
    | ToolCallCompleted
    | PredictionProposed
    | PredictionLaunched
    | PredictionReady
    | PredictionConfirmed
    | PredictionDiscarded
    | TurnCompleted
)


class TurnObserver(Protocol):
    """Receives the happenings of one turn, in order."""

    def observe(self, at: float, happening: Happening) -> None:
        """Records a happening. Must not raise or wait: the turn continues when it returns.

        `at` is the time in seconds on the service's clock.
        """
        ...


class TurnAccount:
    """Passes every happening to every observer."""

    def __init__(self, clock: Clock, observers: Sequence[TurnObserver]) -> None:
        self._clock = clock
        self._observers = list(observers)

    def add(self, observer: TurnObserver) -> None:
        """Adds an observer of everything that happens from now on."""
        self._observers.append(observer)

    def note(self, happening: Happening) -> None:
        """Records that this happens now."""
        at = self._clock.now()
        for observer in self._observers:
            observer.observe(at, happening)

    def close(self) -> None:
        """Lets go of the observers, some of which refer to it: so none needs a collection."""
        self._observers.clear()
