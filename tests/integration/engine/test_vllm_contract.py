"""The contract of every engine, on the real one."""

from __future__ import annotations

import pytest

from precall_service.engine.base import Engine
from tests.contract.test_engine import EngineContract, EngineDeathContract


class TestVllmEngine(EngineContract):
    @pytest.fixture
    def engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine


class TestVllmEngineDeath(EngineDeathContract):
    @pytest.fixture
    def doomed_engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine

    @pytest.fixture
    def kill(self, kill_engine: object) -> object:
        return kill_engine
