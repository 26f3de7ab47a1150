"""A client: the server's address, the tenant, and the tools that conversations begin with."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack, overload

import grpc
import pydantic

from precall import _errors, _frames, _speculation_frames
from precall._address import checked_address, checked_metadata
from precall._cache import ToolCache
from precall._connection import Connected, Connection
from precall._conversation import Conversation
from precall._errors import ConnectError
from precall._messages import Message
from precall._opening import Opening
from precall._options import ClientOptions
from precall._registrations import LoosenedKeywords
from precall._served import UnservedOptions
from precall._server import ServerInfo
from precall._speculation import ModeName, Speculation, SpeculationStats
from precall._stream import Call
from precall._tool import F, Handler, Tool, ToolLike, ToolOptions, as_tool
from precall.v1 import agent_pb2, prediction_pb2
from precall.v1.agent_pb2_grpc import AgentServiceStub


class Client:
    """A client of one precall server.

    It connects when it is first used. Use it with `async with`, or call `close()`; both close its
    conversations too. It belongs to the event loop of its first use, until that loop is closed.
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
            tenant: The owner of the conversations and tools. Default: the server's default tenant.
            credentials: For TLS, such as `grpc.ssl_channel_credentials()`. Default: plain text.
            metadata: Sent with every call, such as the token for a gateway.
            options: Timeouts and limits.

        Raises:
            ValueError: The address, tenant or metadata is invalid; the message says why.
        """
        self.address = checked_address(address)
        self._options = options or ClientOptions()
        self._conversations: weakref.WeakSet[Conversation] = weakref.WeakSet()
        self._connection = Connection(
            self.address,
            credentials=credentials,
            metadata=checked_metadata(metadata or {}, tenant),
            options=self._options,
            on_new_loop=self._conversations.clear,  # they ended with their loop
        )
        self._cache = ToolCache(self._connection)
        self._tools: dict[str, Tool] = {}
        self._unserved = UnservedOptions()
        self._loosened = LoosenedKeywords()

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

    @property
    def cache(self) -> ToolCache:
        """The tool cache of the client's tenant."""
        return self._cache

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

        Use it as `@client.tool` or `@client.tool(read_only=True)`; it returns the function
        unchanged. A tool replaces the client's tool of the same name, so a notebook's cell can run
        again.

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
        """Adds a tool for conversations that are opened from now on, and returns it.

        It replaces the client's tool of the same name.

        Raises:
            TypeError: The function cannot be a tool; the message says what to change.
        """
        tool = as_tool(function, **options)
        self._tools[tool.name] = tool
        return tool

    def remove_tool(self, name: str) -> None:
        """Removes a tool for conversations that are opened from now on.

        Raises:
            ToolRejectedError: The client has no tool of that name.
        """
        if self._tools.pop(name, None) is None:
            raise _errors.no_tool("client", name)

    def conversation(
        self,
        *,
        system_prompt: str = "",
        tools: Sequence[ToolLike] | None = None,
        model: str = "",
        history: Sequence[Message] = (),
        template_variables: Mapping[str, pydantic.JsonValue] | None = None,
        agent_name: str = "",
        speculation: Speculation | ModeName | None = None,
    ) -> Conversation:
        """Returns a conversation; open it with `async with` or with its `open()`.

        Args:
            system_prompt: Instructions before all messages.
            tools: The tools that it begins with. None: all tools of the client.
            model: The model to talk to; by default the one that is served.
            history: Messages that it begins with, oldest first.
            template_variables: For the model's chat template, such as `{"enable_thinking": False}`.
            agent_name: Name of the agent, for traces.
            speculation: How far the server may run ahead of the model: "on", "off", "shadow", or a
                `Speculation`, which can also ask for the prediction events. None: the server's
                default, without events. The server decides: `Conversation.speculation` is what it
                grants. A server without `Capability.SPECULATION` grants OFF.

        Raises:
            TypeError: One of the functions cannot be a tool.
            ValueError: The history contains something that is not a message of a history, or
                `speculation` is not a mode.
        """
        frame = agent_pb2.OpenConversation(
            model=model,
            system_prompt=system_prompt,
            history=[_frames.message(given) for given in history],
            template_variables_json=_frames.variables_json(template_variables),
            client_name=_client_name(),
            agent_name=agent_name,
            speculation=_speculation_settings(speculation),
        )
        opening = Opening(
            connect=self._connect,
            frame=frame,
            tools=self.tools if tools is None else tuple(map(self._known, tools)),
            known=self._known,
            address=self.address,
            options=self._options,
            unserved=self._unserved,
            loosened=self._loosened,
        )
        return Conversation(opening)

    async def server_info(self) -> ServerInfo:
        """Returns the server's version, model, capabilities, limits, state and load.

        Raises:
            ConnectError: No precall server could be reached, it did not answer in time, or the
                client was closed.
            RuntimeError: The client belongs to another event loop.
        """
        answer = await self._connection.ask(
            lambda channel: AgentServiceStub(channel).GetServerInfo,
            agent_pb2.GetServerInfoRequest(),
        )
        return _frames.server_info(answer)

    async def speculation_stats(self) -> SpeculationStats:
        """Returns what speculation has done for the client's tenant since the server started.

        Raises:
            ConnectError: No precall server could be reached, it did not answer in time, or the
                client was closed.
            NotServedError: The server does not speculate.
            RuntimeError: The client belongs to another event loop.
        """
        try:
            answer = await self._connection.ask(
                lambda channel: AgentServiceStub(channel).GetSpeculationStats,
                prediction_pb2.GetSpeculationStatsRequest(),
            )
        except ConnectError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:  # the method itself is missing
                text = f"{self.address} does not serve speculation: it is too old, or not precall"
                raise _errors.of_reason("NOT_SERVED", text) from None
            raise
        return _speculation_frames.stats(answer)

    async def close(self) -> None:
        """Closes the conversations and the connection. Bounded and idempotent.

        The client can be used again; it then connects anew.

        Raises:
            RuntimeError: The client belongs to another event loop, which is not closed.
        """
        if (connected := self._connection.take()) is None:
            return
        try:
            async with asyncio.TaskGroup() as closing:
                for conversation in list(self._conversations):
                    closing.create_task(conversation.close())
        finally:
            await connected.close()

    def _known(self, function: ToolLike) -> Tool:
        """Returns the client's tool for a function, with its options; or makes a new one."""
        for tool in self._tools.values():
            if tool.function == function:  # not `is`: each access makes a new bound method
                return tool
        return as_tool(function)

    def _connect(self, conversation: Conversation) -> tuple[Call, Connected]:
        """Starts the call of a conversation, and returns it with its connection."""
        connected = self._connection.here()
        self._conversations.add(conversation)
        call = AgentServiceStub(connected.channel).Converse(metadata=self._connection.metadata)
        connected.calls.add(call)
        return call, connected


def _speculation_settings(
    asked: Speculation | ModeName | None,
) -> prediction_pb2.SpeculationSettings | None:
    if asked is None:
        return None
    return _speculation_frames.settings(
        asked if isinstance(asked, Speculation) else Speculation(asked)
    )


def _client_name() -> str:
    from precall import __version__  # noqa: PLC0415  the package imports this module

    return f"precall-python/{__version__}"
