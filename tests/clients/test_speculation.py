"""What a client asks of speculation, what it is granted, and what it is told."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc.aio
import pytest

import precall
from precall import (
    Capability,
    Client,
    ClientOptions,
    PredictorRecord,
    Speculation,
    SpeculationMode,
    SpeculationStats,
    ToolSpeculation,
)
from precall._events import Predictor
from precall._speculation_frames import granted
from precall.testing import Call, FakeServer, Predict, Say
from precall.testing._stream import FakeStream
from precall.v1 import agent_pb2, agent_pb2_grpc, prediction_pb2
from tests.clients.helpers import FAST

OFF, SHADOW, ISSUE = SpeculationMode.OFF, SpeculationMode.SHADOW, SpeculationMode.ISSUE


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (None, None),
        ("on", {"mode": ISSUE}),
        ("off", {"mode": OFF}),
        ("shadow", {"mode": SHADOW}),
        (Speculation(), {}),
        (Speculation(events=True), {"send_events": True}),
        (
            Speculation(ISSUE, predictors=["history", Predictor.FORK], max_depth=2, events=True),
            {
                "mode": ISSUE,
                "predictors": [
                    prediction_pb2.PREDICTOR_HISTORY,
                    prediction_pb2.PREDICTOR_FORK,
                ],
                "max_depth": 2,
                "send_events": True,
            },
        ),
    ],
)
async def test_what_is_asked_is_sent(asked: Any, sent: dict[str, Any] | None) -> None:
    async with FakeServer() as server, Client(server.address) as client:
        await client.conversation(speculation=asked).open()
    opened = server.frames[0].open
    assert opened.HasField("speculation") == (sent is not None)
    if sent is not None:
        if "mode" in sent:
            sent |= {"mode": f"SPECULATION_MODE_{sent['mode'].name}"}
        assert opened.speculation == prediction_pb2.SpeculationSettings(**sent)


@pytest.mark.parametrize(
    ("asked", "grants"),
    [
        (None, Speculation(ISSUE)),
        ("off", Speculation(OFF)),
        (Speculation("shadow", events=True), Speculation(SHADOW, events=True)),
        (
            Speculation(predictors=["cache"], max_depth=3),
            Speculation("on", predictors=[Predictor.CACHE], max_depth=3),
        ),
    ],
)
async def test_what_is_granted_can_be_read(asked: Any, grants: Speculation) -> None:
    async with FakeServer() as server, Client(server.address) as client:
        conversation = await client.conversation(speculation=asked).open()
        assert conversation.speculation == grants


async def test_a_server_without_speculation_grants_off() -> None:
    async with FakeServer(capabilities=()) as server, Client(server.address) as client:
        conversation = await client.conversation(speculation="on").open()
        assert conversation.speculation == Speculation("off")


async def test_an_old_server_that_says_nothing_grants_off(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FakeStream._opened  # pyright: ignore[reportPrivateUsage]

    def silent(stream: FakeStream, opening: agent_pb2.OpenConversation) -> Any:
        frame = opened(stream, opening)
        frame.opened.ClearField("speculation")
        return frame

    monkeypatch.setattr(FakeStream, "_opened", silent)
    async with FakeServer() as server, Client(server.address) as client:
        conversation = client.conversation(speculation=Speculation("on", events=True))
        async with conversation:
            assert conversation.speculation == Speculation("off")
        with pytest.raises(precall.ConversationClosedError):
            _ = conversation.speculation


def test_what_only_a_newer_server_grants_is_unknown() -> None:
    said = granted(prediction_pb2.SpeculationSettings.FromString(b"\x08\xe7\x24\x12\x02\xe8\x24"))
    assert (said.mode, said.predictors) == (SpeculationMode.UNKNOWN, (Predictor.UNKNOWN,))
    with pytest.raises(ValueError, match="UNKNOWN is a value of a newer server"):
        Client("localhost:1").conversation(speculation=said)


@pytest.mark.parametrize(
    ("mode", "options", "kind", "says"),
    [
        ("always", {}, ValueError, 'mode is \'always\', and must be "on", "off", "shadow"'),
        (True, {}, TypeError, "mode is True"),
        ("on", {"predictors": ["histori"]}, ValueError, "must be a list of precall.Predictor, or"),
        ("on", {"predictors": "history"}, TypeError, "predictors is 'history', and must be a list"),
        ("on", {"predictors": [1]}, TypeError, "predictors is"),
        ("on", {"max_depth": -1}, ValueError, "max_depth is -1, and must be a whole number"),
        ("on", {"events": "yes"}, TypeError, "events is 'yes', and must be True or False"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_words(
    mode: Any, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        Speculation(mode, **options)
    if not options:
        with pytest.raises(kind, match=says):
            Client("localhost:1").conversation(speculation=mode)


def test_a_setting_is_a_value() -> None:
    setting = Speculation("on", predictors=["history"])
    assert setting == Speculation(ISSUE, predictors=(Predictor.HISTORY,))
    assert hash(setting) == hash(Speculation("on", predictors=["history"]))
    assert dataclasses.replace(setting, events=True).events
    with pytest.raises(dataclasses.FrozenInstanceError):
        setting.events = True  # pyright: ignore[reportAttributeAccessIssue]


async def look(name: str) -> str:
    return name


def told(events: list[precall.Event]) -> list[str]:
    return [type(event).__name__ for event in events if "Prediction" in type(event).__name__]


@pytest.mark.parametrize("events", [True, False])
async def test_prediction_events_come_when_they_are_asked_for(events: bool) -> None:
    script = [
        Predict("look", {"name": "a"}, wait=True),
        Call("look", {"name": "a"}),
        Say("x"),
    ]
    async with FakeServer(script) as server, Client(server.address) as client:
        client.add_tool(look, read_only=True, speculation_safe=True)
        setting = Speculation(events=events)
        async with client.conversation(speculation=setting) as conversation:
            turn = conversation.send("?")
            came = [event async for event in turn]
            report = (await turn.answer()).report
    names = ["Proposed", "Launched", "Ready", "Confirmed"]
    assert told(came) == [f"Prediction{name}" for name in names] * events
    assert (report.predictions, report.predictions_confirmed) == (1, 1)


async def test_a_thousand_prediction_events_delay_no_tool_and_are_bounded() -> None:
    started = asyncio.Event()

    async def work(number: int = 0) -> None:
        started.set()

    predictions = [Predict("work", {"number": number}) for number in range(500)]
    script = [*predictions, Call("work"), Say("done")]
    options = dataclasses.replace(FAST, waiting_events_max=8)
    setting = Speculation("shadow", events=True)
    async with (
        FakeServer(script) as server,
        Client(server.address, options=options) as client,
        client.conversation(tools=[work], speculation=setting) as conversation,
    ):
        turn = conversation.send("?")
        events = aiter(turn)
        first = await anext(events)
        await asyncio.wait_for(started.wait(), 5)  # without reading any further
        read = [first, *[event async for event in events]]
        report = (await turn.answer()).report
    assert report.predictions == 500
    assert 2 <= len(told(read)) <= 2 * options.waiting_events_max
    assert len(told(read)) % 2 == 0  # whole predictions only
    assert isinstance(read[-1], precall.TurnCompleted)


STATS = SpeculationStats(
    tools=(
        ToolSpeculation(
            tool_name="look",
            calls=8,
            calls_confirmed=6,
            run_time_s=0.25,
            breaker_open=True,
            predictors=(
                PredictorRecord(
                    predictor=Predictor.HISTORY, stage=ISSUE, pinned=True, proposed=12, launched=9,
                    resolved=10, matched=7, confirmed=6, saved_s=1.5, wasted_s=0.5,
                ),
                PredictorRecord(
                    predictor=Predictor.FORK, stage=SHADOW, proposed=3, would_save_s=0.75,
                    would_waste_s=2.0, draft_tokens_proposed=40, draft_tokens_accepted=30,
                    saved_by_drafts_s=0.5,
                ),
            ),
        ),
        ToolSpeculation(tool_name="rarely"),
    ),
    allowance=0.5,
)  # fmt: skip


async def test_stats() -> None:
    async with FakeServer(speculation_stats=STATS) as server, Client(server.address) as client:
        stats = await client.speculation_stats()
    assert stats == STATS
    look, rarely = stats.tools
    assert (look.coverage, rarely.coverage) == (0.75, None)
    assert [record.acceptance for record in look.predictors] == [0.7, None]
    assert rarely.run_time_s is None


async def test_stats_of_a_server_that_does_not_speculate() -> None:
    async with FakeServer(capabilities=()) as server, Client(server.address) as client:
        with pytest.raises(precall.NotServedError, match="SPECULATION"):
            await client.speculation_stats()


class Old(agent_pb2_grpc.AgentServiceServicer):
    """A server from before the method."""


@pytest.mark.parametrize("known", [True, False])
async def test_stats_of_a_server_that_is_too_old(known: bool) -> None:
    old = grpc.aio.server()
    if known:
        agent_pb2_grpc.add_AgentServiceServicer_to_server(Old(), old)  # pyright: ignore[reportAbstractUsage]
    port = old.add_insecure_port("127.0.0.1:0")
    await old.start()
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(precall.NotServedError, match="too old, or not precall") as caught:
            await client.speculation_stats()
    await old.stop(None)
    assert caught.value.reason == "NOT_SERVED"


async def test_stats_of_no_server() -> None:
    async with Client("localhost:1", options=ClientOptions(answer_timeout_s=1)) as client:
        with pytest.raises(precall.ConnectError, match="is `precall serve` running"):
            await client.speculation_stats()


def test_a_server_that_speculates_lists_it() -> None:
    fake = FakeServer()
    assert agent_pb2.Capability.Value(f"CAPABILITY_{Capability.SPECULATION.name}") in (
        fake.capabilities
    )
