"""A client: where the server is, who is asking, and the tools that conversations begin with."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, Unpack, overload

import grpc
import grpc.aio
import pydantic

from precall import _errors, _frames
from precall._address import checked_address, checked_metadata
from precall._conversation import Conversation, Opening
from precall._errors import ConnectError
from precall._messages import Message
from precall._options import ClientOptions, channel_options
from precall._pool import HandlerPool
from precall._scope import being_cancelled
from precall._server import ServerInfo
from precall._stream import Call
from precall._tool import F, Handler, Tool, ToolLike, ToolOptions, as_tool
from precall.v1 import agent_pb2
from precall.v1.agent_pb2_grpc import AgentServiceStub


@dataclass(frozen=True, slots=True)
class _Connected:
    """What a client has in the event loop that it is used in."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    pool: HandlerPool
    calls: weakref.WeakSet[grpc.aio.Call] = field(default_factory=weakref.WeakSet[grpc.aio.Call])
    """What may be in flight. A channel that is closed does not find all of them by itself."""

    async def close(self) -> None:
        """Ends what is in flight."""
        for call in list(self.calls):
            call.cancel()
        self.pool.close()
        await self.channel.close()


class Client:
    """A client of one precall server.

    It connects when it is first used. Use it with `async with`, or call `close()`; both close its
    conversations too. It belongs to the event loop that it is first used in, until that is closed.
    """

    def __init__(
        self,
        address: str,
        *,
        tenant: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        """Makes a client.

        Args:
            address: Where the server listens: `host:port`, or another gRPC target (`unix:path`).
            tenant: Whose conversations and tools these are; the server's default without it.
            credentials: For TLS, such as `grpc.ssl_channel_credentials()`. Plain text without.
            metadata: Sent with every call, such as a token that a gateway asks for.
            options: Waits and bounds.

        Raises:
            ValueError: The address, the tenant or the metadata are none; the message says why.
        """
        self.address = checked_address(address)
        self._credentials = credentials
        self._options = options or ClientOptions()
        self._metadata = checked_metadata(metadata or {}, tenant)
        self._tools: dict[str, Tool] = {}
        self._connected: _Connected | None = None
        self._conversations: weakref.WeakSet[Conversation] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that new conversations begin with."""
        return tuple(self._tools.values())

    @overload
    def tool(self, function: F, /) -> F: ...

    @overload
    def tool(
        self, function: None = None, /, **options: Unpack[ToolOptions]
    ) -> Callable[[F], F]: ...

    def tool(
        self, function: Handler | None = None, /, **options: Unpack[ToolOptions]
    ) -> Handler | Callable[[F], F]:
        """Makes a typed function a tool of conversations that are opened from now on.

        Use it as `@client.tool` or `@client.tool(read_only=True)`. The function stays what it was.
        A second tool of the same name takes the place of the first, as when a notebook's cell is
        run again.

        Raises:
            TypeError: The function cannot be a tool; the message says what to change.
        """
        if function is not None:
            self.add_tool(function, **options)
            return function

        def decorate(decorated: F) -> F:
            self.add_tool(decorated, **options)
            return decorated

        return decorate

    def add_tool(self, function: ToolLike, **options: Unpack[ToolOptions]) -> Tool:
        """Does what `tool` does, and returns the tool.

        Raises:
            TypeError: The function cannot be a tool; the message says what to change.
        """
        tool = as_tool(function, **options)
        self._tools[tool.name] = tool
        return tool

    def conversation(
        self,
        *,
        system_prompt: str = "",
        tools: Sequence[ToolLike] | None = None,
        model: str = "",
        history: Sequence[Message] = (),
        template_variables: Mapping[str, pydantic.JsonValue] | None = None,
        agent_name: str = "",
    ) -> Conversation:
        """Returns a conversation to be opened, with `async with` or by its `open()`.

        Args:
            system_prompt: Instructions that stand before everything else.
            tools: The tools that it begins with. None: all that this client has by now.
            model: The model to talk to; the one that is served without it.
            history: Messages that it begins with, oldest first.
            template_variables: For the model's chat template, such as `{"enable_thinking": False}`.
            agent_name: Name of the agent, for traces.

        Raises:
            TypeError: One of the tools is not a function that can be a tool.
            ValueError: Something in the history is no message of a history.
        """
        frame = agent_pb2.OpenConversation(
            model=model,
            system_prompt=system_prompt,
            history=[_frames.message(said) for said in history],
            template_variables_json=_frames.variables_json(template_variables),
            client_name=_client_name(),
            agent_name=agent_name,
        )
        opening = Opening(
            connect=self._connect,
            frame=frame,
            tools=self.tools if tools is None else tuple(map(self._known, tools)),
            known=self._known,
            address=self.address,
            options=self._options,
        )
        return Conversation(opening)

    async def server_info(self) -> ServerInfo:
        """Returns what the server is, serves and allows.

        Raises:
            ConnectError: No precall server could be reached, it did not answer in time, or the
                client was closed.
            RuntimeError: The client belongs to another event loop.
        """
        timeout_s = self._options.answer_timeout_s
        connected = self._here()
        call = AgentServiceStub(connected.channel).GetServerInfo(
            agent_pb2.GetServerInfoRequest(), timeout=timeout_s, metadata=self._metadata
        )
        connected.calls.add(call)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ConnectError(
                    f"{self.address} did not answer within {timeout_s:g} s", code=error.code()
                ) from None
            raise _errors.unreachable(self.address, error) from None
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise _errors.client_closed() from None
        return _frames.server_info(answer)

    async def close(self) -> None:
        """Closes what is open. Bounded, and idempotent; the client can be used again.

        Raises:
            RuntimeError: The client belongs to another event loop, which runs.
        """
        if self._connected is None:
            return
        connected, self._connected = self._here(), None
        try:
            async with asyncio.TaskGroup() as closing:
                for conversation in list(self._conversations):
                    closing.create_task(conversation.close())
        finally:
            await connected.close()

    def _known(self, function: ToolLike) -> Tool:
        """Returns this client's tool for a function, with its options; else a new one."""
        for tool in self._tools.values():
            if tool.function == function:  # bound methods are made anew each time
                return tool
        return as_tool(function)

    def _connect(self, conversation: Conversation) -> tuple[Call, HandlerPool]:
        """Starts the call of a conversation that opens, and says what its handlers run in."""
        connected = self._here()
        self._conversations.add(conversation)
        call = AgentServiceStub(connected.channel).Converse(metadata=self._metadata)
        connected.calls.add(call)
        return call, connected.pool

    def _here(self) -> _Connected:
        """Returns what there is in the running event loop, made anew where the last one is closed.

        Raises:
            RuntimeError: The client is in use in another event loop.
        """
        loop = asyncio.get_running_loop()
        if (connected := self._connected) is not None:
            if connected.loop is loop:
                return connected
            if not connected.loop.is_closed():
                raise RuntimeError(
                    "this client belongs to another event loop: make one client per loop"
                )
            connected.pool.close()
            self._conversations.clear()  # they ended with their loop
        self._connected = _Connected(loop, self._channel(), HandlerPool(self._options))
        return self._connected

    def _channel(self) -> grpc.aio.Channel:
        arguments = channel_options(self._options, self.address)
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, arguments)
        return grpc.aio.secure_channel(self.address, self._credentials, arguments)


def _client_name() -> str:
    from precall import __version__  # noqa: PLC0415  the package imports this module

    return f"precall-python/{__version__}"
