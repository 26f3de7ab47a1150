"""Estimates the time that a turn saved because the engine verified drafts.

A step of the engine that verifies several tokens takes longer than one that generates a token. What
is saved is estimated from the turn itself: the time that the tokens would have taken one by one, at
the pace of those that came alone until then, less the time that they took. Each draft has the part
that its accepted tokens are of all accepted tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from precall_service.agent.account import (
    DraftSaved,
    DraftsSaved,
    DraftsVerified,
    Happening,
    Sampled,
    StepBegan,
)
from precall_service.agent.engine_load import Pace


class DraftSavings:
    """Observes one turn. `note` receives what each step saved. Times are in seconds."""

    def __init__(self, note: Callable[[DraftsSaved], None]) -> None:
        self._note = note
        self._alone, self._together = Pace(), Pace()
        self._sampled_at: float | None = None

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            self._sample(at, len(happening.token_ids))
            return
        match happening:
            case StepBegan():
                # Tokens that came together in a step without drafts had waited for their reader.
                self._together, self._sampled_at = Pace(), None
            case DraftsVerified():
                self._note(self._saved(happening))
            case _:
                pass

    def _sample(self, at: float, tokens: int) -> None:
        before, self._sampled_at = self._sampled_at, at
        if before is None:  # the first of a step: its time is that of the prompt
            return
        (self._alone if tokens == 1 else self._together).add(at - before, tokens)

    def _saved(self, verified: DraftsVerified) -> DraftsSaved:
        saved_s = 0.0
        alone, together = self._alone, self._together
        if alone.tokens and verified.accepted:
            saved_s = together.tokens * alone.seconds / alone.tokens - together.seconds
        return DraftsSaved(
            verified.proposed,
            verified.accepted,
            saved_s,
            tuple(
                DraftSaved(
                    "" if each.draft is None else each.draft.draft_id,
                    each.proposed_tokens,
                    each.accepted_tokens,
                    saved_s * each.accepted_tokens / max(1, verified.accepted),
                )
                for each in verified.drafts
            ),
        )
