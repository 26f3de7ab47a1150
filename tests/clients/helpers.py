"""Helpers that the tests of the client share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from precall import Client, ClientOptions, Conversation, ServerLimits
from precall._invocations import Invocations, Send
from precall._pool import HandlerPool
from precall.testing import Call, Entry, FakeServer, Say, ToolResult
from precall.v1 import agent_pb2

FAST = ClientOptions(
    open_timeout_s=5.0, answer_timeout_s=1.0, close_timeout_s=1.0, cancel_grace_s=0.3
)


@asynccontextmanager
async def talking(
    *turns: Sequence[Entry], tools: tuple[Callable[..., object], ...] = ()
) -> AsyncGenerator[tuple[FakeServer, Conversation], None]:
    """Yields a fake server that plays `turns`, and an open conversation with it."""
    async with (
        FakeServer(*turns) as server,
        Client(server.address, options=FAST) as client,
        client.conversation(tools=tools) as conversation,
    ):
        yield server, conversation


@asynccontextmanager
async def invoking(
    options: ClientOptions = FAST, send: Send | None = None
) -> AsyncGenerator[tuple[Invocations, asyncio.Queue[agent_pb2.ConverseRequest]], None]:
    """Yields the invocations of a conversation, and the queue for their answers without `send`."""
    sent: asyncio.Queue[agent_pb2.ConverseRequest] = asyncio.Queue()
    pool = HandlerPool(options)
    invocations = Invocations(send or sent.put, pool=pool, limits=ServerLimits(), options=options)
    yield invocations, sent
    await invocations.close()
    pool.close()


async def result_of(function: Callable[..., object], **arguments: object) -> ToolResult:
    """Returns the result at the server when the model calls a function with these arguments."""
    call = Call(getattr(function, "__name__", ""), arguments)  # pyright: ignore[reportArgumentType]
    async with talking([call, Say("done")], tools=(function,)) as (server, conversation):
        await conversation.ask("go")
    return server.results[0]
