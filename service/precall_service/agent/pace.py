"""Observes how fast the steps of one turn are generated, for what depends on the engine's load.

Owns: the pace of the current step.
Never: decides anything by it: the admission and the load watch do.
"""

from __future__ import annotations

from precall_service.admission import Admission
from precall_service.agent.account import DraftsVerified, Happening, Sampled, StepBegan
from precall_service.agent.engine_load import Pace
from precall_service.agent.speculation import Speculation
from precall_service.domain.events import StepCompleted


class _Tokens:
    """The tokens that a step has sampled so far, with or without branches beside it."""

    def __init__(self) -> None:
        self._one_by_one, self._together = Pace(), Pace()

    def add(self, seconds: float, tokens: int) -> None:
        """Adds tokens that came at once, after this time."""
        (self._one_by_one if tokens == 1 else self._together).add(seconds, tokens)

    def pace(self, *, drafts: bool) -> Pace:
        """Returns how fast the engine samples a token.

        Tokens that came at once tell nothing of that if the step had drafts: they were verified.
        In other steps they had waited for their reader.
        """
        one_by_one, together = self._one_by_one, self._together
        if drafts:
            return one_by_one
        return Pace(one_by_one.seconds + together.seconds, one_by_one.tokens + together.tokens)


class TurnPace:
    """Observes one turn. Times are in seconds.

    The first token of a step does not count, since its time is that of the prompt. Tokens do not
    count either if the turn was kept from asking for them by a client that reads slowly.
    """

    def __init__(self, admission: Admission, speculation: Speculation) -> None:
        self._admission = admission
        self._load = speculation.load
        self._branches = speculation.branches
        self._sampled_at: float | None = None
        self._drafts = False
        """Whether the current step had drafts: told at its end."""
        self._untold_drafts = False
        """Whether the admission has not been told yet that there were drafts."""
        self._alone, self._beside = _Tokens(), _Tokens()
        """Those of the current step, without branches of any turn beside it, and with them."""

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            self._sample(at, happening)
            return
        match happening:
            case StepBegan():
                self._sampled_at = None
                self._drafts = False
                self._alone, self._beside = _Tokens(), _Tokens()
            case DraftsVerified():
                self._drafts = self._untold_drafts = True
            case StepCompleted():
                alone, beside = (
                    tokens.pace(drafts=self._drafts) for tokens in (self._alone, self._beside)
                )
                self._load.observe_step(alone, beside)
            case _:
                pass

    def _sample(self, at: float, sampled: Sampled) -> None:
        before, self._sampled_at = self._sampled_at, at
        if before is None or sampled.asked_at - before > at - sampled.asked_at:
            return
        # A backend that does not tell its tokens sends about one at a time.
        seconds, tokens = at - before, len(sampled.token_ids) or 1
        branched = self._branches.running > 0
        (self._beside if branched else self._alone).add(seconds, tokens)
        if self._admission.measures:
            speculating = branched or self._untold_drafts
            self._admission.observe_tokens(seconds, tokens, speculating=speculating)
            self._untold_drafts = False
