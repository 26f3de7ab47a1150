"""How much memory an idle conversation costs in the service, not counting the engine.

Each conversation is opened with a tool, has one short turn, and then does nothing. The memory is
that of the server process alone, after garbage collection. The cost of one conversation is the
slope over several numbers of conversations. The same streams to a bare servicer show how much of it
is gRPC's. Conversations with a channel each, as separate clients have, are measured separately.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

import grpc.aio

from bench.process import Child, started
from bench.report import AtMost, Report
from bench.stats import slope
from bench.stream import TEXT
from precall.v1 import agent_pb2, agent_pb2_grpc, content_pb2, tool_pb2, turn_pb2
from precall_service.domain.json import JsonObject

SETTLE_S = 0.5
TARGET_KIB = 64.0
ARMS = (("precall", "bench.arms.scripted"), ("bare", "bench.arms.bare_grpc"))
DELTAS = 20

_OPEN = agent_pb2.ConverseRequest(
    sequence=1,
    open=agent_pb2.OpenConversation(
        client_name="bench",
        system_prompt="You are a helpful assistant. Answer in one sentence.",
        tools=[
            tool_pb2.Tool(
                name="get_weather",
                description="The weather in a city, now.",
                input_schema_json='{"type": "object", "properties": {"city": {"type": "string"}},'
                ' "required": ["city"]}',
            )
        ],
    ),
)
_START = agent_pb2.ConverseRequest(
    sequence=2,
    start_turn=turn_pb2.StartTurn(
        turn_id="turn-1", content=[content_pb2.ContentPart(text="How is the weather?")]
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The numbers of conversations to measure, and the number of channels that they share."""

    name: str
    counts: tuple[int, ...]
    channels: int | None
    """None: each conversation has its own channel."""


SIZES = {
    "cpu": {"conversations": 2000, "channels": 8, "rounds": 3},
    "quick": {"conversations": 80, "channels": 8, "rounds": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--conversations", type=int, help="conversations on shared channels")
    parser.add_argument("--channels", type=int, help="shared channels")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    most: int = options.conversations
    shared = Setting(
        name="shared channels",
        counts=(most // 4, most // 2, 3 * most // 4, most),
        channels=options.channels,
    )
    apart = Setting(
        name="a channel each", counts=(most // 16, most // 8, 3 * most // 16), channels=None
    )
    for number in range(options.rounds):
        for setting in (shared, apart):
            for arm, module in ARMS:
                kib = await _cost_kib(module, setting)
                report.add(f"{arm}, {setting.name}", kib, unit="KiB a conversation")
                print(f"round {number + 1}: {arm}, {setting.name}: {kib:.1f} KiB a conversation")
        for setting in (shared, apart):
            report.judge(f"precall, {setting.name}", AtMost(TARGET_KIB))
        report.round_ended()


async def _cost_kib(module: str, setting: Setting) -> float:
    config: JsonObject = {"deltas": DELTAS, "text": TEXT, "ticks": False}
    async with started(module, config) as child:
        crowd = _Crowd(child, setting.channels)
        try:
            await crowd.grow_to(setting.counts[0])  # one-time costs are not counted
            points = [await crowd.measured()]
            for count in setting.counts[1:]:
                await crowd.grow_to(count)
                points.append(await crowd.measured())
        finally:
            await crowd.close()
    return slope(points) / 1024


class _Crowd:
    """Idle conversations with one server."""

    def __init__(self, child: Child, channels: int | None) -> None:
        self._child = child
        self._channels_max = channels
        self._channels: list[grpc.aio.Channel] = []
        self._streams: list[_Stream] = []

    async def grow_to(self, count: int) -> None:
        """Opens conversations until there are `count`."""
        while len(self._streams) < count:
            missing = min(50, count - len(self._streams))
            opened = await asyncio.gather(*(_opened(self._channel()) for _ in range(missing)))
            self._streams += opened

    async def measured(self) -> tuple[float, float]:
        """The number of conversations, and the bytes of the server's own memory."""
        await asyncio.sleep(SETTLE_S)
        await self._child.ask("collect")
        return len(self._streams), self._child.anonymous_bytes()

    async def close(self) -> None:
        """Ends all conversations."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def _channel(self) -> grpc.aio.Channel:
        """The channel for the next conversation."""
        if self._channels_max is None or len(self._channels) < self._channels_max:
            options = [("grpc.use_local_subchannel_pool", 1)]  # else all share a connection
            address = str(self._child.ready["address"])
            channel = grpc.aio.insecure_channel(address, options=options)
            self._channels.append(channel)
            return channel
        self._channels.append(self._channels.pop(0))
        return self._channels[-1]


_Stream = grpc.aio.StreamStreamCall[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse]


async def _opened(channel: grpc.aio.Channel) -> _Stream:
    """Opens a conversation and runs its one turn."""
    stream = agent_pb2_grpc.AgentServiceStub(channel).Converse()
    await stream.write(_OPEN)
    await stream.read()
    await stream.write(_START)
    missing = DELTAS * len(TEXT)  # deltas may come joined
    while missing:
        frame = await stream.read()
        assert isinstance(frame, agent_pb2.ConverseResponse)
        missing -= len(frame.text_delta.text)
    return stream
