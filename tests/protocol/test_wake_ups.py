"""The event loop takes the events of gRPC in one go, a bounded number in each pass."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

from precall_service.transport.wake_ups import EVENTS_MAX

STREAMS = 600
"""More than the 278 wake-ups that the socket of gRPC's thread holds."""

PROGRAM = f"""
    import asyncio

    from precall_service.transport.wake_ups import WakeUps
    from tests.support.http2 import conversations
    from tests.support.stream import running_server

    wakes = []
    plain = WakeUps.recv


    def recv(self, *arguments):
        found = plain(self, *arguments)
        wakes.append(len(found))
        return found


    async def main():
        WakeUps.recv = recv
        async with (
            running_server() as server,
            conversations(server.service.address, {STREAMS}),
        ):
            pass
        print(len(wakes), max(wakes))


    asyncio.run(main())
"""


def test_a_burst_of_events_wakes_the_loop_seldom_and_comes_in_parts() -> None:
    """Each stream has four events at least. One byte would be read for each, in a pass of its own.

    In a process of its own, since gRPC starts its thread once.
    """
    program = [sys.executable, "-c", dedent(PROGRAM)]
    run = subprocess.run(program, capture_output=True, text=True, timeout=50, check=True)
    wakes, most = map(int, run.stdout.split())
    assert 0 < wakes < 3 * STREAMS
    assert 1 < most < 3 * EVENTS_MAX
