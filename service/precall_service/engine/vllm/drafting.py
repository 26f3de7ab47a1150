"""Decides whether an engine can verify drafts, and makes the drafts of its steps.

    a predicted call ─▶ its tokens (`CallTexts`) ─▶ the request, or the scheduler while it runs

Owns: which steps may have drafts, and what they are.
Never: decides what of it is proposed to the engine, and when; the scheduler does.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from vllm.config import ModelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from precall_service.domain.turn import ToolChoiceMode
from precall_service.engine.base import StepSpec
from precall_service.engine.drafts import Draft, VerifiedDraft
from precall_service.engine.vllm.call_texts import CallTexts
from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.pin_check import installed_vllm
from precall_service.engine.vllm.proposing import (
    ASYNC_SCHEDULER,
    SCHEDULER,
    speculative_config,
    speculative_config_ahead,
)

log = logging.getLogger(__name__)

_NOT_VERIFIED: Final = "predicted calls are not verified in the engine: %s"

STEP_DRAFTS_MAX: Final = 64
"""The most drafts of one step, from its begin to its end. Further ones are left out."""


def prepare_for_drafts(
    arguments: AsyncEngineArgs,
    method: Mapping[str, Any] | None,
    model_config: ModelConfig,
    *,
    on_cpu: bool,
    asked: bool | None,
) -> AsyncEngineArgs | None:
    """Returns the arguments of an engine that verifies drafts. None if it cannot; the log says why.

    `method` is the operator's own of vLLM's speculative decoding. `asked`: whether the operator has
    asked for drafts.
    """
    if asked is False:
        return None
    if reason := _why_not(arguments, method, model_config, on_cpu=on_cpu, asked=bool(asked)):
        log.warning(_NOT_VERIFIED, reason)
        return None
    drafting = copy.copy(arguments)
    drafting.spec_method = drafting.spec_model = drafting.spec_tokens = None
    drafting.speculative_config = (
        speculative_config(method) if on_cpu else speculative_config_ahead()
    )
    drafting.per_request_spec_decode_metrics = "summary"
    return drafting


def scheduler_for_drafts(config: VllmConfig, *, on_cpu: bool) -> str | None:
    """Returns the scheduler of an engine that verifies drafts, as vLLM's argument `scheduler_cls`.

    None if the engine, as vLLM has configured it by now, cannot; the log says why.
    """
    if on_cpu:
        return SCHEDULER
    if config.use_v2_model_runner and config.scheduler_config.async_scheduling:
        return ASYNC_SCHEDULER
    log.warning(
        _NOT_VERIFIED,
        "on a GPU that needs async scheduling and Model Runner V2, and vLLM uses other ones for "
        "this model or these arguments",
    )
    return None


def _why_not(
    arguments: AsyncEngineArgs,
    method: Mapping[str, Any] | None,
    model_config: ModelConfig,
    *,
    on_cpu: bool,
    asked: bool,
) -> str:
    if reason := installed_vllm().why_no_drafts():
        return reason
    if not on_cpu:
        if not asked:
            return "on a GPU that has not been measured yet. Set engine.drafts to true to use it"
        if method is not None:
            return "on a GPU that does not go together with vLLM's speculative_config"
        if arguments.data_parallel_size > 1:
            return "with data parallelism, vLLM verifies the same number of tokens in every step"
    if arguments.pipeline_parallel_size > 1:
        return "with pipeline parallelism, a step begins before the one before it has ended"
    if model_config.get_diff_sampling_param().get("min_p"):
        return "the generation_config.json of the model sets min_p, which vLLM refuses with drafts"
    if (method or {}).get("draft_sample_method") == "probabilistic":
        return (
            "speculative_config.draft_sample_method is probabilistic, and then vLLM needs the "
            "probability of each drafted token"
        )
    return ""


def verifies_drafts(config: VllmConfig) -> bool:
    """Whether an engine with this configuration verifies the drafts of our scheduler."""
    return config.scheduler_config.scheduler_cls in {SCHEDULER, ASYNC_SCHEDULER}


class Drafting:
    """Makes the drafts of steps, as the fields of `DraftTokens`, which the scheduler gets."""

    def __init__(self, texts: CallTexts, *, structured: bool) -> None:
        """`structured`: whether a grammar holds calls, so that the end of each is certain."""
        self._texts = texts
        self._structured = structured
        self._steps: WeakValueDictionary[str, NumberedDrafts] = WeakValueDictionary()
        """The drafts of the steps that are generated; their generations hold them."""

    def numbered(self, spec: StepSpec) -> NumberedDrafts:
        """The drafts of a step that begins; it can be drafted for as long as this is held."""
        begun = self._steps[spec.step_id] = NumberedDrafts(
            spec, self._texts, structured=self._structured
        )
        return begun

    async def more(self, spec: StepSpec, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        """Those of calls that are predicted while the step runs; none if it does not run."""
        begun = self._steps.get(spec.step_id)
        return [] if begun is None else await begun.more(drafts)


class NumberedDrafts:
    """The drafts of one step, and the numbers by which the scheduler accounts for them."""

    def __init__(self, spec: StepSpec, texts: CallTexts, *, structured: bool) -> None:
        self._spec = spec
        self._texts = texts
        self._structured = structured
        self._possible = _possible(spec)
        self._drafts: list[Draft | None] = []
        """The drafts by their numbers; None is the end of calls."""
        self._waiting: list[dict[str, Any]] | None = []
        """Those that came before the first ones were sent; None once they were."""

    async def first(self, *, reasons: bool) -> list[dict[str, Any]]:
        """Those that the step begins with. `reasons`: whether it begins with reasoning."""
        certain = self._spec.tool_choice.requires_call and not reasons
        fields = await self._written(self._spec.drafts, certain=certain)
        if self._possible and self._structured:
            end = await self._texts.end(self._spec.template_variables)
            fields += self._numbered(None, end)
        waiting, self._waiting = self._waiting or [], None
        return fields + waiting

    async def more(self, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        """Those of calls that are predicted from now on, for a step that has been sent.

        If the step has not been sent, they are sent with it, and none are returned.
        """
        fields = await self._written(drafts, certain=False)
        if self._waiting is None:
            return fields
        self._waiting += fields
        return []

    def verified(self, counts: Iterable[tuple[int, int]]) -> tuple[VerifiedDraft, ...]:
        """What became of the drafts, given the tokens that were verified and kept, by number."""
        return tuple(
            VerifiedDraft(draft, proposed, accepted)
            for draft, (proposed, accepted) in zip(self._drafts, counts, strict=False)
            if proposed
        )

    async def _written(self, drafts: Iterable[Draft], *, certain: bool) -> list[dict[str, Any]]:
        fields: list[dict[str, Any]] = []
        for draft in drafts if self._possible else ():
            tokens = await self._texts.tokens(
                draft, self._spec.tools, self._spec.template_variables, certain=certain
            )
            fields += self._numbered(draft, tokens)
        return fields

    def _numbered(self, draft: Draft | None, tokens: DraftTokens | None) -> list[dict[str, Any]]:
        """The fields of a draft; none if there are too many, or if it has no tokens."""
        if tokens is None or len(self._drafts) >= STEP_DRAFTS_MAX:
            return []
        number = len(self._drafts)
        self._drafts.append(draft)
        return [dataclasses.asdict(dataclasses.replace(tokens, number=number))]


def _possible(spec: StepSpec) -> bool:
    """Whether calls of a step may be drafted."""
    return bool(spec.tools) and spec.tool_choice.mode is not ToolChoiceMode.NONE
