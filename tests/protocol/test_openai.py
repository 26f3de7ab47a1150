"""Turns in front of a scripted server, as a client sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import precall
from precall_service.app import serve
from precall_service.engine.openai.factory import OpenAiEngineFactory
from precall_service.settings import load_settings
from tests.support.openai_engine import config
from tests.support.openai_server import (
    SAYS_HI,
    OpenAiServer,
    Sent,
    call,
    counted,
    delta,
    refused,
    streamed,
)

FIRST = call("look_up", '{"name":"a"}', index=0, call_id="1")
SECOND = call("look_up", '{"name":"b"}', index=1, call_id="2")


@asynccontextmanager
async def in_front_of(server: OpenAiServer) -> AsyncGenerator[precall.Client]:
    settings = load_settings(None, {"server": {"port": 0, "drain_s": 0}})
    async with (
        server.running(),
        serve(
            settings,
            OpenAiEngineFactory(config(server.url)),
            model="tiny",
            on_progress=lambda _stage, _done: None,
        ) as service,
        precall.Client(service.address) as client,
    ):
        yield client


async def test_a_written_call_runs_while_the_server_still_writes() -> None:
    """The server ends its message only when the handler has run."""
    ran = asyncio.Event()
    head = streamed(delta(tool_calls=[FIRST]), delta(tool_calls=[SECOND]), done=False)
    both = replace(head, rest=streamed(delta("tool_calls"), counted()).body, when=ran)

    async def look_up(name: str) -> str:
        ran.set()
        return name.upper()

    tool = precall.Tool.from_function(look_up, read_only=True, speculation_safe=True)
    server = OpenAiServer([both, SAYS_HI])
    async with in_front_of(server) as client, client.conversation(tools=[tool]) as conversation:
        answer = await asyncio.wait_for(conversation.ask("Look them up."), 30)
    assert str(answer) == "Hi"
    assert answer.report.tool_calls == 2
    assert answer.report.predictions_confirmed >= 1
    results = [each["content"] for each in server.asked[1]["messages"] if each["role"] == "tool"]
    assert results == ["A", "B"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refused("429 Too Many Requests", "slow down"), "OVERLOADED"),
        (refused("500 Oh", "on fire"), "ENGINE_FAILED"),
        (refused("400 Bad Request", "no such thing"), "FIELD_INVALID"),
        (streamed(delta(content="Hal"), done=False), "ENGINE_FAILED"),
        (Sent(b"data: nonsense\n\n"), "ENGINE_FAILED"),
    ],
)
async def test_a_failure_costs_one_turn(answer: Sent, reason: str) -> None:
    server = OpenAiServer([answer, SAYS_HI])
    async with in_front_of(server) as client, client.conversation() as conversation:
        with pytest.raises(precall.PrecallError) as caught:
            await conversation.ask("Hello")
        assert caught.value.reason == reason
        assert str(await conversation.ask("Hello")) == "Hi"


async def test_a_call_that_cannot_be_read_is_written_again() -> None:
    half = streamed(delta("tool_calls", tool_calls=[call("look_up", '{"name": "a')]))

    def look_up(name: str) -> str:
        return name

    server = OpenAiServer([half, SAYS_HI])
    async with in_front_of(server) as client, client.conversation(tools=[look_up]) as conversation:
        answer = await conversation.ask("Look it up.")
    assert answer.tool_calls[0].outcome is precall.ToolCallOutcome.ERROR
    (told,) = [each["content"] for each in server.asked[1]["messages"] if each["role"] == "tool"]
    assert "write the whole call again" in told


async def test_a_required_call_that_the_server_does_not_make_is_told() -> None:
    def look_up(name: str) -> str:
        return name

    server = OpenAiServer([SAYS_HI])
    async with in_front_of(server) as client, client.conversation(tools=[look_up]) as conversation:
        with pytest.raises(precall.NoCallError):
            await conversation.ask("Look it up.", tool_choice="required")
