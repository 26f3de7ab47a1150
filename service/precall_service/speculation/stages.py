"""The stage of one predictor for one tool: promoted and demoted by the measured value.

A predictor starts in ISSUE, where its predictions are run early if each of them is worth it. If
what they saved is worth less than what they wasted, it is demoted to SHADOW: its predictions are
only scored, by what they would have saved and wasted. Once that is worth it, it is promoted again.
If it predicts nothing right in SHADOW, it is turned OFF for some time.
"""

from __future__ import annotations

from typing import Final

from precall_service.domain.speculation import SpeculationMode

DECAY: Final = 0.95
"""What each verdict leaves of the earlier ones' value: half of it after 14."""
DEMOTED_AFTER: Final = 8
PROMOTED_AFTER: Final = 16
OFF_AFTER: Final = 64
"""The number of verdicts before the stage may change."""
OFF_CALLS: Final = 256
"""The calls of the tool after which a predictor that is OFF is tried again, in SHADOW."""


class Stage:
    """What is done with the predictions of one predictor for one tool."""

    def __init__(self) -> None:
        self.mode = SpeculationMode.ISSUE
        self._verdicts = 0
        self._value_s = 0.0
        self._matched = False
        self._calls = 0

    def judge(self, saved_s: float, wasted_s: float, *, weight: float, matched: bool) -> None:
        """Takes the verdict on a prediction: what it saved and wasted, or would have in SHADOW."""
        self._verdicts += 1
        self._value_s = DECAY * self._value_s + saved_s - weight * wasted_s
        self._matched = self._matched or matched
        if self.mode is SpeculationMode.ISSUE:
            if self._verdicts >= DEMOTED_AFTER and self._value_s < 0:
                self._become(SpeculationMode.SHADOW)
        elif self._verdicts >= PROMOTED_AFTER and self._value_s > 0:
            self._become(SpeculationMode.ISSUE)
        elif self._verdicts >= OFF_AFTER and not self._matched:
            self._become(SpeculationMode.OFF)

    def count_call(self) -> None:
        """Notes that the model called the tool."""
        if self.mode is SpeculationMode.OFF:
            self._calls += 1
            if self._calls >= OFF_CALLS:
                self._become(SpeculationMode.SHADOW)

    def _become(self, mode: SpeculationMode) -> None:
        self.mode = mode
        self._verdicts, self._value_s, self._matched, self._calls = 0, 0.0, False, 0
