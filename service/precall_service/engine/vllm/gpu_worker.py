"""vLLM's GPU worker with Model Runner V2, which proposes the tokens of drafts.

With async scheduling, only the workers know what a request has sampled last when its next step is
prepared. `AsyncScheduler` sends them the tokens of drafts with each step, and the place of the
first. At the end of the step, the proposer here compares them with what was sampled since, and
proposes those that come next. All ranks are sent the same, so they propose the same.

vLLM imports the class named by `worker_cls` in every worker process. This module re-exports vLLM's
own class, so that vLLM imports this module there; the import replaces the model runner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator
from vllm.v1.worker.gpu_worker import Worker

from precall_service.engine.vllm.proposing import DRAFTS_FIELD

__all__ = ["DraftSpeculator", "DraftedModelRunner", "Worker"]

Drafts = Mapping[str, tuple[int, Sequence[int]]]
"""By request: where a draft begins among all tokens of the request, and its tokens."""


class DraftSpeculator(BaseSpeculator):
    """Proposes the tokens of the drafts that came with the step."""

    supports_mm_inputs = False
    draft_logits = None

    def __init__(self, vllm_config: VllmConfig, device: torch.device, req_states: Any) -> None:
        config = vllm_config.speculative_config
        assert config is not None
        self.num_speculative_steps = config.num_speculative_tokens
        self._states = req_states
        self._device = device
        rows = vllm_config.scheduler_config.max_num_seqs
        shape = (rows, self.num_speculative_steps)
        self._proposed = torch.zeros(shape, dtype=torch.int64, device=device)
        self._drafts: Drafts = {}

    def give(self, drafts: Drafts) -> None:
        """Takes the drafts of the step that begins."""
        self._drafts = drafts

    def init_cudagraph_manager(self, cudagraph_mode: Any) -> None:
        """There is nothing to capture."""

    def capture(self) -> None:
        """There is nothing to capture."""

    @torch.inference_mode()
    def propose(
        self,
        input_batch: Any,
        *_: Any,
        num_speculative_tokens: int | None = None,
        dummy_run: bool = False,
        **__: Any,
    ) -> torch.Tensor:
        """Returns tokens for each row of the batch, on the device: [rows, tokens].

        What a row without a draft is given is not verified. A row whose draft ends, or was not
        followed, is filled with the token that was sampled last, as vLLM's own proposers do.
        """
        proposed = self._proposed[: input_batch.num_reqs]
        if dummy_run or not num_speculative_tokens:
            return proposed
        rows = [
            (row, *self._drafts[request_id])
            for row, request_id in enumerate(input_batch.req_ids[: input_batch.num_reqs])
            if request_id in self._drafts
        ]
        if rows:
            index = torch.tensor([row for row, _, _ in rows], device=self._device)
            states = input_batch.idx_mapping[index].long()
            proposed[index] = continued(
                self._states.all_token_ids.gpu,
                self._states.total_len.gpu,
                states,
                [(place, tokens) for _, place, tokens in rows],
                self.num_speculative_steps,
            )
        return proposed


def continued(
    all_token_ids: torch.Tensor,
    total_lengths: torch.Tensor,
    states: torch.Tensor,
    drafts: Sequence[tuple[int, Sequence[int]]],
    count: int,
) -> torch.Tensor:
    """Returns the next `count` tokens of each draft, from where its request stands.

    `all_token_ids` [states, tokens] and `total_lengths` [states] are those of all requests;
    `states` [drafts] says which the drafts are of. Nothing waits for the device.
    """
    device = all_token_ids.device
    longest = max(len(tokens) for _, tokens in drafts)
    padded = [[*tokens, *[-1] * (longest - len(tokens))] for _, tokens in drafts]
    tokens = torch.tensor(padded, device=device)
    lengths = torch.tensor([len(each) for _, each in drafts], device=device)[:, None]
    places = torch.tensor([place for place, _ in drafts], device=device)[:, None]
    totals = total_lengths[states].long()[:, None]
    written = totals - places  # how much of the draft the request has sampled, if it follows it
    steps = torch.arange(longest, device=device)
    at = (places + steps).clamp(max=all_token_ids.shape[1] - 1)
    same = all_token_ids[states[:, None], at].long() == tokens
    follows = (same | (steps >= written)).all(1, keepdim=True) & (written >= 0)
    wanted = written + torch.arange(count, device=device)
    last = all_token_ids[states[:, None], totals - 1].long()
    there = follows & (wanted < lengths)
    return torch.where(there, tokens.gather(1, wanted.clamp(0, longest - 1)), last)


class DraftedModelRunner(GPUModelRunner):
    """vLLM's Model Runner V2, which hands the drafts of a step to its proposer."""

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's."""
        if isinstance(self.speculator, DraftSpeculator):
            self.speculator.give(getattr(scheduler_output, DRAFTS_FIELD, {}))
        return super().execute_model(scheduler_output, *args, **kwargs)


model_runner.GPUModelRunner = DraftedModelRunner  # pyright: ignore[reportPrivateImportUsage]
model_runner.init_speculator = DraftSpeculator  # pyright: ignore[reportPrivateImportUsage]
