"""The plans of the steps that an engine generates: made once each, beside the event loop.

Making the plan of many tools, and having vLLM verify its grammars, takes tens of milliseconds.

Owns: a bounded cache of plans, and the thread that makes them.
Concurrency: one event loop, and one thread that makes plan after plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeAlias

from cachetools import LRUCache
from vllm.sampling_params import StructuredOutputsParams

from precall_service.domain.json import dump
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import StepSpec
from precall_service.engine.vllm.plans import StepPlan, StepPlans
from precall_service.engine.vllm.tool_grammars import ToolGrammar

PLANS_MAX: Final = 64

_PlanKey: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], ToolChoice, str]
"""The digests of the tools, their grammars, the tool choice, and the template variables as JSON."""


class Planning:
    """Makes the plan of a step, or returns the one that an earlier step has had made."""

    def __init__(self, plans: StepPlans, verify: Callable[[StructuredOutputsParams], None]) -> None:
        """`verify` raises an error if the engine does not take a grammar."""
        self._plans = plans
        self._verify = verify
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="precall-planning")
        self._made: LRUCache[_PlanKey, asyncio.Future[StepPlan]] = LRUCache(PLANS_MAX)

    async def plan(self, spec: StepSpec, grammars: Sequence[ToolGrammar]) -> StepPlan:
        """Returns the plan of a step whose tools have these grammars; its own are verified.

        Raises what the model's parsers or `verify` raise. Such a plan is made again when it is
        asked for again.

        On cancel: the plan is made nevertheless, and kept.
        """
        texts = tuple(text for grammar in grammars for text in grammar.texts.values())
        digests = tuple(tool.digest for tool in spec.tools)
        key = digests, texts, spec.tool_choice, dump(dict(spec.template_variables))
        made = self._made.get(key)
        if made is None:
            make = partial(self._make, spec, grammars)
            made = asyncio.get_running_loop().run_in_executor(self._thread, make)
            self._made[key] = made
            made.add_done_callback(partial(self._drop_failed, key))
        return await asyncio.shield(made)

    def close(self) -> None:
        """Drops the plans that are not made yet. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(self, spec: StepSpec, grammars: Sequence[ToolGrammar]) -> StepPlan:
        plan = self._plans.plan(spec.tools, spec.tool_choice, spec.template_variables, grammars)
        for grammar in (plan.structured_outputs, *plan.limited.values()):
            if grammar is not None:
                self._verify(grammar)
        return plan

    def _drop_failed(self, key: _PlanKey, made: asyncio.Future[StepPlan]) -> None:
        if (made.cancelled() or made.exception() is not None) and self._made.get(key) is made:
            del self._made[key]
