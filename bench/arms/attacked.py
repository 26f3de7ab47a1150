"""The paced service as it is attacked: its engine refuses what is far too long, as vLLM's does.

A scripted engine makes a token of each character, in the event loop. For a text of a megabyte that
would be measured, and not the service.
"""

from __future__ import annotations

from functools import partial

from bench.arms.paced import CONTEXT_TOKENS, PacedEngine, main
from bench.process import run_child
from precall_service.domain.messages import Transcript, characters
from precall_service.engine.prompt_length import PromptTooLongError
from precall_service.engine.vllm.token_prompt import TokenPrompt


class AttackedEngine(PacedEngine):
    """Makes no prompt that would fill its context more than twice."""

    async def render(self, transcript: Transcript) -> TokenPrompt:
        """As `Engine.render`."""
        if characters(transcript.messages) > 2 * CONTEXT_TOKENS:
            raise PromptTooLongError(2 * CONTEXT_TOKENS, limit=CONTEXT_TOKENS, at_least=True)
        return await super().render(transcript)


if __name__ == "__main__":
    run_child(partial(main, kind=AttackedEngine))
