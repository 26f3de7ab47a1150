"""A prediction is a span from its proposal to its end, and no discard is an error."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from precall_service.domain.events import Invoke, PredictionConfirmed, ToolCallReady
from precall_service.domain.speculation import SpeculationMode, SpeculationRequest
from precall_service.speculation.base import Proposal
from precall_service.tools.link import HandlerError
from precall_tracing.turns import Tracer
from tests.support.agent import agent_on, scripted
from tests.support.scripts import says
from tests.support.speculating import BOOK, WEATHER, Thinking, Told, first_step, proposal, weather

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """The ended spans of this name, in the order of their starts."""
    spans = [each for each in exporter.get_finished_spans() if each.name == name]
    return sorted(spans, key=lambda each: each.start_time or 0)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def links(span: ReadableSpan) -> list[int]:
    return [each.context.span_id for each in span.links]


async def test_a_prediction_that_came_true(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    thinking = Thinking()
    told = Told(first_step(weather(confidence=0.75)))
    steps = [thinking.then(ROME), says("done")]
    async with agent_on(scripted(*steps), predictors=[told], tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        await there.advance(2.0)
        await client.answer(0)
        await there.advance(1.0)
        await thinking.on()
        [span] = named(exporter, "speculate weather")
        [invoke] = client.of(Invoke)
        [call] = client.of(ToolCallReady)
        assert client.of(PredictionConfirmed)[0].lead_time_s == 3.0
    said = attributes(span)
    conversation = client.conversation.conversation_id
    assert said == {
        "gen_ai.operation.name": "speculate",
        "gen_ai.tool.name": "weather",
        "gen_ai.tool.call.id": call.call_id,
        "gen_ai.conversation.id": conversation,
        "gen_ai.agent.name": "helper",
        "precall.prediction.predictor": "fork",
        "precall.prediction.confidence": 0.75,
        "precall.prediction.depth": 1,
        "precall.prediction.outcome": "confirmed",
        "precall.prediction.lead_time": 3.0,
    }
    assert span.status.status_code is StatusCode.UNSET
    [turn] = named(exporter, "invoke_agent helper")
    assert span.parent is not None
    assert span.parent.span_id == id_of(turn)
    first, second = named(exporter, "chat scripted")
    assert (links(first), links(second)) == ([], [id_of(span)])
    # The handler's own span is a child of the prediction's.
    assert f"{id_of(span):016x}" in invoke.trace_context.traceparent
    assert attributes(turn)["precall.turn.predictions_confirmed"] == 1
    [tool] = named(exporter, "execute_tool weather")
    assert attributes(tool)["precall.tool.result_source"] == "speculative"


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (weather("Rome"), ("mismatch", 2.0, False)),
        (proposal("book", "Rome"), ("not_eligible", 0.0, False)),
        (weather("Oslo"), ("shadow", 0.0, True)),
    ],
    ids=["mismatch", "not eligible", "shadow"],
)
async def test_a_discarded_prediction_is_no_error(
    predicted: Proposal,
    said: tuple[str, float, bool],
    exporter: InMemorySpanExporter,
    tracer: Tracer,
) -> None:
    thinking = Thinking()
    told = Told(first_step(predicted))
    mode = SpeculationMode.SHADOW if said[0] == "shadow" else SpeculationMode.ISSUE
    steps = [thinking.then(OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[told], tracer=tracer) as there:
        client = there.open(WEATHER, BOOK, speculation=SpeculationRequest(mode=mode))
        await client.send()
        await there.advance(2.0)
        await thinking.on()
        await client.answer(-1)
    [span] = named(exporter, f"speculate {predicted.tool_name}")
    found = attributes(span)
    assert found["precall.prediction.outcome"] == "discarded"
    assert said == (
        found["precall.prediction.discard_reason"],
        found["precall.prediction.time_wasted"],
        "gen_ai.tool.call.id" in found,  # the call that it matched, although nothing ran
    )
    assert "error.type" not in found
    assert span.status.status_code is StatusCode.UNSET
    assert all(not links(each) for each in named(exporter, "chat scripted"))


async def test_a_handler_that_failed_early_makes_no_error_span(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    thinking = Thinking()
    told = Told(first_step(weather("Oslo")))
    steps = [thinking.then(OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[told], tracer=tracer) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.deliver(HandlerError("Busy", "later"))
        await thinking.on()
        await client.answer(-1)
    [span] = named(exporter, "speculate weather")
    assert attributes(span)["precall.prediction.discard_reason"] == "handler_error"
    assert all(
        each.status.status_code is StatusCode.UNSET for each in exporter.get_finished_spans()
    )


async def test_spans_are_made_although_the_client_asks_for_no_events(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    thinking = Thinking()
    told = Told(first_step(weather("Rome"), weather("Oslo")))
    steps = [thinking.then(OSLO), says("done")]
    async with agent_on(scripted(*steps), predictors=[told], tracer=tracer) as there:
        client = there.open(WEATHER, speculation=SpeculationRequest())
        await client.send()
        await client.answer(-1)
        await thinking.on()
    outcomes = [
        attributes(each)["precall.prediction.outcome"]
        for each in named(exporter, "speculate weather")
    ]
    assert sorted(map(str, outcomes)) == ["confirmed", "discarded"]


async def test_spans_say_what_became_of_drafts(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    thinking = Thinking()
    told = Told(first_step(weather(), proposal("book")))
    engine = scripted(thinking.then(ROME), says("done"))
    engine.verified = {"weather": (20, 15), "": (5, 5)}
    async with agent_on(engine, predictors=[told], tracer=tracer) as there:
        client = there.open(WEATHER, BOOK)
        await client.send()
        await client.answer(0)
        await thinking.on()
    [drafted] = named(exporter, "speculate weather")
    [other] = named(exporter, "speculate book")
    first, second = named(exporter, "chat scripted")
    [turn] = named(exporter, "invoke_agent helper")
    counts = "precall.prediction.draft_tokens_proposed", "precall.prediction.draft_tokens_accepted"
    assert [attributes(drafted)[name] for name in counts] == [20, 15]
    assert attributes(drafted)["precall.prediction.saved_by_draft"] == 0.0
    assert attributes(other).keys().isdisjoint(counts)
    counts = "precall.step.draft_tokens_proposed", "precall.step.draft_tokens_accepted"
    assert [attributes(first)[name] for name in counts] == [25, 20]
    assert [attributes(second)[name] for name in counts] == [5, 5]
    assert attributes(second)["precall.step.saved_by_drafts"] == 0.0
    assert attributes(turn)["precall.turn.draft_tokens_wasted"] == 5
