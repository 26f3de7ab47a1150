"""Where a turn stands, as predictors see it.

Owns: the calls of the turn until now, and the tokens of the step in progress.
Concurrency: synchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from precall_service.agent.account import StepBegan
from precall_service.agent.context import TurnContext, TurnServices
from precall_service.domain.events import StepFinishReason, ToolCallReady
from precall_service.domain.json import JsonError, JsonObject, dump, parse, parse_object
from precall_service.domain.messages import AssistantMessage, Message, ToolMessage
from precall_service.domain.turn import TurnSpec
from precall_service.speculation.base import (
    Branch,
    Lesson,
    Moment,
    PastCall,
    Samples,
    Situation,
)
from precall_service.speculation.ledger import Prediction
from precall_service.speculation.places import Place, place_of

EARLIER_CALLS_MAX: Final = 32
"""The calls of earlier turns that predictors see."""
EARLIER_RESULT_CHARS_MAX: Final = 64 << 10
"""Longer results of earlier turns are not shown to predictors."""
EARLIER_CHARS_MAX: Final = 256 << 10
"""The most characters of all arguments and results of earlier turns that predictors see. They are
read on the event loop, once for each turn."""


class Situations:
    """Makes the situations of one turn."""

    def __init__(self, context: TurnContext, spec: TurnSpec, services: TurnServices) -> None:
        self._context = context
        self._spec = spec
        self._engines = services.engines
        self._branches = services.speculation.branches
        self._draft_model = services.speculation.draft_model
        may_run_early = services.dispatcher.limits.may_run_early
        self.early = frozenset(
            tool.name for tool in context.tools if may_run_early(tool.declaration)
        )
        """The tools that may run early."""
        self.branched = self.early or frozenset(tool.name for tool in context.tools)
        """The tools for which branches are judged: if none may run early, branches are for drafts
        alone, which may be of any tool."""
        self._record = services.speculation.records.of(context.tenant)
        self._tools = {tool.name: tool.declaration for tool in context.tools}
        self._earlier: tuple[PastCall, ...] | None = None
        self._calls: tuple[PastCall, ...] = ()
        self._written: dict[str, PastCall] = {}
        self._began: StepBegan | None = None
        self._before: Situation | None = None
        self._reached = 0
        """The index of the latest place that the step's reasoning has reached."""
        self.step = 0
        self.token_ids: list[int] = []
        """The tokens that the step has sampled so far."""

    def begin_step(self, began: StepBegan) -> None:
        """Notes that a step begins. The calls of the step before have been answered."""
        self._calls += tuple(self._written.values())
        self._written = {}
        self._began = began
        self.step = began.step
        self.token_ids = []
        self._reached = 0
        self._before = self.now(Moment.STEP_BEGAN)

    def end_step(self, finish: StepFinishReason) -> None:
        """Notes that the step has ended. Its calls are made only if it ended with them."""
        self._began = None  # nothing can branch off it any more
        if finish is not StepFinishReason.TOOL_CALLS:
            self._written = {}
        if finish not in (StepFinishReason.TOOL_CALLS, StepFinishReason.STOP):
            self._before = None  # the step was cut, so it shows nothing

    def reasoned(self) -> bool:
        """Notes that the model reasons. Returns whether it has reached a place to fork."""
        before, self._reached = self._reached, place_of(len(self.token_ids))
        return self._reached > before

    @property
    def place(self) -> Place:
        """What is known of branches that begin where the step stands now."""
        places = self._record.branches(self.branched, first_step=self.step == 0)
        return places.at(len(self.token_ids))

    def wrote(self, call: ToolCallReady) -> bool:
        """Notes a call that is written. Returns whether it is a call that can be made."""
        try:
            arguments = self.arguments_of(call)
        except JsonError:
            return False
        self._written[call.call_id] = PastCall(tool_name=call.tool_name, arguments=arguments)
        return True

    def arguments_of(self, call: ToolCallReady) -> JsonObject:
        """Returns the arguments of a call.

        Raises:
            JsonError: they are not a JSON object.
        """
        return parse_object(call.arguments_json)

    def answered(self, call_id: str, result_json: str) -> None:
        """Notes the result of a call; empty if there is none."""
        call = self._written.get(call_id)
        if call is not None and result_json:
            self._written[call_id] = PastCall(
                tool_name=call.tool_name, arguments=call.arguments, result_json=result_json
            )

    def now(
        self,
        moment: Moment,
        after: Prediction | None = None,
        confidence: float = 0.0,
        *,
        may_branch: bool = False,
        may_sample: bool = False,
    ) -> Situation:
        """Returns the situation. After a prediction, it is the one in which it has come true.

        `may_branch` and `may_sample` say whether the models may be asked in it.
        """
        calls, ahead = self._calls, _chain(after)
        if ahead:
            calls += tuple(
                PastCall(
                    tool_name=each.key.tool_name,
                    arguments=each.arguments,
                    result_json=each.result_json,
                )
                for each in ahead
            )
        return Situation(
            tenant=self._context.tenant,
            conversation_id=self._context.conversation_id,
            turn_id=self._spec.turn_id,
            moment=moment,
            step=self.step if after is None else after.step + 1,
            text=self._spec.text,
            tools=self._tools,
            calls=calls,
            earlier=self._earlier_calls(),
            written=() if ahead else tuple(self._written.values()),
            depth=1 if after is None else after.depth + 1,
            reasoning_tokens=len(self.token_ids),
            confidence=confidence,
            branch=self._branch() if may_branch else None,
            samples=self._samples() if may_sample else None,
        )

    def lesson(self) -> Lesson | None:
        """Returns what the last step shows, once it has ended; None if there is nothing new."""
        if self._before is None or self._began is not None:
            return None
        before, self._before = self._before, None
        return Lesson(before=before, calls=tuple(self._written.values()))

    def _branch(self) -> Branch | None:
        engine, began = self._engines.running, self._began
        if engine is None or began is None or self._written:
            return None
        begin = _once(self.place.begin)  # further branches of one predictor are sampled
        return self._branches.off(engine, began.prompt, self.token_ids, began.spec, begin)

    def _samples(self) -> Samples | None:
        if self._draft_model is None or self._began is None:
            return None
        return self._draft_model.of(self._began)

    def _earlier_calls(self) -> tuple[PastCall, ...]:
        if self._earlier is None:
            latest_first = islice(_past_calls(self._context.transcript.messages), EARLIER_CALLS_MAX)
            self._earlier = tuple(latest_first)[::-1]
        return self._earlier


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that acts the first time that it is called."""
    pending = [act]

    def call() -> None:
        if pending:
            pending.pop()()

    return call


def _chain(prediction: Prediction | None) -> list[Prediction]:
    """Returns the predictions that lead to this one, and itself."""
    chain: list[Prediction] = []
    while prediction is not None:
        chain.append(prediction)
        prediction = prediction.parent
    return chain[::-1]


def _past_calls(messages: Sequence[Message]) -> Iterator[PastCall]:
    """Yields the calls in the last messages, latest first, within EARLIER_CHARS_MAX."""
    messages = messages[-4 * EARLIER_CALLS_MAX :]
    results = {each.call_id: each.text for each in messages if isinstance(each, ToolMessage)}
    left = EARLIER_CHARS_MAX
    for message in reversed(messages):
        for call in reversed(message.tool_calls if isinstance(message, AssistantMessage) else ()):
            text = results.get(call.call_id, "")
            shown = len(text) <= EARLIER_RESULT_CHARS_MAX
            left -= len(call.arguments_json) + (len(text) if shown else 0)
            if left < 0:
                return
            try:
                arguments = parse_object(call.arguments_json)
            except JsonError:
                continue
            yield PastCall(
                tool_name=call.tool_name,
                arguments=arguments,
                result_json=_as_json(text) if shown else None,
            )


def _as_json(text: str) -> str:
    """Returns what the model saw of a result as JSON; a text that is no JSON becomes a string."""
    try:
        parse(text)
    except JsonError:
        return dump(text)
    return text
