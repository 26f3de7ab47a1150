"""One real engine on the embedded model for the whole session, and one event loop for it.

It starts when the first test asks for it, and again for the first test after one that killed it;
tests that kill it (`kill_engine`) run last.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from precall_service.engine.base import Engine, EngineFactory
from tests.support.engine_keeper import EngineKeeper

_HERE = Path(__file__).parent
_TIMEOUT_S = 300
"""The first test waits for the start as well."""


@pytest.hookimpl(trylast=True)  # after random ordering
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
            if pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    items.sort(key=lambda item: "kill_engine" in getattr(item, "fixturenames", ()))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine_keeper() -> AsyncGenerator[EngineKeeper]:
    """Who starts the engine and ends it."""
    keeper = EngineKeeper()
    yield keeper
    await keeper.close()


@pytest_asyncio.fixture(loop_scope="session")
async def vllm_engine(engine_keeper: EngineKeeper) -> Engine:
    """The engine, alive and idle."""
    return await engine_keeper.engine()


@pytest.fixture
def vllm_factory(engine_keeper: EngineKeeper) -> EngineFactory:
    """Lends the engine to whoever starts and closes engines: a supervisor, a whole service."""
    return engine_keeper.lend


@pytest.fixture
def kill_engine(engine_keeper: EngineKeeper) -> Callable[[], Awaitable[None]]:
    """Kills the engine's process, as an out-of-memory killer would."""
    return engine_keeper.kill
