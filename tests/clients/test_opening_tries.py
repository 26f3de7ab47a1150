"""A server that is full, or that cuts calls off, is tried again, and errors say what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

import precall
from precall import Client, ClientOptions
from precall.testing import FakeServer, Refuse
from precall.testing._stream import Context, FakeStream

FULL = Refuse("OVERLOADED", "full", 0.05)
SOON = ClientOptions(open_timeout_s=5.0, open_tries_max=3)


class Busy(FakeServer):
    """A server that refuses the first conversations."""

    def __init__(self, refusals: int, refusal: Refuse = FULL) -> None:
        super().__init__()
        self._refusals = refusals
        self._refusal = refusal

    def open_stream(self, context: Context) -> FakeStream:
        self.refuse_open = self._refusal if len(self.metadata) < self._refusals else None
        return super().open_stream(context)


async def test_a_full_server_is_tried_again_when_it_says() -> None:
    async with Busy(2) as server, Client(server.address, options=SOON) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with client.conversation() as conversation:
            assert conversation.id
        assert loop.time() - began > 0.1, "twice as long as the server asked for"
        assert len(server.metadata) == 3


async def test_the_tries_have_a_limit_and_the_error_is_the_servers_own() -> None:
    async with Busy(100) as server, Client(server.address, options=SOON) as client:
        with pytest.raises(precall.OverloadedError, match="full") as caught:
            await client.conversation().open()
        assert len(server.metadata) == 3
        [note] = caught.value.__notes__
        assert note.startswith("3 tries")


async def test_a_server_that_asks_for_longer_than_there_is_time_is_not_waited_for() -> None:
    refusal = Refuse("OVERLOADED", "full", 30.0)
    async with Busy(1, refusal) as server, Client(server.address, options=SOON) as client:
        with pytest.raises(precall.OverloadedError) as caught:
            await client.conversation().open()
        assert len(server.metadata) == 1
        assert not hasattr(caught.value, "__notes__")


async def test_a_refusal_that_a_retry_does_not_help_is_not_tried_again() -> None:
    refusal = Refuse("LIMIT_REACHED", "yours are too many")
    async with Busy(1, refusal) as server, Client(server.address, options=SOON) as client:
        with pytest.raises(precall.LimitReachedError):
            await client.conversation().open()
        assert len(server.metadata) == 1


async def test_closing_the_client_between_two_tries_ends_the_opening() -> None:
    refusal = Refuse("OVERLOADED", "full", 0.3)
    async with Busy(1, refusal) as server:
        client = Client(server.address, options=SOON)
        opening = asyncio.ensure_future(client.conversation().open())
        async with asyncio.timeout(5):
            while not server.metadata:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await client.close()
            with pytest.raises(precall.ConnectError, match="the client was closed"):
                await opening
        assert len(server.metadata) == 1


@asynccontextmanager
async def cutting_off(code: grpc.StatusCode) -> AsyncGenerator[tuple[str, list[str]], None]:
    """A server that ends every call with this bare status. Yields its address, and the calls."""
    calls: list[str] = []

    async def cut(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        calls.append("call")
        await context.abort(code, "")

    class Every(grpc.GenericRpcHandler):
        def service(
            self, handler_call_details: grpc.HandlerCallDetails
        ) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.stream_stream_rpc_method_handler(cut)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Every(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", calls
    finally:
        await server.stop(None)


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL])
async def test_a_call_that_is_cut_off_without_a_word_is_tried_again(
    code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is how gRPC itself sheds load. The client was not closed, and must not say so."""
    monkeypatch.setattr("precall._errors.CUT_OFF_RETRY_S", 0.01)
    async with cutting_off(code) as (address, calls), Client(address, options=SOON) as client:
        with pytest.raises(precall.UnavailableError, match="gave no reason") as caught:
            await client.conversation().open()
        assert len(calls) == 3
        assert "closed" not in str(caught.value)
        assert caught.value.retry_after_s == 0.01
        with pytest.raises(precall.UnavailableError, match="gave no reason"):
            await client.server_info()
        with pytest.raises(precall.UnavailableError, match="gave no reason"):
            async for _ in client.cache.watch():
                pass
