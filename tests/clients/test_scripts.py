"""Scripts of the fake server: mistakes are reported, and nothing waits because of them."""

from __future__ import annotations

from typing import Any

import pytest

import precall
from precall import TurnOutcome
from precall.testing import (
    Call,
    Disconnect,
    Fail,
    FakeServer,
    Hang,
    Limit,
    NoCall,
    Parallel,
    Refuse,
    Say,
)
from precall.v1 import agent_pb2, tool_pb2, turn_pb2
from tests.clients.helpers import talking
from tests.support.stream import StreamDriver, connected
from tests.support.wire import failure


async def later(results: object) -> Say:
    return Say("too late")


@pytest.mark.parametrize(
    ("turns", "kind", "says"),
    [
        ([Say("x")], TypeError, r"turn 1 is Say\(.*must be a list of entries, as in FakeServer"),
        ([[Say("x")], "x"], TypeError, "turn 2 is 'x'"),
        ([["x"]], TypeError, "entry 1 of turn 1 is 'x', and must be a Say, Call"),
        ([[Say]], TypeError, "entry 1 of turn 1 is <class"),
        ([[later]], TypeError, "entry 1 of turn 1 is a coroutine function"),
        ([[Say(3)]], TypeError, "entry 1 of turn 1: 3 must be a string"),  # pyright: ignore[reportArgumentType]
        ([[Call("a", {"b": {1}})]], ValueError, "the arguments of 'a': .*set is not JSON"),  # pyright: ignore[reportArgumentType]
        ([[Call("a", {"b": float("nan")})]], ValueError, "the arguments of 'a': Out of range"),
        ([[Call("a", [1])]], TypeError, "the arguments of 'a' are not a dict"),  # pyright: ignore[reportArgumentType]
        ([[Parallel([Say("x")])]], TypeError, "Parallel holds Say"),  # pyright: ignore[reportArgumentType]
        ([[Fail("TOO_LARG")]], ValueError, "no reason 'TOO_LARG'; did you mean 'TOO_LARGE'"),
        ([[Refuse("ERROR")]], ValueError, "the contract has no reason 'ERROR'"),
        ([[Limit("TURN_TIMEOUTS")]], ValueError, "did you mean 'TURN_TIMEOUT'"),
        ([[NoCall("TOO_LARGE")]], ValueError, "'TOO_LARGE' must be one of CALL_LOST, CALL_MISS"),
        ([[NoCall(stray_call="x")]], ValueError, "'x' must be one of open, lost, reasoning"),
        ([[NoCall(text=3)]], TypeError, "3 must be a string"),  # pyright: ignore[reportArgumentType]
        ([[Disconnect("DRAIN")]], ValueError, "did you mean 'DRAINING'"),
        ([[Say("a"), Say("b")]], ValueError, "entry 1 of turn 1: Say ends its turn"),
        ([[Hang(), Say("b")]], ValueError, "Hang ends its turn"),
    ],
)
def test_a_script_that_cannot_be_played_is_refused_at_once(
    turns: list[Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        FakeServer(*turns)


def test_refusals_are_checked_too() -> None:
    with pytest.raises(ValueError, match="no reason 'NO'"):
        FakeServer(refuse_open=Refuse("NO"))
    with pytest.raises(ValueError, match="no reason 'NO'"):
        FakeServer(refuse_tools={"a": Refuse("NO")})


async def test_a_script_that_fails_fails_its_turn_and_leaves_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def divide(results: object) -> Say:
        return Say(str(1 // 0))

    def number(results: object) -> Any:
        return 3

    async with talking([divide], [number], [Say("fine")]) as (_, conversation):
        with pytest.raises(precall.ServerError, match="the script failed: ZeroDivisionError: int"):
            await conversation.ask("?")
        with pytest.raises(
            precall.ServerError, match="the return value of entry 1 is 3, and must be a"
        ):
            await conversation.ask("?")
        assert str(await conversation.ask("?")) == "fine"
    assert "in divide" in caplog.text


async def test_a_turn_that_is_sent_again_is_answered_by_its_ending() -> None:
    async def work() -> None: ...

    scripts = (
        [Say("once")],
        [Hang("...")],
        [Call("work"), Fail("INTERNAL", "in the middle")],
        [Fail("ENGINE_UNAVAILABLE", "before its first step")],
        [Say("twice")],
    )
    async with talking(*scripts, tools=(work,)) as (server, conversation):
        for _ in range(2):
            assert str(await conversation.ask("a", turn_id="a")) == "once"
        turn = conversation.send("b", turn_id="b")
        await anext(aiter(turn))
        await turn.cancel()
        for again in (turn, conversation.send("b", turn_id="b")):
            assert (await again).outcome is TurnOutcome.CANCELLED
        for _ in range(2):
            with pytest.raises(precall.ServerError, match="in the middle"):
                await conversation.ask("c", turn_id="c")
        with pytest.raises(precall.EngineUnavailableError):
            await conversation.ask("d", turn_id="d")
        assert str(await conversation.ask("d", turn_id="d")) == "twice"
        with pytest.raises(precall.InvalidArgumentError) as caught:
            await conversation.ask("another text", turn_id="a")
        assert caught.value.reason == "TURN_ID_REUSED"
    assert [turn.text for turn in server.turns] == ["a", "b", "c", "d", "d"]


async def test_half_closing_takes_the_tools_away_and_the_turn_goes_on() -> None:
    script = [Call("a"), Call("a"), Say("Without, then.")]
    async with FakeServer(script) as server, connected(server.address) as channel:
        stream = StreamDriver(channel)
        await stream.open(agent_pb2.OpenConversation(tools=[tool_pb2.Tool(name="a")]))
        await stream.start()
        await stream.invoked()
        await stream.half_close()
        for _ in range(2):
            completed = await stream.call_completed()
            assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_UNAVAILABLE
            assert failure(completed.error).reason == "TOOL_UNAVAILABLE"
        assert (await stream.completed()).text == "Without, then."
        assert await stream.ended() is None
