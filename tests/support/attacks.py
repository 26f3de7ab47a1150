"""What a client does that means harm. Each attack goes on until it is cancelled.

An attack uses one tenant and needs nothing but the contract, as any client would. It goes on
whatever the server answers, so that a refusal does not end it. The model of the server makes a call
if a user's message is `call NAME`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from precall.v1 import agent_pb2, agent_pb2_grpc, content_pb2, invocation_pb2, tool_pb2, turn_pb2
from tests.support.http2 import CONVERSE, OPENING, Connection, message

Attack: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Called with the server's address and the attacker's tenant."""

ANSWER_S: Final = 30.0
"""How long an attacker waits for an answer before it goes on."""
TOOLS_MAX: Final = 128
"""The most tools that a frame may have, unless the server is told otherwise."""
OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
)
_Stream = grpc.aio.StreamStreamCall[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse]


class Attacker:
    """One stream of the attacker, with its numbers of frames."""

    def __init__(self, channel: grpc.aio.Channel, tenant: str) -> None:
        metadata = (("precall-tenant", tenant),)
        self.call: _Stream = agent_pb2_grpc.AgentServiceStub(channel).Converse(metadata=metadata)
        self._sequence = 0

    async def send(self, **frame: Any) -> None:
        """Sends a frame: its member of the oneof, by name."""
        self._sequence += 1
        await self.call.write(agent_pb2.ConverseRequest(sequence=self._sequence, **frame))

    async def until(self, *kinds: str) -> agent_pb2.ConverseResponse | None:
        """Reads until an event of one of these kinds; None if the stream ends or is silent."""
        with suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(ANSWER_S):
                while True:
                    frame = await self.call.read()
                    if not isinstance(frame, agent_pb2.ConverseResponse):
                        return None
                    if frame.WhichOneof("event") in kinds:
                        return frame
        return None

    async def open(self, **fields: Any) -> bool:
        """Opens a conversation; returns whether the server did."""
        await self.send(open=agent_pb2.OpenConversation(client_name="attacker", **fields))
        return await self.until("opened") is not None

    async def start(self, turn_id: str, text: str) -> None:
        """Starts a turn."""
        content = [content_pb2.ContentPart(text=text)]
        await self.send(start_turn=turn_pb2.StartTurn(turn_id=turn_id, content=content))


@asynccontextmanager
async def attackers(
    address: str, tenant: str, count: int, *, connections: int = 1
) -> AsyncGenerator[list[Attacker]]:
    """Yields streams on connections of their own, and gives them up after the block."""
    channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(connections)]
    streams = [Attacker(channels[number % connections], tenant) for number in range(count)]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.call.cancel()
        await asyncio.gather(*(channel.close() for channel in channels))


async def _again_and_again(attempt: Callable[[int], Awaitable[None]]) -> None:
    """Makes one attempt after the other, whatever the server answers."""
    number = 0
    while True:
        number += 1
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError):
            await attempt(number)
        await asyncio.sleep(0.01)


# Tools that cost much.


def _tool(name: str, input_schema: object) -> tool_pb2.Tool:
    return tool_pb2.Tool(name=name, input_schema_json=json.dumps(input_schema))


def _patterns(count: int, seed: int) -> dict[str, object]:
    parts = {f"p{n}": {"type": "string", "pattern": f".{{1000}}x{seed}y{n}"} for n in range(count)}
    return {"type": "object", "properties": parts}


