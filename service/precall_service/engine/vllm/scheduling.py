"""vLLM's schedulers, with the drafts of calls that the model is expected to write.

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
from dataclasses import dataclass
from typing import Any, Final, cast

from vllm.tokenizers import registry as tokenizers
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import DraftTokenIds
from vllm.v1.request import Request, RequestStatus
from xgrammar import TokenizerInfo

from precall_service.engine.vllm.drafts import DraftTokens, Proposal, StagedDrafts
from precall_service.engine.vllm.proposing import (
    DRAFTS_ARGUMENT,
    DRAFTS_FIELD,
    STAGE_UTILITY,
    TOKENS_GIVEN_MAX,
    is_ours,
    proposed_tokens_max,
)
from precall_service.engine.vllm.utilities import AsyncScheduler as VllmAsyncScheduler
from precall_service.engine.vllm.utilities import Scheduler as VllmScheduler

_STEP_FIELD: Final = "precall_step"
"""The field of a step's output that has its number, by which its drafts are found again."""

Drafts = Sequence[Mapping[str, Any]]
"""Drafts as they cross the border of a process: the fields of each `DraftTokens`."""


@dataclass(frozen=True, slots=True)
class _Proposed:
    """A proposal, and how many tokens the request had sampled when it was made."""

    proposal: Proposal
    sampled: int


class _Drafted(VllmScheduler):
    """What both schedulers have in common: the drafts of each request, and their account.

    They differ in how the tokens of a draft get to the workers, and in what is known of a request
    when they do.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._staged: dict[str, StagedDrafts] = {}

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
            sampled = len(output) - before[request_id]
            proposal, proposed = verified.get(request_id, (None, 0))
            if proposal is not None and 0 < sampled <= proposed:
                staged.rejected(proposal, output, sampled)
            self._propose(request)
        if verified:
            self._tell(verified, outputs)
        return outputs

    def _propose(self, request: Request) -> None:
        """Finds the tokens that the request is given next, now that more of it is known."""
        raise NotImplementedError

    def _checked(
        self, scheduler_output: Any, request: Request, drafted: Sequence[int]
    ) -> tuple[Proposal, Sequence[int]] | None:
        """The proposal of which a step has verified tokens, and these; None if it was none of ours.

        `drafted` are those that the step was scheduled with. What it has sampled is not yet added
        to the request.
        """
        raise NotImplementedError

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

    def _next(self, request: Request, tokens_max: int) -> Proposal | None:
        """The next tokens of a draft; none while the prompt is computed or the request waits."""
        staged, params = self._staged.get(request.request_id), request.sampling_params
        if (
            staged is None
            or params is None
            or request.status is not RequestStatus.RUNNING
            or request.is_prefill_chunk
            or not request.num_output_tokens
        ):
            return None
        # The stop tokens include the model's own end of a message.
        return staged.propose(tokens_max, params.all_stop_token_ids)

    def _room(self, request: Request, under_way: int = 0) -> int:
        """How many more tokens of a draft may be verified, once those under way are sampled.

        One more token is sampled after the last one that is accepted.
        """
        left = min(
            request.max_tokens - request.num_output_tokens, self.max_model_len - request.num_tokens
        )
        return left - under_way - 1

    def _verified(
        self, scheduler_output: Any, model_runner_output: Any
    ) -> dict[str, tuple[Proposal, int]]:
        """What was proposed for each request, and how many of these tokens this step has verified.

        The tokens are counted.
        """
        found: dict[str, tuple[Proposal, int]] = {}
        for request_id, staged in self._staged.items():
            drafted = scheduler_output.scheduled_spec_decode_tokens.get(request_id)
            if not drafted or not model_runner_output.sampled_token_ids:
                continue
            index = model_runner_output.req_id_to_index[request_id]
            sampled = model_runner_output.sampled_token_ids[index]
            checked = self._checked(scheduler_output, self.requests[request_id], drafted)
            if sampled and checked is not None:
                proposal, token_ids = checked
                accepted = min(len(sampled) - 1, len(token_ids))
                staged.verified(proposal, token_ids, accepted)
                found[request_id] = proposal, len(token_ids)
        return found

    def _tell(self, request_ids: Collection[str], outputs: Mapping[int, Any]) -> None:
        """Adds the metrics of requests that may be over without our knowing: by a stop text.

        vLLM adds them to the last output of a request, but finds stop texts in another process.
        """
        for output in itertools.chain.from_iterable(each.outputs for each in outputs.values()):
            request = self.requests.get(output.request_id)
            if request is not None and output.request_id in request_ids and _stops(request):
                output.spec_decode_metrics = copy.deepcopy(request.spec_decode_metrics)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        """The text of each token. Takes a moment for a large vocabulary, so it is warmed up."""
        config = self.vllm_config.model_config
        tokenizer = cast("Any", tokenizers).cached_tokenizer_from_config(config)
        return TokenizerInfo.from_huggingface(tokenizer).decoded_vocab


class Scheduler(_Drafted):
    """vLLM's scheduler for engines that wait for each step, with drafts.

    All tokens of a request are known when its next step is scheduled, so that the tokens of a draft
    are given to it as they are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._proposals: dict[str, Proposal] = {}
        self._proposed_tokens_max = proposed_tokens_max(self.vllm_config.speculative_config)

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
        self._proposals.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)

    def _propose(self, request: Request) -> None:
        """Gives the request the next tokens of a draft, for the next step of the engine."""
        proposal = self._next(request, min(self.num_spec_tokens, self._room(request)))
        if proposal is None:
            self._proposals.pop(request.request_id, None)
            return
        self._proposals[request.request_id] = proposal
        valid = self.structured_output_manager.validate_tokens(request, list(proposal.token_ids))
        request.spec_token_ids = valid

    def _checked(
        self, scheduler_output: Any, request: Request, drafted: Sequence[int]
    ) -> tuple[Proposal, Sequence[int]] | None:
        proposal = self._proposals.get(request.request_id)
        return None if proposal is None else (proposal, drafted)

    def _follows(self, request_id: str) -> bool:
        return request_id in self._staged and bool(self.requests[request_id].spec_token_ids)


