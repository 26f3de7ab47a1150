"""A start of vLLM: how its failures are reported, and what an abandoned start leaves behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from types import ModuleType
from typing import Any

import pytest

from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.logs import StartError
from tests.support.prompt_renderers import tokenizer

FREE_MEMORY = "Free memory on device cuda:0 (1/80 GiB) on startup is less than desired"
FRAMED = """1 validation error for ModelConfig
  Value error, max_model_len is too large. [type=value_error, input_value=1, input_type=int]
    For further information visit https://errors.pydantic.dev"""


@pytest.fixture
def launching() -> ModuleType:
    tokenizer()
    from precall_service.engine.vllm import launching

    return launching


@pytest.fixture
def start() -> ModuleType:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm import start

    return start


@pytest.mark.parametrize(
    ("error", "logged", "kind", "told"),
    [
        (ValueError(FREE_MEMORY), [], EngineStartError, FREE_MEMORY),
        (OSError("no space left"), [], EngineStartError, "cannot start: no space left"),
        (RuntimeError("see above"), [], RuntimeError, "did not start: RuntimeError: see above"),
        (
            RuntimeError("see above"),
            [StartError("ValueError", FREE_MEMORY), StartError("RuntimeError", "workers failed")],
            EngineStartError,
            f"the engine cannot start: {FREE_MEMORY}",
        ),
        (
            RuntimeError("see above"),
            [StartError("OutOfMemoryError", "CUDA out of memory")],
            EngineStartError,
            "the engine cannot start: CUDA out of memory",
        ),
        (
            RuntimeError("see above"),
            [StartError("ValidationError", FRAMED)],
            EngineStartError,
            "the engine cannot start: max_model_len is too large.",
        ),
    ],
)
def test_a_failure_is_reported_by_its_first_cause(
    start: ModuleType,
    error: Exception,
    logged: list[StartError],
    kind: type[Exception],
    told: str,
) -> None:
    failure = start._failure(error, logged)
    assert type(failure) is kind
    assert str(failure).endswith(told)


async def test_a_first_generation_that_takes_too_long_is_given_up(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_engine: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(start, "_warm_up", never)
    with pytest.raises(RuntimeError, match=r"not generated within 0\.01 s, engine.start_timeout_s"):
        await start._first_generated(None, 0.01)


class Launching:
    """An AsyncLLM whose start starts one process and waits for its end."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = (threading.Event() for _ in range(3))
        self.cores: set[int] = set()
        self.exit_code: int | None = None

    def from_vllm_config(self, _config: Any) -> None:
        self.begun.set()
        self.go_on.wait()
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(15,))
        process.start()
        assert process.pid is not None
        self.cores = os.sched_getaffinity(process.pid)
        process.join()
        self.exit_code = process.exitcode
        process.close()
        self.ended.set()


async def test_a_process_started_after_the_cancel_is_ended(
    launching: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Launching()
    monkeypatch.setattr(launching, "AsyncLLM", llm)
    start = asyncio.ensure_future(launching.launched(None, None))
    await asyncio.to_thread(llm.begun.wait)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    llm.go_on.set()
    assert await asyncio.to_thread(llm.ended.wait, 10)


async def test_a_start_that_is_given_up_leaves_other_engines_alone(
    launching: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, given_up = Launching(), Launching()
    starts: list[asyncio.Future[Any]] = []
    for llm in (kept, given_up):
        monkeypatch.setattr(launching, "AsyncLLM", llm)
        starts.append(asyncio.ensure_future(launching.launched(None, None)))
        await asyncio.to_thread(llm.begun.wait)
        llm.go_on.set()
    starts[1].cancel()
    assert await asyncio.to_thread(given_up.ended.wait, 10)
    assert given_up.exit_code == -signal.SIGKILL
    assert not kept.ended.is_set()
    starts[0].cancel()
    assert await asyncio.to_thread(kept.ended.wait, 10)
    await asyncio.wait(starts)


async def test_the_processes_of_an_engine_run_on_its_cores_alone(
    launching: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.sched_getaffinity(0)
    llm = Launching()
    llm.go_on.set()
    monkeypatch.setattr(launching, "AsyncLLM", llm)
    one = frozenset({max(before)})
    start = asyncio.ensure_future(launching.launched(None, one))
    while not llm.cores:
        await asyncio.to_thread(llm.ended.wait, 0.05)
    start.cancel()
    assert await asyncio.to_thread(llm.ended.wait, 10)
    assert llm.cores == one
    assert os.sched_getaffinity(0) == before
    await asyncio.wait([start])
