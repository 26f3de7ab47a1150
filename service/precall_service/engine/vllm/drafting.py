"""Decides whether an engine can verify drafts, and stages the drafts of its steps.

    a predicted call ─▶ its tokens (`CallTexts`) ─▶ the request, or the scheduler while it runs

Owns: what is staged for a step.
Never: decides what of it is proposed to the engine, and when; the scheduler does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from vllm.config import ModelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from precall_service.domain.turn import ToolChoiceMode
from precall_service.engine.base import Draft, EngineDiedError, StepSpec
from precall_service.engine.vllm.call_texts import CallTexts
from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.proposing import speculative_config
from precall_service.engine.vllm.scheduling import STAGE_UTILITY

log = logging.getLogger(__name__)

STAGE_TIMEOUT_S: Final = 5.0
"""How long the engine may take to accept a draft: no longer than a step, unless it hangs."""
_FORCED: Final = frozenset({ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED})


def prepare_for_drafts(
    arguments: AsyncEngineArgs, model_config: ModelConfig, *, on_cpu: bool
) -> bool:
    """Sets what an engine needs to verify drafts. Returns whether it can, and logs why if not."""
    reason = _why_not(arguments, model_config, on_cpu=on_cpu)
    if reason:
        log.warning("predicted calls are not verified in the engine: %s", reason)
        return False
    if arguments.speculative_config is None:
        arguments.speculative_config = speculative_config()
    arguments.per_request_spec_decode_metrics = "summary"
    return True


def _why_not(arguments: AsyncEngineArgs, model_config: ModelConfig, *, on_cpu: bool) -> str:
    if not on_cpu:
        return "that works on a CPU only so far"
    if arguments.pipeline_parallel_size > 1:
        return "with pipeline parallelism, a step begins before the one before it has ended"
    if model_config.get_diff_sampling_param().get("min_p"):
        return "the generation_config.json of the model sets min_p, which vLLM refuses with drafts"
    return ""


def verifies_drafts(config: VllmConfig) -> bool:
    """Whether an engine with this configuration verifies the drafts of our scheduler."""
    return bool(config.num_speculative_tokens) and not config.scheduler_config.async_scheduling


class Drafting:
    """Stages drafts in one running engine."""

    def __init__(self, llm: AsyncLLM, texts: CallTexts, *, structured: bool) -> None:
        """`structured`: whether a grammar holds calls, so that the end of each is certain."""
        self._llm = llm
        self._texts = texts
        self._structured = structured

    async def of(self, spec: StepSpec, *, reasons: bool) -> list[dict[str, Any]]:
        """The drafts that a step begins with. `reasons`: whether it begins with reasoning."""
        if not _possible(spec):
            return []
        certain = spec.tool_choice.mode in _FORCED and not reasons
        drafts = await self._written(spec, spec.drafts, certain=certain)
        end = await self._texts.end(spec.template_variables) if self._structured else None
        return [dataclasses.asdict(each) for each in (*drafts, *([end] if end else []))]

    async def stage(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        """As `Engine.draft`."""
        if not _possible(spec):
            return
        written = await self._written(spec, drafts, certain=False)
        if not written:
            return
        call = cast("Any", self._llm.engine_core).call_utility_async(
            STAGE_UTILITY, spec.step_id, [dataclasses.asdict(each) for each in written]
        )
        try:
            async with asyncio.timeout(STAGE_TIMEOUT_S):
                await call
        except EngineDeadError as error:
            raise EngineDiedError("the engine's process died") from error
        except TimeoutError:
            log.warning("the engine has not accepted a draft within %g s", STAGE_TIMEOUT_S)

    async def _written(
        self, spec: StepSpec, drafts: Sequence[Draft], *, certain: bool
    ) -> list[DraftTokens]:
        written = [
            await self._texts.tokens(draft, spec.tools, spec.template_variables, certain=certain)
            for draft in drafts
        ]
        return [each for each in written if each is not None]


def _possible(spec: StepSpec) -> bool:
    """Whether calls of a step may be drafted.

    Not with stop texts: the tokens of a step end with the one that completed a stop text, and an
    engine that verifies several at once returns more.
    """
    calls = spec.tools and spec.tool_choice.mode is not ToolChoiceMode.NONE
    return bool(calls) and not spec.generation.stop
