"""The contract of every engine, tested on the real engine."""

from __future__ import annotations

import functools
import signal
from collections.abc import Awaitable, Callable, Generator

import psutil
import pytest

from precall_service.engine.base import Engine
from tests.contract.test_engine import EngineContract, EngineDeathContract
from tests.support.engine_keeper import EngineKeeper


class TestVllmEngine(EngineContract):
    @pytest.fixture
    def engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine


class TestVllmEngineDeath(EngineDeathContract):
    @pytest.fixture
    def doomed_engine(self, vllm_engine: Engine, engine_keeper: EngineKeeper) -> Generator[Engine]:
        pids = engine_keeper.pids
        yield vllm_engine
        assert not any(map(psutil.pid_exists, pids)), "a closed engine must leave no process"

    @pytest.fixture
    def kill(self, kill_engine: Callable[..., Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Kills with SIGTERM, as a service manager does: the engine can still report its death."""
        return functools.partial(kill_engine, signal.SIGTERM)
