"""Shares one real engine on a GPU. Without a GPU, every test here is skipped with a reason."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.engine_fixtures import (
    kill_engine,
    no_shared_engine,
    share_engine,
    vllm_engine,
    vllm_factory,
)
from tests.support.engine_keeper import EngineKeeper

__all__ = ["kill_engine", "no_shared_engine", "vllm_engine", "vllm_factory"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine_keeper() -> AsyncGenerator[EngineKeeper]:
    """The keeper, which starts and ends the engine. vLLM's defaults are what is tested here."""
    keeper = EngineKeeper()
    yield keeper
    await keeper.close()


@pytest.hookimpl(tryfirst=True)  # the root conftest looks for the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.gpu)
    share_engine(items, here)
