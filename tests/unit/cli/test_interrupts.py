"""Ctrl-C and SIGTERM, as real signals to this process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from precall_service.cli import interrupts as interrupting
from precall_service.cli.interrupts import Interrupts, on_interrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def blocks_ctrl_c() -> bool:
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return bool(mask >> (signal.SIGINT - 1) & 1)


def test_ctrl_c_ends_a_loop_that_waits_already() -> None:
    """As if it had come in the moment before: the wait is not interrupted, and has to be ended."""
    waiting = threading.Event()

    def press_here() -> None:
        waiting.wait()
        press_ctrl_c()

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.1, waiting.set)
        await asyncio.sleep(20)

    before = signal.getsignal(signal.SIGINT)
    elsewhere = threading.Thread(target=press_here)
    elsewhere.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with pytest.raises(asyncio.CancelledError):
            interrupting.run(wait())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        elsewhere.join()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("send", [press_ctrl_c, terminate])
async def test_first_signal_asks(send: Callable[[], None]) -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        asked = interrupts.end_in_order()
        send()
        await asyncio.wait_for(asked, 5)
    assert not interrupts.insisted


async def test_second_ctrl_c_insists() -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        asked = interrupts.end_in_order()
        press_ctrl_c()
        await asyncio.wait_for(asked, 5)
        press_ctrl_c()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
    assert interrupts.insisted


async def test_second_sigterm_does_not_insist() -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        asked = interrupts.end_in_order()
        terminate()
        await asyncio.wait_for(asked, 5)
        terminate()
        await asyncio.sleep(0.05)
    assert not interrupts.insisted


@pytest.mark.parametrize("send", [press_ctrl_c, terminate])
async def test_one_signal_is_enough_before_there_is_anything_to_finish(
    send: Callable[[], None],
) -> None:
    interrupts = Interrupts()
    with interrupts.handled():
        send()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
    assert interrupts.insisted


async def test_processes_started_meanwhile_do_not_get_ctrl_c() -> None:
    with Interrupts().handled(), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(blocks_ctrl_c)
    assert not blocks_ctrl_c()


async def test_everything_is_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts().handled():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert not blocks_ctrl_c()


async def test_first_ctrl_c_acts_and_second_cancels() -> None:
    acted = asyncio.Event()

    async def act() -> None:
        acted.set()

    before = signal.getsignal(signal.SIGINT)
    async with on_interrupt(act):
        press_ctrl_c()
        await asyncio.wait_for(acted.wait(), 5)
        press_ctrl_c()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before


async def test_without_ctrl_c_nothing_acts() -> None:
    async def act() -> None:
        raise AssertionError

    async with on_interrupt(act):
        await asyncio.sleep(0)
