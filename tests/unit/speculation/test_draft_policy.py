"""Which predictions are drafted, and what is counted of their drafts."""

from __future__ import annotations

import pytest

from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.speculation.ledger import Prediction
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.policy import Policy
from precall_service.speculation.records import TenantRecord
from tests.support.clock import ManualClock
from tests.support.speculating import predicted

CLOCK = ManualClock()
POLICY = Policy(CLOCK, SpeculationLimits())


def tenant(limits: SpeculationLimits | None = None) -> TenantRecord:
    return TenantRecord(CLOCK, limits or SpeculationLimits())


def worth_drafting(prediction: Prediction, record: TenantRecord) -> bool:
    return POLICY.worth_drafting(prediction, record, width=1.0)


def test_a_call_is_drafted_if_it_is_likely_enough() -> None:
    assert worth_drafting(predicted(confidence=0.2), tenant())
    assert not worth_drafting(predicted(confidence=0.01), tenant())


def test_a_call_that_is_written_is_not_drafted() -> None:
    written = predicted(predictor=Predictor.EARLY_DISPATCH, confidence=1.0)
    assert not worth_drafting(written, tenant())


@pytest.mark.parametrize("mode", [SpeculationMode.SHADOW, SpeculationMode.OFF])
def test_a_prediction_that_the_operator_wants_scored_only_is_not_drafted(
    mode: SpeculationMode,
) -> None:
    pinned = tenant(SpeculationLimits(stages={("weather", Predictor.FORK): mode}))
    assert not worth_drafting(predicted(), pinned)
    assert worth_drafting(predicted(predictor=Predictor.HISTORY), pinned)


def test_a_stage_that_was_learned_is_about_early_runs_alone() -> None:
    learned = tenant()
    learned.tool("weather").of(Predictor.FORK).stage.mode = SpeculationMode.SHADOW
    assert worth_drafting(predicted(), learned)


def test_what_drafts_did_is_counted() -> None:
    prediction, tool = predicted(), tenant().tool("weather")
    for _ in range(2):
        POLICY.count_draft(prediction, tool, proposed=20, accepted=15, saved_s=0.5)
    record = tool.of(Predictor.FORK)
    assert (record.draft_tokens_proposed, record.draft_tokens_accepted) == (40, 30)
    assert record.saved_by_drafts_s == prediction.saved_by_draft_s == 1.0
    assert (prediction.drafted, prediction.accepted) == (40, 30)
