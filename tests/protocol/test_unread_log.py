"""A server whose stderr is a pipe that nobody reads goes on, whatever it logs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

import precall
from tests.support.openai_server import OpenAiServer, refused

PRECALL = str(Path(sys.executable).parent / "precall")
WORDS = "x" * 200_000
"""What the model's server says of each step, which is logged."""
TURNS = 25


@pytest.mark.timeout(120)
async def test_megabytes_of_log_that_nobody_reads() -> None:
    model = OpenAiServer([refused("400 Bad Request", WORDS)] * TURNS)
    async with model.running():
        process = await asyncio.create_subprocess_exec(
            *(PRECALL, "serve", "--backend", "openai", "--url", model.url, "--port", "0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 10,  # asyncio reads no further than this ahead
        )
        try:
            async with asyncio.timeout(60):
                address = await address_of(process)
                async with precall.Client(address) as client:
                    for _ in range(TURNS):
                        async with client.conversation() as conversation:
                            with pytest.raises(precall.PrecallError):
                                await conversation.ask("Hello")
                    assert (await client.server_info()).model == "tiny"
            process.terminate()
            async with asyncio.timeout(30):
                await exited(process)
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await exited(process)


async def address_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    while (line := (await process.stdout.readline()).split())[:1] != [b"address"]:
        pass
    return line[1].decode()


async def exited(process: asyncio.subprocess.Process) -> None:
    """Waits without reading, as `communicate` would."""
    while process.returncode is None:  # noqa: ASYNC110  (wait() would wait for the pipes)
        await asyncio.sleep(0.01)
    assert process.stderr is not None
    await process.stderr.read()
