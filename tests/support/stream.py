"""A client of Converse in its rawest form, and the real server over the scripted engine.

`StreamDriver` sends any frame, broken ones too, and holds every frame of the server to the rules
of the contract. `running_server` checks at its end that nothing is left of what went on in it.
Nothing here waits by the clock: every wait is for an event, and bounded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from pydantic import JsonValue

from precall.v1 import agent_pb2, agent_pb2_grpc, generation_pb2, invocation_pb2, tool_pb2, turn_pb2
from precall_service.agent.context import TurnServices
from precall_service.app import Service, serve
from precall_service.engine.base import EngineInfo, Progress
from precall_service.settings import load_settings
from tests.support.clock import ManualClock
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import Script, Step, in_turn
from tests.support.steps import until_idle
from tests.support.tools import CITY_SCHEMA
from tests.support.wire import Failure, Rules, failure, said

WAIT_S = 5.0
"""How long a test waits for what must happen. Never spent when it does."""

MODEL = "script"
AGENT_SERVICE = "precall.v1.AgentService"
WEATHER = tool_pb2.Tool(name="weather", input_schema_json=CITY_SCHEMA)

Section = Mapping[str, JsonValue]
"""Settings of one section, by their names in the file."""

# Without it, channels of one process to one address share a connection, and its fate.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns once `holds()`: for what the server does without telling a client."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)


class StreamDriver:
    """One call of Converse. `events` are the frames that came, in order."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        converse = channel.stream_stream(
            f"/{AGENT_SERVICE}/Converse",
            request_serializer=_serialized,
            response_deserializer=agent_pb2.ConverseResponse.FromString,
        )
        self.call = converse(metadata=tuple(metadata))
        self.events: list[agent_pb2.ConverseResponse] = []
        self.sent = 0
        """The highest number of a frame that was sent."""
        self._unread: list[agent_pb2.ConverseResponse] = []
        self._rules = Rules()

    async def send(
        self, kind: str = "", message: Message | None = None, *, sequence: int | None = None
    ) -> int:
        """Sends a frame of this kind, or of none; returns its number."""
        number = self.sent + 1 if sequence is None else sequence
        request = agent_pb2.ConverseRequest(sequence=number)
        if message is not None:
            field: Message = getattr(request, kind)
            field.CopyFrom(message)
            field.SetInParent()
        await self.send_raw(request)
        return number

    async def send_raw(self, frame: agent_pb2.ConverseRequest | bytes) -> None:
        """Sends a frame as it is: bytes count as the next one."""
        number = self.sent + 1 if isinstance(frame, bytes) else frame.sequence
        self.sent = max(self.sent, number)
        self._rules.sent(self.sent)
        async with asyncio.timeout(WAIT_S):
            await self.call.write(frame)

    async def half_close(self) -> None:
        """No more frames from here."""
        async with asyncio.timeout(WAIT_S):
            await self.call.done_writing()

    async def open(
        self, handshake: agent_pb2.OpenConversation | None = None
    ) -> agent_pb2.ConversationOpened:
        """The handshake."""
        await self.send("open", handshake or agent_pb2.OpenConversation())
        return (await self.expect("opened")).opened

    async def start(
        self,
        text: str = "Hi.",
        turn_id: str = "t1",
        *,
        generation: generation_pb2.GenerationSettings | None = None,
        limits: turn_pb2.TurnLimits | None = None,
    ) -> int:
        """Starts a turn; returns the number of the frame. What came before is not expected now."""
        self._unread.clear()
        turn = turn_pb2.StartTurn(
            turn_id=turn_id, content=said(text), generation=generation, limits=limits
        )
        return await self.send("start_turn", turn)

    async def ask(
        self,
        text: str = "Hi.",
        turn_id: str = "t1",
        *,
        generation: generation_pb2.GenerationSettings | None = None,
        limits: turn_pb2.TurnLimits | None = None,
    ) -> turn_pb2.TurnCompleted:
        """A turn, to its end."""
        await self.start(text, turn_id, generation=generation, limits=limits)
        return await self.completed(turn_id)

    async def completed(self, turn_id: str = "t1") -> turn_pb2.TurnCompleted:
        """The end of the turn, which must be the next turn to end."""
        frame = await self.expect("turn_completed")
        assert frame.turn_id == turn_id
        return frame.turn_completed

    async def invoked(self) -> invocation_pb2.Invoke:
        """The next invocation."""
        return (await self.expect("invoke")).invoke

    async def call_completed(self) -> turn_pb2.ToolCallCompleted:
        """The next end of a call."""
        return (await self.expect("tool_call_completed")).tool_call_completed

    async def answer(self, invocation_id: str, result_json: str = "1") -> int:
        """The result of an invocation; returns the number of the frame."""
        result = invocation_pb2.InvocationResult(
            invocation_id=invocation_id, result_json=result_json
        )
        return await self.send("invocation_result", result)

    async def next(self) -> agent_pb2.ConverseResponse | None:
        """The next frame; None once the stream has ended, with whatever status."""
        async with asyncio.timeout(WAIT_S):
            try:
                frame = await self.call.read()
            except grpc.aio.AioRpcError:
                return None
        if not isinstance(frame, agent_pb2.ConverseResponse):
            return None
        self._rules.check(frame)
        self.events.append(frame)
        self._unread.append(frame)
        return frame

    async def expect(self, kind: str) -> agent_pb2.ConverseResponse:
        """The first frame of this kind that was not expected before, be it here or to come."""
        while True:
            for frame in self._unread:
                if frame.WhichOneof("event") == kind:
                    self._unread.remove(frame)
                    return frame
            if await self.next() is None:
                code, message = await self.call.code(), await self.call.details()
                came = ", ".join(name for name, _ in itertools.groupby(self.kinds()))
                raise AssertionError(f"{kind} did not come, but {came}, then {code} {message}")

    async def refused(self, frame: int) -> Failure:
        """Why the frame of this number was refused."""
        rejected = (await self.expect("frame_rejected")).frame_rejected
        assert rejected.frame_sequence == frame
        return failure(rejected.error)

    async def ended(self) -> Failure | None:
        """How the stream ended, after whatever came before: None for OK."""
        while await self.next() is not None:
            pass
        return await ending(self.call)

    async def close(self) -> None:
        """Ends the conversation."""
        await self.send("close", agent_pb2.CloseConversation())
        assert await self.ended() is None

    def kinds(self) -> list[str]:
        """The kinds of the frames that came, in order."""
        return [str(event.WhichOneof("event")) for event in self.events]


