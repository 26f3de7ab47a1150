"""How far a start is and what it failed on, from the logs of processes that only log."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import threading
from collections.abc import Callable, Generator

import pytest

from precall_service.engine.vllm.logs import StartError, StartLog
from precall_service.engine.vllm.threads import in_daemon_thread


@pytest.fixture
def vllm_logger() -> Generator[logging.Logger]:
    """Another logger in the place of vLLM's, as it is in another process."""
    logger = logging.getLogger("vllm.some.module")
    root = logging.getLogger("vllm")
    before = (root.level, root.propagate, list(root.handlers))
    yield logger
    for handler in root.handlers:
        handler.close()
    root.level, root.propagate, root.handlers = before[0], before[1], before[2]


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110  (a datagram sets nothing but what it says)
            await asyncio.sleep(0)


async def test_milestones_become_stages_and_each_is_told_once(
    vllm_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    stages: list[str] = []
    async with StartLog(lambda stage, _: stages.append(stage), "WARNING") as log:
        logging.config.dictConfig(json.loads(log.config_path.read_text()))
        for _ in range(2):  # two workers
            vllm_logger.info("Starting to load model %s...", "some/model")
            vllm_logger.info("Loading weights took %.2f seconds", 1.5)
        vllm_logger.info("Nothing in particular")
        vllm_logger.info("%s KV cache size: %s tokens", "CPU", "46,592")
        await until(lambda: len(stages) == 3)
    assert stages == ["loading the weights", "preparing the model", "setting up the KV cache"]
    assert capsys.readouterr().err == "", "below the level, nothing is shown"
    assert not log.config_path.parent.exists()


async def test_errors_are_told_in_order_and_warnings_are_none(
    vllm_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    async with StartLog(lambda _stage, _fraction: None, "CRITICAL") as log:
        logging.config.dictConfig(json.loads(log.config_path.read_text()))
        try:
            raise ImportError("optional")
        except ImportError:
            vllm_logger.warning("done without", exc_info=True)
        for error in (ValueError("too\nlong"), RuntimeError("see above")):
            try:
                raise error
            except (ValueError, RuntimeError):
                vllm_logger.exception("failed to start")
        await until(lambda: len(log.errors) == 2)
    assert log.errors == [
        StartError("ValueError", "too\nlong"),
        StartError("RuntimeError", "see above"),
    ]
    vllm_logger.info("init engine (profile, create kv cache)")  # nobody listens any more


async def test_warnings_of_every_start_are_kept_back(
    vllm_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    async with StartLog(lambda _stage, _fraction: None, "WARNING") as log:
        logging.config.dictConfig(json.loads(log.config_path.read_text()))
        vllm_logger.warning("Using custom scheduler class precall_service.engine.vllm.x.")
        vllm_logger.warning("Something that matters")
        vllm_logger.error("Triton is on fire")
    shown = capsys.readouterr().err
    assert "custom scheduler" not in shown
    assert "Something that matters" in shown
    assert "on fire" in shown


async def test_a_thread_of_its_own_returns_and_raises() -> None:
    assert await in_daemon_thread(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


async def test_a_cancelled_wait_drops_what_the_thread_returns() -> None:
    release = threading.Event()
    waiting = asyncio.ensure_future(in_daemon_thread(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
