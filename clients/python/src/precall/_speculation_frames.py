"""Converts settings of speculation to messages of the contract, and the answers back to values.

Owns: every use of a field of `precall.v1.prediction`, except those of the events.
"""

from __future__ import annotations

from precall._events import Predictor
from precall._frames import member, seconds
from precall._speculation import (
    PredictorRecord,
    Speculation,
    SpeculationMode,
    SpeculationStats,
    ToolSpeculation,
)
from precall.v1 import prediction_pb2

_MODE = prediction_pb2.SpeculationMode.DESCRIPTOR
_PREDICTOR = prediction_pb2.Predictor.DESCRIPTOR


def settings(asked: Speculation) -> prediction_pb2.SpeculationSettings:
    """Returns the message that asks for speculation.

    Raises:
        ValueError: It has an UNKNOWN value, as the speculation that a newer server granted may.
    """
    if asked.mode is SpeculationMode.UNKNOWN or Predictor.UNKNOWN in asked.predictors:
        raise ValueError("speculation: UNKNOWN is a value of a newer server, not one to ask for")
    return prediction_pb2.SpeculationSettings(
        mode=mode_number(asked.mode) if asked.mode else prediction_pb2.SPECULATION_MODE_UNSPECIFIED,
        predictors=map(predictor_number, asked.predictors),
        max_depth=asked.max_depth,
        verify_drafts=asked.verify_drafts,
        send_events=asked.events,
    )


def granted(said: prediction_pb2.SpeculationSettings) -> Speculation:
    """Returns the speculation that a server grants; OFF if it says nothing of it."""
    return Speculation(
        member(SpeculationMode, _MODE, said.mode) if said.mode else SpeculationMode.OFF,
        predictors=[member(Predictor, _PREDICTOR, number) for number in said.predictors],
        max_depth=said.max_depth,
        verify_drafts=said.verify_drafts if said.HasField("verify_drafts") else None,
        events=said.send_events,
    )


def stats(answer: prediction_pb2.GetSpeculationStatsResponse) -> SpeculationStats:
    """Returns what speculation has done for a tenant."""
    return SpeculationStats(tools=tuple(map(_tool, answer.tools)), allowance=answer.allowance)


def mode_number(mode: SpeculationMode) -> prediction_pb2.SpeculationMode.ValueType:
    """Returns the contract's number of a mode that is not UNKNOWN."""
    return prediction_pb2.SpeculationMode.Value(f"SPECULATION_MODE_{mode.name}")


def predictor_number(predictor: Predictor) -> prediction_pb2.Predictor.ValueType:
    """Returns the contract's number of a predictor that is not UNKNOWN."""
    return prediction_pb2.Predictor.Value(f"PREDICTOR_{predictor.name}")


def _tool(said: prediction_pb2.ToolSpeculation) -> ToolSpeculation:
    return ToolSpeculation(
        tool_name=said.tool_name,
        calls=said.calls,
        calls_confirmed=said.calls_confirmed,
        run_time_s=seconds(said.run_time) if said.HasField("run_time") else None,
        breaker_open=said.breaker_open,
        predictors=tuple(map(_record, said.predictors)),
    )


def _record(said: prediction_pb2.PredictorRecord) -> PredictorRecord:
    return PredictorRecord(
        predictor=member(Predictor, _PREDICTOR, said.predictor),
        stage=member(SpeculationMode, _MODE, said.stage),
        pinned=said.pinned,
        proposed=said.proposed,
        launched=said.launched,
        resolved=said.resolved,
        matched=said.matched,
        confirmed=said.confirmed,
        saved_s=seconds(said.saved),
        wasted_s=seconds(said.wasted),
        would_save_s=seconds(said.would_save),
        would_waste_s=seconds(said.would_waste),
        draft_tokens_proposed=said.draft_tokens_proposed,
        draft_tokens_accepted=said.draft_tokens_accepted,
        saved_by_drafts_s=seconds(said.saved_by_drafts),
    )
