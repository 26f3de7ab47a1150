"""Fixtures for the one real engine that the tests of a folder share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from precall_service.engine.base import Engine, EngineFactory
from tests.support.engine_keeper import EngineKeeper

_TIMEOUT_S = 300
"""The timeout of a test. The first test also waits for the start of the engine."""


def share_engine(items: list[pytest.Item], folder: Path) -> None:
    """Puts the folder's tests on one event loop, in an order in which the engine starts seldom.

    Tests that kill the engine run late, the one that needs no other afterwards after the others,
    and those that start others in its place run last.
    """
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
            if pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    last = ("no_shared_engine", "doomed_engine", "kill_engine")
    items.sort(key=lambda item: [name in getattr(item, "fixturenames", ()) for name in last])


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine_keeper() -> AsyncGenerator[EngineKeeper]:
    """The keeper, which starts and ends the engine.

    The engine computes in float32: in bfloat16, near ties depend on what else it computes, and the
    same prompt can have two answers.
    """
    keeper = EngineKeeper(dtype="float32")
    yield keeper
    await keeper.close()


@pytest_asyncio.fixture(loop_scope="session")
async def vllm_engine(engine_keeper: EngineKeeper) -> Engine:
    """The engine, alive and idle."""
    return await engine_keeper.engine()


@pytest.fixture
def vllm_factory(engine_keeper: EngineKeeper) -> EngineFactory:
    """Lends the engine to code that starts and closes engines: a supervisor, a whole service."""
    return engine_keeper.lend


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def no_shared_engine(engine_keeper: EngineKeeper) -> None:
    """Ends the engine, for tests that start others in its place."""
    await engine_keeper.close()


@pytest.fixture
def kill_engine(engine_keeper: EngineKeeper) -> Callable[..., Awaitable[None]]:
    """Kills the engine's process with SIGKILL, or with the signal given."""
    return engine_keeper.kill
