"""Attacks on a server in a process of its own: what they cost it, and what others notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.http2 import CONVERSE, OPENING, Connection, message
from tests.support.server_process import server_process
from tests.support.stream import StreamDriver, connected

MIB = 1 << 20
FRAME = MIB
WIRE = 2 * FRAME
ATTACK_S = 2.0


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


@pytest.mark.parametrize("path", [CONVERSE, "/precall.v1.ToolCacheService/Put"])
async def test_unfinished_first_messages_take_bounded_memory(path: str) -> None:
    """Three connections used to take all they could send: 120 of these messages are 240 MiB."""
    slots, calls, connections = 4, 40, 3
    unfinished = message(b"\0" * (WIRE - 1), announced=WIRE)
    settings = {"frame_bytes_max": FRAME, "arrivals_max": slots}
    async with server_process(server=settings) as (address, process):
        hostile = [await Connection.connect(address) for _ in range(connections)]
        idle = resident_bytes(process.pid)
        streams = [(each, each.open(path)) for each in hostile for _ in range(calls)]
        most, until = 0, asyncio.get_running_loop().time() + ATTACK_S
        while asyncio.get_running_loop().time() < until:
            for each, number in streams:
                each.send(number, unfinished[each.streams[number].sent :])
            await asyncio.sleep(0.01)
            most = max(most, resident_bytes(process.pid) - idle)
        async with connected(address) as channel, asyncio.timeout(5):
            victim = StreamDriver(channel, (("precall-tenant", "victim"),))
            await victim.open()
            await victim.close()
        for each in hostile:
            each.close()
    # Those that gave way are freed while the next ones come, and gRPC needs more than it counts.
    assert most < 2 * (slots * WIRE + connections * calls * (16 << 10)) + 40 * MIB


async def test_a_reconnect_storm_loses_no_one() -> None:
    """GRPC would cancel, without a word, calls that come faster than the event loop takes them."""
    calls, connections = 1000, 3
    async with server_process() as (address, _):
        storm = [await Connection.connect(address, read_window=4096) for _ in range(connections)]
        for each in storm:
            for _ in range(calls):
                each.send(each.open(), OPENING)
        async with asyncio.timeout(30):
            for each in storm:
                while not all(stream.data or stream.ended for stream in each.streams.values()):
                    await each.changed()
        lost = [stream for each in storm for stream in each.streams.values() if stream.ended]
        for each in storm:
            each.close()
    assert not lost
