"""The tests of drafts, on a GPU: steps are scheduled ahead, and Model Runner V2 proposes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, cast

import pytest_asyncio

from precall_service.engine.base import Engine
from precall_service.engine.vllm.proposing import ASYNC_SCHEDULER
from tests.integration.engine.test_vllm_drafts import (
    test_a_draft_is_accepted_while_the_step_runs,
    test_a_limit_inside_a_draft_is_kept,
    test_a_right_draft_is_accepted,
    test_a_step_that_is_given_up_inside_a_draft_leaves_nothing,
    test_a_stop_text_inside_a_draft_ends_the_message_at_the_same_token,
    test_drafts_change_no_token,
    test_drafts_do_not_change_what_is_sampled,
    test_each_draft_is_accounted_for,
    test_no_draft_changes_a_step_or_ends_the_engine,
    test_no_settings_end_the_engine_with_drafts,
    test_the_engine_verifies_drafts,
)
from tests.support.engine_keeper import EngineKeeper

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.engine import VllmEngine

__all__ = [
    "test_a_draft_is_accepted_while_the_step_runs",
    "test_a_limit_inside_a_draft_is_kept",
    "test_a_right_draft_is_accepted",
    "test_a_step_that_is_given_up_inside_a_draft_leaves_nothing",
    "test_a_stop_text_inside_a_draft_ends_the_message_at_the_same_token",
    "test_drafts_change_no_token",
    "test_drafts_do_not_change_what_is_sampled",
    "test_each_draft_is_accounted_for",
    "test_no_draft_changes_a_step_or_ends_the_engine",
    "test_no_settings_end_the_engine_with_drafts",
    "test_the_engine_verifies_drafts",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def drafting_keeper(no_shared_engine: None) -> AsyncGenerator[EngineKeeper]:
    """The keeper of an engine with drafts; the shared one would fill the GPU."""
    keeper = EngineKeeper(drafts=True, dtype="float32")
    yield keeper
    await keeper.close()


@pytest_asyncio.fixture(loop_scope="session")
async def vllm_engine(drafting_keeper: EngineKeeper) -> Engine:
    """The engine, alive and idle."""
    return await drafting_keeper.engine()


def test_steps_are_scheduled_ahead(vllm_engine: Engine) -> None:
    config = cast("VllmEngine", vllm_engine)._llm.vllm_config  # pyright: ignore[reportPrivateUsage]
    assert config.scheduler_config.scheduler_cls == ASYNC_SCHEDULER
    assert config.use_v2_model_runner