def _serialized(frame: agent_pb2.ConverseRequest | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


async def ending(call: grpc.aio.Call) -> Failure | None:
    """The status that a call ended with, details and all: None for OK."""
    async with asyncio.timeout(WAIT_S):
        code, message = await call.code(), await call.details()
        details: Status | None = await rpc_status.aio.from_call(call)  # pyright: ignore[reportUnknownMemberType]
    if code is grpc.StatusCode.OK:
        return None
    assert details is not None, f"a status without details: {code} {message}"
    return failure(details)


class Engines:
    """An `EngineFactory`. `started` are the engines that it made, in order.

    While it is `held`, a start waits; `failure`, when set, is what the next one raises.
    """

    def __init__(self, script: Script | Sequence[Step], info: EngineInfo = INFO) -> None:
        self._script = script if callable(script) else in_turn(*script)
        self._info = info
        self._free = asyncio.Event()
        self._free.set()
        self.started: list[ScriptedEngine] = []
        self.failure: Exception | None = None

    def hold(self) -> None:
        """Starts wait from now on."""
        self._free.clear()

    def release(self) -> None:
        """Starts go on."""
        self._free.set()

    async def __call__(self, on_progress: Progress) -> ScriptedEngine:
        """As `EngineFactory`."""
        on_progress("starting the scripted engine", None)
        await self._free.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        engine = ScriptedEngine(self._script, self._info)
        self.started.append(engine)
        return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that listens, and ways to look at it. Its `clock` stands still unless moved."""

    service: Service
    engines: Engines
    channel: grpc.aio.Channel
    clock: ManualClock

    @property
    def engine(self) -> ScriptedEngine:
        """The engine that was started last."""
        return self.engines.started[-1]

    @property
    def services(self) -> TurnServices:
        """What turns share."""
        return self.service.conversations._services  # pyright: ignore[reportPrivateUsage]

    def stream(self, *metadata: tuple[str, str]) -> StreamDriver:
        """A stream on which nothing was sent."""
        return StreamDriver(self.channel, metadata)

    async def opened(self, *tools: tool_pb2.Tool) -> StreamDriver:
        """A stream with a new conversation that has these tools."""
        stream = self.stream()
        opened = await stream.open(agent_pb2.OpenConversation(tools=tools))
        assert not [entry for entry in opened.registrations if entry.HasField("error")]
        return stream

    async def info(self) -> agent_pb2.GetServerInfoResponse:
        """What GetServerInfo says."""
        return await server_info(self.channel)

    async def nothing_is_left(self) -> None:
        """Returns once no conversation, invocation, share or generation is left."""
        conversations, services = self.service.conversations, self.services
        await eventually(lambda: len(conversations) == 0)
        await eventually(lambda: services.dispatcher.in_flight == 0)
        await eventually(lambda: services.admission.admitted + services.admission.waiting == 0)
        await self.nothing_is_generated()

    async def nothing_is_generated(self) -> None:
        """Returns once the engine itself says that it generates nothing."""
        if self.service.engines.running is not None:
            await until_idle(self.engine)


@asynccontextmanager
async def running_server(
    script: Script | Sequence[Step] = (),
    *,
    info: EngineInfo = INFO,
    engines: Engines | None = None,
    **sections: Section,
) -> AsyncGenerator[RunningServer]:
    """The real service on a free port, over an engine that follows the script.

    `sections` are settings, as in the file: `tools={"tools_max": 2}`. At the end the channel is
    closed, everything must have been given back, and the server stops.
    """
    engines = engines or Engines(script, info)
    here: Section = {"port": 0, "drain_s": 0.0}
    sections["server"] = {**here, **sections.get("server", {})}
    settings = load_settings(None, {name: dict(knobs) for name, knobs in sections.items()})
    with manual_time() as clock:
        async with serve(settings, engines, model=MODEL, on_progress=_ignore) as service:
            async with connected(service.address) as channel:
                running = RunningServer(
                    service=service, engines=engines, channel=channel, clock=clock
                )
                yield running
            await running.nothing_is_left()
            assert not service.background.done()


def connected(address: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """A channel with a connection of its own; a context manager, which closes it."""
    return grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *options))


@contextmanager
def manual_time() -> Generator[ManualClock]:
    """Services that start in the block live by this clock."""
    clock = ManualClock()
    with patch("precall_service.app.LoopClock", lambda: clock):
        yield clock


async def server_info(channel: grpc.aio.Channel) -> agent_pb2.GetServerInfoResponse:
    """What GetServerInfo says."""
    stub = agent_pb2_grpc.AgentServiceStub(channel)
    return await stub.GetServerInfo(
        agent_pb2.GetServerInfoRequest(), timeout=WAIT_S, wait_for_ready=True
    )


async def health(channel: grpc.aio.Channel, service: str = AGENT_SERVICE) -> str:
    """What the health service says of a service."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)
    return _serving(answer)


async def health_becomes(channel: grpc.aio.Channel, wanted: str) -> None:
    """Returns once the health service says so of AgentService."""
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    call = watch(health_pb2.HealthCheckRequest(service=AGENT_SERVICE), timeout=WAIT_S)
    async for answer in call:
        if _serving(answer) == wanted:
            call.cancel()
            return


def _serving(answer: health_pb2.HealthCheckResponse) -> str:
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _ignore(_stage: str, _share: float | None) -> None:
    pass
