"""A start of vLLM: how its failures are reported, and what an abandoned start leaves behind."""

from __future__ import annotations

import asyncio
import multiprocessing
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
def start() -> ModuleType:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm import start  # noqa: PLC0415

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


async def test_a_process_started_after_the_cancel_is_ended(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class Launching:
        @staticmethod
        def from_vllm_config(_config: Any) -> None:
            begun.set()
            go_on.wait()
            process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(15,))
            process.start()
            process.join()
            process.close()
            ended.set()

    monkeypatch.setattr(start, "AsyncLLM", Launching)
    launching = asyncio.ensure_future(start._launched(None))
    await asyncio.to_thread(begun.wait)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 10)
