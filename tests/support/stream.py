"""A low-level client of Converse, and the real server on the scripted engine.

`StreamDriver` can send any frame, even an invalid one, and checks every frame of the server against
the rules of the contract. `running_server` checks at its end that nothing is left running or held.
Nothing here waits for a fixed time: every wait is for an event and has a limit.
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
from precall_service.engine.base import EngineFactory, EngineInfo, Progress
from precall_service.settings import load_settings
from tests.support.clock import ManualClock
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import Script, Step, in_turn
from tests.support.steps import until_idle
from tests.support.tools import CITY_SCHEMA
from tests.support.wire import Failure, Rules, failure, said

WAIT_S = 5.0
"""The limit for every wait. A test that passes never waits this long."""

MODEL = "script"
AGENT_SERVICE = "precall.v1.AgentService"
WEATHER = tool_pb2.Tool(name="weather", input_schema_json=CITY_SCHEMA)

Section = Mapping[str, JsonValue]
"""The settings of one section, by their names in the settings file."""

# Without this option, the channels of a process to one address share a connection and its failures.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns once `holds()` is true: for changes in the server that no client is notified of."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.001)


class StreamDriver:
    """One call of Converse. `events` are the received frames, in order."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        converse = channel.stream_stream(
            f"/{AGENT_SERVICE}/Converse",
            request_serializer=_serialized,
            response_deserializer=agent_pb2.ConverseResponse.FromString,
        )
        self.call = converse(metadata=tuple(metadata))
        self.events: list[agent_pb2.ConverseResponse] = []
        self.sent = 0
        """The highest sequence number that was sent."""
        self._unread: list[agent_pb2.ConverseResponse] = []
        self._rules = Rules()

    async def send(
        self, kind: str = "", message: Message | None = None, *, sequence: int | None = None
    ) -> int:
        """Sends a frame of this kind, or an empty one; returns its sequence number."""
        number = self.sent + 1 if sequence is None else sequence
        request = agent_pb2.ConverseRequest(sequence=number)
        if message is not None:
            field: Message = getattr(request, kind)
            field.CopyFrom(message)
            field.SetInParent()
        await self.send_raw(request)
        return number

    async def send_raw(self, frame: agent_pb2.ConverseRequest | bytes) -> None:
        """Sends a frame unchanged. Bytes count as the frame with the next sequence number."""
        number = self.sent + 1 if isinstance(frame, bytes) else frame.sequence
        self.sent = max(self.sent, number)
        self._rules.sent(self.sent)
        async with asyncio.timeout(WAIT_S):
            await self.call.write(frame)

    async def half_close(self) -> None:
        """Ends the client's side of the stream."""
        async with asyncio.timeout(WAIT_S):
            await self.call.done_writing()

    async def open(
        self, handshake: agent_pb2.OpenConversation | None = None
    ) -> agent_pb2.ConversationOpened:
        """Opens the conversation. Returns the server's answer."""
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
        """Starts a turn; returns the frame's number. `expect` then skips all earlier events."""
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
        """Runs a turn to its end."""
        await self.start(text, turn_id, generation=generation, limits=limits)
        return await self.completed(turn_id)

    async def completed(self, turn_id: str = "t1") -> turn_pb2.TurnCompleted:
        """Waits for the end of the turn, which must be the next turn to end."""
        frame = await self.expect("turn_completed")
        assert frame.turn_id == turn_id
        return frame.turn_completed

    async def invoked(self) -> invocation_pb2.Invoke:
        """Waits for the next invocation."""
        return (await self.expect("invoke")).invoke

    async def call_completed(self) -> turn_pb2.ToolCallCompleted:
        """Waits for the next end of a call."""
        return (await self.expect("tool_call_completed")).tool_call_completed

    async def answer(self, invocation_id: str, result_json: str = "1") -> int:
        """Sends the result of an invocation; returns the frame's number."""
        result = invocation_pb2.InvocationResult(
            invocation_id=invocation_id, result_json=result_json
        )
        return await self.send("invocation_result", result)

    async def next(self) -> agent_pb2.ConverseResponse | None:
        """Reads the next frame. Returns None once the stream has ended, with any status."""
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
        """Returns the first frame of this kind that was not returned before; waits if necessary."""
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
        """Waits for the refusal of the frame with this number. Returns its error."""
        rejected = (await self.expect("frame_rejected")).frame_rejected
        assert rejected.frame_sequence == frame
        return failure(rejected.error)

    async def ended(self) -> Failure | None:
        """Reads the stream to its end. Returns the error it ended with; None for OK."""
        while await self.next() is not None:
            pass
        return await ending(self.call)

    async def close(self) -> None:
        """Ends the conversation."""
        await self.send("close", agent_pb2.CloseConversation())
        assert await self.ended() is None

    def kinds(self) -> list[str]:
        """The kinds of the received frames, in order."""
        return [str(event.WhichOneof("event")) for event in self.events]


