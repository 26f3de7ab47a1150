"""Which tokens of vLLM's own method a request is given beside the drafts of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.prompt_renderers import tokenizer


def test_a_method_proposes_for_requests_that_follow_no_draft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.v1.outputs import DraftTokenIds

    from precall_service.engine.vllm import scheduling, utilities

    given: dict[str, list[int]] = {}

    def take(_scheduler: Any, drafts: Any) -> None:
        given.update(zip(drafts.req_ids, drafts.draft_token_ids, strict=True))

    monkeypatch.setattr(utilities.Scheduler, "update_draft_token_ids", take)
    scheduler = cast("Any", scheduling.Scheduler.__new__(scheduling.Scheduler))
    scheduler.requests = {
        "follows": SimpleNamespace(spec_token_ids=[7, 8]),
        "waits": SimpleNamespace(spec_token_ids=[]),
        "has none": SimpleNamespace(spec_token_ids=[]),
    }
    scheduler._staged = dict.fromkeys(["follows", "waits"])
    scheduler._proposed_tokens_max = 3
    drafts = DraftTokenIds(list(scheduler.requests), [[1, 2], [3, 4], [0] * 48])
    scheduler.update_draft_token_ids(drafts)
    assert given == {"waits": [3, 4], "has none": [0, 0, 0]}
