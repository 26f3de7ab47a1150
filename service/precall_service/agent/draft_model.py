"""The draft model: a smaller model in an engine of its own, asked what a step will call.

    a step begins ─▶ its transcript, as the draft model's template writes it ─▶ λ samples ─▶ calls

Whatever happens to its engine costs samples and nothing else: no turn waits for it.

Owns: the samples that run.
Concurrency: one event loop. Each sample is generated in a task of the speculation.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from precall_service.agent.account import StepBegan
from precall_service.agent.engine_load import LoadWatch
from precall_service.agent.room import within_room
from precall_service.agent.written_calls import WrittenCalls
from precall_service.domain.clock import Clock
from precall_service.domain.errors import ServiceError
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    Chunk,
    Engine,
    EngineDiedError,
    Feature,
    Priority,
    Prompt,
    StepSpec,
)
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.speculation.base import SampledCall, Samples
from precall_service.speculation.limits import DraftModelLimits
from precall_service.tools.timeout import within

log = logging.getLogger(__name__)

CALLS_MAX: Final = 4
"""The calls of one sample. It ends with the last of them."""
SILENCE_MAX: Final = 3.0
"""How long samples may wait without a single token before the engine is taken for dead, in times of
the limit on a sample. Most samples end sooner, with their step, so these waits are added up."""

_Put = Callable[[tuple[str, str] | None], None]
"""Puts a call of a sample, or its end."""


class DraftModel:
    """The samples of all turns."""

    def __init__(
        self,
        engines: EngineSupervisor,
        load: LoadWatch,
        clock: Clock,
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        limits: DraftModelLimits,
    ) -> None:
        """`load` is that of the engine of the turns; `spawn` starts the tasks of samples."""
        self._engines = engines
        self._load = load
        self._clock = clock
        self._spawn = spawn
        self._limits = limits
        self._silent_s = 0.0
        self._heard_at = self._silent_until = -math.inf
        self.running = 0
        """The number of samples that run."""

    def of(self, began: StepBegan) -> Samples | None:
        """Returns the way to sample the message of a step that begins.

        None if no engine runs, or if a sample could make no call.
        """
        engine, spec = self._engines.running, began.spec
        if engine is None or Feature.TOOL_CALLS not in engine.info.features:
            return None
        if not spec.tools or spec.tool_choice.mode is ToolChoiceMode.NONE:
            return None
        return partial(self._samples, engine, began)

    async def _samples(
        self, engine: Engine, began: StepBegan, wanted: int
    ) -> AsyncGenerator[SampledCall, None]:
        allowed = math.ceil(self._load.allowance() * self._limits.samples_running_max)
        count = min(wanted, allowed - self.running)
        if count <= 0:
            return
        began_at = self._clock.now()
        found: asyncio.Queue[SampledCall] = asyncio.Queue(count * (CALLS_MAX + 1))
        tasks: list[asyncio.Task[None]] = []
        self.running += count
        try:
            spec = self._spec(engine, began.spec)
            prompt = await self._prompt(engine, began, spec)
            if prompt is None:
                return
            most = within_room(engine, prompt, spec.max_tokens)
            if most <= 0:
                return
            for number in range(count):
                one = replace(
                    spec,
                    step_id=f"{began.spec.step_id}-{secrets.token_hex(4)}",
                    max_tokens=most,
                )
                put = partial(_put, found, number)  # there is room for all calls and ends
                tasks.append(self._spawn(self._sample(engine, prompt, one, put)))
            running = count
            while running:
                sampled = await found.get()
                running -= sampled.call is None
                yield sampled
        finally:
            self.running -= count
            for task in tasks:
                task.cancel()
            if tasks:
                self._count_silence(engine, began_at)
                await asyncio.wait(tasks)

    def _spec(self, engine: Engine, spec: StepSpec) -> StepSpec:
        """How samples are generated: as the turn asks, but with a call required where that works.

        The template variables of the turn are those of another template.
        """
        choice, required = spec.tool_choice, self._limits.require_calls
        if required is None:
            required = Feature.STRUCTURED_CALLS in engine.info.features
        if required and not choice.requires_call:
            choice = ToolChoice(mode=ToolChoiceMode.REQUIRED)
        return StepSpec(
            step_id=spec.step_id,
            max_tokens=self._limits.tokens_max,
            generation=GenerationSettings(temperature=self._limits.temperature, tool_choice=choice),
            tools=spec.tools,
            tool_choice=choice,
            template_variables=self._limits.template_variables,
            priority=Priority.SPECULATES,
            tenant=spec.tenant,
        )

    async def _prompt(self, engine: Engine, began: StepBegan, spec: StepSpec) -> Prompt | None:
        """Returns the prompt of samples, which do not reason if that can be skipped.

        None if the draft model's template refuses the transcript, or its engine does not answer.
        """
        transcript = replace(began.transcript, template_variables=spec.template_variables)
        try:
            async with within(self._clock, self._limits.timeout_s):
                prompt = await engine.render(transcript)
                return await engine.branch(prompt, (), spec) or prompt
        except EngineDiedError:
            self._engines.report_death(engine)
        except (ServiceError, TimeoutError) as error:
            log.debug("the draft model was not asked: %s", error)
        return None

    async def _sample(self, engine: Engine, prompt: Prompt, spec: StepSpec, put: _Put) -> None:
        """Generates one sample, and puts its calls and its end."""
        try:
            async with within(self._clock, self._limits.timeout_s):
                await self._generate(engine, prompt, spec, put)
        except EngineDiedError:
            self._engines.report_death(engine)
        except (ServiceError, TimeoutError) as error:
            log.debug("a sample of the draft model was given up: %s", error)
        finally:
            put(None)

    async def _generate(self, engine: Engine, prompt: Prompt, spec: StepSpec, put: _Put) -> None:
        calls, count = WrittenCalls(), 0
        async with aclosing(engine.generate(prompt, spec)) as chunks:
            async for chunk in chunks:
                if not isinstance(chunk, Chunk):
                    return
                self._heard_at, self._silent_s = self._clock.now(), 0.0
                for piece in chunk.pieces:
                    if (call := calls.read(piece)) is None:
                        continue
                    put(call)
                    count += 1
                    if count == CALLS_MAX:
                        return

    def _count_silence(self, engine: Engine, began_at: float) -> None:
        """Adds up how long samples have waited in vain. Those of one time count once."""
        if self._heard_at >= began_at:
            return
        now = self._clock.now()
        self._silent_s += now - max(began_at, self._silent_until)
        self._silent_until = now
        if self._silent_s >= SILENCE_MAX * self._limits.timeout_s:
            log.warning(
                "the engine of the draft model has not generated a token in the %g s that samples "
                "have waited for it: it is taken for dead",
                self._silent_s,
            )
            self._silent_s = 0.0
            self._engines.report_death(engine)


def _put(found: asyncio.Queue[SampledCall], sample: int, call: tuple[str, str] | None) -> None:
    found.put_nowait(SampledCall(sample, call))
