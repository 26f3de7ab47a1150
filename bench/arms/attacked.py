"""The paced service as it is attacked: its engine refuses what is far too long, as vLLM's does.

A scripted engine makes a token of each character, in the event loop. For a text of a megabyte that
would be measured, and not the service.
"""

from __future__ import annotations

from functools import partial

from bench.allocated import allocated, grow_tables
from bench.arms.paced import CONTEXT_TOKENS, PacedEngine, main
from bench.process import Commands, run_child
from precall_service import app
from precall_service.domain.json import JsonObject
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


def _commands(service: app.Service) -> Commands:
    async def allocations(_fields: JsonObject) -> JsonObject:
        return {**allocated()}

    async def grow(_fields: JsonObject) -> JsonObject:
        await grow_tables()
        return {}

    async def totals(_fields: JsonObject) -> JsonObject:
        return {"calls cut off": service.watch.vitals().calls_cut_off}

    return {"allocated": allocations, "grow_tables": grow, "totals": totals}


if __name__ == "__main__":
    run_child(partial(main, kind=AttackedEngine, more=_commands))
