"""vLLM's CPU worker, without two defects: in seeded prompts, and in the sampling of drafted rows.

vLLM draws a token for every row of a batch, also for a row whose prompt is not computed to its
end. It drops that token and then rewinds the seeded generator that drew it, with `set_offset`.
Generators on a CPU have no such method: the worker raises, and the engine dies with every
generation in it.

Here, rows whose token is dropped draw from the common generator instead. A seeded generator is
drawn from only for tokens that count, so a seed gives the same tokens however the prompt is split.

vLLM's sampler of drafted rows is mended too: on a CPU it fills the settings of each drafted token
(temperature, top_k, top_p) from memory that was never written, because the kernel writes them to a
copy. Tokens are then drawn from another distribution, or the worker raises.

vLLM imports the class named by `worker_cls` in every worker process. This module re-exports vLLM's
own class, so that vLLM imports this module there; the import replaces the model runner.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

__all__ = ["CPUWorker", "SeededModelRunner"]


class SeededModelRunner(CPUModelRunner):
    """vLLM's model runner, which leaves the generators of unfinished prompts alone."""

    def sample_tokens(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, grammar_output: Any
    ) -> Any:
        """As vLLM's. Rows whose token is dropped have no generator while it samples."""
        batch = self.input_batch
        (dropped,) = self.discard_request_mask.np[: batch.num_reqs].nonzero()
        withheld = {
            row: batch.generators.pop(row) for row in dropped.tolist() if row in batch.generators
        }
        try:
            return super().sample_tokens(grammar_output)
        finally:
            batch.generators.update(withheld)

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        """As vLLM's, which verifies drafts even if no row has one: that costs, and may raise."""
        drafted = spec_decode_metadata is not None and any(spec_decode_metadata.num_draft_tokens)
        return super()._sample(logits, spec_decode_metadata if drafted else None)


def expanded_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """As vLLM's `expand_batch_to_tokens`: the value of each row for each of its drafted tokens."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    values = torch.where(x == replace_from, replace_to, x)
    return values.repeat_interleave(counts, output_size=num_tokens)


rejection_sampler.expand_batch_to_tokens = expanded_to_tokens
cpu_worker.CPUModelRunner = SeededModelRunner  # pyright: ignore[reportPrivateImportUsage]
