"""All conversations of the process: their limit, and their drain.

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
from precall_service.agent.limits import AgentLimits
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import GoAway, TurnOutcome
from precall_service.domain.messages import Transcript
from precall_service.domain.speculation import SpeculationRequest
from precall_service.tools.declarations import ToolLimits

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5.0


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
            ServiceError: OVERLOADED if too many are open; DRAINING if the server is shutting down.
        """
        if self._draining:
            raise self._shutting_down()
        if len(self._open) >= self.limits.conversations_max:
            raise ServiceError(
                Reason.OVERLOADED,
                f"this server has {len(self._open)} conversations, which is the limit: try again "
                f"in {RETRY_AFTER_S:g} s, or on another replica",
                retry_after_s=RETRY_AFTER_S,
                metadata={"limit": str(self.limits.conversations_max)},
            )
        conversation = Conversation(
            conversation_id=f"conv-{secrets.token_hex(12)}",
            tenant=tenant,
            agent_name=agent_name,
            transcript=transcript,
            speculation=self._services.speculation.limits.most.narrowed(speculation),
            services=self._services,
            limits=self.limits,
        )
        self._open.add(conversation)
        self._idle.clear()
        try:
            yield conversation
        finally:
            self._open.discard(conversation)
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
