"""vLLM's scheduler, with the drafts of calls that the model is expected to write.

A *draft* is text that a generation may write next. Its tokens are given to the engine as vLLM gives
those of speculative decoding: the engine computes them in one step and keeps those that it would
have sampled itself. A draft comes with the request (`SamplingParams.extra_args`) or, while it
runs, through a utility. A generation without a draft takes vLLM's ordinary path.

vLLM imports the class named by `scheduler_cls` in every EngineCore process; the import of this
module also adds the utilities there. An engine that has no drafts runs on vLLM's own schedulers.

Concurrency: schedulers and utilities run in the engine's main loop, between two steps.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from vllm.tokenizers import registry as tokenizers
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import DraftTokenIds
from vllm.v1.request import Request, RequestStatus
from xgrammar import TokenizerInfo

from precall_service.engine.vllm.drafts import DraftTokens, StagedDrafts
from precall_service.engine.vllm.proposing import (
    DRAFTS_ARGUMENT,
    STAGE_UTILITY,
    is_ours,
    proposed_tokens_max,
)
from precall_service.engine.vllm.utilities import Scheduler as VllmScheduler

Drafts = Sequence[Mapping[str, Any]]
"""Drafts as they cross the border of a process: the fields of each `DraftTokens`."""


class Scheduler(VllmScheduler):
    """vLLM's scheduler for engines that wait for each step, with drafts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._staged: dict[str, StagedDrafts] = {}
        self._proposed_tokens_max = proposed_tokens_max(self.vllm_config.speculative_config)

    def stage(self, step_id: str, drafts: Drafts) -> None:
        """Adds drafts to a request that waits or runs; does nothing if there is none."""
        for request in self.requests.values():
            if _external_id(request) == step_id and not request.is_finished():
                self._stage(request, drafts)
                self._propose(request)

    def add_request(self, request: Request) -> None:
        """As vLLM's, with the drafts that come with the request."""
        super().add_request(request)
        params = request.sampling_params
        if params is not None and params.extra_args and DRAFTS_ARGUMENT in params.extra_args:
            self._stage(request, params.extra_args[DRAFTS_ARGUMENT])

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As vLLM's; then each request that follows a draft is given its next tokens."""
        before = {each: self.requests[each].num_output_tokens for each in self._staged}
        verified = self._verified(scheduler_output, model_runner_output)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for request_id, staged in list(self._staged.items()):
            request = self.requests[request_id]
            output = request.output_token_ids
            staged.follow(output)
            drafted = scheduler_output.scheduled_spec_decode_tokens.get(request_id, ())
            sampled = len(output) - before[request_id]
            if drafted and sampled <= len(drafted):
                staged.rejected(output, sampled)
            self._propose(request)
        if verified:
            self._tell(verified, outputs)
        return outputs

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        """As vLLM's, except for requests that follow a draft of ours.

        Near the end of the context a method proposes nothing. vLLM then has as many zeros in its
        place as a step may verify, which would be far more than the method proposes.
        """
        pairs = zip(draft_token_ids.req_ids, draft_token_ids.draft_token_ids, strict=True)
        others = [
            (each, tokens[: self._proposed_tokens_max])
            for each, tokens in pairs
            if not self._follows(each)
        ]
        super().update_draft_token_ids(
            DraftTokenIds([each for each, _ in others], [tokens for _, tokens in others])
        )

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._staged.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)

    def _stage(self, request: Request, drafts: Drafts) -> None:
        if not self.num_spec_tokens:
            return
        staged = self._staged.get(request.request_id)
        if staged is None:
            staged = self._staged[request.request_id] = StagedDrafts(self._token_bytes)
            if (metrics := request.spec_decode_metrics) is not None:
                # vLLM has a place for the counts of each step, but leaves it empty ("summary").
                metrics.per_step_drafted = staged.account.proposed
                metrics.per_step_accepted = staged.account.accepted
        staged.stage((DraftTokens(**draft) for draft in drafts), request.output_token_ids)

    def _propose(self, request: Request) -> None:
        """Gives the request the next tokens of a draft, for the next step of the engine."""
        staged, params = self._staged.get(request.request_id), request.sampling_params
        if (
            staged is None
            or params is None
            or request.status is not RequestStatus.RUNNING
            or request.is_prefill_chunk
            or not request.num_output_tokens
        ):
            return
        # One more token is sampled after the last one that is accepted.
        left = min(
            request.max_tokens - request.num_output_tokens, self.max_model_len - request.num_tokens
        )
        # The stop tokens include the model's own end of a message.
        tokens_max = min(self.num_spec_tokens, left - 1)
        if tokens := staged.propose(tokens_max, params.all_stop_token_ids):
            valid = self.structured_output_manager.validate_tokens(request, tokens)
            request.spec_token_ids = valid

    def _verified(self, scheduler_output: Any, model_runner_output: Any) -> list[str]:
        """The requests of whose drafts tokens were verified in this step; counts the tokens."""
        requests: list[str] = []
        for request_id, staged in self._staged.items():
            drafted = scheduler_output.scheduled_spec_decode_tokens.get(request_id)
            if not drafted or not model_runner_output.sampled_token_ids:
                continue
            index = model_runner_output.req_id_to_index[request_id]
            if sampled := model_runner_output.sampled_token_ids[index]:
                staged.verified(drafted, len(sampled) - 1)
                requests.append(request_id)
        return requests

    def _tell(self, request_ids: Collection[str], outputs: Mapping[int, Any]) -> None:
        """Adds the metrics of requests that may be over without our knowing: by a stop text.

        vLLM adds them to the last output of a request, but finds stop texts in another process.
        """
        for output in itertools.chain.from_iterable(each.outputs for each in outputs.values()):
            request = self.requests.get(output.request_id)
            if request is not None and output.request_id in request_ids and _stops(request):
                output.spec_decode_metrics = copy.deepcopy(request.spec_decode_metrics)

    def _follows(self, request_id: str) -> bool:
        return request_id in self._staged and bool(self.requests[request_id].spec_token_ids)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        """The text of each token. Takes a moment for a large vocabulary, so it is warmed up."""
        config = self.vllm_config.model_config
        tokenizer = cast("Any", tokenizers).cached_tokenizer_from_config(config)
        return TokenizerInfo.from_huggingface(tokenizer).decoded_vocab


def _external_id(request: Request) -> str:
    """The id that a request was sent with; vLLM appends a hyphen and a number of its own."""
    return request.request_id.rpartition("-")[0]


def _stops(request: Request) -> bool:
    """Whether a stop text may end the request."""
    return request.sampling_params is not None and bool(request.sampling_params.stop)


def _stage(core: EngineCore, step_id: str, drafts: Drafts) -> None:
    if isinstance(core.scheduler, Scheduler):
        core.scheduler.stage(step_id, drafts)


def _asking_for_drafts(post_step: Callable[..., None]) -> Callable[..., None]:
    """Leaves out the question for the workers' drafts, which takes a message for each step.

    Our proposer has none.
    """

    def asking(core: EngineCore, *args: Any, **kwargs: Any) -> None:
        if not is_ours(core.vllm_config.speculative_config):
            post_step(core, *args, **kwargs)

    return asking


setattr(EngineCore, STAGE_UTILITY, _stage)
EngineCore.post_step = _asking_for_drafts(EngineCore.post_step)
