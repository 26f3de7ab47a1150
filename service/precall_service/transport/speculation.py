"""Speculation on the wire: what a client asks for, what it is granted, and what came of it."""

from __future__ import annotations

from precall.v1 import prediction_pb2
from precall_service.domain.events import Predictor
from precall_service.domain.speculation import (
    SpeculationMode,
    SpeculationRequest,
    SpeculationSettings,
)
from precall_service.speculation.records import PredictorRecord, TenantRecord, ToolRecord
from precall_service.transport.fields import duration, invalid

_MODES = {mode.value: mode for mode in SpeculationMode}


def speculation_request(asked: prediction_pb2.SpeculationSettings) -> SpeculationRequest:
    """Returns what a client asks for. Predictors of newer clients are ignored.

    Raises:
        ServiceError: FIELD_INVALID.
    """
    if asked.mode and asked.mode not in _MODES:
        raise invalid("open.speculation.mode", f"{asked.mode} is not a mode of this server")
    if prediction_pb2.PREDICTOR_UNSPECIFIED in asked.predictors:
        raise invalid("open.speculation.predictors", "it must not contain UNSPECIFIED")
    known = {predictor.value for predictor in Predictor}
    return SpeculationRequest(
        mode=_MODES.get(asked.mode),
        # One that no server has stands for those that are not known, so that they grant nothing.
        predictors=frozenset(
            Predictor(each) if each in known else Predictor.UNSPECIFIED for each in asked.predictors
        ),
        max_depth=asked.max_depth,
        verify_drafts=asked.verify_drafts if asked.HasField("verify_drafts") else None,
        send_events=asked.send_events,
    )


def speculation_settings(granted: SpeculationSettings) -> prediction_pb2.SpeculationSettings:
    """Returns what a client was granted, as a message."""
    off = granted.mode is SpeculationMode.OFF
    return prediction_pb2.SpeculationSettings(
        mode=prediction_pb2.SpeculationMode.ValueType(granted.mode.value),
        predictors=sorted(
            prediction_pb2.Predictor.ValueType(each.value)
            for each in (() if off else granted.predictors)
        ),
        max_depth=0 if off else granted.max_depth,
        verify_drafts=not off and granted.verify_drafts,
        send_events=granted.send_events,
    )


def speculation_stats(
    record: TenantRecord, *, allowance: float, now: float
) -> prediction_pb2.GetSpeculationStatsResponse:
    """Returns what speculation has done for a tenant, as a message."""
    return prediction_pb2.GetSpeculationStatsResponse(
        tools=[_tool(record, name, tool, now) for name, tool in record.tools()],
        allowance=allowance,
    )


def _tool(
    record: TenantRecord, name: str, tool: ToolRecord, now: float
) -> prediction_pb2.ToolSpeculation:
    times = tool.run_times
    return prediction_pb2.ToolSpeculation(
        tool_name=name,
        calls=tool.calls,
        calls_confirmed=tool.calls_confirmed,
        run_time=duration(times.typical_s) if times.known else None,
        breaker_open=now < tool.closed_until,
        predictors=[
            _predictor(record, name, predictor, each)
            for predictor, each in sorted(tool.predictors.items(), key=lambda item: item[0].value)
        ],
    )


def _predictor(
    record: TenantRecord, name: str, predictor: Predictor, each: PredictorRecord
) -> prediction_pb2.PredictorRecord:
    stage = record.stage(name, predictor)
    return prediction_pb2.PredictorRecord(
        predictor=prediction_pb2.Predictor.ValueType(predictor.value),
        stage=prediction_pb2.SpeculationMode.ValueType(stage.value),
        pinned=record.pinned_stage(name, predictor) is not None,
        proposed=each.proposed,
        launched=each.launched,
        resolved=each.resolved,
        matched=each.matched,
        confirmed=each.confirmed,
        saved=duration(each.saved_s),
        wasted=duration(each.wasted_s),
        would_save=duration(each.would_save_s),
        would_waste=duration(each.would_waste_s),
        draft_tokens_proposed=each.draft_tokens_proposed,
        draft_tokens_accepted=each.draft_tokens_accepted,
        saved_by_drafts=duration(each.saved_by_drafts_s),
    )
