"""Has the calls that are predicted for a step verified in the engine, instead of generated.

A draft runs nothing, so it needs no permission of the tool: the engine keeps the tokens that the
model would have written anyway. Where predictions are only scored (SHADOW), none are drafted.

Owns: which predictions of the current step are drafted.
Never: writes drafts as tokens, or verifies them: the engine does both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from precall_service.agent.account import DraftsSaved, StepBegan
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.domain.errors import ServiceError
from precall_service.domain.speculation import SpeculationMode
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
        granted = context.speculation
        self._wanted = granted.verify_drafts and granted.mode is SpeculationMode.ISSUE
        self._began: StepBegan | None = None
        self._drafted: dict[CallKey, Prediction] = {}
        """The predictions of this step that were drafted; the first one of each call."""

    @property
    def possible(self) -> bool:
        """Whether predicted calls are drafted; also if the engine that would tell is starting."""
        engine = self._services.engines.running
        return self._wanted and (engine is None or Feature.DRAFTS in engine.info.features)

    def begin_step(self, began: StepBegan, predictions: Iterable[Prediction]) -> None:
        """Notes that a step is generated from now on, and drafts what was predicted for it."""
        self._began = began
        self._drafted.clear()
        for prediction in predictions:
            self.predict(prediction)

    def end_step(self) -> None:
        """Notes that the step is over."""
        self._began = None

    def predict(self, prediction: Prediction) -> None:
        """Drafts a predicted call, if it is one of the current step and likely enough."""
        began, engine = self._began, self._services.engines.running
        if began is None or engine is None or not self.possible:
            return
        if prediction.step != began.step or prediction.key in self._drafted:
            return
        if len(self._drafted) < DRAFTS_MAX and self._shared.policy.worth_drafting(
            prediction, self._record, width=self._services.admission.speculation_width
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
