"""vLLM's CPU worker, without the call that ends it when a seeded prompt is computed in parts.

vLLM draws a token for every row of a batch, also for a row whose prompt is not computed to its
end. It drops that token and then rewinds the seeded generator that drew it, with `set_offset`.
Generators on a CPU have no such method: the worker raises, and the engine dies with every
generation in it.

Here, rows whose token is dropped draw from the common generator instead. A seeded generator is
drawn from only for tokens that count, so a seed gives the same tokens however the prompt is split.

vLLM imports the class named by `worker_cls` in every worker process. This module re-exports vLLM's
own class, so that vLLM imports this module there; the import replaces the model runner.
"""

from __future__ import annotations

from typing import Any

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


cpu_worker.CPUModelRunner = SeededModelRunner  # pyright: ignore[reportPrivateImportUsage]
