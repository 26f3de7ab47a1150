"""Plays the script of one turn on a fake server's stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from precall import _frames
from precall._events import DiscardReason
from precall.testing import _script
from precall.testing._cache import FakeCache
from precall.testing._calls import Calls
from precall.testing._checks import check_step
from precall.testing._predictions import Predictions
from precall.testing._runs import Emit, Frame, HandlerRuns, arguments_json
from precall.testing._script import (
    Call,
    Disconnect,
    Entry,
    Fail,
    Hang,
    Limit,
    NoCall,
    Parallel,
    Predict,
    Refuse,
    Say,
)
from precall.testing._status import RefusedError, status
from precall.testing._tools import OfferedTools
from precall.v1 import generation_pb2, prediction_pb2, turn_pb2

logger = logging.getLogger("precall")

_Ending: TypeAlias = tuple[turn_pb2.TurnOutcome.ValueType, Status | None]

_CHARACTERS_PER_TOKEN = 4
_UNANSWERED = (turn_pb2.TURN_OUTCOME_FAILED, turn_pb2.TURN_OUTCOME_NO_CALL)


class BrokenStreamError(Exception):
    """The script ends the stream, with or without a status of the contract."""

    def __init__(self, ending: Status | None) -> None:
        super().__init__()
        self.ending = ending


class TurnPlayer:
    """One turn of a fake server."""

    def __init__(
        self,
        start: turn_pb2.StartTurn,
        entries: Sequence[Entry],
        *,
        conversation_id: str,
        tools: OfferedTools,
        cache: FakeCache | None,
        default_timeout: Duration,
        speculation: prediction_pb2.SpeculationSettings,
        emit: Emit,
    ) -> None:
        self.start = start
        self.results: list[_script.ToolResult] = []
        """How its calls ended, in the order of the calls."""
        self.completed: turn_pb2.TurnCompleted | None = None
        """How it ended; None while it runs."""
        self.runs = HandlerRuns(
            start,
            conversation_id=conversation_id,
            tools=tools,
            cache=cache,
            default_timeout=default_timeout,
            emit=emit,
        )
        """The runs of its calls and predictions."""
        self._predictions = Predictions(
            start.turn_id, speculation, tools=tools, runs=self.runs, tell=self._emit
        )
        self._calls = Calls(
            conversation_id=conversation_id,
            tools=tools,
            cache=cache,
            runs=self.runs,
            tell=self._emit,
        )
        self._entries = entries
        self._callable = tools.names()
        self._choice = start.generation.tool_choice
        """Which call the model must still make."""
        self._emit_frame = emit
        self._call_count = 0
        self._step = 0
        self._step_is_open = False
        self._output_tokens = 0
        self._text = ""

    async def play(self) -> None:
        """Plays the turn to its end.

        Raises:
            BrokenStreamError: The script ends the stream.

        On cancel: the turn ends as CANCELLED on the wire.
        """
        try:
            await self._emit(Frame(turn_started=turn_pb2.TurnStarted()))
            outcome, error = await self._play_entries()
        except asyncio.CancelledError:
            # When the fake itself stops, it cancels too; these frames are then discarded.
            await self._cut_step()
            outcome, error = turn_pb2.TURN_OUTCOME_CANCELLED, None
        except BrokenStreamError:
            raise
        except Exception as problem:  # the functions of a script may raise anything
            logger.exception("the script of turn %s failed", self.start.turn_id)
            await self._cut_step()
            text = f"the script failed: {type(problem).__name__}: {problem}"
            outcome, error = turn_pb2.TURN_OUTCOME_FAILED, status("INTERNAL", text)
        finally:
            await self._predictions.close()
        await self._complete(outcome, error)

    @property
    def is_kept(self) -> bool:
        """Whether its ending answers a repetition. Not if it failed before its first step."""
        if self.completed is None:
            return False
        return self._step > 0 or self.completed.outcome != turn_pb2.TURN_OUTCOME_FAILED

    @property
    def messages(self) -> int:
        """The number of messages that it adds to its conversation; without an answer, none."""
        if self.completed is None or self.completed.outcome in _UNANSWERED:
            return 0
        return 1 + self._step + self._call_count

    async def _play_entries(self) -> _Ending:
        """Plays the entries and returns how the turn ends."""
        for position, entry in enumerate(self._entries, start=1):
            step = entry(tuple(self.results)) if callable(entry) else entry
            ending: _Ending | None = None
            match check_step(step, f"the return value of entry {position}"):
                case Say(text, reasoning):
                    await self._begin_step(text, reasoning)
                    await self._end_step(turn_pb2.STEP_FINISH_REASON_STOP)
                    await self._predictions.discard_all(DiscardReason.MISMATCH)
                    break
                case Call(_, _, text, reasoning) as call:
                    await self._begin_step(text, reasoning)
                    ending = await self._call_all([call])
                case Parallel(calls):
                    await self._begin_step("", "")
                    ending = await self._call_all(calls)
                case Predict() as predicted:
                    if (ending := self._unknown(predicted.tool_name)) is None:
                        await self._predictions.propose(predicted)
                case Limit() | NoCall() as cut:
                    return await self._play_cut(cut)
                case Fail(reason, message, retry_after_s) | Refuse(reason, message, retry_after_s):
                    return turn_pb2.TURN_OUTCOME_FAILED, status(reason, message, retry_after_s)
                case Disconnect(reason, message, retry_after_s):
                    broken = status(reason, message, retry_after_s) if reason else None
                    raise BrokenStreamError(broken)
                case Hang(text):
                    await self._begin_step(text, "")
                    await asyncio.get_running_loop().create_future()
            if ending is not None:
                return ending
        return self._missing_call(()) or (turn_pb2.TURN_OUTCOME_ANSWERED, None)

    async def _play_cut(self, step: Limit | NoCall) -> _Ending:
        """Plays a step that ends the turn without an answer, and returns how."""
        match step:
            case Limit(reason, text, message):
                await self._begin_step(text, "")
                by_length = reason == "LIMIT_REACHED"
                await self._end_step(
                    turn_pb2.STEP_FINISH_REASON_LENGTH
                    if by_length
                    else turn_pb2.STEP_FINISH_REASON_ABORTED
                )
                return turn_pb2.TURN_OUTCOME_LIMIT, status(reason, message)
            case NoCall(reason, text, reasoning, stray_call, message):
                await self._begin_step(text, reasoning)
                await self._end_step(turn_pb2.STEP_FINISH_REASON_STOP)
                metadata = {"stray_call": stray_call} if reason == "CALL_LOST" else {}
                return turn_pb2.TURN_OUTCOME_NO_CALL, status(reason, message, None, **metadata)

    async def _begin_step(self, text: str, reasoning: str) -> None:
        prompt_tokens = 10 * (self._step + 1)
        await self._emit(
            Frame(step_started=turn_pb2.StepStarted(step=self._step, prompt_tokens=prompt_tokens))
        )
        self._step_is_open = True
        for piece in _pieces(reasoning):
            await self._emit(Frame(reasoning_delta=turn_pb2.ReasoningDelta(text=piece)))
        for piece in _pieces(text):
            await self._emit(Frame(text_delta=turn_pb2.TextDelta(text=piece)))
        self._text = text

    async def _end_step(self, reason: turn_pb2.StepFinishReason.ValueType) -> None:
        tokens = max(1, len(self._text) // _CHARACTERS_PER_TOKEN)
        self._output_tokens += tokens
        await self._emit(
            Frame(
                step_completed=turn_pb2.StepCompleted(
                    step=self._step,
                    finish_reason=reason,
                    usage=turn_pb2.TokenUsage(output_tokens=tokens),
                )
            )
        )
        self._step += 1
        self._step_is_open = False

    async def _cut_step(self) -> None:
        if self._step_is_open:
            await self._end_step(turn_pb2.STEP_FINISH_REASON_ABORTED)

    async def _call_all(self, calls: Sequence[Call]) -> _Ending | None:
        """Writes and runs the calls of one step. Returns how the turn ends if it cannot."""
        for call in calls:
            if (ending := self._unknown(call.tool_name)) is not None:
                await self._cut_step()
                return ending
        called = [(self._next_call_id(), call) for call in calls]
        for call_id, call in called:
            await self._write_call(call_id, call)
        await self._end_step(turn_pb2.STEP_FINISH_REASON_TOOL_CALLS)
        ending = self._step_limit() or self._missing_call([call.tool_name for call in calls])
        if ending is not None:
            for call_id, _ in called:
                await self._calls.leave(call_id)
            return ending
        self._choice = generation_pb2.ToolChoice()
        claims = [await self._predictions.claim(call_id, call) for call_id, call in called]
        await self._predictions.discard_all(DiscardReason.MISMATCH)
        async with asyncio.TaskGroup() as group:
            runs = [
                group.create_task(self._calls.run(call_id, call, claimed))
                for (call_id, call), claimed in zip(called, claims, strict=True)
            ]
        self.results.extend(run.result() for run in runs)
        return None

    def _step_limit(self) -> _Ending | None:
        """Returns how the turn ends if it asked for no more steps than it has had."""
        limits = self.start.limits
        if not limits.HasField("max_steps") or self._step < limits.max_steps:
            return None
        text = f"the script still makes calls after {self._step} steps, the limit of this turn"
        error = RefusedError("LIMIT_REACHED", text, "start_turn.limits.max_steps").status
        return turn_pb2.TURN_OUTCOME_LIMIT, error

    def _missing_call(self, called: Sequence[str]) -> _Ending | None:
        """Returns how the turn ends if the tool choice requires a call that was not made."""
        choice = self._choice
        match choice.mode:
            case generation_pb2.TOOL_CHOICE_MODE_REQUIRED if not called:
                what = "a call"
            case generation_pb2.TOOL_CHOICE_MODE_NAMED if choice.tool_name not in called:
                what = f"a call of {choice.tool_name!r}"
            case _:
                return None
        text = f"{what} was required, but the script makes none"
        named = {"tool_name": choice.tool_name} if choice.tool_name else {}
        return turn_pb2.TURN_OUTCOME_NO_CALL, status("CALL_MISSING", text, None, **named)

    def _unknown(self, tool_name: str) -> _Ending | None:
        """Returns the ending of a script that calls a tool which the turn does not have."""
        if tool_name in self._callable:
            return None
        there = ", ".join(self._callable) or "none"
        error = status(
            "INTERNAL",
            f"the script calls {tool_name!r}, which was no tool of this conversation when the turn "
            f"began; its tools were: {there}",
        )
        return turn_pb2.TURN_OUTCOME_FAILED, error

    def _next_call_id(self) -> str:
        self._call_count += 1
        return f"call-{self.start.turn_id}-{self._call_count}"

    async def _write_call(self, call_id: str, call: Call) -> None:
        written = arguments_json(call)
        await self._emit(
            Frame(
                tool_call_started=turn_pb2.ToolCallStarted(
                    call_id=call_id, tool_name=call.tool_name
                )
            )
        )
        half = len(written) // 2
        for fragment in (written[:half], written[half:]):
            await self._emit(
                Frame(
                    tool_call_arguments_delta=turn_pb2.ToolCallArgumentsDelta(
                        call_id=call_id, json_fragment=fragment
                    )
                )
            )
        await self._emit(
            Frame(
                tool_call_ready=turn_pb2.ToolCallReady(
                    call_id=call_id, tool_name=call.tool_name, arguments_json=written
                )
            )
        )

    async def _complete(
        self, outcome: turn_pb2.TurnOutcome.ValueType, error: Status | None = None
    ) -> None:
        cancelled = outcome == turn_pb2.TURN_OUTCOME_CANCELLED
        predictions = self._predictions
        await predictions.discard_all(
            DiscardReason.CANCELLED if cancelled else DiscardReason.TURN_ENDED
        )
        report = turn_pb2.TurnReport(
            steps=self._step,
            tool_calls=self._call_count,
            cache_hits=self._calls.cache_hits,
            predictions=predictions.proposed,
            predictions_confirmed=predictions.confirmed,
            tool_time_hidden=_frames.duration(predictions.saved_s),
            saved_by_overlap=_frames.duration(predictions.saved_s),
            wasted_time=_frames.duration(predictions.wasted_s),
            usage=turn_pb2.TokenUsage(output_tokens=self._output_tokens),
        )
        self.completed = turn_pb2.TurnCompleted(
            outcome=outcome, text=self._text, error=error, report=report
        )
        await self._emit(Frame(turn_completed=self.completed))

    async def _emit(self, frame: Frame) -> None:
        frame.turn_id = self.start.turn_id
        await self._emit_frame(frame)


def _pieces(text: str) -> Iterator[str]:
    """Yields a text word by word, as a model generates it."""
    start = 0
    while start < len(text):
        end = text.find(" ", start + 1)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end
