"""P4: what a smaller model would call, asked several times.

The draft model writes the message of the step from the same transcript, λ times at a temperature
(arXiv 2512.15834). The models share no tokens: only names of tools and arguments are compared. A
call is the more probable, the more samples have it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from precall_service.domain.events import Predictor
from precall_service.domain.json import JsonError, canonical, parse_object
from precall_service.domain.tools import ToolDeclaration
from precall_service.speculation.base import Moment, Proposal, SampledCall, Situation

PROPOSALS_MAX: Final = 8

_Call = tuple[str, str]
"""The name of a tool, and canonical arguments."""


class DraftModelPredictor:
    """Proposes the calls in the samples of the draft model.

    A call that most of the samples have is proposed at once. The others follow when all samples
    have ended, in the order of their shares.
    """

    name = Predictor.DRAFT_MODEL
    moments = frozenset({Moment.STEP_BEGAN})

    def __init__(self, samples: int) -> None:
        """`samples` is λ."""
        self._samples = samples

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`. The confidence of a call is the share of the samples that have it."""
        if situation.samples is None:
            return
        having: dict[_Call, set[int]] = {}
        """The samples that have a call."""
        proposed: set[_Call] = set()
        ended = 0
        async with aclosing(situation.samples(self._samples)) as calls:
            async for sampled in calls:
                ended += sampled.call is None
                call = _canonical(sampled, situation.tools)
                if call is None:
                    continue
                samples = having.setdefault(call, set())
                samples.add(sampled.sample)
                if 2 * len(samples) > self._samples and call not in proposed:
                    proposed.add(call)
                    yield _proposal(call, len(samples) / self._samples)
        ranked = sorted(having, key=lambda call: -len(having[call]))
        rest = [call for call in ranked if call not in proposed]
        for call in rest[: max(0, PROPOSALS_MAX - len(proposed))]:
            yield _proposal(call, len(having[call]) / ended)


def _canonical(sampled: SampledCall, tools: Mapping[str, ToolDeclaration]) -> _Call | None:
    """Returns the call, if it is one of the turn's tools; otherwise None."""
    tool_name, arguments_json = sampled.call or ("", "")
    if tool_name not in tools:
        return None
    try:
        return tool_name, canonical(parse_object(arguments_json)).decode()
    except JsonError:
        return None


def _proposal(call: _Call, confidence: float) -> Proposal:
    tool_name, arguments_json = call
    return Proposal(tool_name=tool_name, arguments_json=arguments_json, confidence=confidence)
