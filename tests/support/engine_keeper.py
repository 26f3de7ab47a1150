"""Keeps one real engine for all tests: starts it when asked for, lends it, kills it on demand."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from precall_service.domain.messages import Message, Transcript
from precall_service.engine.base import (
    Engine,
    EngineDiedError,
    EngineInfo,
    EngineLoad,
    Progress,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
)
from precall_service.engine.models import default_cache_dir, resolve_model
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.factory import VllmEngineFactory
from tests.support.steps import until_idle

if TYPE_CHECKING:  # it imports vLLM, which takes long and reads an environment to be set first
    from precall_service.engine.vllm.engine import VllmEngine


def embedded_config() -> VllmConfig:
    """The engine that users get who configure nothing."""
    model = resolve_model(None, cache_dir=default_cache_dir())
    return VllmConfig(
        model=model.path_or_name, model_name=model.display_name, chat_template=model.chat_template
    )


class EngineKeeper:
    """Owns the engine. Whoever is lent it may close it; only the keeper ends it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self.stages: list[str] = []
        """What the last start said of its progress."""

    async def engine(self) -> Engine:
        """The engine, alive and idle: started if need be."""
        return await self._living(_silent)

    async def lend(self, on_progress: Progress) -> Engine:
        """As an `EngineFactory`."""
        return LentEngine(await self._living(on_progress))

    async def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """A signal for its first process."""
        assert self._engine is not None, "an engine that runs can be killed"
        os.kill(self.pids[0], by)

    @property
    def pids(self) -> list[int]:
        """The engine's processes, EngineCore first."""
        engine = cast("VllmEngine", self._engine)
        return engine._processes.pids  # pyright: ignore[reportPrivateUsage]

    async def close(self) -> None:
        """Ends the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def _living(self, on_progress: Progress) -> Engine:
        if self._engine is not None:
            try:
                await until_idle(self._engine)
            except EngineDiedError:
                await self.close()
        if self._engine is None:
            self.stages.clear()

            def note(stage: str, fraction: float | None) -> None:
                self.stages.append(stage)
                on_progress(stage, fraction)

            self._engine = await VllmEngineFactory(embedded_config())(note)
        return self._engine


class LentEngine:
    """The kept engine, but for `close`, which leaves it running."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info: EngineInfo = engine.info

    async def render(self, transcript: Transcript) -> Prompt:
        return await self._engine.render(transcript)

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> Prompt:
        return await self._engine.append(prompt, end, transcript, following)

    def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        return self._engine.generate(prompt, spec)

    async def load(self) -> EngineLoad:
        return await self._engine.load()

    async def wait_dead(self) -> None:
        await self._engine.wait_dead()

    async def cause_of_death(self) -> str:
        return await self._engine.cause_of_death()

    async def close(self) -> None:
        pass


def _silent(_stage: str, _fraction: float | None) -> None:
    pass
