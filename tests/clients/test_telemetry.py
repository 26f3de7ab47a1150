"""A turn continues the trace of the caller, and a handler runs in the trace of its call."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from precall import ToolContext
from precall.testing import Call, Say
from tests.clients.helpers import talking

TRACER = TracerProvider().get_tracer("test")


def trace_id() -> str:
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


async def test_trace_context_travels_there_and_back() -> None:
    async def asynchronous(context: ToolContext) -> list[str]:
        return [trace_id(), context.traceparent]

    def synchronous() -> str:
        return trace_id()

    script = [Call("asynchronous"), Call("synchronous"), Say("done")]
    async with talking(script, tools=(asynchronous, synchronous)) as (server, conversation):
        with TRACER.start_as_current_span("caller"):
            await conversation.ask("go")
            mine = trace_id()
    parent = server.turns[0].frame.trace_context.traceparent
    assert parent.split("-")[1] == mine
    assert [result.value for result in server.results] == [[mine, parent], mine]


async def test_without_a_span_there_is_no_trace_context() -> None:
    async def handler() -> str:
        return trace_id()

    with TRACER.start_as_current_span("long gone when the turn runs"):
        talk = talking([Call("handler"), Say("done")], tools=(handler,))
        server, conversation = await talk.__aenter__()
    await conversation.ask("go")
    assert not server.turns[0].frame.HasField("trace_context")
    assert server.results[0].value == "0" * 32
    await talk.__aexit__(None, None, None)