class AsyncScheduler(_Drafted, VllmAsyncScheduler):
    """vLLM's scheduler for engines that schedule a step before the one before it has ended.

    What that step samples is not known then, and so not where in a draft the next step begins. The
    workers are given the draft's tokens from the last token on that is known, with the place of the
    first. At the end of the step they know where the draft continues (`gpu_worker`). Here, the
    next step of the request is scheduled with so many placeholders, as for vLLM's own methods.

    While no request follows a draft, steps are vLLM's own, with nothing to verify.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._proposals: dict[str, _Proposed] = {}
        self._given: dict[str, _Proposed] = {}
        """What workers were given at the last step of each request, for its next one."""
        self._verifying: dict[int, dict[str, _Proposed]] = {}
        """What the steps under way verify, by their number."""
        self._steps = itertools.count()

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As `Scheduler.update_from_output`."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._verifying.pop(getattr(scheduler_output, _STEP_FIELD), None)
        return outputs

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """As vLLM's; then each request that follows a draft has its next step widened."""
        super()._update_after_schedule(scheduler_output)
        verifying: dict[str, _Proposed] = {}
        drafts: dict[str, tuple[int, tuple[int, ...]]] = {}
        for request_id in scheduler_output.num_scheduled_tokens:
            given = self._given.pop(request_id, None)
            if given is not None and request_id in scheduler_output.scheduled_spec_decode_tokens:
                verifying[request_id] = given
            request = self.requests[request_id]
            if request.is_prefill_chunk:
                continue
            proposed = self._proposals.get(request_id)
            count = self._wanted(request, proposed, scheduler_output.num_spec_tokens_to_schedule)
            request.spec_token_ids = [-1] * count
            if proposed is not None and count:
                self._given[request_id] = proposed
                place = request.num_prompt_tokens + proposed.sampled
                drafts[request_id] = place, proposed.proposal.token_ids
        if not drafts:
            scheduler_output.num_spec_tokens_to_schedule = 0
        setattr(scheduler_output, DRAFTS_FIELD, drafts)
        step = next(self._steps)
        setattr(scheduler_output, _STEP_FIELD, step)
        if verifying:
            self._verifying[step] = verifying

    def _wanted(self, request: Request, proposed: _Proposed | None, most: int) -> int:
        """How many tokens of a draft the next step of a request verifies.

        None if all of them are being verified already.
        """
        if proposed is None:
            return 0
        under_way = request.num_output_placeholders
        done = request.num_output_tokens + under_way - proposed.sampled
        if done >= len(proposed.proposal.token_ids):
            return 0
        return max(0, min(most, self._room(request, under_way)))

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._proposals.pop(request.request_id, None)
        self._given.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)

    def _propose(self, request: Request) -> None:
        """Notes what the request's draft continues with, for the steps that are scheduled next."""
        proposal = self._next(request, TOKENS_GIVEN_MAX)
        if proposal is None:
            self._proposals.pop(request.request_id, None)
            request.spec_token_ids = []
            return
        self._proposals[request.request_id] = _Proposed(proposal, request.num_output_tokens)

    def _checked(
        self, scheduler_output: Any, request: Request, drafted: Sequence[int]
    ) -> tuple[Proposal, Sequence[int]] | None:
        """Of what the workers were given, the tokens from where this step has begun."""
        verifying = self._verifying.get(getattr(scheduler_output, _STEP_FIELD), {})
        proposed, staged = verifying.get(request.request_id), self._staged[request.request_id]
        if proposed is None:
            return None
        rest = staged.rest(proposed.proposal, request.output_token_ids[proposed.sampled :])
        return None if rest is None else (rest, rest.token_ids[: len(drafted)])


def _external_id(request: Request) -> str:
    """The id that a request was sent with; vLLM appends a hyphen and a number of its own."""
    return request.request_id.rpartition("-")[0]


def _stops(request: Request) -> bool:
    """Whether a stop text may end the request."""
    return request.sampling_params is not None and bool(request.sampling_params.stop)


def _stage(core: EngineCore, step_id: str, drafts: Drafts) -> None:
    if isinstance(core.scheduler, _Drafted):
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
