"""The engine protocol on one AsyncLLM.

Owns: the AsyncLLM and its processes, from the moment they run.
Never: starting them (`start`); conversations, admission.
Concurrency: one event loop. Prompts and ends are values; each generation has a parser of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from precall_service.domain.messages import Message, Transcript
from precall_service.engine.base import (
    Delta,
    EngineDiedError,
    EngineInfo,
    EngineLoad,
    Finish,
    GenerationRefusedError,
    Prompt,
    StepEnd,
    StepSpec,
    TextPiece,
)
from precall_service.engine.vllm.parsing import SpecialTokens, StepParser
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.sampling import StepPlan, StepPlans
from precall_service.engine.vllm.scheduling import LOAD_UTILITY

log = logging.getLogger(__name__)

_DIED = "the engine's process died"


@dataclass(slots=True)
class _Sampled:
    """What a step has generated so far."""

    token_ids: list[int]
    texts: list[str]
    cached_tokens: int = 0

    def add(self, output: RequestOutput) -> None:
        completion = output.outputs[0]
        self.token_ids += completion.token_ids
        self.texts.append(completion.text)
        if output.num_cached_tokens:
            self.cached_tokens = output.num_cached_tokens


class VllmEngine:
    """vLLM, in this process and its children."""

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        info: EngineInfo,
        renderer: PromptRenderer,
        plans: StepPlans,
        special_tokens: SpecialTokens,
        processes: EngineProcesses,
        stop_timeout_s: float,
        share_prefix_cache: bool,
    ) -> None:
        self._llm = llm
        self._info = info
        self._renderer = renderer
        self._plans = plans
        self._special_tokens = special_tokens
        self._processes = processes
        self._stop_timeout_s = stop_timeout_s
        self._share_prefix_cache = share_prefix_cache

    @property
    def info(self) -> EngineInfo:
        """What the engine is and holds."""
        return self._info

    async def render(self, transcript: Transcript) -> Prompt:
        """As `Engine.render`."""
        return await self._renderer.render(transcript)

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> Prompt:
        """As `Engine.append`."""
        return await self._renderer.append(prompt, end, transcript, following)

    async def generate(self, prompt: Prompt, spec: StepSpec) -> AsyncGenerator[Delta, None]:
        """As `Engine.generate`.

        On cancel, and when closed early: AsyncLLM aborts its generation, for it is closed here.
        """
        sampled = _Sampled(token_ids=[], texts=[])
        try:
            plan = self._plans.plan(spec.tools, spec.tool_choice, spec.template_variables)
            parser = self._parser(plan, prompt)
            params = self._plans.sampling_params(spec, plan, parsed=parser is not None)
            async with contextlib.aclosing(
                self._llm.generate(
                    tokens_input(
                        list(prompt.token_ids),
                        cache_salt=None if self._share_prefix_cache else spec.tenant,
                    ),
                    params,
                    spec.step_id,
                    priority=int(spec.priority),
                    reasoning_ended=parser.reasoning_ended if parser else None,
                    reasoning_parser_kwargs=plan.reasoning_parser_kwargs,
                )
            ) as outputs:
                async for output in outputs:
                    completion = output.outputs[0]
                    finish = _finish(completion)
                    sampled.add(output)
                    if parser is not None:
                        for piece in parser.feed(completion.text, completion.token_ids):
                            yield piece
                    elif completion.text:
                        yield TextPiece(completion.text)
                    if finish is not None:
                        for delta in self._ending(sampled, parser, finish):
                            yield delta
        except EngineDeadError as error:
            raise EngineDiedError(_DIED) from error
        except (VLLMClientError, ValueError) as error:
            raise GenerationRefusedError(f"the engine refuses this: {error.args[0]}") from error
        except EngineGenerateError as error:
            log.exception("the engine failed on step %s", spec.step_id)
            raise GenerationRefusedError("the engine failed on this generation") from error

    async def load(self) -> EngineLoad:
        """As `Engine.load`. Waits for the step that the engine is in.

        A call to a process that dies is never answered, hence the second thing waited for.
        """
        core = cast("Any", self._llm.engine_core)
        call: asyncio.Future[list[tuple[int, int, float]]] = asyncio.ensure_future(
            core.call_utility_all_async(LOAD_UTILITY)
        )
        try:
            await asyncio.wait((call, self._alive()), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise EngineDiedError(_DIED)
            loads = call.result()
        except EngineDeadError as error:
            raise EngineDiedError(_DIED) from error
        finally:
            call.cancel()
        return EngineLoad(
            running=sum(load[0] for load in loads),
            waiting=sum(load[1] for load in loads),
            kv_usage=sum(load[2] for load in loads) / len(loads),
        )

    async def wait_dead(self) -> None:
        """As `Engine.wait_dead`."""
        await asyncio.wait([self._alive()])

    async def close(self) -> None:
        """As `Engine.close`."""
        await self._processes.close(self._stop_timeout_s)

    def _alive(self) -> asyncio.Task[None]:
        """The task that lives as long as the engine's processes do."""
        handler = self._processes.output_handler
        assert handler is not None, "the first generation, at start, has begun it"
        return handler

    def _parser(self, plan: StepPlan, prompt: Prompt) -> StepParser | None:
        """A parser for one step; None where text is all that it can bring."""
        if plan.make_parser is None:
            return None
        return StepParser(plan.make_parser, plan.request, prompt.token_ids, self._special_tokens)

    def _ending(
        self, sampled: _Sampled, parser: StepParser | None, finish: Finish
    ) -> Iterator[Delta]:
        text = "".join(sampled.texts)
        if parser is not None:
            yield from parser.end(finish, text, sampled.token_ids)
            text = self._special_tokens.removed_from(text)
        yield StepEnd(
            finish=finish,
            token_ids=tuple(sampled.token_ids),
            raw_text=text,
            cached_tokens=sampled.cached_tokens,
            reasoning_tokens=parser.reasoning_tokens(sampled.token_ids) if parser else 0,
        )


def _finish(completion: CompletionOutput) -> Finish | None:
    match completion.finish_reason:
        case None:
            return None
        case "length":
            return Finish.LENGTH
        case "abort":  # not by us, for what we abort is not read: the engine was told to end
            raise EngineDiedError(_DIED)
        case "error":
            raise GenerationRefusedError("the engine gave this generation up")
        case _:
            return Finish.STOP
