"""The predictions of one turn, from their proposal to their one ending.

    PROPOSED ─┬▶ SKIPPED ──────────────────────────────┬▶ DISCARDED
              └▶ LAUNCHED ─┬▶ READY ──┬▶ CONFIRMED     │
                           │          └────────────────┤
                           └▶ FAILED ──────────────────┘

A run that still goes on can be confirmed as well. A skipped prediction stays open, because what the
model does shows whether it was right.

Owns: the states of predictions, and the events about them.
Never: decides what runs early, or runs anything.
Concurrency: synchronous.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from precall_service.domain.clock import Clock
from precall_service.domain.events import (
    DiscardReason,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
)
from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration

PredictionEvent = (
    PredictionProposed
    | PredictionLaunched
    | PredictionReady
    | PredictionConfirmed
    | PredictionDiscarded
)


class State(enum.Enum):
    """The state of a prediction."""

    PROPOSED = "proposed"
    SKIPPED = "skipped"
    LAUNCHED = "launched"
    READY = "ready"
    FAILED = "failed"
    CONFIRMED = "confirmed"
    DISCARDED = "discarded"


_WITH_RESULT = frozenset({State.LAUNCHED, State.READY})
_ENDED = frozenset({State.CONFIRMED, State.DISCARDED})


@dataclass(frozen=True, slots=True)
class CallKey:
    """What a prediction must have in common with a call: tool, version, canonical arguments."""

    tool_name: str
    tool_version: str
    arguments: str


@dataclass(slots=True, eq=False, kw_only=True)
class Prediction:
    """A call that the model is expected to make. Times are those of the service's clock.

    Attributes:
        step: The step in which the model is expected to make the call.
        reasoned: The number of tokens that the model had reasoned when the predictor was asked.
        asked_at: When the predictor was asked.
        skipped: Why it does not run early; UNSPECIFIED if it does.
        launched_at: When its handler was started; None if none was.
        over_at: When its handler ended.
        drafted: The number of tokens of the call that the engine verified as a draft.
        accepted: The number of those that were accepted.
        saved_by_draft_s: The time that this saved, by an estimate.
    """

    prediction_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    key: CallKey
    declaration: ToolDeclaration
    arguments: JsonObject
    predictor: Predictor
    confidence: float
    depth: int
    step: int
    parent: Prediction | None = None
    reasoned: int = 0
    asked_at: float = 0.0
    proposed_at: float
    state: State = State.PROPOSED
    skipped: DiscardReason = DiscardReason.UNSPECIFIED
    launched_at: float | None = None
    over_at: float | None = None
    result_json: str | None = None
    drafted: int = 0
    accepted: int = 0
    saved_by_draft_s: float = 0.0

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state not in _ENDED

    @property
    def usable(self) -> bool:
        """Whether its result is there, or a handler computes it."""
        return self.state in _WITH_RESULT

    def handler_s(self, now: float) -> float:
        """Returns how long its handler has run until now."""
        if self.launched_at is None:
            return 0.0
        return (now if self.over_at is None else self.over_at) - self.launched_at


class Ledger:
    """The predictions of one turn. `note` receives each event."""

    def __init__(self, clock: Clock, note: Callable[[PredictionEvent], None]) -> None:
        self._clock = clock
        self._note = note
        self._open: dict[Prediction, None] = {}
        self.proposed = 0
        """The number of predictions so far."""

    def open(self) -> Iterator[Prediction]:
        """Yields the predictions that have not ended, oldest first. They may end meanwhile."""
        yield from tuple(self._open)

    def same(self, key: CallKey, step: int) -> Iterator[Prediction]:
        """Yields the open predictions of this call in this step, oldest first."""
        for prediction in tuple(self._open):
            if prediction.step == step and prediction.key == key:
                yield prediction

    def propose(self, prediction: Prediction) -> None:
        """Adds a prediction."""
        self.proposed += 1
        self._open[prediction] = None
        self._note(
            PredictionProposed(
                prediction.prediction_id,
                prediction.key.tool_name,
                prediction.key.tool_version,
                prediction.key.arguments,
                prediction.predictor,
                prediction.confidence,
                prediction.depth,
            )
        )

    def skip(self, prediction: Prediction, reason: DiscardReason) -> None:
        """Notes that the prediction does not run early."""
        self._move(prediction, State.PROPOSED, to=State.SKIPPED)
        prediction.skipped = reason

    def launch(self, prediction: Prediction, invocation_id: str) -> None:
        """Notes that its handler was started."""
        self._move(prediction, State.PROPOSED, to=State.LAUNCHED)
        prediction.launched_at = self._clock.now()
        self._note(PredictionLaunched(prediction.prediction_id, invocation_id))

    def ready(self, prediction: Prediction, result_json: str) -> None:
        """Notes that its result is there, from its handler or from the cache."""
        self._move(prediction, State.PROPOSED, State.LAUNCHED, to=State.READY)
        now = self._clock.now()
        prediction.over_at = now
        prediction.result_json = result_json
        self._note(PredictionReady(prediction.prediction_id, prediction.handler_s(now)))

    def fail(self, prediction: Prediction) -> None:
        """Notes that its handler ended without a result. The caller then discards it."""
        self._move(prediction, State.LAUNCHED, to=State.FAILED)
        prediction.over_at = self._clock.now()

    def confirm(self, prediction: Prediction, call_id: str) -> None:
        """Ends a prediction whose result answers a call."""
        self._move(prediction, State.LAUNCHED, State.READY, to=State.CONFIRMED)
        lead_s = self._clock.now() - prediction.proposed_at
        self._note(
            PredictionConfirmed(
                prediction.prediction_id,
                call_id,
                lead_s,
                prediction.drafted,
                prediction.accepted,
                prediction.saved_by_draft_s,
            )
        )

    def discard(self, prediction: Prediction, reason: DiscardReason, *, call_id: str = "") -> None:
        """Ends a prediction whose result is not used. `call_id` is the call that it matched."""
        self._move(prediction, *(set(State) - _ENDED), to=State.DISCARDED)
        now = self._clock.now()
        wasted_s = prediction.handler_s(now)
        if prediction.over_at is None:
            prediction.over_at = now
        self._note(
            PredictionDiscarded(
                prediction.prediction_id,
                reason,
                wasted_s,
                call_id,
                prediction.drafted,
                prediction.accepted,
                prediction.saved_by_draft_s,
            )
        )

    def _move(self, prediction: Prediction, *states: State, to: State) -> None:
        if prediction.state not in states:
            raise ValueError(f"a {prediction.state.value} prediction cannot become {to.value}")
        prediction.state = to
        if to in _ENDED:
            del self._open[prediction]
