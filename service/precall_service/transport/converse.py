"""One Converse stream: does its handshake, reads its frames, and writes its events.

Owns: the stream and the numbers of the client's frames.
Never: decides what frames mean; the conversation does.
Concurrency: one coroutine reads, one writes and one runs turns; all end with the stream.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from functools import partial

import grpc.aio
from google.protobuf.message import DecodeError

from precall.v1 import agent_pb2
from precall_service.agent.conversation import Conversation
from precall_service.agent.conversations import Conversations
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import FrameRejected, ToolRegistration, TurnOutcome
from precall_service.incidents import report_defect
from precall_service.tasks import traceless
from precall_service.transport import events_out, frames_in, opening_in
from precall_service.transport.decoding import AT_ONCE_BYTES_MAX
from precall_service.transport.fields import duration
from precall_service.transport.reception import Reception
from precall_service.transport.server_info import ServerInfo
from precall_service.transport.speculation import speculation_settings
from precall_service.transport.stall import WriteWatch
from precall_service.transport.statuses import not_served

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, agent_pb2.ConverseResponse]

_SEQUENCE_MAX = 2**64 - 1
_REFUSALS_LOGGED_MAX = 10
"""Refused frames that have a line in the log; the end of the conversation counts all."""

_NOT_SERVED = {
    "cancel_tool_call": "CAPABILITY_INTERJECTION",
    "approval_decision": "CAPABILITY_APPROVALS",
}


class ConverseStream:
    """Serves one AgentService.Converse RPC."""

    def __init__(
        self,
        context: Context,
        conversations: Conversations,
        info: ServerInfo,
        reception: Reception,
        *,
        unread_s: float,
    ) -> None:
        self._context = context
        self._conversations = conversations
        self._info = info
        self._reception = reception
        self._unread_s = unread_s
        self._tools_max = conversations.tool_limits.tools_max
        self._refused = 0
        self._processed = 0
        """The highest sequence number of a processed frame."""

    async def serve(self) -> None:
        """Serves the stream to its end.

        Raises:
            ServiceError: the status that the stream ends with, if not OK.
        On cancel (the client is gone): the turn is cancelled and everything is released.
        """
        tenant = "unknown"
        with ExitStack() as stack:
            try:
                tenant = opening_in.tenant(self._context.invocation_metadata() or ())
                opening = await self._handshake(tenant)
                conversation = stack.enter_context(
                    self._conversations.opened(
                        tenant, opening.agent_name, opening.transcript, opening.speculation
                    )
                )
            except ServiceError as error:
                whom = self._context.peer(), tenant
                log.info("refused a conversation to %s (tenant %s): %s", *whom, error.label)
                self._conversations.refusals.note(tenant, error.reason)
                raise
            proposed = await conversation.register(opening.proposals, path="open.tools")
            registrations = await conversation.judged(proposed)
            log.info("%s opened by %r", conversation.who, opening.client_name)
            del opening  # else the history would stay in memory as long as the stream
            await self._converse(conversation, registrations)
        if conversation.error is not None:
            raise conversation.error

    async def _converse(
        self, conversation: Conversation, registrations: tuple[ToolRegistration, ...]
    ) -> None:
        """Reads, writes and runs turns until the conversation has ended."""
        how = "failed"
        try:
            async with asyncio.TaskGroup() as group:
                who = conversation.who  # tasks have names for the watch on the event loop
                group.create_task(traceless(conversation.run), name=f"turns of {who}")
                reader = group.create_task(
                    traceless(partial(self._read, conversation)), name=f"reader of {who}"
                )
                try:
                    await self._write(conversation, registrations)
                except asyncio.CancelledError:  # thousands may leave in one moment
                    await self._reception.intake.turn(conversation.tenant)
                    raise
                reader.cancel()
            how = "closed" if conversation.error is None else conversation.error.label
        except asyncio.CancelledError:
            how = "the client left"
            raise
        finally:
            log.info("%s ended: %s; frames refused: %d", conversation.who, how, self._refused)

    async def _handshake(self, tenant: str) -> opening_in.Opening:
        try:
            # The slot is kept until it is decoded: no more of them than slots are held in memory.
            async with self._reception.arrivals.slot(tenant):
                data = await self._context.read()
                frame = await self._decoded(data, tenant)
        except TimeoutError:
            limit_s = self._reception.arrivals.limits.timeout_s
            raise _no_handshake(f"no whole frame came within {limit_s:g} s") from None
        if frame is None:
            raise _no_handshake("the stream ended before its first frame")
        self._check_frame(frame, len(data))
        match frame.WhichOneof("frame"):
            case "open":
                self._processed = frame.sequence
                return await self._opening(frame.open, len(data))
            case "resume":
                raise not_served("ConverseRequest.resume", "CAPABILITY_RESUME")
            case other:
                raise _no_handshake(f"the first frame was {other or 'empty'!s}")

    async def _opening(self, frame: agent_pb2.OpenConversation, size: int) -> opening_in.Opening:
        """Returns the checked handshake. A large one is checked in a thread, piece by piece."""
        checked = partial(
            opening_in.opening,
            frame,
            self._info.model,
            self._conversations.limits,
            arguments_bytes_max=self._conversations.tool_limits.arguments_bytes_max,
            tools_max=self._tools_max,
        )
        if size <= AT_ONCE_BYTES_MAX:
            return checked()
        return await asyncio.to_thread(checked)

    def _opened(
        self, conversation: Conversation, registrations: tuple[ToolRegistration, ...]
    ) -> agent_pb2.ConverseResponse:
        opened = agent_pb2.ConversationOpened(
            conversation_id=conversation.conversation_id,
            expires_after=duration(conversation.limits.idle_expiry_s),
            model=self._info.model,
            capabilities=self._info.capabilities(),
            limits=self._info.limits(),
            speculation=speculation_settings(conversation.speculation),
            registrations=map(events_out.tool_registration, registrations),
        )
        return agent_pb2.ConverseResponse(
            sequence=conversation.outbox.take_number(), acknowledged=self._processed, opened=opened
        )

    async def _write(
        self, conversation: Conversation, registrations: tuple[ToolRegistration, ...]
    ) -> None:
        """Answers the handshake, then sends events until the conversation's run has ended.

        If the client reads nothing, the conversation ends, because its turn holds a share of the
        engine.
        """
        outbox, context = conversation.outbox, self._context
        try:
            async with WriteWatch(self._info.clock, self._unread_s) as watch:
                watch.begin()
                await context.write(self._opened(conversation, registrations))
                watch.end()
                while numbered := await outbox.take():
                    for event in numbered:
                        watch.begin()
                        await context.write(events_out.converse_response(event, self._processed))
                    watch.end()
        except TimeoutError:
            unread = _unread(self._unread_s)
            conversation.end(unread, TurnOutcome.CANCELLED, status=unread)
        finally:
            outbox.close()  # the client may be gone: writers must not wait for it to read

    async def _read(self, conversation: Conversation) -> None:
        """Processes frames until the client half-closes or closes the conversation."""
        while True:
            conversation.renew()
            try:
                data = await self._context.read()
                frame = await self._decoded(data, conversation.tenant)
            except ServiceError as error:  # its number is unreadable; it must be the next one
                self._processed = min(self._processed + 1, _SEQUENCE_MAX)
                await self._refuse(conversation, 0, error)
                continue
            if frame is None:
                conversation.hang_up()
                return
            if frame.WhichOneof("frame") == "close":
                closed = ServiceError(Reason.CANCELLED, "the client closed the conversation")
                conversation.end(closed, TurnOutcome.CANCELLED)
                return
            try:
                self._check_frame(frame, len(data))
                await self._process(conversation, frame)
            except ServiceError as error:
                await self._refuse(conversation, frame.sequence, error)
            except Exception as error:  # noqa: BLE001 - a defect must not end the conversation
                kind = frame.WhichOneof("frame") or "empty"
                what = f"frame {frame.sequence} ({kind}) of {conversation.who}"
                await self._refuse(conversation, frame.sequence, report_defect(log, what, error))
            self._processed = max(self._processed, frame.sequence)
            del frame, data  # else they would stay in memory until the next one arrives

    async def _refuse(self, conversation: Conversation, frame: int, error: ServiceError) -> None:
        self._refused += 1
        conversation.refused(error.reason)
        if self._refused <= _REFUSALS_LOGGED_MAX:
            log.info("%s: refused frame %d: %s", conversation.who, frame, error.label)
        await conversation.outbox.put(FrameRejected(frame, error))

    async def _decoded(self, data: bytes, tenant: str) -> agent_pb2.ConverseRequest | None:
        """Returns the frame that the bytes are, in its turn; None for the end of the stream.

        Raises:
            ServiceError: FRAME_UNKNOWN if they are none, TOO_LARGE if it has too many fields.
        """
        if data is grpc.aio.EOF:
            await self._reception.intake.turn(tenant)
            return None
        try:
            return await self._reception.decoder.decoded(
                data, agent_pb2.ConverseRequest, whose=tenant
            )
        except DecodeError as error:
            raise ServiceError(
                Reason.FRAME_UNKNOWN,
                f"the bytes are not a ConverseRequest of the contract: {error}",
                field="frame",
            ) from None

    def _check_frame(self, frame: agent_pb2.ConverseRequest, size: int) -> None:
        limit = self._info.frame_bytes_max
        # A result has its own limit. A refusal here would leave its call open until the timeout.
        if size > limit and frame.WhichOneof("frame") != "invocation_result":
            raise ServiceError(
                Reason.TOO_LARGE,
                f"the frame has {size} bytes, the limit is {limit}: send less, or split it up",
                metadata={"size": str(size), "limit": str(limit)},
            )
        if frame.sequence != self._processed + 1:
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"sequence: it must be {self._processed + 1}, not {frame.sequence}: number the "
                "frames 1, 2, 3 and so on",
                field="sequence",
            )

    async def _process(
        self, conversation: Conversation, request: agent_pb2.ConverseRequest
    ) -> None:
        match request.WhichOneof("frame"):
            case "invocation_result":
                result = request.invocation_result
                await conversation.deliver(result.invocation_id, frames_in.handler_answer(result))
            case "invocation_progress":
                progress = request.invocation_progress
                conversation.progress(
                    progress.invocation_id, progress.message, frames_in.fraction(progress)
                )
            case "start_turn":
                limits = self._conversations.limits
                await conversation.start_turn(frames_in.turn_spec(request.start_turn, limits))
            case "cancel_turn":
                conversation.cancel_turn(request.cancel_turn.turn_id)
            case "register_tools":
                proposals = opening_in.proposals(
                    "register_tools.tools",
                    request.register_tools.tools,
                    tools_max=self._tools_max,
                )
                await conversation.register_tools(request.sequence, proposals)
            case "withdraw_tools":
                names = opening_in.tool_names(
                    "withdraw_tools.names",
                    request.withdraw_tools.names,
                    tools_max=self._tools_max,
                )
                await conversation.withdraw_tools(request.sequence, names)
            case "acknowledge":
                pass
            case "open" | "resume":
                raise ServiceError(
                    Reason.HANDSHAKE_REPEATED,
                    "this stream already has a conversation: open another stream for another one",
                )
            case "cancel_tool_call" | "approval_decision" as kind:
                raise not_served(f"ConverseRequest.{kind}", _NOT_SERVED[kind])
            case _:
                raise ServiceError(
                    Reason.FRAME_UNKNOWN,
                    "the frame's oneof is unset, or its member is from a newer version of the "
                    "contract: GetServerInfo returns this server's version",
                    field="frame",
                )


def _unread(limit_s: float) -> ServiceError:
    return ServiceError(
        Reason.FLOW_LIMIT,
        f"the client left events unread for {limit_s:g} s, which is the limit: open a new "
        "conversation with the history, and read events as they come",
        metadata={"limit_s": f"{limit_s:g}"},
    )


def _no_handshake(what: str) -> ServiceError:
    return ServiceError(
        Reason.HANDSHAKE_REQUIRED,
        f"{what}: a stream begins with `open`",
        field="frame",
    )
