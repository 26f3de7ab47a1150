"""All conversations of the process: their limits, and their drain.

Owns: the open conversations.
Concurrency: one event loop; everything except `drain` is synchronous.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Generator
from contextlib import contextmanager

from precall_service.agent.context import TurnServices
from precall_service.agent.conversation import Conversation
from precall_service.agent.held_bytes import HeldBytes
from precall_service.agent.limits import AgentLimits
from precall_service.agent.refusals import RETRY_AFTER_S
from precall_service.agent.refused import RefusalCounts
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import GoAway, TurnOutcome
from precall_service.domain.messages import Transcript
from precall_service.domain.speculation import SpeculationRequest
from precall_service.tools.declarations import ToolLimits

log = logging.getLogger(__name__)


class Conversations:
    """Opens and counts conversations."""

    def __init__(
        self, services: TurnServices, limits: AgentLimits, tool_limits: ToolLimits
    ) -> None:
        self._services = services
        self._open: set[Conversation] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self.held = HeldBytes(limits)
        self.refusals = RefusalCounts()
        self.limits = limits
        self.tool_limits = tool_limits

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def opened(
        self,
        tenant: str,
        agent_name: str,
        transcript: Transcript,
        speculation: SpeculationRequest,
    ) -> Generator[Conversation]:
        """Yields a new conversation, which counts as open until the block ends.

        Its speculation is what is asked for, as far as the operator allows it.

        Raises:
            ServiceError: OVERLOADED if the server has too many conversations, or they hold too many
                bytes; LIMIT_REACHED if that holds of the tenant; DRAINING if the server is shutting
                down.
        """
        if self._draining:
            raise self._shutting_down()
        holding = self.held.open(tenant, transcript)
        conversation = Conversation(
            conversation_id=f"conv-{secrets.token_hex(12)}",
            tenant=tenant,
            agent_name=agent_name,
            transcript=transcript,
            speculation=self._services.speculation.limits.most.narrowed(speculation),
            services=self._services,
            limits=self.limits,
            holding=holding,
            refused=lambda reason: self.refusals.note(tenant, reason),
        )
        self._open.add(conversation)
        self._idle.clear()
        try:
            yield conversation
        finally:
            self._open.discard(conversation)
            conversation.close()
            self.held.close(tenant, holding)
            if not self._open:
                self._idle.set()

    async def drain(self, time_left_s: float) -> None:
        """Opens no more conversations, lets running turns finish, then ends the others.

        GoAway is sent to every client immediately, but dropped for a client whose outbox is full:
        that client sees only the status. On cancel: the open conversations end immediately.
        """
        self._draining = True
        error = self._shutting_down()
        for conversation in self._open:
            conversation.outbox.offer(GoAway(time_left_s, "the server is shutting down"))
            conversation.drain(error)
        try:
            async with asyncio.timeout(time_left_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d conversations did not end within the drain time", len(self._open))
        finally:
            for conversation in self._open:
                conversation.end(error, TurnOutcome.FAILED, status=error)

    def _shutting_down(self) -> ServiceError:
        return ServiceError(
            Reason.DRAINING,
            "the server is shutting down: connect to another replica, or try again in "
            f"{RETRY_AFTER_S:g} s",
            retry_after_s=RETRY_AFTER_S,
        )
