"""Takes the calls of a turn to their endings: by a prediction, by the tool cache, or by a run."""

from __future__ import annotations

import asyncio
from typing import cast

import pydantic

from precall import _events, _events_in, _frames
from precall._errors import PrecallError
from precall.testing._cache import FakeCache, age_s
from precall.testing._predictions import Prediction
from precall.testing._runs import Emit, Frame, HandlerRuns, NoHandlerError, arguments_json
from precall.testing._schemas import seen_value
from precall.testing._script import Call, ToolResult
from precall.testing._service.tools.text import shorten
from precall.testing._status import RefusedError, status
from precall.testing._tools import OfferedTools, version_of
from precall.v1 import invocation_pb2, tool_cache_pb2, turn_pb2

TYPE_CHARS_MAX = 100
MESSAGE_CHARS_MAX = 2000


class Calls:
    """The calls of one turn."""

    def __init__(
        self,
        *,
        conversation_id: str,
        tools: OfferedTools,
        cache: FakeCache | None,
        runs: HandlerRuns,
        tell: Emit,
    ) -> None:
        self.cache_hits = 0
        """How many calls the tool cache has answered."""
        self._conversation_id = conversation_id
        self._tools = tools
        self._cache = cache
        self._runs = runs
        self._tell = tell

    async def run(self, call_id: str, call: Call, claimed: Prediction | None) -> ToolResult:
        """Takes one call to its ending, which it returns and emits.

        Args:
            call_id: The id of the call.
            call: What the model calls.
            claimed: The prediction that was confirmed by the call, if there is one.

        On cancel: the call ends as CANCELLED on the wire.
        """
        completed = turn_pb2.ToolCallCompleted(call_id=call_id)
        result = invocation_pb2.InvocationResult()
        try:
            self._tools.check_arguments(call.tool_name, arguments_json(call))
            if claimed is not None and claimed.run is not None:
                result = await claimed.run
                _fill(completed, result)
                _fill_from_prediction(completed, claimed)
            elif (cached := self._cached(call)) is not None:
                self.cache_hits += 1
                _fill_from_cache(completed, cached)
            else:
                result = await self._runs.run(call, call_id=call_id)
                _fill(completed, result)
        except NoHandlerError as error:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
            completed.error.CopyFrom(status("TOOL_UNAVAILABLE", str(error)))
        except RefusedError as refused:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_ERROR
            completed.error.CopyFrom(refused.status)
        except TimeoutError:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_TIMEOUT
            completed.error.CopyFrom(status("TOOL_TIMEOUT", "the handler did not answer in time"))
        except asyncio.CancelledError:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            completed.error.CopyFrom(status("CANCELLED", "the turn was cancelled"))
            raise
        finally:
            await self._tell(Frame(tool_call_completed=completed))
        return _seen(call, completed)

    async def leave(self, call_id: str) -> None:
        """Ends a call that is not run because the turn ends."""
        completed = turn_pb2.ToolCallCompleted(
            call_id=call_id,
            outcome=turn_pb2.TOOL_CALL_OUTCOME_CANCELLED,
            error=status("CANCELLED", "the turn ended before the call did"),
        )
        await self._tell(Frame(tool_call_completed=completed))

    def _cached(self, call: Call) -> tool_cache_pb2.CacheEntry | None:
        """Returns the entry that answers a call; None if the handler has to run."""
        tool = self._tools.current(call.tool_name)
        if tool is None or self._cache is None:
            return None
        key = tool_cache_pb2.CacheKey(
            tool_name=tool.name,
            tool_version=version_of(tool),
            arguments_json=arguments_json(call),
            conversation_id=self._conversation_id,
        )
        return self._cache.answer(tool, key)


def _fill(completed: turn_pb2.ToolCallCompleted, result: invocation_pb2.InvocationResult) -> None:
    match result.WhichOneof("outcome"):
        case "result_json":
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_RESULT
            completed.result_json = result.result_json
            completed.source = turn_pb2.RESULT_SOURCE_COMMITTED
        case "cancelled":
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_CANCELLED
            completed.error.CopyFrom(status("CANCELLED", "the handler was cancelled"))
        case _:
            completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_ERROR
            kind = shorten(result.error.type, TYPE_CHARS_MAX) or "handler_error"
            message = shorten(result.error.message, MESSAGE_CHARS_MAX)
            message = message or "the tool failed without a message"
            completed.error.CopyFrom(status("TOOL_FAILED", message, None, handler_error_type=kind))


def _fill_from_prediction(completed: turn_pb2.ToolCallCompleted, claimed: Prediction) -> None:
    if completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT:
        completed.source = turn_pb2.RESULT_SOURCE_SPECULATIVE
        completed.prediction_id = claimed.id
        completed.time_saved.CopyFrom(_frames.duration(claimed.saved_s))


def _fill_from_cache(
    completed: turn_pb2.ToolCallCompleted, cached: tool_cache_pb2.CacheEntry
) -> None:
    completed.outcome = turn_pb2.TOOL_CALL_OUTCOME_RESULT
    completed.source = turn_pb2.RESULT_SOURCE_CACHE
    completed.result_json = cached.result_json
    completed.content.extend(cached.content)
    completed.cache_entry_version = cached.entry_version
    completed.cache_age.CopyFrom(_frames.duration(age_s(cached)))


def _seen(call: Call, completed: turn_pb2.ToolCallCompleted) -> ToolResult:
    """Returns the ending of a call as scripts and tests see it."""
    ended = _events_in.tool_call_completed(completed)
    error = ended.error if ended.outcome is _events.ToolCallOutcome.ERROR else None
    return ToolResult(
        tool_name=call.tool_name,
        arguments=dict(call.arguments),
        outcome=ended.outcome,
        value=_value(ended.result_json),
        error_type="" if error is None else _kind(error),
        error_message="" if error is None else error.message,
    )


def _kind(error: PrecallError) -> str:
    """Returns the kind of an error as the model reads it."""
    return error.metadata.get("handler_error_type") or error.reason.lower()


def _value(result_json: str) -> pydantic.JsonValue:
    """Returns the value of a result as the model sees it; None if there is no result."""
    return cast("pydantic.JsonValue", seen_value(result_json)) if result_json else None
