"""The time that a turn saved because handlers ran while the model still generated.

The calls of one step are answered at the same time. Their step is over once the last of them has
been answered, and without speculation it would have been over once the last of the runs, started
when the message ended, had answered.
"""

from __future__ import annotations

from precall_service.domain.events import ToolCallCompleted


class Overlap:
    """Adds up what speculation hid and saved. Times are in seconds."""

    def __init__(self) -> None:
        self.hidden_s = 0.0
        self.saved_s = 0.0
        self._launched_at: dict[str, float] = {}
        self._until: dict[str, float] = {}
        """When each run ended or its prediction was confirmed, whichever was first."""
        self._confirmed: set[str] = set()
        self._answered_at = 0.0
        self._would_be_at = 0.0
        """When the last call of the step would have been answered without speculation."""

    def launch(self, at: float, prediction_id: str) -> None:
        """Notes that a handler was started for a prediction."""
        self._launched_at[prediction_id] = at

    def end(self, at: float, prediction_id: str) -> None:
        """Notes that the handler ended, or that its prediction was confirmed."""
        self._until.setdefault(prediction_id, at)

    def answer(self, at: float, completed: ToolCallCompleted) -> None:
        """Notes that a call of the step was answered."""
        self._answered_at = max(self._answered_at, at)
        self._would_be_at = max(self._would_be_at, at + (completed.time_saved_s or 0.0))
        if completed.prediction_id in self._launched_at:
            self._confirmed.add(completed.prediction_id)

    def close_step(self) -> None:
        """Adds up the calls that were answered since the last step."""
        self.saved_s += self._would_be_at - self._answered_at
        self.hidden_s += self._length(
            sorted((self._launched_at.pop(each), self._until[each]) for each in self._confirmed)
        )
        self._confirmed.clear()
        self._answered_at = self._would_be_at = 0.0

    @staticmethod
    def _length(intervals: list[tuple[float, float]]) -> float:
        """Returns the length of the union of intervals, given in the order of their starts."""
        length, reached = 0.0, float("-inf")
        for start, end in intervals:
            length += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return length
