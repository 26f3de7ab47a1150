"""The account of a turn: what happens in it and when, in one place for everything that observes it.

The turn notes each happening once. The account adds the time and hands both to the observers: the
report and the spans today, metrics and predictors later. What the client is told is sent apart from
this, and may come later: a client can be slow to read.

Owns: the times of a turn. Observers take them from here and never read the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from precall_service.domain.clock import Clock
from precall_service.domain.events import (
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
from precall_service.engine.base import Prompt, StepSpec

Piece = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta | ToolCallReady
"""What the client is told while a step is generated."""


@dataclass(frozen=True, slots=True)
class StepBegan:
    """The engine was asked for a step: from this prompt, in this way."""

    step: int
    prompt: Prompt
    spec: StepSpec


@dataclass(frozen=True, slots=True)
class Sampled:
    """The engine sampled these tokens, which completed these pieces.

    The prompt of the step and the tokens of all that was sampled so far are what the model has
    read: a branch or a draft can start from them at any moment.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class CallTaken:
    """A call of the finished step is on its way to its ending, which ToolCallCompleted tells."""

    call_id: str
    tool_name: str


Happening = (
    TurnStarted
    | StepBegan
    | Sampled
    | StepCompleted
    | CallTaken
    | ToolCallCompleted
    | TurnCompleted
)


class TurnObserver(Protocol):
    """Is shown what happens in one turn, in order."""

    def observe(self, at: float, happening: Happening) -> None:
        """Takes note of it. Never raises and never waits: the turn goes on when it returns.

        `at` is the time in seconds on the service's clock.
        """
        ...


class TurnAccount:
    """Shows every observer everything that happens."""

    def __init__(self, clock: Clock, observers: Sequence[TurnObserver]) -> None:
        self._clock = clock
        self._observers = tuple(observers)

    def note(self, happening: Happening) -> None:
        """This happens now."""
        at = self._clock.now()
        for observer in self._observers:
            observer.observe(at, happening)
