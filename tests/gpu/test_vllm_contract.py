"""The contract of every engine, on a GPU with vLLM's own defaults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import pytest

from precall_service.engine.base import Engine
from tests.contract.test_engine import EngineContract, EngineDeathContract

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.engine import VllmEngine


class TestVllmEngineOnGpu(EngineContract):
    @pytest.fixture
    def engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine

    async def test_vllms_fast_path_is_untouched(self, vllm_engine: Engine) -> None:
        llm = cast("VllmEngine", vllm_engine)._llm  # pyright: ignore[reportPrivateUsage]
        config = llm.vllm_config
        assert config.scheduler_config.async_scheduling
        assert config.use_v2_model_runner
        assert not config.model_config.enforce_eager
        assert config.device_config.device_type == "cuda"


class TestVllmEngineDeathOnGpu(EngineDeathContract):
    @pytest.fixture
    def doomed_engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine

    @pytest.fixture
    def kill(self, kill_engine: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        return kill_engine
