"""What branches of the model were worth, by the place in the reasoning where they began.

A branch from the middle of the reasoning is right more often than one from its start, but it comes
later, and what it finds has often been found before. How this adds up depends on the model and the
tools. So a branch is judged by what it *won*: whether it was the first to propose a call that the
model then made. What drafts saved is counted apart, because a call that is wrong in its last
argument is still right in most of its tokens.

Never: reads a clock. Durations are in seconds.
"""

from __future__ import annotations

import bisect
from typing import Final

from precall_service.speculation.estimates import DECAY, PRIOR_WEIGHT, Durations

PLACES: Final = (
    *(0, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512),
    *(640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096),
)
"""The numbers of reasoning tokens after which a step may be forked."""
WINS_FIRST: Final = 0.5
WINS_LATER: Final = 0.2
"""The fractions of branches that are taken to win at the start and later, before anything is known.
With the embedded model, half of them did at the start, and 2 to 7 of 100 at each later place."""
SAVES_FIRST_S: Final = 0.5
SAVES_LATER_S: Final = 0.0
"""What the drafts of a branch's calls are taken to save at the start and later, before anything is
known. A later branch mostly finds what was drafted before."""


def place_of(reasoned: int) -> int:
    """Returns the index of the latest place that so many reasoning tokens reach."""
    return bisect.bisect_right(PLACES, reasoned) - 1


class Place:
    """The branches that began at one place."""

    def __init__(self, prior: Place | None, *, first: bool) -> None:
        """`prior` are the branches of all tools; `first` says that this is the start of a step."""
        self._prior = prior
        self._wins = WINS_FIRST if first else WINS_LATER
        self._saves_s = SAVES_FIRST_S if first else SAVES_LATER_S
        self._begun = 0.0
        self._won = 0.0
        self._saved_s = 0.0
        self._takes = Durations()
        self._leads = Durations()

    @property
    def win_rate(self) -> float:
        """The fraction of branches that win."""
        prior = self._wins if self._prior is None else self._prior.win_rate
        return self._per_branch(self._won, prior)

    @property
    def draft_saves_s(self) -> float:
        """What the drafts of a branch's calls save, in the mean of all branches, right or wrong."""
        prior_s = self._saves_s if self._prior is None else self._prior.draft_saves_s
        return self._per_branch(self._saved_s, prior_s)

    @property
    def takes_s(self) -> float:
        """How long a branch takes to propose a call."""
        if self._prior is None or self._takes.known:
            return self._takes.typical_s
        return self._prior.takes_s

    @property
    def lead_s(self) -> float:
        """The time from a proposal to the end of the model's message."""
        if self._prior is None or self._leads.known:
            return self._leads.typical_s
        return self._prior.lead_s

    def begin(self) -> None:
        """Notes that a branch began."""
        self._begun = DECAY * self._begun + 1.0
        self._won *= DECAY
        self._saved_s *= DECAY
        if self._prior is not None:
            self._prior.begin()

    def propose(self, takes_s: float, lead_s: float) -> None:
        """Notes when a branch proposed a call."""
        self._takes.observe(takes_s)
        self._leads.observe(lead_s)
        if self._prior is not None:
            self._prior.propose(takes_s, lead_s)

    def save(self, seconds: float) -> None:
        """Notes what the draft of a call saved that a branch had proposed."""
        self._saved_s += seconds
        if self._prior is not None:
            self._prior.save(seconds)

    def win(self) -> None:
        """Notes that a branch has won."""
        self._won += 1.0
        if self._prior is not None:
            self._prior.win()

    def _per_branch(self, total: float, prior: float) -> float:
        return (total + PRIOR_WEIGHT * prior) / (self._begun + PRIOR_WEIGHT)


class Places:
    """The branches that began at each of the places."""

    def __init__(self, prior: Places | None = None) -> None:
        """`prior` are the branches of all tools."""
        self._prior = prior
        self._places: dict[int, Place] = {}

    def at(self, reasoned: int) -> Place:
        """Returns the latest place that a step with so many reasoning tokens has reached."""
        index = place_of(reasoned)
        place = self._places.get(index)
        if place is None:
            prior = None if self._prior is None else self._prior.at(reasoned)
            place = self._places[index] = Place(prior, first=index == 0)
        return place
