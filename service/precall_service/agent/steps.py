"""The steps of one turn: each is one generation, from its prompt to a message in the transcript.

Owns: the number of the step, the tokens that the turn may still generate, the end of each step.
Never: admits the turn, runs its calls, or decides what follows a step.
"""

from __future__ import annotations

import secrets

from precall_service.agent.account import DraftsVerified, StepBegan
from precall_service.agent.calls import TurnCalls
from precall_service.agent.room import within_room
from precall_service.agent.scope import TurnScope
from precall_service.agent.step import Step, StepReader
from precall_service.domain.events import (
    StepCompleted,
    StepFinishReason,
    StepStarted,
    TokenUsage,
)
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import Engine, Priority, Prompt, StepSpec


class TurnSteps:
    """Generates one step after another."""

    def __init__(self, scope: TurnScope, calls: TurnCalls) -> None:
        self._scope = scope
        self._calls = calls
        self._reader: StepReader | None = None
        """The reader of the step that is being generated."""
        self._prompt_tokens = 0
        self._unsent_end: StepCompleted | None = None
        """The ending of a step that has not been sent to the client yet."""
        self.number = 0
        """The number of the current step: how many steps ended before it."""
        self.tokens_left = scope.spec.limits.max_turn_tokens

    async def generate(self, engine: Engine, prompt: Prompt, choice: ToolChoice) -> Step:
        """Generates the next step, adds it to the transcript, sends its events, and returns it.

        Raises:
            EngineDiedError, ServiceError: from the engine.
        On cancel or error: the generation is aborted; the caller must still call `end_all`.
        """
        self._prompt_tokens = prompt.tokens or 0
        await self._scope.emit(StepStarted(self.number, self._prompt_tokens))
        spec = self._step_spec(engine, prompt, choice)
        transcript = self._scope.transcript.current()
        self._scope.account.note(StepBegan(self.number, prompt, spec, transcript))
        self._reader = reader = StepReader(
            self._scope.account, self._scope.emit, self._scope.services.clock
        )
        step = await reader.read(engine.generate(prompt, spec))
        self._reader = None
        self.tokens_left -= step.end.usage.output_tokens
        self._scope.transcript.keep_step(prompt, step)
        if step.end.drafted_tokens:
            self._scope.account.note(
                DraftsVerified(step.end.drafted_tokens, step.end.accepted_tokens, step.end.drafts)
            )
        self._note_end(step.finish, step.end.usage)
        self._calls.open(reader.calls_told)
        await self._calls.end_unmade(step)
        await self._send_end()
        self.number += 1
        return step

    async def end_all(self) -> None:
        """Ends an aborted step and every open call, because the turn ends."""
        if self._reader is not None:
            # Its sampled tokens are not counted, but its prompt is if it was computed.
            usage = TokenUsage(input_tokens=self._prompt_tokens if self._reader.begun else 0)
            self._scope.transcript.keep_cut_step(self._reader.text)
            self._note_end(StepFinishReason.ABORTED, usage)
            self._calls.open(self._reader.calls_told)
        await self._calls.end_all()
        await self._send_end()

    def _step_spec(self, engine: Engine, prompt: Prompt, choice: ToolChoice) -> StepSpec:
        wanted = self._scope.spec.generation.max_step_tokens
        most = self.tokens_left if wanted is None else min(wanted, self.tokens_left)
        return StepSpec(
            step_id=f"{self._scope.context.conversation_id}-{secrets.token_hex(6)}",
            max_tokens=within_room(engine, prompt, most),
            generation=self._scope.spec.generation,
            tools=self._scope.context.transcript.tools,
            tool_choice=choice,
            priority=Priority.CONTINUES_TURN if self.number else Priority.STARTS_TURN,
            tenant=self._scope.context.tenant,
            template_variables=self._scope.context.transcript.template_variables,
        )

    def _note_end(self, finish: StepFinishReason, usage: TokenUsage) -> None:
        self._unsent_end = StepCompleted(self.number, finish, usage)
        self._scope.account.note(self._unsent_end)

    async def _send_end(self) -> None:
        if self._unsent_end is not None:
            await self._scope.emit(self._unsent_end)
            self._unsent_end = None
