"""Keeps one real engine for all tests: starts it on first use, lends it, and kills it on demand."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.json import JsonValue
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
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
from precall_service.engine.drafts import Draft
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.factory import VllmEngineFactory
from tests.support.steps import until_idle

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.engine import VllmEngine


def embedded_config(**settings: JsonValue) -> VllmConfig:
    """The configuration of the default engine, with these settings of vLLM's."""
    model = resolve_model(None)
    return VllmConfig(
        model=model.path_or_name,
        model_name=model.display_name,
        chat_template=model.chat_template,
        reasoning_tokens_max=model.reasoning_tokens_max,
        settings=settings,
    )


@contextmanager
def all_cores() -> Generator[None]:
    """Engines that start meanwhile compute on all cores: vLLM leaves one of two to other processes.

    On a GPU, that has no effect.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", cores)
        yield


async def started(config: VllmConfig, on_progress: Progress | None = None) -> Engine:
    """Returns an engine that computes on all cores."""
    with all_cores():
        return await VllmEngineFactory(config)(on_progress or _silent)


class EngineKeeper:
    """Owns the engine. A borrower may call `close`, but only the keeper really ends the engine."""

    def __init__(self, *, drafts: bool | None = None, **settings: JsonValue) -> None:
        """`settings` are vLLM's."""
        self._config = replace(embedded_config(**settings), drafts=drafts)
        self._engine: Engine | None = None
        self.stages: list[str] = []
        """The progress that the last start reported."""

    async def engine(self) -> Engine:
        """The engine, alive and idle. Starts it if necessary."""
        return await self._living(_silent)

    async def lend(self, on_progress: Progress) -> Engine:
        """As an `EngineFactory`."""
        return LentEngine(await self._living(on_progress))

    async def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to the engine's first process."""
        assert self._engine is not None, "only a running engine can be killed"
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

            self._engine = await started(self._config, note)
        return self._engine


class LentEngine:
    """The kept engine, except that `close` leaves it running."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info: EngineInfo = engine.info

    @property
    def progress(self) -> int:
        return self._engine.progress

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        return await self._engine.judge(tools, tenant)

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

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> Prompt | None:
        return await self._engine.branch(prompt, token_ids, spec)

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        await self._engine.draft(spec, drafts)

    def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        return self._engine.generate(prompt, spec)

    async def load(self) -> EngineLoad:
        return await self._engine.load()

    async def wait_dead(self) -> None:
        await self._engine.wait_dead()

    async def cause_of_death(self) -> str:
        return await self._engine.cause_of_death()

    async def kill(self) -> None:
        await self._engine.kill()

    async def close(self) -> None:
        pass


def _silent(_stage: str, _fraction: float | None) -> None:
    pass
