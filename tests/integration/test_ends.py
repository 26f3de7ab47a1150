"""The ends of a server and of its engine that nobody has asked for: kills, hangs, restarts.

The engines are small: one layer of the embedded model's shape, with random weights, which never
ends a message by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil
import pytest

import precall
from bench.allocated import allocated
from precall_service.app import Service, serve
from precall_service.engine.supervisor import EngineState
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.environment import temporary_folder
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings
from tests.support.engine_keeper import embedded_config
from tests.support.engine_states import passed

if TYPE_CHECKING:  # it imports vLLM, which reads the environment
    from precall_service.engine.vllm.engine import VllmEngine

pytestmark = pytest.mark.usefixtures("no_shared_engine")

PRECALL = str(Path(sys.executable).parent / "precall")
START_S = 120.0
GONE_S = 5.0
NOTICE_S = 2.0
MARK = "MARK_OF_A_TEST"
SMALL = (
    *("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 1}'),
    *("--max-model-len", "2048", "--max-num-seqs", "4"),
)


class ServerProcess:
    """`precall serve` with a small engine, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self._process = process
        self._mark = mark
        self._seen: set[psutil.Process] = set()

    async def address(self) -> str:
        """Its address, once it is ready."""
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            while (line := (await self._process.stdout.readline()).split())[:1] != [b"address"]:
                pass
        return line[1].decode()

    async def until(self, begun: Callable[[list[psutil.Process]], bool]) -> None:
        """Waits for a state of its processes, which are noted meanwhile."""
        async with asyncio.timeout(START_S):
            while not begun(self.processes()):  # noqa: ASYNC110  (no event tells of a process)
                await asyncio.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        """Its living processes without the first, those included that have lost their parent."""
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.environ().get(MARK) == self._mark:
                    self._seen.add(each)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen.update(psutil.Process(self._process.pid).children(recursive=True))
        return [each for each in self._seen if each.pid != self._process.pid and lives(each)]

    async def kill(self) -> list[psutil.Process]:
        """Kills its first process; returns those of the others that still live after a while."""
        self.processes()
        os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        deadline = time.monotonic() + GONE_S
        while (left := self.processes()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return left

    def end(self) -> None:
        """Kills what is left."""
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def spawned(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that vLLM has started: EngineCore and its workers."""
    found: list[psutil.Process] = []
    for each in processes:
        with contextlib.suppress(psutil.Error):
            if any("multiprocessing-fork" in part for part in each.cmdline()) or (
                "EngineCore" in each.name() or "Worker" in each.name()
            ):
                found.append(each)
    return found


@asynccontextmanager
async def server_process() -> AsyncGenerator[ServerProcess]:
    mark = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *(PRECALL, "serve", "--port", "0", "--kv-cache-bytes", str(1 << 26), "--", *SMALL),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {MARK: mark},
    )
    server = ServerProcess(process, mark)
    try:
        yield server
    finally:
        server.end()
        await process.wait()


async def generates(address: str) -> AsyncGenerator[None]:
    """Yields when a step is running, which goes on until this is closed."""
    async with precall.Client(address) as client, client.conversation() as conversation:
        turn = conversation.send("Tell me a story.", max_step_tokens=2000)
        async for event in turn:
            if isinstance(event, precall.TextDelta):
                yield


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_server_that_is_killed_while_its_engine_starts_leaves_nothing(
    workers: int,
) -> None:
    async with server_process() as server:
        await server.until(lambda processes: len(spawned(processes)) >= workers)
        assert not await server.kill()


async def test_a_server_that_is_killed_in_a_step_leaves_nothing() -> None:
    async with server_process() as server:
        running = generates(await server.address())
        await anext(running)
        assert len(spawned(server.processes())) == 2
        # EngineCore, a worker, the grammars, and multiprocessing's own helper.
        assert len(server.processes()) >= 4
        assert not await server.kill()
        with contextlib.suppress(precall.PrecallError):
            await running.aclose()


def small_config() -> VllmConfig:
    config = embedded_config(
        dtype="float32",
        load_format="dummy",
        hf_overrides={"num_hidden_layers": 1},
        max_model_len=2048,
        max_num_seqs=4,
    )
    return replace(config, kv_cache_bytes=1 << 26)


def ignore(_stage: str, _fraction: float | None) -> None:
    """Takes no note of the progress of a start."""


def core_of(service: Service) -> int:
    """The id of EngineCore's process."""
    engine = cast("VllmEngine", service.engines.engine())
    return engine._processes.pids[0]  # pyright: ignore[reportPrivateUsage]


async def stop_in_a_turn(
    service: Service, client: precall.Client, conversation: precall.Conversation
) -> None:
    """Stops EngineCore's process in the middle of a turn, and looks on."""
    core = core_of(service)
    async for event in conversation.send("Tell me a story.", max_step_tokens=2000):
        if isinstance(event, precall.TextDelta) and core:
            os.kill(core, signal.SIGSTOP)
            core = 0
            async with asyncio.timeout(START_S):
                await passed(service.engines, EngineState.SILENT)
            info = await client.server_info()
            assert info.engine_state is precall.EngineState.SILENT
            assert service.engines.progress_age_s >= NOTICE_S


def held() -> dict[str, int]:
    """What this process holds, by kind."""
    gc.collect()
    me = psutil.Process()
    return {
        "files": sum(1 for _ in temporary_folder().iterdir()),
        "shared memory": len(list(Path("/dev/shm").iterdir())),
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "processes": len(me.children(recursive=True)),
        "engines": number_of("AsyncLLM"),
        "tokenizers": number_of("TokenizersBackend"),
    }


def number_of(kind: str) -> int:
    """How many objects of this type live."""
    return sum(type(each).__name__ == kind for each in gc.get_objects())


def temporary_names() -> set[str]:
    """What is in the common folder for temporary files of what engines leave."""
    folder = Path(tempfile.gettempdir())
    return {each.name for each in folder.iterdir() if each.is_socket() or "vllm" in each.name}


GROWTH_MAX = 10 << 20
"""In bytes, for a restart that is not the first. It lost 75 MiB when it left its tokenizers."""


async def held_after_restart(service: Service) -> tuple[dict[str, int], int]:
    """What this process holds when the engine has been started again, and the bytes of malloc."""
    async with asyncio.timeout(START_S):
        await passed(service.engines, EngineState.RESTARTING, EngineState.READY)
    await service.engines.engine().load()
    return held(), allocated()["bytes of malloc"]


@pytest.mark.timeout(400)
async def test_an_engine_that_hangs_or_dies_is_started_again_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = load_settings(
        None,
        {
            "server": {"port": 0, "drain_s": 0},
            "engine": {"hung_notice_s": NOTICE_S, "hung_restart_s": 6.0, "stop_timeout_s": 1.0},
        },
    )
    factory = VllmEngineFactory(small_config())
    before = temporary_names()
    async with (
        serve(settings, factory, model="small", on_progress=ignore) as service,
        precall.Client(service.address) as client,
        client.conversation() as conversation,
    ):
        with pytest.raises(precall.EngineUnavailableError) as failure:
            await stop_in_a_turn(service, client, conversation)
        assert failure.value.retry_after_s
        first, first_bytes = await held_after_restart(service)
        assert "the engine has given no sign of life for" in caplog.text
        assert "without a sign of life); starting it again" in caplog.text
        after = await conversation.ask("Say hello.", max_step_tokens=8)
        assert after.text
        os.kill(core_of(service), signal.SIGKILL)
        last, last_bytes = await held_after_restart(service)
    assert last == first
    assert last["engines"] == 1
    assert last_bytes - first_bytes < GROWTH_MAX
    assert temporary_names() <= before
