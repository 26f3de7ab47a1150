"""P3: a branch of the same model on the same tokens, told to skip the rest of its reasoning.

The branch needs no second model and finds its prefix in the KV cache (SPORK, arXiv 2607.03333). Its
confidence comes from the probability that the model gave to the tokens of the call. A guess from
the middle of the reasoning is better than one from its start, but comes later: the step is forked
at its start, and again later if the model was not sure.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container
from contextlib import aclosing
from typing import Final

from precall_service.domain.events import Predictor
from precall_service.speculation.base import Candidate, Moment, Proposal, Situation

CALLS_MAX: Final = 4
"""The calls of one branch: a message may make several."""
SAMPLES: Final = 2
"""Further branches, where the first choice was close."""

STABILITY: Final = 0.2
"""The power of the probability that is the confidence of a first choice. A probability is a product
over all tokens, but the first choice takes the likeliest token each time, and reasoning seldom
changes which one that is. The power was fitted on BFCL with the embedded model. What is right for
other models is learned by the policy."""
CLOSE: Final = 0.15
"""The confidence below which others than the first choice are sampled."""


class Fork:
    """Proposes the calls that branches write.

    `close` is the confidence below which the first choice counts as close, so that others are
    sampled. `sure` is the confidence from which a step is not forked again.
    """

    name = Predictor.FORK
    moments = frozenset({Moment.STEP_BEGAN, Moment.REASONED})

    def __init__(self, *, close: float = CLOSE, sure: float = 0.9) -> None:
        self._close = close
        self._sure = sure

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`."""
        branch = situation.branch
        if branch is None or situation.confidence >= self._sure:
            return
        new = _New(situation.tools)
        close = False
        async with aclosing(new.of(branch(0.0, CALLS_MAX), STABILITY)) as first:
            async for proposal in first:
                close = close or (new.count == 1 and proposal.confidence < self._close)
                yield proposal
        if not close:
            return
        for _ in range(SAMPLES):
            async with aclosing(new.of(branch(1.0, 1), 1.0)) as others:
                async for proposal in others:
                    yield proposal


class _New:
    """Finds the calls of the turn's tools that no earlier branch of this fork has written."""

    def __init__(self, tools: Container[str]) -> None:
        self._tools = tools
        self._seen: set[tuple[str, str]] = set()

    @property
    def count(self) -> int:
        """The number of calls found so far."""
        return len(self._seen)

    async def of(
        self, branch: AsyncGenerator[Candidate, None], power: float
    ) -> AsyncGenerator[Proposal, None]:
        """Yields the new calls of a branch, and closes it."""
        async with aclosing(branch) as candidates:
            async for candidate in candidates:
                key = candidate.tool_name, candidate.arguments_json
                if candidate.tool_name in self._tools and key not in self._seen:
                    self._seen.add(key)
                    yield Proposal(
                        tool_name=candidate.tool_name,
                        arguments_json=candidate.arguments_json,
                        confidence=candidate.probability**power,
                    )
