"""Records when AsyncLLM is asked to generate and when its first token comes, alike in every arm.

Concurrency: patches the class in its own process. One event loop generates; another thread may
take the recorded generations.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from precall_service.domain.json import JsonObject


@dataclass(slots=True)
class Generation:
    """One call of `AsyncLLM.generate`. Times are read from the machine's monotonic clock."""

    request_id: str
    params: Any
    asked_at: float
    first_at: float = 0.0
    prompt_token_ids: list[int] = field(default_factory=list[int])
    token_ids: list[int] = field(default_factory=list[int])
    cached_tokens: int = 0

    def as_json(self) -> JsonObject:
        """The fields that are sent to the bench."""
        return {
            "request_id": self.request_id,
            "asked_at": self.asked_at,
            "first_at": self.first_at,
            "prompt_tokens": len(self.prompt_token_ids),
            "output_tokens": len(self.token_ids),
            "cached_tokens": self.cached_tokens,
        }


class Recorder:
    """Records the generations of AsyncLLM."""

    def __init__(self) -> None:
        self.recording = True
        self._ended: list[Generation] = []
        self.generate = AsyncLLM.generate
        """The original method, which records nothing."""
        recorder = self

        def generate(
            llm: AsyncLLM, prompt: Any, params: Any, request_id: str, **rest: Any
        ) -> AsyncGenerator[Any, None]:
            plain = recorder.generate(llm, prompt, params, request_id, **rest)
            return recorder._noted(plain, params, request_id) if recorder.recording else plain

        setattr(AsyncLLM, "generate", generate)  # noqa: B010 - types forbid a plain assignment

    def take(self) -> list[Generation]:
        """Removes and returns the generations that have ended, in the order of their ends."""
        ended, self._ended = self._ended, []
        return ended

    async def _noted(
        self, plain: AsyncGenerator[Any, None], params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        note = Generation(request_id, params, asked_at=time.monotonic())
        async with contextlib.aclosing(plain) as outputs:
            async for output in outputs:
                if not note.first_at:
                    note.first_at = time.monotonic()
                    note.prompt_token_ids = list(output.prompt_token_ids or ())
                note.token_ids += output.outputs[0].token_ids
                note.cached_tokens = max(note.cached_tokens, output.num_cached_tokens or 0)
                if output.finished:
                    self._ended.append(note)
                yield output
