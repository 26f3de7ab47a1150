"""Spans are exported to a collector; a collector that is down delays no one."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import TracerProvider

from precall_tracing import setup
from precall_tracing.setup import exported_traces


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives exporters little time, and waits at the end until their threads have ended.

    The exporter uses `random`, and a Hypothesis test that ran in the meantime would fail for it.
    """
    monkeypatch.setattr(setup, "EXPORT_TIMEOUT_S", 2.0)
    yield
    for thread in threading.enumerate():
        if thread.name in ("precall-traces", "OtelBatchSpanRecordProcessor"):
            thread.join(10.0)
            assert not thread.is_alive()


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[TracerProvider]:
    """The providers that were set. The process's own is not touched: it can be set only once."""
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    return providers


@pytest.fixture
def nowhere() -> str:
    """The address of a collector that is not running."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_without_a_collector_nothing_is_recorded(providers: list[TracerProvider]) -> None:
    async with exported_traces(None, "1.0"):
        pass
    assert not providers


async def test_a_collector_that_is_down_delays_the_end_for_the_timeout_at_most(
    providers: list[TracerProvider], nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()

    async def tick() -> None:
        while True:
            next(ticks)
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    async with exported_traces(nowhere, "1.0"):
        (provider,) = providers
        provider.get_tracer("test").start_span("span").end()
        monkeypatch.setattr(setup, "EXPORT_TIMEOUT_S", 0.5)
        before = time.monotonic(), next(ticks)
    assert 0.3 < time.monotonic() - before[0] < 2.0
    assert next(ticks) - before[1] > 10, "other tasks run in the meantime"
    ticking.cancel()


async def test_a_cancelled_end_does_not_wait_for_a_collector(
    providers: list[TracerProvider], nowhere: str
) -> None:
    async def traced() -> None:
        async with exported_traces(nowhere, "1.0"):
            providers[0].get_tracer("test").start_span("span").end()

    ending = asyncio.create_task(traced())
    await asyncio.sleep(0.05)
    ending.cancel()
    async with asyncio.timeout(1.0):
        await asyncio.wait([ending])
    assert ending.cancelled()


PROCESS = """
import asyncio, sys
from opentelemetry import trace
from precall_tracing import setup

async def main():
    async with setup.exported_traces(sys.argv[1], "1.0"):
        trace.get_tracer("test").start_span("span").end()
        setup.EXPORT_TIMEOUT_S = 0.1

asyncio.run(main())
"""


def test_the_process_ends_although_spans_are_left(nowhere: str) -> None:
    """The process ends well before the exporter's own timeout."""
    subprocess.run([sys.executable, "-c", PROCESS, nowhere], check=True, timeout=4)
