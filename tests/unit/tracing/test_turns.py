"""The exact names, types, kinds and parents of a turn's spans."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from precall_tracing.turns import StepSettings, Tracer, TurnTrace, Usage

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
SETTINGS = StepSettings(max_tokens=64, temperature=0.0, top_p=None, seed=None)


def turn(tracer: Tracer, *, agent_name: str = "helper") -> TurnTrace:
    return TurnTrace(
        tracer,
        parent=PARENT,
        conversation_id="conv-1",
        tenant="default",
        turn_id="turn-1",
        agent_name=agent_name,
        model="tiny",
    )


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_turn_with_a_step_and_a_call(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    with turn(tracer) as trace:
        with trace.step(SETTINGS) as step:
            step.use(Usage(input_tokens=30, cached_tokens=16, output_tokens=5, reasoning_tokens=0))
        with trace.tool("add", "call-1"):
            pass
    chat, tool, agent = exporter.get_finished_spans()
    assert [span.name for span in (agent, chat, tool)] == [
        "invoke_agent helper",
        "chat tiny",
        "execute_tool add",
    ]
    assert {span.kind for span in (agent, chat, tool)} == {SpanKind.INTERNAL}
    assert agent.context is not None
    assert agent.parent is not None
    assert f"{agent.context.trace_id:032x}" == PARENT["traceparent"].split("-")[1]
    assert f"{agent.parent.span_id:016x}" == PARENT["traceparent"].split("-")[2]
    assert chat.parent is not None
    assert tool.parent is not None
    assert chat.parent.span_id == tool.parent.span_id == agent.context.span_id
    assert attributes(agent) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.request.model": "tiny",
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.agent.name": "helper",
        "precall.turn.id": "turn-1",
        "precall.tenant": "default",
    }
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.agent.name": "helper",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
    }
    assert attributes(tool) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add",
        "gen_ai.tool.call.id": "call-1",
        "gen_ai.tool.type": "function",
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.agent.name": "helper",
    }


def test_a_turn_without_an_agent_name(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    with turn(tracer, agent_name=""):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.name == "invoke_agent"
    assert "gen_ai.agent.name" not in attributes(span)


def test_a_handler_gets_its_calls_span_as_parent(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    with turn(tracer) as trace, trace.tool("add", "call-1") as tool:
        carrier = tool.carrier
    tool_span, _ = exporter.get_finished_spans()
    assert tool_span.context is not None
    assert carrier["traceparent"].split("-")[2] == f"{tool_span.context.span_id:016x}"


def test_a_failure_is_an_error_with_its_reason(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    with turn(tracer) as trace:
        trace.fail("ENGINE_UNAVAILABLE")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ENGINE_UNAVAILABLE"


def test_an_exception_names_its_kind_and_propagates(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(LookupError), turn(tracer):
        raise LookupError("content that must not be recorded")
    (span,) = exporter.get_finished_spans()
    assert attributes(span)["error.type"] == "LookupError"
    assert not span.events