def _optional(count: int, seed: int) -> dict[str, object]:
    names = {f"property_{seed}_{n}": {"type": "string"} for n in range(count)}
    return {"type": "object", "properties": names, "minProperties": count // 2}


def _numbers(seed: int) -> dict[str, object]:
    values = [seed + n / 7 for n in range(2500)]
    items = {"type": "array", "items": {"enum": values}}
    return {"type": "object", "properties": {"a": items}}


def costly_tools(seed: int) -> list[tool_pb2.Tool]:
    """Tools whose schemas take long to compile, and are never the same."""
    return [
        *(_tool(f"patterns{n}", _patterns(64, seed + n)) for n in range(16)),
        *(_tool(f"optional{n}", _optional(400, seed + n)) for n in range(4)),
        _tool("numbers", _numbers(seed)),
        _tool("nested", _nested(60)),
    ]


def _nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


async def registers_costly_tools(address: str, tenant: str) -> None:
    """Registers tools whose schemas take long to compile, over and over."""

    async def attempt(number: int) -> None:
        async with attackers(address, tenant, 1) as (stream,):
            if not await stream.open():
                return
            for turn in range(8):
                tools = costly_tools(100 * number + turn)
                await stream.send(register_tools=tool_pb2.RegisterTools(tools=tools))
                await stream.until("tools_registered")

    await _again_and_again(attempt)


# Results that cost much.

RESULT_SCHEMAS: Final[Mapping[str, tuple[dict[str, object], Callable[[], object]]]] = {
    "enum": (
        {"type": "array", "items": {"enum": [n / 7 for n in range(2800)]}},
        lambda: [0.5] * 2600,
    ),
    "multiple_of": (
        {"type": "array", "items": {"multipleOf": 1e-300}},
        lambda: [1e300] * 100_000,
    ),
    "unique": (
        {"type": "array", "uniqueItems": True},
        lambda: [{"a": n} for n in range(60_000)],
    ),
    "pattern": (
        {"type": "string", "pattern": "(a|b|ab){1,50}c"},
        lambda: "ab" * 400_000,
    ),
    "dependent": (
        {"dependentRequired": {f"k{n}": [f"k{m}" for m in range(60)] for n in range(60)}},
        lambda: {f"k{n}": 1 for n in range(60_000)},
    ),
    "many objects": (
        {"type": "array", "items": {"type": "object", "required": [f"r{n}" for n in range(2000)]}},
        lambda: [dict[str, int]()] * 300_000,
    ),
}


async def answers_with_costly_results(address: str, tenant: str) -> None:
    """Answers calls with results that take long to check against the tools' own schemas."""
    texts = {name: json.dumps(make()) for name, (_, make) in RESULT_SCHEMAS.items()}
    tools = [
        tool_pb2.Tool(name=name.replace(" ", "_"), output_schema_json=json.dumps(schema))
        for name, (schema, _) in RESULT_SCHEMAS.items()
    ]

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 1) as (stream,):
            if not await stream.open(tools=tools):
                return
            for turn, (name, text) in enumerate(texts.items()):
                await stream.start(f"turn-{turn}", f"call {name.replace(' ', '_')}")
                frame = await stream.until("invoke", "turn_completed", "frame_rejected")
                if frame is None or frame.WhichOneof("event") != "invoke":
                    continue
                result = invocation_pb2.InvocationResult(
                    invocation_id=frame.invoke.invocation_id, result_json=text
                )
                await stream.send(invocation_result=result)
                await stream.until("turn_completed")

    await _again_and_again(attempt)


# Memory.


async def holds_large_histories(address: str, tenant: str) -> None:
    """Opens as many conversations as it may with histories of 4 MiB, and keeps them."""
    text = "history " * (120 << 10)
    history = [
        agent_pb2.Message(
            role=agent_pb2.MESSAGE_ROLE_USER if n % 2 == 0 else agent_pb2.MESSAGE_ROLE_ASSISTANT,
            content=[content_pb2.ContentPart(text=text)],
        )
        for n in range(4)
    ]

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 200, connections=4) as streams:
            for stream in streams:
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await stream.open(history=history)
            await asyncio.sleep(1)

    await _again_and_again(attempt)


async def keeps_many_conversations(address: str, tenant: str) -> None:
    """Opens thousands of conversations, keeps them, and leaves them all in one moment."""

    async def attempt(_number: int) -> None:
        connections = [await Connection.connect(address, read_window=4096) for _ in range(4)]
        try:
            for _ in range(16):
                for connection in connections:
                    for _ in range(50):
                        stream = connection.open(CONVERSE, ("precall-tenant", tenant))
                        connection.send(stream, OPENING)
                await asyncio.sleep(0.1)
            await asyncio.sleep(2)
        finally:
            for connection in connections:
                connection.close()

    await _again_and_again(attempt)


