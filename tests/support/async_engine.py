"""vLLM's own asynchronous scheduler with our drafts, and a worker that has no model.

The worker does what Model Runner V2 does with a step: it samples a token for each row, keeps
drafted tokens as long as they are those that the model would have sampled, and asks the real
proposer for the tokens of the next step. Its model writes a given text. As in vLLM's EngineCore, a
step is scheduled before the output of the one before it is known.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager
from xgrammar import TokenizerInfo

from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.gpu_worker import DraftSpeculator
from precall_service.engine.vllm.proposing import (
    DRAFTS_ARGUMENT,
    DRAFTS_FIELD,
    speculative_config_ahead,
)
from precall_service.engine.vllm.scheduling import AsyncScheduler
from tests.support.engine_keeper import embedded_config
from tests.support.prompt_renderers import tokenizer

if TYPE_CHECKING:
    from vllm.config import VllmConfig

BLOCK_TOKENS = 16
CONTEXT_TOKENS = 512
ROWS_MAX = 4
STEPS_UNDER_WAY = 2


def engine_config() -> VllmConfig:
    """The configuration of an engine that schedules ahead, on a machine that has no GPU."""
    arguments = AsyncEngineArgs(
        model=embedded_config().model,
        speculative_config=speculative_config_ahead(),
        max_num_seqs=ROWS_MAX,
        max_model_len=CONTEXT_TOKENS,
        max_num_batched_tokens=1024,
        block_size=BLOCK_TOKENS,
        enable_prefix_caching=False,
        per_request_spec_decode_metrics="summary",
    )
    config = arguments.create_engine_config()
    config.scheduler_config.async_scheduling = True
    return config


@functools.cache
def token_bytes() -> list[bytes]:
    """The text of each token of the embedded model."""
    return TokenizerInfo.from_huggingface(tokenizer()).decoded_vocab


@dataclass(slots=True)
class Row:
    """A request as the worker knows it."""

    index: int
    texts: Sequence[int]
    prompt_tokens: int
    computed: int


class SimulatedEngine:
    """Runs requests whose output is known."""

    def __init__(
        self, config: VllmConfig, grammars: StructuredOutputManager, blocks: int = 256
    ) -> None:
        """`grammars` may be shared, since no request has one; `blocks`: size of the KV cache."""
        self.outputs: dict[str, list[int]] = {}
        """The tokens that each request has sampled."""
        self.widths: list[int] = []
        """How many drafted tokens each step has verified."""
        self.metrics: dict[str, Any] = {}
        self._texts: dict[str, Sequence[int]] = {}
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(
            block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self._scheduler = AsyncScheduler(
            config,
            KVCacheConfig(
                num_blocks=blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            grammars,
            block_size=BLOCK_TOKENS,
            log_stats=True,
        )
        self._scheduler.use_v2_model_runner = True
        # The same for each scheduler, and slow to find.
        self._scheduler._token_bytes = token_bytes()  # pyright: ignore[reportPrivateUsage]
        self._states = SimpleNamespace(
            all_token_ids=SimpleNamespace(
                gpu=torch.zeros(ROWS_MAX, CONTEXT_TOKENS, dtype=torch.int32)
            ),
            total_len=SimpleNamespace(gpu=torch.zeros(ROWS_MAX, dtype=torch.int32)),
        )
        self._speculator = DraftSpeculator(config, torch.device("cpu"), self._states)
        self._drafted = torch.full((ROWS_MAX, self._speculator.num_speculative_steps), -1)
        self._rows: dict[str, Row] = {}
        self._under_way: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()

    def add(
        self,
        name: str,
        texts: Sequence[int],
        drafts: Sequence[DraftTokens] = (),
        *,
        prompt: Sequence[int] = (1, 2, 3),
        max_tokens: int = 200,
        stop: Sequence[int] = (),
    ) -> None:
        """Adds a request whose model writes these tokens."""
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop_token_ids=list(stop))
        params.update_from_generation_config({}, None)
        if drafts:
            params.extra_args = {DRAFTS_ARGUMENT: [asdict(draft) for draft in drafts]}
        self._texts[f"{name}-0"] = texts
        self.outputs[name] = []
        self._scheduler.add_request(
            Request(f"{name}-0", list(prompt), sampling_params=params, pooling_params=None)
        )

    def stage(self, name: str, *drafts: DraftTokens) -> None:
        """Adds drafts to a request that runs."""
        self._scheduler.stage(name, [asdict(draft) for draft in drafts])

    def abort(self, name: str) -> None:
        """Gives a request up, as vLLM does when its client leaves."""
        self._scheduler.finish_requests([f"{name}-0"], RequestStatus.FINISHED_ABORTED)

    @property
    def held(self) -> int:
        """How many requests the scheduler holds anything of drafts for."""
        held = self._scheduler._staged, self._scheduler._proposals, self._scheduler._given  # pyright: ignore[reportPrivateUsage]
        return sum(map(len, held)) + len(self._scheduler._verifying)  # pyright: ignore[reportPrivateUsage]

    def run(self, steps: int = 1000) -> int:
        """Takes up to so many steps that compute something. Returns how many there were."""
        taken = 0
        while taken < steps and (self._scheduler.has_requests() or self._under_way):
            taken += self._step()
        return taken

    def _step(self) -> bool:
        """Schedules a step and has it computed, and then reads the output of the one before."""
        computes = False
        if self._scheduler.has_requests():
            scheduled = self._scheduler.schedule()
            computes = scheduled.total_num_scheduled_tokens > 0
            self._under_way.append((scheduled, self._computed(scheduled)))
            if len(self._under_way) < STEPS_UNDER_WAY and computes:
                return computes
        self._read(*self._under_way.popleft())
        return computes

    def _read(self, scheduled: SchedulerOutput, computed: ModelRunnerOutput) -> None:
        for outputs in self._scheduler.update_from_output(scheduled, computed).values():
            for output in outputs.outputs:
                name = output.request_id.rpartition("-")[0]
                self.outputs[name] += output.new_token_ids
                self.metrics[name] = output.spec_decode_metrics

    def _computed(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        for request_id in scheduled.finished_req_ids | (scheduled.preempted_req_ids or set()):
            self._rows.pop(request_id, None)
        for new in scheduled.scheduled_new_reqs:
            # A request that was preempted comes again, with what it has sampled.
            tokens = list(new.prefill_token_ids or ())
            self._put(new.req_id, tokens, new.prompt_len, new.num_computed_tokens)
        names = list(scheduled.num_scheduled_tokens)
        sampled = [self._sampled(scheduled, request_id) for request_id in names]
        self.widths.append(sum(map(len, scheduled.scheduled_spec_decode_tokens.values())))
        self._propose(scheduled, names)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )

    def _put(self, request_id: str, tokens: list[int], prompt_tokens: int, computed: int) -> None:
        self._rows.pop(request_id, None)
        taken = {row.index for row in self._rows.values()}
        index = next(each for each in range(ROWS_MAX) if each not in taken)
        self._states.all_token_ids.gpu[index, : len(tokens)] = torch.tensor(tokens)
        self._states.total_len.gpu[index] = len(tokens)
        self._rows[request_id] = Row(index, self._texts[request_id], prompt_tokens, computed)

    def _sampled(self, scheduled: SchedulerOutput, request_id: str) -> list[int]:
        row = self._rows[request_id]
        drafted = len(scheduled.scheduled_spec_decode_tokens.get(request_id, ()))
        known = int(self._states.total_len.gpu[row.index])
        row.computed += scheduled.num_scheduled_tokens[request_id]
        if row.computed - drafted < known:
            return []  # the prompt is not computed to its end
        written = known - row.prompt_tokens
        sampled: list[int] = []
        for draft in [*map(int, self._drafted[row.index, :drafted]), None]:
            sampled.append(row.texts[written + len(sampled)])
            if sampled[-1] != draft:
                break
        row.computed -= drafted + 1 - len(sampled)
        self._states.all_token_ids.gpu[row.index, known : known + len(sampled)] = torch.tensor(
            sampled
        )
        self._states.total_len.gpu[row.index] = known + len(sampled)
        return sampled

    def _propose(self, scheduled: SchedulerOutput, names: list[str]) -> None:
        if not names:
            return
        index = torch.tensor([self._rows[name].index for name in names])
        count = scheduled.num_spec_tokens_to_schedule
        self._speculator.give(getattr(scheduled, DRAFTS_FIELD))
        batch = SimpleNamespace(req_ids=names, num_reqs=len(names), idx_mapping=index)
        drafted = self._speculator.propose(batch, num_speculative_tokens=count).clone()
        drafted[:, count:] = -1
        self._drafted[index] = drafted