def _serialized(frame: agent_pb2.ConverseRequest | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


async def ending(call: grpc.aio.Call) -> Failure | None:
    """The error that a call ended with, with its details; None for OK."""
    async with asyncio.timeout(WAIT_S):
        code, message = await call.code(), await call.details()
        details: Status | None = await rpc_status.aio.from_call(call)  # pyright: ignore[reportUnknownMemberType]
    if code is grpc.StatusCode.OK:
        return None
    assert details is not None, f"a status without details: {code} {message}"
    return failure(details)


class Engines:
    """An `EngineFactory` of scripted engines; `started` lists them in order.

    Starts wait between `hold` and `release`. If `failure` is set, the next start raises it.
    """

    def __init__(self, script: Script | Sequence[Step], info: EngineInfo = INFO) -> None:
        self._script = script if callable(script) else in_turn(*script)
        self._info = info
        self._free = asyncio.Event()
        self._free.set()
        self.started: list[ScriptedEngine] = []
        self.failure: Exception | None = None

    def hold(self) -> None:
        """Makes starts wait."""
        self._free.clear()

    def release(self) -> None:
        """Lets starts continue."""
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
    """A listening server and its inner state. Its `clock` moves only when a test advances it."""

    service: Service
    engines: Engines
    channel: grpc.aio.Channel
    clock: ManualClock

    @property
    def engine(self) -> ScriptedEngine:
        """The last started engine."""
        return self.engines.started[-1]

    @property
    def timers(self) -> int:
        """How many timers wait, but for the one of the watch over a running engine."""
        return self.clock.pending - (self.service.engines.running is not None)

    @property
    def services(self) -> TurnServices:
        """The services that all turns use."""
        return self.service.conversations._services  # pyright: ignore[reportPrivateUsage]

    def stream(self, *metadata: tuple[str, str]) -> StreamDriver:
        """A new stream, on which nothing has been sent."""
        return StreamDriver(self.channel, metadata)

    async def opened(self, *tools: tool_pb2.Tool) -> StreamDriver:
        """A stream with a new conversation and these tools."""
        stream = self.stream()
        opened = await stream.open(agent_pb2.OpenConversation(tools=tools))
        assert not [entry for entry in opened.registrations if entry.HasField("error")]
        return stream

    async def info(self) -> agent_pb2.GetServerInfoResponse:
        """The answer of GetServerInfo."""
        return await server_info(self.channel)

    async def nothing_is_left(self) -> None:
        """Returns once no conversation, invocation, share or generation is left."""
        conversations, services = self.service.conversations, self.services
        await eventually(lambda: len(conversations) == 0)
        await eventually(lambda: services.dispatcher.in_flight == 0)
        await eventually(lambda: services.admission.admitted + services.admission.waiting == 0)
        held, transport = conversations.held, self.service.server
        await eventually(lambda: transport.calls.in_flight == 0)
        arrivals = transport.reception.arrivals
        assert (arrivals.reading, arrivals.waiting) == (0, 0)
        assert (held.total, held.bytes_by_tenant, held.conversations_by_tenant) == (0, {}, {})
        await self.nothing_is_generated()

    async def nothing_is_generated(self) -> None:
        """Returns once the engine reports that it generates nothing."""
        if self.service.engines.running is not None:
            await until_idle(self.engine)


@asynccontextmanager
async def running_server(
    script: Script | Sequence[Step] = (),
    *,
    info: EngineInfo = INFO,
    engines: Engines | None = None,
    draft_factory: EngineFactory | None = None,
    **sections: Section,
) -> AsyncGenerator[RunningServer]:
    """The real service on a free port, with an engine that follows the script.

    `draft_factory` starts the engine of the draft model, if there is one. `sections` are settings
    as in the settings file: `tools={"tools_max": 2}`. At the end, the channel is closed, the block
    checks that nothing is left, and the server stops.
    """
    engines = engines or Engines(script, info)
    here: Section = {"port": 0, "drain_s": 0.0}
    sections["server"] = {**here, **sections.get("server", {})}
    settings = load_settings(None, {name: dict(knobs) for name, knobs in sections.items()})
    with manual_time() as clock:
        async with serve(
            settings,
            engines,
            model=MODEL,
            on_progress=_ignore,
            draft_factory=draft_factory,
        ) as service:
            async with connected(service.address) as channel:
                running = RunningServer(
                    service=service, engines=engines, channel=channel, clock=clock
                )
                yield running
            await running.nothing_is_left()
            assert not service.background.done()


def connected(address: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """A channel with its own connection. As a context manager, it closes the channel."""
    return grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *options))


@contextmanager
def manual_time() -> Generator[ManualClock]:
    """Gives this clock to the services that start in the block."""
    clock = ManualClock()
    with patch("precall_service.app.LoopClock", lambda: clock):
        yield clock


async def server_info(channel: grpc.aio.Channel) -> agent_pb2.GetServerInfoResponse:
    """The answer of GetServerInfo."""
    stub = agent_pb2_grpc.AgentServiceStub(channel)
    return await stub.GetServerInfo(
        agent_pb2.GetServerInfoRequest(), timeout=WAIT_S, wait_for_ready=True
    )


async def health(channel: grpc.aio.Channel, service: str = AGENT_SERVICE) -> str:
    """The status of a service according to the health service."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)
    return _serving(answer)


async def health_becomes(channel: grpc.aio.Channel, wanted: str) -> None:
    """Returns once the health service reports this status for AgentService."""
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


def _ignore(_stage: str, _fraction: float | None) -> None:
    pass
