"""The time that a turn saved because the engine verified drafts instead of generating calls.

A step that verifies several tokens takes longer than one that generates a token. What is saved is
estimated from the turn itself: the time that the tokens would have taken one by one, at the pace of
those that came alone, less the time that they took.
"""

from __future__ import annotations


class DraftSavings:
    """Adds up what the drafts of one turn saved. Times are in seconds."""

    def __init__(self) -> None:
        self.proposed = 0
        self.accepted = 0
        self._alone_s = 0.0
        self._alone = 0
        self._together_s = 0.0
        self._together = 0
        self._step_s = 0.0
        self._step_tokens = 0
        self._sampled_at: float | None = None

    @property
    def saved_s(self) -> float:
        """The time saved so far; negative if the drafts cost more than they saved."""
        pace = self._alone_s / self._alone if self._alone else 0.0
        return self._together * pace - self._together_s if pace else 0.0

    def sample(self, at: float, tokens: int) -> None:
        """Notes that the engine returned this many tokens."""
        before, self._sampled_at = self._sampled_at, at
        if before is None:  # the first of a step: its time is that of the prompt
            return
        if tokens == 1:
            self._alone_s += at - before
            self._alone += 1
        else:
            self._step_s += at - before
            self._step_tokens += tokens

    def verify(self, proposed: int, accepted: int) -> None:
        """Notes that the step, which is over, had drafts."""
        self.proposed += proposed
        self.accepted += accepted
        self._together_s += self._step_s
        self._together += self._step_tokens

    def begin_step(self) -> None:
        """Notes that another step begins."""
        # Tokens that came together in a step without drafts had waited for their reader.
        self._step_s, self._step_tokens, self._sampled_at = 0.0, 0, None
