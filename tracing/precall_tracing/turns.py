"""The spans of one turn: `invoke_agent`, a `chat` for each step, an `execute_tool` for each call.

Never: records message content, arguments or results.
Concurrency: parents are given explicitly and no context is attached to a task, so spans may end in
    any order and in any coroutine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from precall_tracing import names

__all__ = ["OpenSpan", "StepSettings", "Tracer", "TurnTrace", "Usage", "default_tracer"]

_PROPAGATOR = TraceContextTextMapPropagator()


def default_tracer() -> Tracer:
    """The tracer of the process. It records spans only if `setup.exported_traces` is active."""
    return trace.get_tracer("precall")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """The settings of a step that its `chat` span records; None is left out."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The numbers of tokens that a span records."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int


class OpenSpan:
    """A span that ends when its context is left. An exception sets its error type.

    Cancellation is not an error: a cancelled turn cancels its steps and calls.
    """

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            self.fail(type(error).__name__)
        self.end()

    def end(self) -> None:
        """Ends the span. Idempotent."""
        if self._span.is_recording():
            self._span.end()

    @property
    def carrier(self) -> Mapping[str, str]:
        """`traceparent` and `tracestate` of this span, for another process that continues it."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, context=trace.set_span_in_context(self._span, Context()))
        return carrier

    @property
    def link(self) -> Link:
        """A link to this span."""
        return Link(self._span.get_span_context())

    def fail(self, error_type: str) -> None:
        """Marks the span as failed, with a reason from a closed list."""
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def set(self, attributes: Mapping[str, AttributeValue | None]) -> None:
        """Sets the attributes that are not None."""
        self._span.set_attributes(_present(attributes))

    def use(self, usage: Usage) -> None:
        """Sets the numbers of tokens that were used."""
        self.set(
            {
                names.USAGE_INPUT_TOKENS: usage.input_tokens,
                names.USAGE_OUTPUT_TOKENS: usage.output_tokens,
                names.USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
                names.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens or None,
            }
        )


class TurnTrace(OpenSpan):
    """The `invoke_agent` span of a turn, and the spans under it."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        parent: Mapping[str, str],
        conversation_id: str,
        tenant: str,
        turn_id: str,
        agent_name: str,
        model: str,
    ) -> None:
        self._tracer = tracer
        self._model = model
        self._shared: dict[str, AttributeValue] = {names.CONVERSATION_ID: conversation_id}
        if agent_name:
            self._shared[names.AGENT_NAME] = agent_name
        span = self._tracer.start_span(
            f"{names.INVOKE_AGENT} {agent_name}".rstrip(),
            context=_PROPAGATOR.extract(parent, context=Context()),
            kind=SpanKind.INTERNAL,
            attributes={
                names.OPERATION_NAME: names.INVOKE_AGENT,
                names.REQUEST_MODEL: model,
                names.TURN_ID: turn_id,
                names.TENANT: tenant,
                **self._shared,
            },
        )
        super().__init__(span)

    def step(self, settings: StepSettings, used: Sequence[OpenSpan] = ()) -> OpenSpan:
        """Starts the `chat` span of a step, with links to the predictions whose results it uses."""
        attributes: dict[str, AttributeValue | None] = {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: "vllm",
            names.REQUEST_MODEL: self._model,
            names.REQUEST_STREAM: True,
            names.REQUEST_MAX_TOKENS: settings.max_tokens,
            names.REQUEST_TEMPERATURE: settings.temperature,
            names.REQUEST_TOP_P: settings.top_p,
            names.REQUEST_SEED: settings.seed,
        }
        links = [span.link for span in used]
        return self._child(f"{names.CHAT} {self._model}", attributes, links)

    def prediction(self, tool_name: str) -> OpenSpan:
        """Starts the `speculate` span of a prediction, which lasts until the prediction ends."""
        attributes: dict[str, AttributeValue | None] = {
            names.OPERATION_NAME: names.SPECULATE,
            names.TOOL_NAME: tool_name,
        }
        return self._child(f"{names.SPECULATE} {tool_name}", attributes)

    def tool(self, tool_name: str, call_id: str) -> OpenSpan:
        """Starts the `execute_tool` span of a call, which lasts from dispatch to the call's end."""
        attributes: dict[str, AttributeValue | None] = {
            names.OPERATION_NAME: names.EXECUTE_TOOL,
            names.TOOL_NAME: tool_name,
            names.TOOL_CALL_ID: call_id,
            names.TOOL_TYPE: names.TOOL_TYPE_FUNCTION,
        }
        return self._child(f"{names.EXECUTE_TOOL} {tool_name}", attributes)

    def _child(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue | None],
        links: Sequence[Link] = (),
    ) -> OpenSpan:
        return OpenSpan(
            self._tracer.start_span(
                name,
                context=trace.set_span_in_context(self._span, Context()),
                kind=SpanKind.INTERNAL,
                attributes=_present(attributes) | self._shared,
                links=links,
            )
        )


def _present(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
