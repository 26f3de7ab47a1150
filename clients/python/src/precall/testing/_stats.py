"""Turns statistics of speculation into the message that a fake server sends."""

from __future__ import annotations

from precall._frames import duration
from precall._speculation import PredictorRecord, SpeculationStats, ToolSpeculation
from precall._speculation_frames import mode_number, predictor_number
from precall.v1 import prediction_pb2


def stats_message(stats: SpeculationStats) -> prediction_pb2.GetSpeculationStatsResponse:
    """Returns the answer to GetSpeculationStats."""
    return prediction_pb2.GetSpeculationStatsResponse(
        tools=map(_tool, stats.tools), allowance=stats.allowance
    )


def _tool(tool: ToolSpeculation) -> prediction_pb2.ToolSpeculation:
    return prediction_pb2.ToolSpeculation(
        tool_name=tool.tool_name,
        calls=tool.calls,
        calls_confirmed=tool.calls_confirmed,
        run_time=None if tool.run_time_s is None else duration(tool.run_time_s),
        breaker_open=tool.breaker_open,
        predictors=map(_record, tool.predictors),
    )


def _record(record: PredictorRecord) -> prediction_pb2.PredictorRecord:
    return prediction_pb2.PredictorRecord(
        predictor=predictor_number(record.predictor),
        stage=mode_number(record.stage),
        pinned=record.pinned,
        proposed=record.proposed,
        launched=record.launched,
        resolved=record.resolved,
        matched=record.matched,
        confirmed=record.confirmed,
        saved=duration(record.saved_s),
        wasted=duration(record.wasted_s),
        would_save=duration(record.would_save_s),
        would_waste=duration(record.would_waste_s),
        draft_tokens_proposed=record.draft_tokens_proposed,
        draft_tokens_accepted=record.draft_tokens_accepted,
        saved_by_drafts=duration(record.saved_by_drafts_s),
    )
