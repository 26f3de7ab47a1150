"""A precall server without a model: it plays scripts over the real protocol.

Owns: a gRPC server on a free local port, its scripts, and the record of what clients sent.
Never: starts an engine, or imports anything of the service.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from precall import _frames
from precall._server import Capability, ServerLimits
from precall._speculation import SpeculationStats
from precall.testing._cache import FakeCache
from precall.testing._cache_service import CacheServicer
from precall.testing._checks import check_scripts, check_step
from precall.testing._script import Entry, Fail, Refuse, ToolResult
from precall.testing._stats import stats_message
from precall.testing._status import abort, content_text, status
from precall.testing._stream import Context, FakeStream, Frame, Frames
from precall.v1 import agent_pb2, prediction_pb2, tool_pb2, turn_pb2
from precall.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from precall.v1.tool_cache_pb2_grpc import add_ToolCacheServiceServicer_to_server

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)
_DEFAULT_CAPABILITIES = (
    Capability.TOOL_CALLS,
    Capability.STRUCTURED_CALLS,
    Capability.REASONING,
    Capability.TOOL_CACHE,
    Capability.SPECULATION,
)
_DEFAULT_LIMITS = ServerLimits(
    frame_bytes_max=4 * 1024 * 1024,
    text_bytes_max=1024 * 1024,
    tools_max=128,
    schema_bytes_max=64 * 1024,
    description_bytes_max=16 * 1024,
    result_bytes_max=1024 * 1024,
    context_tokens_max=8192,
    messages_max=1000,
    tool_timeout_max_s=600.0,
)


class FakeServer:
    """A server for tests of agents: real gRPC, a scripted model, and a record of what clients sent.

    It refuses what a precall server refuses, with the same reasons. Schemas, arguments and results
    are judged by copies of the server's own code. It has no tokenizer, chat template or grammar, so
    it refuses nothing for its number of tokens, or because of a template or a grammar.

    ```python
    script = [Call("get_weather", {"city": "Paris"}), Say("It is sunny.")]
    async with FakeServer(script) as server, Client(server.address) as client:
        ...
    assert server.results[0].value == {"weather": "sunny"}
    ```
    """

    def __init__(
        self,
        *turns: Sequence[Entry],
        model: str = "fake",
        limits: ServerLimits | None = None,
        capabilities: Iterable[Capability] = _DEFAULT_CAPABILITIES,
        refuse_open: Refuse | None = None,
        refuse_tools: Mapping[str, Refuse] | None = None,
        tool_timeout_s: float = 30.0,
        speculation_stats: SpeculationStats | None = None,
    ) -> None:
        """Makes a server.

        Args:
            turns: One script per turn, in the order in which turns start, in any conversation. A
                script without a final Say ends with an empty answer. If one of its functions
                raises, the turn fails, and the log has the traceback.
            model: The name of its model, the only one that it serves.
            limits: The limits that it reports. What is above them is refused as a server refuses
                it; 0 is no limit.
            capabilities: The capabilities that it reports. It serves no others by that, but without
                TOOL_CACHE it has no tool cache, and without SPECULATION it makes no predictions.
            refuse_open: Refuses every conversation, with this reason.
            refuse_tools: Refuses tools, by name.
            tool_timeout_s: The timeout of tools that have none of their own.
            speculation_stats: What it answers to `client.speculation_stats()`. It does not count
                the predictions of its scripts.

        Raises:
            TypeError: A script is not a list, or an entry is not a step or a function.
            ValueError: A script goes on after its end, has arguments that are not JSON, or a reason
                that the contract does not have.
        """
        check_scripts(turns)
        for refused in (refuse_open, *(refuse_tools or {}).values()):
            if refused is not None:
                check_step(refused, "a refusal")
        self.model = model
        self.limits = _limits(limits or _DEFAULT_LIMITS)
        self.capabilities = [
            agent_pb2.Capability.Value(f"CAPABILITY_{granted.name}") for granted in capabilities
        ]
        self.cache = FakeCache() if agent_pb2.CAPABILITY_TOOL_CACHE in self.capabilities else None
        """Its tool cache. It holds only what clients put into it: results of scripted calls are not
        stored. Every call of a tool that is not `read_only` empties it."""
        self.refuse_open = refuse_open
        self.refuse_tools = dict(refuse_tools or {})
        self.tool_timeout_s = tool_timeout_s
        self.speculation_stats = speculation_stats or SpeculationStats()
        self.frames: list[agent_pb2.ConverseRequest] = []
        """Every frame that clients sent, in order."""
        self.turns: list[StartedTurn] = []
        """Every turn that was started."""
        self.tools: dict[str, tool_pb2.Tool] = {}
        """The latest declaration of every tool that clients added, by name."""
        self.results: list[ToolResult] = []
        """The results of the calls of all turns that have ended."""
        self.metadata: list[dict[str, str]] = []
        """The metadata of each stream."""
        self._turns = list(turns)
        self._started_at = time.monotonic()
        self._conversations = 0
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts it on a free local port."""
        self._server = grpc.aio.server(options=_OPTIONS)
        add_AgentServiceServicer_to_server(_Servicer(self), self._server)
        add_ToolCacheServiceServicer_to_server(
            CacheServicer(self.cache, self.limits.arguments_bytes_max), self._server
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        """Stops it at once; open streams break."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    def next_script(self, start: turn_pb2.StartTurn) -> Sequence[Entry]:
        """Returns the script for a turn that was started."""
        self.turns.append(StartedTurn(text=content_text(start), frame=start))
        number = len(self.turns)
        if number > len(self._turns):
            return [Fail("INTERNAL", f"turn {number} was started, {len(self._turns)} are scripted")]
        return self._turns[number - 1]

    def info(self) -> agent_pb2.GetServerInfoResponse:
        """Returns its description of itself."""
        return agent_pb2.GetServerInfoResponse(
            version="0.0.0",
            model=self.model,
            capabilities=self.capabilities,
            limits=self.limits,
            engine_state=agent_pb2.ENGINE_STATE_READY,
            engine="fake",
            uptime=_frames.duration(time.monotonic() - self._started_at),
        )

    def open_stream(self, context: Context) -> FakeStream:
        """Returns the stream for an incoming call."""
        metadata = context.invocation_metadata() or ()
        self.metadata.append({key: str(value) for key, value in metadata})
        self._conversations += 1
        return FakeStream(self, f"conversation-{self._conversations}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartedTurn:
    """A turn that a client started."""

    text: str
    """What the user says in it."""
    frame: turn_pb2.StartTurn
    """The frame that started it."""


class _Servicer(AgentServiceServicer):
    """Passes calls to the fake server."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def Converse(  # noqa: N802  the contract's name
        self,
        request_iterator: Frames,
        context: Context,
    ) -> AsyncIterator[Frame]:
        async for frame in self._server.open_stream(context).serve(request_iterator, context):
            yield frame

    async def GetServerInfo(  # noqa: N802  the contract's name
        self,
        request: agent_pb2.GetServerInfoRequest,
        context: object,
    ) -> agent_pb2.GetServerInfoResponse:
        return self._server.info()

    async def GetTranscript(  # noqa: N802  the contract's name
        self,
        request: agent_pb2.GetTranscriptRequest,
        context: grpc.aio.ServicerContext[
            agent_pb2.GetTranscriptRequest, Awaitable[agent_pb2.GetTranscriptResponse]
        ],
    ) -> agent_pb2.GetTranscriptResponse:
        await abort(context, status("NOT_SERVED", "the fake does not serve GetTranscript"))

    async def GetSpeculationStats(  # noqa: N802  the contract's name
        self,
        request: prediction_pb2.GetSpeculationStatsRequest,
        context: grpc.aio.ServicerContext[
            prediction_pb2.GetSpeculationStatsRequest,
            Awaitable[prediction_pb2.GetSpeculationStatsResponse],
        ],
    ) -> prediction_pb2.GetSpeculationStatsResponse:
        if agent_pb2.CAPABILITY_SPECULATION not in self._server.capabilities:
            await abort(context, status("NOT_SERVED", "the fake lists no SPECULATION"))
        return stats_message(self._server.speculation_stats)


def _limits(limits: ServerLimits) -> agent_pb2.ServerLimits:
    turn = limits.turn_limits_max
    message = agent_pb2.ServerLimits(
        frame_bytes_max=limits.frame_bytes_max,
        text_bytes_max=limits.text_bytes_max,
        tools_max=limits.tools_max,
        schema_bytes_max=limits.schema_bytes_max,
        description_bytes_max=limits.description_bytes_max,
        result_bytes_max=limits.result_bytes_max,
        context_tokens_max=limits.context_tokens_max,
        messages_max=limits.messages_max,
        arguments_bytes_max=limits.arguments_bytes_max,
        turn_limits_max=turn_pb2.TurnLimits(
            max_steps=turn.max_steps, max_turn_tokens=turn.max_turn_tokens
        ),
        tool_timeout_max=_frames.duration(limits.tool_timeout_max_s),
    )
    if turn.max_duration_s is not None:
        message.turn_limits_max.max_duration.CopyFrom(_frames.duration(turn.max_duration_s))
    return message
