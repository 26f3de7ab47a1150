"""The times of a step as the service sees them: until the model calls, and while it writes calls.

Owns: the recorder, which runs in the service's process, and the values that the bench reads.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self, cast

from bench.process import Child
from precall_service.agent.account import Happening, Sampled, StepBegan, TurnAccount
from precall_service.domain.events import (
    ReasoningDelta,
    StepCompleted,
    TextDelta,
    ToolCallReady,
)
from precall_service.domain.json import JsonObject, JsonValue

VERIFIED_TOKENS_MIN = 8
"""So many tokens at once were a draft."""
STEPS_MAX = 64
"""The most steps that are kept until the bench asks for them."""


@dataclass(slots=True, kw_only=True)
class StepTimes:
    """One step. Times are in seconds, on a clock of the service."""

    began_at: float
    ended_at: float = 0.0
    first_at: float = 0.0
    """The first token came."""
    thought_at: float = 0.0
    """The last text or reasoning came; what follows are the calls and their marks."""
    thought_tokens: int = 0
    """The tokens until then."""
    tokens: int = 0
    calls: int = 0
    verified_s: list[float] = field(default_factory=list[float])
    """The times of the engine's steps that verified drafts."""
    _sampled_at: float = 0.0

    @classmethod
    def read(cls, found: JsonValue) -> Self:
        """Returns the step that the service has recorded."""
        return cls(**cast(Any, found))

    @property
    def thought_s(self) -> float:
        """The time until the model begins to call, or the whole step if it does not."""
        return (self.thought_at if self.calls else self.ended_at) - self.began_at

    @property
    def calls_s(self) -> float:
        """The time in which the calls are written."""
        return self.ended_at - self.thought_at if self.calls else 0.0

    @property
    def call_tokens(self) -> int:
        """The tokens of the calls and their marks."""
        return self.tokens - self.thought_tokens if self.calls else 0

    def sample(self, now: float, sampled: Sampled) -> None:
        """Notes that tokens came."""
        before, self._sampled_at = self._sampled_at, now
        self.tokens += len(sampled.token_ids)
        self.first_at = self.first_at or now
        if before and len(sampled.token_ids) >= VERIFIED_TOKENS_MIN:
            self.verified_s.append(now - before)
        kinds = {type(piece) for piece in sampled.pieces}
        self.calls += sum(type(piece) is ToolCallReady for piece in sampled.pieces)
        if not self.thought_at or (kinds and kinds <= {ReasoningDelta, TextDelta}):
            self.thought_at, self.thought_tokens = now, self.tokens


class StepRecorder:
    """Records the steps of the service, one turn at a time."""

    def __init__(self) -> None:
        self._steps: deque[StepTimes] = deque(maxlen=STEPS_MAX)
        self._current: StepTimes | None = None
        note, recorder = TurnAccount.note, self

        def noted(self: TurnAccount, happening: Happening) -> None:
            recorder.note(happening)
            note(self, happening)

        TurnAccount.note = noted

    def note(self, happening: Happening) -> None:
        """Records a happening."""
        now, current = time.perf_counter(), self._current
        match happening:
            case StepBegan():
                self._current = StepTimes(began_at=now)
            case Sampled() if current is not None:
                current.sample(now, happening)
            case StepCompleted() if current is not None:
                current.ended_at = now
                self._steps.append(current)
                self._current = None
            case _:
                pass

    async def take(self, _fields: JsonObject) -> JsonObject:
        """Returns the steps that have ended since the last time."""
        steps: list[JsonValue] = [asdict(step) for step in self._steps]
        self._steps.clear()
        return {"steps": steps}


async def steps_of(server: Child) -> list[StepTimes]:
    """Returns the steps of the turn that has just ended."""
    answer = await server.ask("steps")
    return [StepTimes.read(step) for step in cast("list[JsonValue]", answer["steps"])]


def verification_s(steps: Iterable[StepTimes]) -> float:
    """Returns the time in which the engine verifies a draft; 0 if it has verified none."""
    found = [seconds for step in steps for seconds in step.verified_s]
    return statistics.median(found) if found else 0.0
