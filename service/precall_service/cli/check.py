"""What a check of `precall doctor` found."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial


class Verdict(enum.Enum):
    """What a finding means for `precall serve`."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `remedy` is empty if there is nothing to do."""

    verdict: Verdict
    finding: str
    remedy: str = ""
    details: tuple[str, ...] = ()


good = partial(Check, Verdict.GOOD)
doubtful = partial(Check, Verdict.DOUBTFUL)
bad = partial(Check, Verdict.BAD)
