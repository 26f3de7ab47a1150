"""The handlers that run early for the predictions of one turn, and the calls that claim them.

Owns: the runs of predictions, until a call claims them or the prediction ends.
Never: decides which predictions run early (`speculation.policy` does), or what is predicted.
Concurrency: one event loop. A task of the speculation awaits each run; the turn does not.
"""

from __future__ import annotations

from collections.abc import Callable

from precall_service.agent.context import TurnContext, TurnServices
from precall_service.agent.early_run import EarlyRun
from precall_service.cache.base import Lookup
from precall_service.cache.query import CacheQuery, dependencies
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import DiscardReason, InvocationCancelReason, TraceContext
from precall_service.speculation.ledger import Ledger, Prediction, State
from precall_service.speculation.records import ToolRecord
from precall_service.tools.run import InvocationContext
from precall_service.tools.toolset import RegisteredTool

_FAILURES = {
    Reason.TOOL_TIMEOUT: DiscardReason.HANDLER_TIMEOUT,
    Reason.TOOL_UNAVAILABLE: DiscardReason.HOST_LOST,
    Reason.CANCELLED: DiscardReason.LOAD,  # evicted by a committed run
    Reason.OVERLOADED: DiscardReason.LOAD,
}


class EarlyRuns:
    """The early runs of one turn."""

    def __init__(
        self,
        services: TurnServices,
        context: TurnContext,
        turn_id: str,
        ledger: Ledger,
        trace_context: Callable[[str], TraceContext],
    ) -> None:
        self._dispatcher = services.dispatcher
        self._cache = services.cache
        self._cached_calls = services.cached_calls
        self._clock = services.clock
        self._policy = services.speculation.policy
        self._tenant = services.speculation.records.of(context.tenant)
        self._context = context
        self._turn_id = turn_id
        self._ledger = ledger
        self._trace_context = trace_context
        self._runs: dict[Prediction, EarlyRun] = {}
        self._reserved: dict[Prediction, ToolRecord] = {}
        """The predictions whose handlers run or are about to, with the records that count them."""

    @property
    def running(self) -> int:
        """The number of predictions whose handlers run, or are about to."""
        return len(self._reserved)

    def serves(self, prediction: Prediction) -> bool:
        """Returns whether a prediction has a result, or will have one.

        It does from before its handler is started, so that equal predictions have one run.
        """
        return prediction in self._reserved or prediction.usable

    def running_predictions(self) -> list[Prediction]:
        """Returns the predictions whose handlers run."""
        return [each for each in self._runs if each.state is State.LAUNCHED]

    def reserve(self, prediction: Prediction) -> None:
        """Counts a prediction as running; `execute` must follow."""
        record = self._tenant.tool(prediction.key.tool_name)
        self._reserved[prediction] = record
        record.running += 1
        self._tenant.running += 1

    async def execute(self, prediction: Prediction, tool: RegisteredTool) -> None:
        """Runs the handler for a prediction to its end, if the cache does not have the result.

        The prediction is then READY or discarded, unless it has ended in the meantime.
        """
        try:
            await self._execute(prediction, tool)
        finally:
            self._reserved.pop(prediction).running -= 1
            self._tenant.running -= 1

    async def _execute(self, prediction: Prediction, tool: RegisteredTool) -> None:
        query = dependencies(
            self._context.tenant,
            self._context.conversation_id,
            tool.declaration,
            prediction.arguments,
        )
        # Without versions, no one could tell whether the result is stale when the call comes.
        lookup = None if query is None else await self._cache.find(query)
        if not prediction.open:
            return
        if query is None or lookup is None:
            self._ledger.skip(prediction, DiscardReason.STALE_RESOURCE)
            return
        if tool.declaration.cacheable:
            if lookup.entry is not None:
                self._ledger.ready(prediction, lookup.entry.value.result_json)
                return
            if self._cached_calls.in_flight(query):
                self._ledger.skip(prediction, DiscardReason.DUPLICATE)
                return
        await self._run(prediction, tool, query, lookup)

    async def _run(
        self, prediction: Prediction, tool: RegisteredTool, query: CacheQuery, lookup: Lookup
    ) -> None:
        run = self._dispatcher.launch(
            tool=tool,
            arguments_json=prediction.key.arguments,
            context=InvocationContext(
                turn_id=self._turn_id,
                conversation_id=self._context.conversation_id,
                trace_context=self._trace_context(prediction.prediction_id),
            ),
            prediction_id=prediction.prediction_id,
            pinned=True,
        )
        self._runs[prediction] = EarlyRun(prediction, run, tool, query, lookup.snapshot)
        self._ledger.launch(prediction, run.invocation_id)
        record = self._tenant.tool(tool.name)
        record.of(prediction.predictor).launched += 1
        ending = await run.ending()
        if ending.error is None:
            record.run_times.observe(run.took_s)
        if not prediction.open:
            return
        if ending.error is None:
            self._policy.count_run(record, failed=False)
            self._ledger.ready(prediction, ending.result_json)
            return
        reason = _why_failed(tool, ending.error)
        if reason not in {DiscardReason.LOAD, DiscardReason.EXPIRED}:
            self._policy.count_run(record, failed=True)
        self._ledger.fail(prediction)
        self.discard(prediction, reason)

    def discard(self, prediction: Prediction, reason: DiscardReason, *, call_id: str = "") -> None:
        """Ends a prediction. Its handler is told to stop if it still runs."""
        early = self._runs.pop(prediction, None)
        self._ledger.discard(prediction, reason, call_id=call_id)
        self._policy.count_waste(prediction, self._tenant)
        if early is not None:
            early.run.discard(InvocationCancelReason.PREDICTION_DISCARDED)

    def from_cache(self, prediction: Prediction) -> bool:
        """Returns whether the result of an open prediction came from the cache."""
        return prediction.state is State.READY and prediction not in self._runs

    def has(self, prediction: Prediction) -> bool:
        """Returns whether a handler runs or has run for an open prediction."""
        return prediction in self._runs

    def claim(
        self, prediction: Prediction, tool: RegisteredTool, call_id: str, lookup: Lookup | None
    ) -> EarlyRun | None:
        """Returns the run of a prediction for the call that the model made, now committed to it.

        The prediction is then confirmed. If the run cannot be used, because its result is too old
        or something that it depends on has changed, the prediction is discarded.
        """
        early = self._runs.get(prediction)
        if early is None:
            return None
        reason = self._unusable(early, tool, lookup)
        if reason is not None:
            self.discard(prediction, reason, call_id=call_id)
            return None
        del self._runs[prediction]
        early.committed_at = self._clock.now()
        early.run.commit(call_id)
        self._ledger.confirm(prediction, call_id)
        return early

    def _unusable(
        self, early: EarlyRun, tool: RegisteredTool, lookup: Lookup | None
    ) -> DiscardReason | None:
        over_at, ended = early.prediction.over_at, early.run.ended
        if tool is not early.tool or tool.current() is not tool:
            return DiscardReason.EXPIRED  # it was updated, maybe only while the cache was asked
        if ended is not None and ended.error is not None:
            return _why_failed(tool, ended.error)
        if lookup is None or lookup.changed_at > early.snapshot:
            return DiscardReason.STALE_RESOURCE
        age_s = 0.0 if over_at is None else self._clock.now() - over_at
        if age_s > self._policy.limits.result_age_max_s:
            return DiscardReason.EXPIRED
        return None

    async def look_up(self, prediction: Prediction) -> Lookup | None:
        """Returns what has become of the resources that the run of a prediction depends on.

        None if that is not known, or if there is no run.
        """
        early = self._runs.get(prediction)
        return None if early is None else await self._cache.find(early.query)


def _why_failed(tool: RegisteredTool, error: ServiceError) -> DiscardReason:
    if error.reason is Reason.TOOL_UNAVAILABLE and tool.current() is not tool:
        return DiscardReason.EXPIRED  # its process is there, but has updated or withdrawn the tool
    return _FAILURES.get(error.reason, DiscardReason.HANDLER_ERROR)
