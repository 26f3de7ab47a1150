"""How much time early runs of tools can save: the formulas of the paper (arXiv 2512.15834).

A turn of one call takes G to generate the call, and T to run its tool. A prediction is ready to run
after g, the time to predict, so its *lead* is G - g. It comes true with the probability alpha. All
times are in seconds; a time of a turn is meant per call.

    standard     G + T
    speculative  alpha * max(G - D, g + T) + (1 - alpha) * (G + T)
    saved        alpha * min(T + D, G + T - (g + T)) = alpha * min(T + D, G - g)

D is what verified drafts save of the generation if the prediction comes true: the time to generate
the tokens of the call, less that of one verification. Without drafts, it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times of one call: generation, prediction, tool, and what drafts save of the first."""

    generation_s: float
    prediction_s: float
    tool_s: float
    drafted_s: float = 0.0

    @property
    def lead_s(self) -> float:
        """How long before the model's call its prediction is there. Not negative."""
        return max(0.0, self.generation_s - self.prediction_s)

    @property
    def standard_s(self) -> float:
        """The time without speculation."""
        return self.generation_s + self.tool_s

    def speculative_s(self, acceptance: float) -> float:
        """Returns the expected time with speculation.

        A prediction that comes later than the call itself changes nothing.
        """
        early_s = max(self.generation_s - self.drafted_s, self.prediction_s + self.tool_s)
        hit_s = min(early_s, self.standard_s)
        return acceptance * hit_s + (1 - acceptance) * self.standard_s

    def saved_s(self, acceptance: float) -> float:
        """Returns the expected saving."""
        return acceptance * min(self.tool_s + self.drafted_s, self.lead_s)

    def saved_fraction(self, acceptance: float) -> float:
        """Returns the expected saving as a fraction of the time without speculation."""
        return self.saved_s(acceptance) / self.standard_s

    def speedup(self, acceptance: float) -> float:
        """Returns how many times as fast a call is with speculation."""
        return self.standard_s / self.speculative_s(acceptance)

    @property
    def speedup_bound(self) -> float:
        """What no acceptance can exceed without drafts: 2 - 2g / (G + g + T).

        That is less than 2 if g > 0.
        """
        total_s = self.generation_s + self.prediction_s + self.tool_s
        return 2.0 - 2.0 * self.prediction_s / total_s


def best_tool_s(generation_s: float, prediction_s: float) -> float:
    """Returns the time of a tool for which the saved fraction is greatest: the lead.

    Shorter tools have less to hide, and longer ones cannot be hidden as a whole. If the time to
    predict is short, this is about the time to generate: T = G.
    """
    return max(0.0, generation_s - prediction_s)
