"""Has the calls that are predicted for a step verified in the engine, instead of generated.

A draft runs nothing, so it needs no permission of the tool: the engine keeps the tokens that the
model would have written anyway.

Owns: which predictions of the current step are drafted.
Never: writes drafts as tokens, or verifies them: the engine does both.
"""

from __future__ import annotations

import logging
from typing import Final

from precall_service.agent.account import DraftsSaved, StepBegan
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.domain.errors import ServiceError
from precall_service.engine.base import Engine, EngineDiedError, Feature, StepSpec
from precall_service.engine.drafts import Draft
from precall_service.speculation.ledger import CallKey, Prediction

log = logging.getLogger(__name__)

DRAFTS_MAX: Final = 8
"""The most drafts of one step."""


class StepDrafts:
    """The drafts of one turn's current step."""

    def __init__(self, services: TurnServices, context: TurnContext) -> None:
        self._services = services
        self._shared = services.speculation
        self._record = services.speculation.records.of(context.tenant)
        self._verify = context.speculation.verify_drafts
        self._began: StepBegan | None = None
        self._drafted: dict[CallKey, Prediction] = {}
        """The predictions of this step that were drafted; the first one of each call."""

    def begin_step(self, began: StepBegan) -> None:
        """Notes that a step is generated from now on."""
        self._began = began if self._verify else None
        self._drafted.clear()

    def end_step(self) -> None:
        """Notes that the step is over."""
        self._began = None

    def predict(self, prediction: Prediction) -> None:
        """Drafts a predicted call, if it is one of the current step and likely enough."""
        began, engine = self._began, self._services.engines.running
        if began is None or engine is None or Feature.DRAFTS not in engine.info.features:
            return
        if prediction.step != began.step or prediction.key in self._drafted:
            return
        tool = self._record.tool(prediction.key.tool_name)
        if len(self._drafted) < DRAFTS_MAX and self._shared.policy.worth_drafting(
            prediction, tool, width=self._services.admission.speculation_width
        ):
            self._drafted[prediction.key] = prediction
            self._shared.spawn(_stage(engine, began.spec, prediction))

    def verify(self, saved: DraftsSaved) -> None:
        """Notes what became of the drafts of the step."""
        drafted = {each.prediction_id: each for each in self._drafted.values()}
        for draft in saved.drafts:
            prediction = drafted.get(draft.prediction_id)
            if prediction is not None:
                self._shared.policy.count_draft(
                    prediction,
                    self._record.tool(prediction.key.tool_name),
                    proposed=draft.proposed,
                    accepted=draft.accepted,
                    saved_s=draft.saved_s,
                )


async def _stage(engine: Engine, spec: StepSpec, prediction: Prediction) -> None:
    key = prediction.key
    try:
        await engine.draft(spec, [Draft(key.tool_name, key.arguments, prediction.prediction_id)])
    except (EngineDiedError, ServiceError) as error:
        log.debug("a predicted call was not drafted: %s", error)
