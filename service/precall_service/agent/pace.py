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
        self._drafted = False
        """Whether the latest step had drafts."""
        self._alone, self._beside = Pace(), Pace()
        """The pace of the current step, without branches of any turn beside it, and with them."""

    def observe(self, at: float, happening: Happening) -> None:
        """See `TurnObserver`."""
        if type(happening) is Sampled:  # the hot path: tested first, without `match`
            self._sample(at, happening)
            return
        match happening:
            case StepBegan():
                self._sampled_at = None
                self._alone, self._beside = Pace(), Pace()
            case DraftsVerified():
                self._drafted = True
            case StepCompleted():
                self._load.observe_step(self._alone, self._beside)
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
            self._admission.observe_tokens(seconds, tokens, speculating=branched or self._drafted)
            self._drafted = False
