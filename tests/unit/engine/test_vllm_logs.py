"""Why a start failed and which warnings are shown, from the logs of vLLM's processes."""

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
    """The logger of vLLM, configured as in one of its processes and restored afterwards."""
    logger = logging.getLogger("vllm.some.module")
    root = logging.getLogger("vllm")
    before = (root.level, root.propagate, list(root.handlers))
    yield logger
    for handler in root.handlers:
        handler.close()
    root.level, root.propagate, root.handlers = before[0], before[1], before[2]


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110  (no event is set when a datagram arrives)
            await asyncio.sleep(0)


async def test_exceptions_are_kept_in_order_and_warnings_are_not(
    vllm_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    async with StartLog("ERROR") as log:
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
    assert not log.config_path.parent.exists()
    assert log.errors == [
        StartError("ValueError", "too\nlong"),
        StartError("RuntimeError", "see above"),
    ]
    vllm_logger.error("late", exc_info=ValueError())  # nothing listens any more


async def test_warnings_of_every_start_are_dropped(
    vllm_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    async with StartLog("WARNING") as log:
        logging.config.dictConfig(json.loads(log.config_path.read_text()))
        vllm_logger.warning("Using custom scheduler class precall_service.engine.vllm.x.")
        vllm_logger.warning("Something that matters")
        vllm_logger.error("Triton is on fire")
    shown = capsys.readouterr().err
    assert "custom scheduler" not in shown
    assert "Something that matters" in shown
    assert "on fire" in shown


async def test_work_in_a_thread_of_its_own_returns_and_raises() -> None:
    assert await in_daemon_thread(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


async def test_a_cancelled_wait_drops_the_result() -> None:
    release = threading.Event()
    waiting = asyncio.ensure_future(in_daemon_thread(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
