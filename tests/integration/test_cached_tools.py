"""The tool cache on the real engine: which calls run their handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import precall
from precall_service.app import serve
from precall_service.engine.base import EngineFactory
from precall_service.settings import load_settings
from tests.support.redis_server import RedisServer

Station = Literal["north"]


class Weather:
    """A reading that tools take and change. The schema leaves the small model no choice."""

    def __init__(self) -> None:
        self.celsius = 20
        self.ran: list[str] = []

    def read_station(self, station: Station) -> str:
        """Read the temperature at a weather station."""
        self.ran.append("read")
        return f"{self.celsius} degrees at the {station} station."

    def heat_station(self, station: Station) -> str:
        """Heat a weather station by one degree."""
        self.ran.append("heat")
        self.celsius += 1
        return f"The {station} station is warmer now."

    def register(self, client: precall.Client) -> None:
        client.add_tool(
            self.read_station,
            read_only=True,
            reads=["station:{station}"],
            cache_ttl_s=600,
            cache_scope="tenant",
        )
        client.add_tool(self.heat_station, writes=["station:{station}"])


def _ignore(_stage: str, _fraction: float | None) -> None:
    pass


@asynccontextmanager
async def served(
    factory: EngineFactory, cache: dict[str, str] | None = None
) -> AsyncGenerator[precall.Client]:
    settings = load_settings(
        None, {"server": {"port": 0, "drain_s": 0}, "cache": {**(cache or {})}}
    )
    async with (
        serve(settings, factory, model="embedded", on_progress=_ignore) as service,
        precall.Client(service.address) as client,
    ):
        yield client


async def call(conversation: precall.Conversation, tool: str) -> precall.ToolCallCompleted:
    """Has the model call this tool, and returns how the call ended."""
    turn = conversation.send(
        "What is the temperature at the north station?",
        tool_choice=precall.ToolNamed(tool),
        temperature=0.0,
        max_step_tokens=60,
    )
    completed = [event async for event in turn if isinstance(event, precall.ToolCallCompleted)]
    return completed[0]


async def test_equal_calls_run_once_until_a_write(vllm_factory: EngineFactory) -> None:
    weather = Weather()
    async with served(vllm_factory) as client:
        weather.register(client)
        async with client.conversation() as conversation, client.conversation() as other:
            first = await call(conversation, "read_station")
            second = await call(other, "read_station")
            assert weather.ran == ["read"]
            assert (first.source, second.source) == (
                precall.ResultSource.COMMITTED,
                precall.ResultSource.CACHE,
            )
            assert second.result_json == first.result_json
            assert second.cache_age_s is not None
            await call(other, "heat_station")
            third = await call(conversation, "read_station")
    assert weather.ran == ["read", "heat", "read"]
    assert "21 degrees" in third.result_json


async def test_the_cache_in_redis_outlives_the_service(
    vllm_factory: EngineFactory, redis_server: RedisServer
) -> None:
    weather = Weather()
    cache = {"store_url": redis_server.url, "key_prefix": "outlives"}
    for _ in range(2):
        async with served(vllm_factory, cache) as client:
            weather.register(client)
            async with client.conversation() as conversation:
                await call(conversation, "read_station")
    assert weather.ran == ["read"]
