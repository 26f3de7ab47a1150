"""What happens in a turn is noted once, and every observer sees the same."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from precall_service.agent.account import (
    CallTaken,
    Happening,
    Sampled,
    StepBegan,
    TurnAccount,
)
from precall_service.domain.events import (
    Invoke,
    StepCompleted,
    TextDelta,
    ToolCallCompleted,
    ToolCallReady,
    TurnCompleted,
    TurnStarted,
)
from precall_service.engine.base import StrayCall
from precall_tracing.turns import Tracer
from tests.support.agent import OSLO, ROME, WEATHER, agent
from tests.support.clock import settle
from tests.support.scripts import Ends, Pause, calls, one_by_one, says, thinks


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Happening]:
    """Everything that the turns of the test note."""
    happenings: list[Happening] = []
    note = TurnAccount.note

    def listening(self: TurnAccount, happening: Happening) -> None:
        happenings.append(happening)
        note(self, happening)

    monkeypatch.setattr(TurnAccount, "note", listening)
    return happenings


async def test_what_happens_in_a_turn_is_noted_in_order(noted: list[Happening]) -> None:
    steps = one_by_one([*thinks("Hm."), *calls(ROME)]), says("Yes.")
    async with agent(*steps) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer()
        assert client.ending().text == "Yes."
    kinds = [type(each) for each in noted if not isinstance(each, Sampled)]
    assert kinds == [
        TurnStarted,
        StepBegan,
        StepCompleted,
        CallTaken,
        ToolCallCompleted,
        StepBegan,
        StepCompleted,
        TurnCompleted,
    ]
    told = [piece for each in noted if isinstance(each, Sampled) for piece in each.pieces]
    assert told == [event for event in client.events if event in told], "and sent in that order"
    assert any(isinstance(piece, ToolCallReady) for piece in told)
    assert told[-1] == TextDelta("Yes.")


async def test_the_tokens_of_a_step_are_known_while_it_is_generated(
    noted: list[Happening],
) -> None:
    go_on = asyncio.Event()
    async with agent([*says("One "), Pause(go_on), *says("two.")]) as there:
        client = there.open()
        await client.send()
        sampled = [each for each in noted if isinstance(each, Sampled)]
        [began] = [each for each in noted if isinstance(each, StepBegan)]
        assert began.prompt == there.engine.prompts[0]
        assert [piece for each in sampled for piece in each.pieces] == [TextDelta("One ")]
        so_far = [token for each in sampled for token in each.token_ids]
        go_on.set()
        await settle()
        sampled = [each for each in noted if isinstance(each, Sampled)]
        tokens = [token for each in sampled for token in each.token_ids]
        assert tokens[: len(so_far)] == so_far
        assert len(tokens) == client.ending().report.usage.output_tokens


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Returns the ended spans by name; names must be unique."""
    ended = exporter.get_finished_spans()
    assert len({span.name for span in ended}) == len(ended)
    return {span.name: span for span in ended}


def said(span: ReadableSpan, name: str) -> object:
    assert span.attributes is not None
    return span.attributes.get(name)


async def test_a_turn_is_a_trace_of_its_steps_and_calls(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent(calls(ROME), says("Yes."), tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer()
    ended = exporter.get_finished_spans()
    assert [span.name for span in ended] == [
        "chat scripted",
        "execute_tool weather",
        "chat scripted",
        "invoke_agent helper",
    ]
    first, tool, _, turn = ended
    assert said(first, "gen_ai.response.finish_reasons") == ("tool_calls",)
    assert said(tool, "precall.tool.outcome") == "result"
    assert said(turn, "precall.turn.outcome") == "answered"
    assert said(turn, "precall.turn.tool_calls") == 1
    assert all(span.status.status_code is StatusCode.UNSET for span in ended)


async def test_a_failed_turn_and_its_cut_step_say_why(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent([*says("So "), Pause(asyncio.Event())], tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        there.engine.die()
        await settle()
    ended = spans(exporter)
    for name in ("chat scripted", "invoke_agent helper"):
        assert said(ended[name], "error.type") == "ENGINE_UNAVAILABLE"
        assert ended[name].status.status_code is StatusCode.ERROR
    assert said(ended["chat scripted"], "gen_ai.response.finish_reasons") == ("aborted",)


async def test_a_turn_without_its_call_is_an_error_and_its_step_is_not(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent([Ends(stray_call=StrayCall.LOST)], tracer=tracer) as there:
        await there.open(WEATHER).send()
    ended = spans(exporter)
    turn = ended["invoke_agent helper"]
    assert said(turn, "precall.turn.outcome") == "no_call"
    assert said(turn, "error.type") == "CALL_LOST"
    assert turn.status.status_code is StatusCode.ERROR
    assert ended["chat scripted"].status.status_code is StatusCode.UNSET


async def test_a_cancelled_turn_is_not_an_error(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent(calls(ROME), tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
    ended = spans(exporter)
    assert said(ended["execute_tool weather"], "precall.tool.outcome") == "cancelled"
    assert said(ended["invoke_agent helper"], "precall.turn.outcome") == "cancelled"
    assert all(span.status.status_code is StatusCode.UNSET for span in ended.values())


async def test_spans_end_when_the_client_is_gone(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent(calls(ROME, OSLO), tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.vanish()
    names = sorted(span.name for span in exporter.get_finished_spans())
    assert names == [
        "chat scripted",
        "execute_tool weather",
        "execute_tool weather",
        "invoke_agent helper",
    ]


async def test_no_span_stays_open_if_the_client_leaves_before_its_turn_runs(
    exporter: InMemorySpanExporter,
) -> None:
    started = _Started()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(started)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with agent(says("Yes."), tracer=provider.get_tracer("test")) as there:
        client = there.open()
        starting = asyncio.create_task(client.send())
        await asyncio.sleep(0)  # the turn is accepted, and nothing has run yet
        await client.vanish()
        starting.cancel()
    assert started.names == [span.name for span in exporter.get_finished_spans()]


class _Started(SpanProcessor):
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context
        self.names.append(span.name)


async def test_a_handler_gets_the_context_of_its_call(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    async with agent(calls(ROME), says("Yes."), tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        await client.answer()
    [tool] = [span for span in exporter.get_finished_spans() if span.name.startswith("execute")]
    assert tool.context is not None
    assert format(tool.context.span_id, "016x") in invocation.trace_context.traceparent
