"""What tools cost when they are registered, and what their grammars cost at the first step.

A conversation registers many tools of ordinary schemas, new ones in each round. A tick in the
service's event loop notes the longest time for which nothing else could run. Then turns of one
token run with some of the tools and with the same prompt: with a call required, which pays the
grammar; without calls; and with a call required in a second conversation, which should pay nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc.aio

from bench import served
from bench.process import Child
from bench.report import AtMost, Report
from precall.v1 import agent_pb2, agent_pb2_grpc, content_pb2, generation_pb2, tool_pb2, turn_pb2

PAUSE_MS = 10.0
SECOND_MAX = 1.05
SECOND = "first step in a second conversation / without a grammar"

SIZES = {
    "cpu": {
        "tools": 128,
        "turn_tools": 16,
        "rounds": 9,
        "block_size": 32,
        "max_num_seqs": 16,
        "max_model_len": 8192,
    },
    "quick": {
        "tools": 16,
        "turn_tools": 2,
        "rounds": 1,
        "block_size": 32,
        "max_num_seqs": 16,
        "max_model_len": 2048,
    },
}

NONE = generation_pb2.TOOL_CHOICE_MODE_NONE
REQUIRED = generation_pb2.TOOL_CHOICE_MODE_REQUIRED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    served.add_arguments(parser)
    served.add_block_size(parser)
    parser.add_argument("--tools", type=int, help="tools in one frame")
    parser.add_argument("--turn-tools", type=int, help="tools of a turn")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    done = report.count("longest pause")
    async with served.served(options, block_size=options.block_size).precall() as server:
        await server.ask("pauses")
        for number in range(done, done + options.rounds):
            await _registered(server, number, options.tools, report)
            await _stepped(server, number, options.turn_tools, report)
            report.ratio(SECOND, "step in a second conversation", "step without a grammar")
            report.judge(SECOND, AtMost(SECOND_MAX))
            report.judge("longest pause", AtMost(PAUSE_MS))
            report.round_ended()
            print(f"round {number + 1} ended")


async def _registered(server: Child, number: int, count: int, report: Report) -> None:
    tools = [_tool(f"r{number}_{index}") for index in range(count)]
    for what in ("", ", again"):
        async with _conversation(server) as conversation:
            await server.ask("pauses")
            began = time.perf_counter()
            await conversation.register(tools)
            took_s = time.perf_counter() - began
            pauses = await server.ask("pauses")
        report.add(f"frame of {count} tools{what}", 1e3 * took_s, unit="ms")
        report.add(f"longest pause{what}", 1e3 * float(str(pauses["longest_s"])), unit="ms")


async def _stepped(server: Child, number: int, count: int, report: Report) -> None:
    tools = [_tool(f"s{number}_{index}") for index in range(count)]
    async with (
        _conversation(server) as first,
        _conversation(server) as plain,
        _conversation(server) as second,
    ):
        for conversation in (first, plain, second):
            await conversation.register(tools)
            await conversation.turn(NONE)
        # From here on all three have the same prompt, which the first of these steps has cached.
        report.add("first step with a grammar", 1e3 * await first.turn(REQUIRED), unit="ms")
        report.add("step without a grammar", 1e3 * await plain.turn(NONE), unit="ms")
        report.add("step in a second conversation", 1e3 * await second.turn(REQUIRED), unit="ms")


class _Conversation:
    """One stream; its turns have one token, and the same number of turns has the same prompt."""

    def __init__(
        self,
        stream: grpc.aio.StreamStreamCall[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse],
    ) -> None:
        self._stream = stream
        self._sequence = 0

    async def open(self) -> None:
        """Opens the conversation."""
        await self._send(open=agent_pb2.OpenConversation(client_name="bench"))
        await self._next("opened")

    async def register(self, tools: list[tool_pb2.Tool]) -> None:
        """Registers tools; every one must be accepted."""
        await self._send(register_tools=tool_pb2.RegisterTools(tools=tools))
        answer = await self._next("tools_registered")
        assert all(each.version for each in answer.tools_registered.registrations)

    async def turn(self, mode: generation_pb2.ToolChoiceMode.ValueType) -> float:
        """Runs a turn of one token, which a limit ends, and returns its seconds.

        Such a turn leaves a message behind, so the next one has another prompt; most is cached.
        """
        began = time.perf_counter()
        await self._send(
            start_turn=turn_pb2.StartTurn(
                turn_id=f"turn-{self._sequence}",
                content=[content_pb2.ContentPart(text="What is the weather?")],
                generation=generation_pb2.GenerationSettings(
                    temperature=0.0, tool_choice=generation_pb2.ToolChoice(mode=mode)
                ),
                limits=turn_pb2.TurnLimits(max_turn_tokens=1),
            )
        )
        await self._next("turn_completed")
        return time.perf_counter() - began

    async def _send(self, **frame: object) -> None:
        self._sequence += 1
        await self._stream.write(agent_pb2.ConverseRequest(sequence=self._sequence, **frame))  # pyright: ignore[reportArgumentType]

    async def _next(self, kind: str) -> agent_pb2.ConverseResponse:
        while True:
            frame = await self._stream.read()
            assert isinstance(frame, agent_pb2.ConverseResponse), await self._stream.details()
            assert frame.WhichOneof("event") != "frame_rejected", frame
            if frame.WhichOneof("event") == kind:
                return frame


@asynccontextmanager
async def _conversation(server: Child) -> AsyncGenerator[_Conversation]:
    async with grpc.aio.insecure_channel(str(server.ready["address"])) as channel:
        stream = agent_pb2_grpc.AgentServiceStub(channel).Converse()
        conversation = _Conversation(stream)
        await conversation.open()
        yield conversation
        stream.cancel()


def _tool(name: str) -> tool_pb2.Tool:
    """A tool of a schema as libraries write them; no two have the same names in it."""
    properties = {
        f"city_{name}": {"type": "string", "description": "Name of the city."},
        "unit": {"enum": ["celsius", "fahrenheit", name]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "stations": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
        "since": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/Place"},
    }
    place = {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [f"city_{name}"],
        "$defs": {"Place": place},
    }
    return tool_pb2.Tool(
        name=name, description="The weather in a city.", input_schema_json=json.dumps(schema)
    )