async def leaves_messages_unfinished(address: str, tenant: str) -> None:
    """Sends most of a message on each of many streams, on several connections."""
    part = b"x" * (1 << 20)

    async def attempt(_number: int) -> None:
        connections = [await Connection.connect(address) for _ in range(3)]
        try:
            for connection in connections:
                for _ in range(100):
                    stream = connection.open(CONVERSE, ("precall-tenant", tenant))
                    connection.send(stream, message(b"", announced=4 << 20))
            for _ in range(40):
                for connection in connections:
                    for number in list(connection.streams):
                        connection.send(number, part)
                await asyncio.sleep(0.05)
        finally:
            for connection in connections:
                connection.close()

    await _again_and_again(attempt)


async def reads_nothing(address: str, tenant: str) -> None:
    """Has turns generated, reads none of it, and holds the connection."""

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 60, connections=2) as streams:
            for stream in streams:
                await stream.open()
                await stream.start("turn-1", "speak")
            await asyncio.sleep(3)

    await _again_and_again(attempt)


# Floods.


async def reconnects_all_at_once(address: str, tenant: str) -> None:
    """Opens hundreds of streams in one moment, leaves them, and comes again."""

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 400, connections=8) as streams:
            await asyncio.gather(*(stream.open() for stream in streams), return_exceptions=True)

    await _again_and_again(attempt)


async def fills_the_queue(address: str, tenant: str) -> None:
    """Starts turns on many conversations, and cancels and starts them again."""

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 150, connections=4) as streams:
            await asyncio.gather(*(stream.open() for stream in streams), return_exceptions=True)
            for turn in range(5):
                for stream in streams:
                    await stream.start(f"turn-{turn}", "speak")
                await asyncio.sleep(0.2)
                for stream in streams:
                    await stream.send(cancel_turn=turn_pb2.CancelTurn())

    await _again_and_again(attempt)


async def sends_long_texts(address: str, tenant: str) -> None:
    """Starts turns with messages of 1 MiB, which cannot fit into the context."""
    text = "words " * ((1 << 20) // 6)

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 8, connections=2) as streams:
            for stream in streams:
                await stream.open()
            for turn in range(4):
                for stream in streams:
                    await stream.start(f"turn-{turn}", text)
                    await stream.until("turn_completed", "frame_rejected")

    await _again_and_again(attempt)


async def sends_junk(address: str, tenant: str) -> None:
    """Sends frames that are refused, as fast as the connection takes them."""
    junk: Sequence[dict[str, object]] = (
        {},
        {"cancel_turn": turn_pb2.CancelTurn(turn_id="none")},
        {"invocation_result": invocation_pb2.InvocationResult(invocation_id="none")},
        {"start_turn": turn_pb2.StartTurn(turn_id="x" * 4096)},
        {"register_tools": tool_pb2.RegisterTools(tools=[tool_pb2.Tool(name="?")] * TOOLS_MAX)},
        {"withdraw_tools": tool_pb2.WithdrawTools(names=["none"] * TOOLS_MAX)},
        {"open": agent_pb2.OpenConversation()},
    )

    async def attempt(_number: int) -> None:
        async with attackers(address, tenant, 1) as (stream,):
            await stream.open()

            async def read() -> None:
                while await stream.call.read() is not grpc.aio.EOF:
                    pass

            reading = asyncio.create_task(read())
            try:
                for _ in range(300):
                    for frame in junk:
                        await stream.send(**frame)
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    await _again_and_again(attempt)


ATTACKS: Final[Mapping[str, Attack]] = {
    "costly tools": registers_costly_tools,
    "costly results": answers_with_costly_results,
    "large histories": holds_large_histories,
    "many conversations": keeps_many_conversations,
    "unfinished messages": leaves_messages_unfinished,
    "nothing is read": reads_nothing,
    "reconnects": reconnects_all_at_once,
    "full queue": fills_the_queue,
    "long texts": sends_long_texts,
    "junk": sends_junk,
}
