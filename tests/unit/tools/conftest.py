"""Fixtures of the tests of tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.support.calls import Calls, open_calls


@pytest_asyncio.fixture
async def calls() -> AsyncGenerator[Calls]:
    async with open_calls() as calls:
        yield calls
