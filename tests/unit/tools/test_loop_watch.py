"""tests/support/loop_watch.py: a pause is seen, wherever it comes from, and no other."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.support.loop_watch import watched_loop

BUSY_S = 0.2
# Python's regular expressions never give the lock away: about 2^20 steps.
HOLDS_THE_LOCK = (re.compile("(a|aa)+$"), "a" * 32 + "b")


def compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


async def test_a_callback_that_computes_is_a_pause() -> None:
    async with watched_loop() as watch:
        await asyncio.sleep(0)
        compute(BUSY_S)
    assert watch.loop_cpu_s >= BUSY_S
    with pytest.raises(AssertionError, match="a callback ran too long"):
        watch.assert_free()


async def test_a_thread_that_holds_the_lock_is_a_pause() -> None:
    pattern, text = HOLDS_THE_LOCK
    begun_s = time.thread_time()
    pattern.match(text)
    taken_s = time.thread_time() - begun_s
    async with watched_loop() as watch:
        await asyncio.to_thread(pattern.match, text)
    assert watch.loop_cpu_s < taken_s / 2
    assert watch.process_cpu_s > taken_s / 2
    with pytest.raises(AssertionError, match="a thread kept the loop from running"):
        watch.assert_free(pause_max_s=taken_s / 4, factor=1)


async def test_a_thread_that_gives_the_lock_away_is_none() -> None:
    async with watched_loop() as watch:
        await asyncio.to_thread(compute, BUSY_S)
    assert watch.process_cpu_s < BUSY_S / 2
    watch.assert_free()


async def test_waiting_is_none() -> None:
    async with watched_loop() as watch:
        await asyncio.to_thread(time.sleep, BUSY_S)
    assert watch.loop_cpu_s < BUSY_S / 2
    watch.assert_free()
