"""Where the time of a turn goes."""

from __future__ import annotations

from precall_service.domain.clock import Clock
from precall_service.domain.turn import TokenUsage, TurnReport


class Stopwatch:
    """Takes the times of one turn, as it happens, and sums them up into its report."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._received_at = clock.now()
        self._queue_s = 0.0
        self._first_token_at: float | None = None
        self._generation_s = 0.0
        self._tool_s = 0.0
        self._continuation_s = 0.0
        self._step_began_at: float | None = None
        self._tools_began_at: float | None = None
        self._results_at: float | None = None
        self._steps = 0
        self._tool_calls = 0
        self._usage = TokenUsage()

    def admitted(self) -> float:
        """The turn may start; returns how long it waited, in seconds."""
        self._queue_s = self._clock.now() - self._received_at
        return self._queue_s

    def step_began(self) -> None:
        """A generation starts."""
        self._steps += 1
        self._step_began_at = self._clock.now()

    def first_piece(self) -> None:
        """The step's first text, reasoning or call has come."""
        now = self._clock.now()
        if self._first_token_at is None:
            self._first_token_at = now
        if self._results_at is not None:
            self._continuation_s += now - self._results_at
            self._results_at = None

    def step_ended(self, usage: TokenUsage) -> None:
        """The generation is over."""
        self._usage += usage
        self._end_generation()

    def tools_began(self, calls: int) -> None:
        """The turn waits for its tools."""
        self._tool_calls += calls
        self._tools_began_at = self._clock.now()

    def tools_ended(self) -> None:
        """Every result is there."""
        self._end_tools()
        self._results_at = self._clock.now()

    def report(self) -> TurnReport:
        """The report of the turn, which ends now."""
        self._end_generation()
        self._end_tools()
        first = self._first_token_at
        return TurnReport(
            wall_s=self._clock.now() - self._received_at,
            queue_s=self._queue_s,
            time_to_first_token_s=None if first is None else first - self._received_at,
            generation_s=self._generation_s,
            tool_exposed_s=self._tool_s,
            continuation_s=self._continuation_s,
            steps=self._steps,
            tool_calls=self._tool_calls,
            usage=self._usage,
        )

    def _end_generation(self) -> None:
        if self._step_began_at is not None:
            self._generation_s += self._clock.now() - self._step_began_at
            self._step_began_at = None

    def _end_tools(self) -> None:
        if self._tools_began_at is not None:
            self._tool_s += self._clock.now() - self._tools_began_at
            self._tools_began_at = None
