"""Decides whether an engine can verify drafts, and makes the drafts of its steps.

    a predicted call ─▶ its tokens (`CallTexts`) ─▶ the request, or the scheduler while it runs

Owns: which steps may have drafts, and what they are.
Never: decides what of it is proposed to the engine, and when; the scheduler does.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from precall_service.domain.turn import ToolChoiceMode
from precall_service.engine.base import Draft, StepSpec
from precall_service.engine.vllm.call_texts import CallTexts
from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.proposing import speculative_config

log = logging.getLogger(__name__)


def prepare_for_drafts(
    arguments: AsyncEngineArgs, model_config: ModelConfig, *, on_cpu: bool
) -> None:
    """Sets what an engine needs to verify drafts; if it cannot, logs why."""
    if reason := _why_not(arguments, model_config, on_cpu=on_cpu):
        log.warning("predicted calls are not verified in the engine: %s", reason)
        return
    if arguments.speculative_config is None:
        arguments.speculative_config = speculative_config()
    arguments.per_request_spec_decode_metrics = "summary"


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
    """Makes the drafts of steps, as the fields of `DraftTokens`, which the scheduler gets."""

    def __init__(self, texts: CallTexts, *, structured: bool) -> None:
        """`structured`: whether a grammar holds calls, so that the end of each is certain."""
        self._texts = texts
        self._structured = structured

    async def first(self, spec: StepSpec, *, reasons: bool) -> list[dict[str, Any]]:
        """Those that a step begins with. `reasons`: whether it begins with reasoning."""
        if not _possible(spec):
            return []
        certain = spec.tool_choice.requires_call and not reasons
        end = await self._texts.end(spec.template_variables) if self._structured else None
        written = await self._written(spec, spec.drafts, certain=certain)
        return _fields([*written, end])

    async def more(self, spec: StepSpec, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        """Those of calls that are predicted while the step runs."""
        if not _possible(spec):
            return []
        return _fields(await self._written(spec, drafts, certain=False))

    async def _written(
        self, spec: StepSpec, drafts: Sequence[Draft], *, certain: bool
    ) -> list[DraftTokens | None]:
        return [
            await self._texts.tokens(draft, spec.tools, spec.template_variables, certain=certain)
            for draft in drafts
        ]


def _fields(drafts: Sequence[DraftTokens | None]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(each) for each in drafts if each is not None]


def _possible(spec: StepSpec) -> bool:
    """Whether calls of a step may be drafted.

    Not with stop texts: the tokens of a step end with the one that completed a stop text, and an
    engine that verifies several at once returns more.
    """
    calls = spec.tools and spec.tool_choice.mode is not ToolChoiceMode.NONE
    return bool(calls) and not spec.generation.stop
