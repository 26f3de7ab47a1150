"""Plays the predictions of a turn's script: proposes them, runs them early, and ends each once."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from precall import _frames, _speculation_frames
from precall._events import DiscardReason
from precall._pool import look_at
from precall._scope import TaskScope
from precall.testing._runs import (
    Emit,
    Frame,
    HandlerRuns,
    NoHandlerError,
    RunWatch,
    arguments_json,
    invocation_id_of,
)
from precall.testing._script import Call, Predict
from precall.testing._status import RefusedError
from precall.testing._tools import OfferedTools, may_run_early, version_of
from precall.v1 import invocation_pb2, prediction_pb2


@dataclass(slots=True, kw_only=True)
class Prediction:
    """A prediction, and the run for it. Without a run, `kept_from_running` says why."""

    id: str
    predicted: Predict
    proposed_at: float
    kept_from_running: DiscardReason | None
    run: asyncio.Task[invocation_pb2.InvocationResult] | None = None
    ended_at: float | None = None
    """When the run ended; None while it goes on."""
    saved_s: float = 0.0
    """With a confirmed one: how long it had run when the model made the call."""

    @property
    def run_time_s(self) -> float:
        """How long the handler has run so far."""
        if self.run is None:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.proposed_at


class Predictions:
    """The predictions of one turn. They are about the next step of its script."""

    def __init__(
        self,
        turn_id: str,
        granted: prediction_pb2.SpeculationSettings,
        *,
        tools: OfferedTools,
        runs: HandlerRuns,
        tell: Emit,
    ) -> None:
        self.proposed = 0
        """How many were proposed."""
        self.confirmed = 0
        """How many were confirmed."""
        self.saved_s = 0.0
        """How long confirmed ones had run when the model made their calls."""
        self.wasted_s = 0.0
        """How long the handlers of discarded ones ran."""
        self._turn_id = turn_id
        self._granted = granted
        self._tools = tools
        self._runs = runs
        self._tell_frame = tell
        self._open: dict[str, Prediction] = {}
        self._scope = TaskScope()

    async def propose(self, predicted: Predict) -> None:
        """Proposes a prediction and starts its run, if the granted speculation allows."""
        predictor = _speculation_frames.predictor_number(predicted.predictor)
        if self._granted.mode == prediction_pb2.SPECULATION_MODE_OFF or (
            self._granted.predictors and predictor not in self._granted.predictors
        ):
            return
        try:
            self._tools.check_arguments(predicted.tool_name, arguments_json(predicted))
        except RefusedError:
            return
        self.proposed += 1
        prediction = Prediction(
            id=f"prediction-{self._turn_id}-{self.proposed}",
            predicted=predicted,
            proposed_at=time.monotonic(),
            kept_from_running=self._kept_from_running(predicted.tool_name),
        )
        self._open[prediction.id] = prediction
        tool = self._tools.current(predicted.tool_name)
        await self._tell(
            Frame(
                prediction_proposed=prediction_pb2.PredictionProposed(
                    prediction_id=prediction.id,
                    tool_name=predicted.tool_name,
                    tool_version="" if tool is None else version_of(tool),
                    arguments_json=_canonical(predicted),
                    predictor=predictor,
                    confidence=predicted.confidence,
                    depth=1,
                )
            )
        )
        if prediction.kept_from_running is None:
            watch = RunWatch()
            prediction.run = self._scope.start(
                self._run(prediction, watch), name="fake server's early run"
            )
            prediction.run.add_done_callback(look_at)
            await watch.sent.wait()  # the client must know the run before it is confirmed
            if predicted.wait:
                await watch.heard.wait()

    async def claim(self, call_id: str, call: Call) -> Prediction | None:
        """Confirms the prediction of a call whose run can answer it; None if there is none."""
        wanted = call.tool_name, _canonical(call)
        for prediction in self._open.values():
            predicted = prediction.predicted
            if predicted.discard is None and wanted == (predicted.tool_name, _canonical(predicted)):
                break
        else:
            return None
        if prediction.kept_from_running is not None:
            await self._end(prediction, prediction.kept_from_running, call_id)
            return None
        del self._open[prediction.id]
        self.confirmed += 1
        prediction.saved_s = prediction.run_time_s
        self.saved_s += prediction.saved_s
        await self._runs.commit(invocation_id_of(prediction.id), call_id)
        lead_s = time.monotonic() - prediction.proposed_at
        confirmed = prediction_pb2.PredictionConfirmed(
            prediction_id=prediction.id, call_id=call_id, lead_time=_frames.duration(lead_s)
        )
        await self._tell(Frame(prediction_confirmed=confirmed))
        return prediction

    async def discard_all(self, reason: DiscardReason) -> None:
        """Cancels the runs of the open predictions, and discards these."""
        for prediction in list(self._open.values()):
            if prediction.run is not None:
                prediction.run.cancel()
                await asyncio.wait({prediction.run})
            if prediction.id in self._open:  # its run may have failed in the meantime
                await self._end(prediction, prediction.predicted.discard or reason)

    async def close(self) -> None:
        """Cancels every run that still goes on."""
        await self._scope.close(1.0)

    def _kept_from_running(self, tool_name: str) -> DiscardReason | None:
        if self._granted.mode == prediction_pb2.SPECULATION_MODE_SHADOW:
            return DiscardReason.SHADOW
        tool = self._tools.current(tool_name)
        allowed = tool is not None and may_run_early(tool)
        return None if allowed else DiscardReason.NOT_ELIGIBLE

    async def _run(
        self, prediction: Prediction, watch: RunWatch
    ) -> invocation_pb2.InvocationResult:
        """Runs the handler. If it fails before the model makes the call, ends the prediction."""
        launched = prediction_pb2.PredictionLaunched(
            prediction_id=prediction.id, invocation_id=invocation_id_of(prediction.id)
        )
        await self._tell(Frame(prediction_launched=launched))
        try:
            result = await self._runs.run(
                prediction.predicted, prediction_id=prediction.id, watch=watch
            )
            prediction.ended_at = time.monotonic()
            if not result.HasField("result_json"):
                await self._fail(prediction, DiscardReason.HANDLER_ERROR)
            elif prediction.id in self._open:
                ready = prediction_pb2.PredictionReady(
                    prediction_id=prediction.id, run_time=_frames.duration(prediction.run_time_s)
                )
                await self._tell(Frame(prediction_ready=ready))
        except TimeoutError:
            await self._fail(prediction, DiscardReason.HANDLER_TIMEOUT)
            raise
        except NoHandlerError:
            await self._fail(prediction, DiscardReason.HOST_LOST)
            raise
        except RefusedError:
            await self._fail(prediction, DiscardReason.HANDLER_ERROR)
            raise
        else:
            return result
        finally:
            watch.sent.set()
            watch.heard.set()

    async def _fail(self, prediction: Prediction, reason: DiscardReason) -> None:
        """Discards a prediction whose run failed. Once confirmed, it is the call that fails."""
        if prediction.id in self._open:
            await self._end(prediction, reason)

    async def _end(self, prediction: Prediction, reason: DiscardReason, call_id: str = "") -> None:
        del self._open[prediction.id]
        self.wasted_s += prediction.run_time_s
        discarded = prediction_pb2.PredictionDiscarded(
            prediction_id=prediction.id,
            reason=prediction_pb2.DiscardReason.Value(f"DISCARD_REASON_{reason.name}"),
            time_wasted=_frames.duration(prediction.run_time_s),
            call_id=call_id,
        )
        await self._tell(Frame(prediction_discarded=discarded))

    async def _tell(self, frame: Frame) -> None:
        if self._granted.send_events:
            await self._tell_frame(frame)


def _canonical(call: Call | Predict) -> str:
    return json.dumps(dict(call.arguments), sort_keys=True, separators=(",", ":"))
