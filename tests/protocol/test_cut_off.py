"""What a call leaves behind if its client cuts it off, which gRPC does not free."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

from bench.allocated import EXACT

LOST_BYTES_MAX = 200
"""For a call that is cut off, grpcio 1.85 may lose two arrays of operations (grpc/grpc#43360)."""
STREAMS = 400
ROUNDS = 6

PROGRAM = f'''
    import asyncio

    from bench.allocated import allocated, grow_tables
    from tests.support.http2 import conversations
    from tests.support.stream import running_server


    def serves(task):
        """Whether a task of grpc.aio is of a call that has begun."""
        return task.get_coro().__qualname__.startswith(("_schedule_rpc", "_handle"))


    async def main():
        await grow_tables()
        async with running_server() as server:
            for _ in range({ROUNDS}):
                async with conversations(server.service.address, {STREAMS}):
                    pass
                async with asyncio.timeout(30):
                    while any(serves(task) for task in asyncio.all_tasks()):
                        await asyncio.sleep(0.01)
                print(server.service.watch.vitals().calls_cut_off, allocated()["bytes of malloc"])


    asyncio.run(main())
'''


def test_a_call_that_is_cut_off_leaves_no_more_than_grpc_loses_of_it() -> None:
    program = [sys.executable, "-c", dedent(PROGRAM)]
    run = subprocess.run(
        program, capture_output=True, text=True, timeout=100, check=True, env=os.environ | EXACT
    )
    states = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    (first_cut, first_bytes), *_, (last_cut, last_bytes) = states[1:]
    cut = last_cut - first_cut
    assert cut > (ROUNDS - 2) * STREAMS / 2  # of some, a write fails first
    assert last_bytes - first_bytes < LOST_BYTES_MAX * cut
