"""P1: a call that the model has written, while it still writes the rest of its message.

The prediction is certain unless a limit cuts the message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from precall_service.domain.events import Predictor
from precall_service.domain.json import dump
from precall_service.speculation.base import Moment, Proposal, Situation


class EarlyDispatch:
    """Proposes each call as soon as it is written."""

    name = Predictor.EARLY_DISPATCH
    moments = frozenset({Moment.CALL_WRITTEN})

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`."""
        for call in situation.written[-1:]:
            if call.tool_name in situation.tools:
                yield Proposal(
                    tool_name=call.tool_name, arguments_json=dump(call.arguments), confidence=1.0
                )
