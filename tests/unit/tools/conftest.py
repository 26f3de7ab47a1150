"""Fixtures of the tests of tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.support.calls import Calls


@pytest_asyncio.fixture
async def calls() -> AsyncGenerator[Calls]:
    calls = Calls()
    yield calls
    await calls.assert_over()
