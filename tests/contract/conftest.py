"""The cache stores of every kind, for the suites that all of them must pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from precall_service.cache.base import (
    CacheStore,
)
from tests.support.any_store import (
    Opened,
    memory_store,
    redis_store,
)


@pytest.fixture(params=["memory", "redis"])
async def opened(request: pytest.FixtureRequest) -> AsyncGenerator[Opened]:
    if request.param == "memory":
        async with memory_store() as opened:
            yield opened
    else:
        async with redis_store(request.getfixturevalue("redis_server")) as opened:
            yield opened


@pytest.fixture
def store(opened: Opened) -> CacheStore:
    return opened.store
