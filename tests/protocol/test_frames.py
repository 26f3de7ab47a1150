"""Frames: their numbers, kinds and sizes. A bad frame is refused and affects nothing else."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.message import Message

from precall.v1 import agent_pb2, common_pb2, invocation_pb2, tool_pb2, turn_pb2
from tests.support.scripts import Pause, always, in_turn, says
from tests.support.stream import StreamDriver, running_server
from tests.support.wire import said

HELLO = always(says("Hello."))
UNKNOWN_FIELD = b"\xf2\x0f\x03abc"  # field 254, three bytes


async def lives_on(stream: StreamDriver) -> None:
    """Checks that the stream answers a turn and closes with OK."""
    assert (await stream.ask(turn_id="afterwards")).text == "Hello."
    await stream.close()


@pytest.mark.parametrize("number", [0, 1, 3, 2**63, 2**64 - 9])
async def test_a_frame_with_a_wrong_number_is_refused(number: int) -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await stream.send("acknowledge", common_pb2.Acknowledge(), sequence=number)
        error = await stream.refused(number)
        assert error.reason == "FIELD_INVALID"
        assert error.field == "sequence"
        assert "must be 2" in error.message
        await lives_on(stream)


async def test_after_the_highest_number_no_frame_can_follow() -> None:
    async with running_server(HELLO) as server:
        stream, other = await server.opened(), await server.opened()
        await stream.send("acknowledge", common_pb2.Acknowledge(), sequence=2**64 - 1)
        await stream.refused(2**64 - 1)
        turn = turn_pb2.StartTurn(turn_id="t1", content=said("Hi."))
        await stream.send("start_turn", turn, sequence=2)
        assert (await stream.refused(2)).field == "sequence"
        await stream.send_raw(b"\x0f")
        assert (await stream.refused(0)).reason == "FRAME_UNKNOWN"
        await lives_on(other)


async def test_a_defect_in_the_server_affects_one_frame(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("internals")

    async with running_server(HELLO) as server:
        stream = await server.opened()
        monkeypatch.setattr("precall_service.agent.conversation.Conversation.cancel_turn", broken)
        error = await stream.refused(await stream.send("cancel_turn", turn_pb2.CancelTurn()))
        assert error.reason == "INTERNAL"
        assert "internals" not in error.message
        assert error.metadata["incident"] in error.message
        assert error.metadata["incident"] in caplog.text
        caplog.clear()
        await lives_on(stream)


async def test_a_first_frame_with_a_wrong_number_ends_the_stream() -> None:
    async with running_server(HELLO) as server:
        stream = server.stream()
        await stream.send("open", agent_pb2.OpenConversation(), sequence=7)
        error = await stream.ended()
        assert error is not None
        assert error.reason == "FIELD_INVALID"
        assert error.field == "sequence"


async def test_refused_frames_are_acknowledged_like_others() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        for _ in range(5):
            await stream.refused(await stream.send())
        await stream.send("acknowledge", common_pb2.Acknowledge())
        await stream.ask()
        assert stream.events[-1].acknowledged == 8
        await stream.close()


async def test_acknowledgements_get_no_answer() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        for acknowledged in (0, 1, 1, 2**64 - 1):
            await stream.send_raw(
                agent_pb2.ConverseRequest(
                    sequence=stream.sent + 1,
                    acknowledged=acknowledged,
                    acknowledge=common_pb2.Acknowledge(),
                )
            )
        await lives_on(stream)
        assert "frame_rejected" not in stream.kinds()


async def test_an_unset_frame_is_refused() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send())
        assert error.reason == "FRAME_UNKNOWN"
        assert error.field == "frame"
        assert "GetServerInfo" in error.message
        await lives_on(stream)


async def test_a_frame_of_a_later_contract_is_refused() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        later = agent_pb2.ConverseRequest(sequence=2).SerializeToString() + UNKNOWN_FIELD
        await stream.send_raw(later)
        assert (await stream.refused(2)).reason == "FRAME_UNKNOWN"
        await lives_on(stream)


async def test_fields_of_a_later_contract_are_ignored() -> None:
    async with running_server(HELLO) as server:
        stream = server.stream()
        opening = agent_pb2.ConverseRequest(sequence=1, open=agent_pb2.OpenConversation())
        await stream.send_raw(opening.SerializeToString() + UNKNOWN_FIELD)
        await stream.expect("opened")
        await lives_on(stream)


UNREADABLE = {
    "cut short": b"\x3a\xff\x01a",
    "an unknown wire type": b"\x0f",
    "text that is not UTF-8": b"\x08\x02\x3a\x04\x12\x02\xff\xfe",
    "noise": bytes(range(255, 0, -1)),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_bytes_that_are_not_a_frame_are_refused(name: str) -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await stream.send_raw(UNREADABLE[name])
        error = await stream.refused(0)
        assert error.reason == "FRAME_UNKNOWN"
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        await lives_on(stream)


@pytest.mark.parametrize("name", UNREADABLE)
async def test_first_bytes_that_are_not_a_frame_end_the_stream(name: str) -> None:
    async with running_server(HELLO) as server:
        stream = server.stream()
        await stream.send_raw(UNREADABLE[name])
        error = await stream.ended()
        assert error is not None
        assert error.reason == "FRAME_UNKNOWN"
        await lives_on(await server.opened())


LATER: dict[str, Message] = {
    "cancel_tool_call": turn_pb2.CancelToolCall(turn_id="t1", call_id="c"),
    "approval_decision": invocation_pb2.ApprovalDecision(approval_id="a"),
}


@pytest.mark.parametrize("kind", LATER)
async def test_a_frame_that_is_not_served_yet_is_refused_by_name(kind: str) -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        error = await stream.refused(await stream.send(kind, LATER[kind]))
        assert error.reason == "NOT_SERVED"
        assert error.code is grpc.StatusCode.UNIMPLEMENTED
        assert kind in error.message
        granted = {agent_pb2.Capability.Name(entry) for entry in (await server.info()).capabilities}
        assert error.metadata["capability"] in agent_pb2.Capability.keys()  # noqa: SIM118
        assert error.metadata["capability"] not in granted
        await lives_on(stream)


FRAME = 4096
SMALL = {"frame_bytes_max": FRAME}


def of_size(size: int, sequence: int) -> agent_pb2.ConverseRequest:
    """A frame of exactly this size: it withdraws tools with long names."""
    frame = agent_pb2.ConverseRequest(
        sequence=sequence, withdraw_tools=tool_pb2.WithdrawTools(names=["x" * (size - 200)])
    )
    missing = size - frame.ByteSize()
    frame.withdraw_tools.names[0] += "x" * missing
    assert frame.ByteSize() == size
    return frame


async def test_a_frame_may_be_as_large_as_its_limit() -> None:
    async with running_server(HELLO, server=SMALL) as server:
        stream = server.stream()
        assert (await stream.open()).limits.frame_bytes_max == FRAME
        await stream.send_raw(of_size(FRAME, 2))
        await stream.expect("tools_withdrawn")
        await lives_on(stream)


@pytest.mark.parametrize("size", [FRAME + 1, 2 * FRAME])
async def test_a_frame_over_its_limit_is_refused(size: int) -> None:
    async with running_server(HELLO, server=SMALL) as server:
        stream = await server.opened()
        await stream.send_raw(of_size(size, 2))
        error = await stream.refused(2)
        assert error.reason == "TOO_LARGE"
        assert error.metadata == {"size": str(size), "limit": str(FRAME)}
        assert str(size) in error.message
        assert str(FRAME) in error.message
        await lives_on(stream)


async def test_a_handshake_over_the_limit_of_frames_ends_the_stream() -> None:
    async with running_server(HELLO, server=SMALL) as server:
        stream = server.stream()
        await stream.send("open", agent_pb2.OpenConversation(system_prompt="x" * FRAME))
        error = await stream.ended()
        assert error is not None
        assert error.reason == "TOO_LARGE"


async def test_over_the_limit_of_the_wire_the_stream_ends_and_the_server_lives() -> None:
    async with running_server(HELLO, server=SMALL) as server:
        stream, other = await server.opened(), await server.opened()
        await stream.send_raw(of_size(2 * FRAME + 1, 2))
        while await stream.next() is not None:
            pass
        assert await stream.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await lives_on(other)


async def test_closing_drops_the_conversation_and_ends_the_stream_with_ok() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await stream.ask()
        assert len(server.service.conversations) == 1
        await stream.close()
        assert len(server.service.conversations) == 0


async def test_half_closing_an_idle_stream_ends_it_with_ok() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        await stream.half_close()
        assert await stream.ended() is None


async def test_an_idle_conversation_expires() -> None:
    async with running_server(HELLO, conversations={"idle_expiry_s": 60.0}) as server:
        stream = await server.opened()
        await stream.ask()
        server.clock.advance(59.0)
        await stream.send("acknowledge", common_pb2.Acknowledge())
        await stream.ask(turn_id="t2")
        server.clock.advance(59.0)
        await stream.ask(turn_id="t3")
        server.clock.advance(61.0)
        error = await stream.ended()
        assert error is not None
        assert error.reason == "CONVERSATION_EXPIRED"
        assert error.code is grpc.StatusCode.ABORTED
        assert error.metadata["limit_s"] == "60"


async def test_a_running_or_just_ended_turn_keeps_its_conversation_open() -> None:
    done = asyncio.Event()
    script = in_turn([Pause(done), *says("Hello.")])
    limits = {"idle_expiry_s": 60.0}
    # A write may still be in progress while the clock advances.
    unread = {"unread_s": 1000.0}
    async with running_server(script, conversations=limits, server=unread) as server:
        stream = await server.opened()
        await stream.start()
        await stream.expect("step_started")
        server.clock.advance(119.0)
        done.set()
        await stream.completed()
        server.clock.advance(59.0)
        await stream.refused(await stream.send())
        server.clock.advance(61.0)
        error = await stream.ended()
        assert error is not None
        assert error.reason == "CONVERSATION_EXPIRED"


async def test_the_log_has_conversations_and_refusals_with_their_tenant(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "precall_service")
    async with running_server(always(says("Hello."))) as server:
        stream = server.stream(("precall-tenant", "ann"))
        opened = await stream.open()
        await stream.refused(await stream.send("cancel_turn", turn_pb2.CancelTurn(turn_id="no")))
        await stream.close()
        refused = server.stream(("precall-tenant", "a b"))
        assert await refused.ended() is not None
    lines = [record.getMessage() for record in caplog.records]
    who = f"{opened.conversation_id} (tenant ann)"
    assert any(line.startswith(f"{who} opened by ") for line in lines)
    assert any(
        line == f"{who}: refused frame 2: TURN_UNKNOWN at cancel_turn.turn_id" for line in lines
    )
    assert f"{who} ended: closed; frames refused: 1" in lines
    assert any("refused a conversation" in line and "FIELD_INVALID" in line for line in lines)


async def test_the_log_has_no_content_and_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "precall_service")
    async with running_server(always(says("Hello."))) as server:
        stream = await server.opened()
        forged = "a\n2026-01-01 ERROR server: forged"
        for _ in range(30):
            bad = turn_pb2.CancelTurn(turn_id=forged)
            await stream.refused(await stream.send("cancel_turn", bad))
        await stream.close()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("refused frame" in line for line in lines) == 10
    assert any(line.endswith("ended: closed; frames refused: 30") for line in lines)
    assert not any("forged" in line for line in lines)
