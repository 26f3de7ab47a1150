"""A run of a handler that was started for a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from precall_service.cache.query import CacheQuery
from precall_service.speculation.ledger import Prediction
from precall_service.tools.run import Run
from precall_service.tools.toolset import RegisteredTool


@dataclass(slots=True, eq=False)
class EarlyRun:
    """A run of a handler for a prediction, and what must still hold when a call claims it."""

    prediction: Prediction
    run: Run
    tool: RegisteredTool
    query: CacheQuery
    snapshot: int
    committed_at: float = 0.0

    @property
    def saved_s(self) -> float:
        """How much longer the turn would have waited if the run had started with the claim."""
        if self.run.ended_at is None:
            return 0.0
        lead_s = self.committed_at - self.run.launched_at
        return max(0.0, min(lead_s, self.run.took_s))
