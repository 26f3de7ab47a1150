"""The event loop takes all events of gRPC at once, and is woken no more often than it has to be."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

STREAMS = 600
"""More than the 278 wake-ups that the socket of gRPC's thread holds."""

PROGRAM = f"""
    import asyncio

    from precall.v1 import agent_pb2
    from precall_service.transport.wake_ups import WakeUps
    from tests.support.http2 import Connection, message
    from tests.support.stream import running_server

    wakes = 0
    plain = WakeUps.recv


    def recv(self, *arguments):
        global wakes
        wakes += 1
        return plain(self, *arguments)


    async def main():
        WakeUps.recv = recv
        opening = agent_pb2.ConverseRequest(sequence=1, open=agent_pb2.OpenConversation())
        frame = message(opening.SerializeToString())
        async with running_server() as server:
            attacker = await Connection.connect(server.service.address, read_window=4096)
            for _ in range({STREAMS}):
                attacker.send(attacker.open(), frame)
            async with asyncio.timeout(30):
                while not all(each.data for each in attacker.streams.values()):
                    await attacker.changed()
            attacker.close()
        print(wakes)


    asyncio.run(main())
"""


def test_a_burst_of_events_wakes_the_loop_no_more_often_than_there_are_events() -> None:
    """Each stream has four events at least. One byte would be read for each, in a pass of its own.

    In a process of its own, since gRPC starts its thread once.
    """
    program = [sys.executable, "-c", dedent(PROGRAM)]
    run = subprocess.run(program, capture_output=True, text=True, timeout=50, check=True)
    wakes = int(run.stdout)
    assert 0 < wakes < 3 * STREAMS
