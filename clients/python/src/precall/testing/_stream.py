"""One stream of a fake server: records the client's frames and answers them by the contract."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeAlias

import grpc
import grpc.aio
from google.rpc.status_pb2 import Status

from precall import _frames
from precall._scope import TaskScope
from precall.testing._fields import check_count, invalid, not_served
from precall.testing._opening_refusals import check_opening, check_tenant
from precall.testing._player import BrokenStreamError, TurnPlayer
from precall.testing._runs import HandlerRuns
from precall.testing._script import Refuse
from precall.testing._status import RefusedError, abort, status
from precall.testing._tools import OfferedTools
from precall.testing._turn_refusals import check_choice, check_turn
from precall.v1 import agent_pb2, common_pb2, invocation_pb2, prediction_pb2, tool_pb2, turn_pb2

if TYPE_CHECKING:
    from precall.testing._server import FakeServer

Frame: TypeAlias = agent_pb2.ConverseResponse
Frames: TypeAlias = AsyncIterator[agent_pb2.ConverseRequest]
Context: TypeAlias = "grpc.aio.ServicerContext[Frames, AsyncIterator[Frame]]"

_OUTGOING_MAX = 256
_ENDED_TURNS_MAX = 32


class FakeStream:
    """A conversation as the fake server sees it."""

    def __init__(self, server: FakeServer, conversation_id: str) -> None:
        self._server = server
        self._id = conversation_id
        self._outgoing: asyncio.Queue[Frame | None] = asyncio.Queue(_OUTGOING_MAX)
        self._tools = OfferedTools(server.refuse_tools, server.tools, server.limits)
        self._scope = TaskScope()
        self._turn: TurnPlayer | None = None
        self._turn_task: asyncio.Task[None] | None = None
        self._ended_turns: OrderedDict[str, TurnPlayer] = OrderedDict()
        self._speculation = prediction_pb2.SpeculationSettings()
        self._sequence = 0
        self._received = 0
        self._messages = 0
        self._ended = False
        self._broken: BrokenStreamError | None = None

    async def serve(self, frames: Frames, context: Context) -> AsyncIterator[Frame]:
        """Yields the server's frames until the conversation is closed or the stream is broken."""
        metadata = context.invocation_metadata() or ()
        try:
            check_tenant(metadata)
            first = await anext(aiter(frames), None) or agent_pb2.ConverseRequest(sequence=1)
            self._check_handshake(first)
        except RefusedError as refusal:
            await abort(context, refusal.status)
        self._received = first.sequence
        self._messages = len(first.open.history)
        self._server.frames.append(first)
        if (refused := self._server.refuse_open) is not None:
            await abort(context, status(refused.reason, refused.message, refused.retry_after_s))
        self._speculation = self._granted(first.open)
        yield self._numbered(self._opened(first.open))
        self._scope.start(self._read(frames), name="fake server's reader")
        try:
            while (frame := await self._outgoing.get()) is not None:
                yield self._numbered(frame)
        finally:
            self._ended = True
            await self._scope.close(1.0)
        if self._broken is not None:
            if self._broken.ending is not None:
                await abort(context, self._broken.ending)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the script broke the stream")

    async def _read(self, frames: Frames) -> None:
        """Answers the frames. Closing ends the turn; half-closing only takes its tools away."""
        try:
            async for frame in frames:
                self._server.frames.append(frame)
                if frame.WhichOneof("frame") == "close":
                    return
                try:
                    self._check_frame(frame)
                    await self._answer(frame)
                except RefusedError as refused:
                    await self._reject(frame, refused.status)
                self._received = max(self._received, frame.sequence)
            if self._turn is not None and self._turn_task is not None:
                self._turn.runs.hang_up()
                await asyncio.wait({self._turn_task})
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._turn_task is not None:
            self._turn_task.cancel()
        await self._outgoing.put(None)

    async def _answer(self, frame: agent_pb2.ConverseRequest) -> None:
        match frame.WhichOneof("frame"):
            case "register_tools":
                tools = frame.register_tools.tools
                self._check_count("register_tools.tools", len(tools))
                registered = tool_pb2.ToolsRegistered(
                    frame_sequence=frame.sequence,
                    registrations=self._tools.register(tools, "register_tools.tools"),
                )
                await self._emit(Frame(tools_registered=registered))
            case "withdraw_tools":
                await self._withdraw(frame)
            case "start_turn":
                await self._start(frame)
            case "cancel_turn":
                self._cancel(frame.cancel_turn.turn_id)
            case "invocation_result":
                self._settle(frame.invocation_result)
            case "invocation_progress":
                progress = frame.invocation_progress
                if progress.HasField("fraction") and not 0 <= progress.fraction <= 1:
                    problem = f"it must be from 0 to 1, not {progress.fraction:g}"
                    raise invalid("invocation_progress.fraction", problem)
                runs = self._owner_of(progress.invocation_id, "invocation_progress")
                await runs.progress(progress)
            case "acknowledge":
                pass
            case "open" | "resume":
                raise RefusedError("HANDSHAKE_REPEATED", "the stream is open already")
            case None:
                raise RefusedError("FRAME_UNKNOWN", "the frame's oneof is unset", "frame")
            case name:
                raise not_served(f"ConverseRequest.{name}")

    async def _start(self, frame: agent_pb2.ConverseRequest) -> None:
        start = frame.start_turn
        self._check_turn(start)
        if (known := self._known(start)) is not None:
            if known.completed is not None:
                await self._emit(Frame(turn_id=start.turn_id, turn_completed=known.completed))
            return
        most = self._server.limits.messages_max
        if most and self._messages >= most:
            text = f"the conversation has {self._messages} messages, the limit is {most}"
            raise RefusedError("LIMIT_REACHED", text, "start_turn")
        check_choice(start.generation.tool_choice, self._tools.names())
        entries = self._server.next_script(start)
        if entries and isinstance(refused := entries[0], Refuse):
            error = status(refused.reason, refused.message, refused.retry_after_s)
            await self._reject(frame, error)
            return
        self._turn = TurnPlayer(
            start,
            entries,
            conversation_id=self._id,
            tools=self._tools,
            cache=self._server.cache,
            default_timeout=_frames.duration(self._server.tool_timeout_s),
            speculation=self._speculation,
            emit=self._emit,
        )
        self._turn_task = self._scope.start(self._play(self._turn), name="fake server's turn")

    def _check_handshake(self, first: agent_pb2.ConverseRequest) -> None:
        self._check_frame(first)
        if first.WhichOneof("frame") == "resume":
            raise not_served("ConverseRequest.resume")
        if first.WhichOneof("frame") != "open":
            raise RefusedError("HANDSHAKE_REQUIRED", "send `open` first", "frame")
        check_opening(first.open, self._server.model, self._server.limits)

    def _check_frame(self, frame: agent_pb2.ConverseRequest) -> None:
        size, limit = frame.ByteSize(), self._server.limits.frame_bytes_max
        if limit and size > limit and frame.WhichOneof("frame") != "invocation_result":
            text = f"the frame has {size} bytes, the limit is {limit}: send less, or split it up"
            raise RefusedError("TOO_LARGE", text)
        if frame.sequence != self._received + 1:
            raise invalid("sequence", f"it must be {self._received + 1}, not {frame.sequence}")

    def _check_count(self, field: str, count: int) -> None:
        check_count(field, count, self._server.limits.tools_max, "tools")

    def _check_turn(self, start: turn_pb2.StartTurn) -> None:
        """Raises the refusal of a turn that no script can accept."""
        check_turn(start, self._server.limits)
        known = self._known(start)
        if known is not None and _without_trace(known.start) != _without_trace(start):
            text = f"turn id {start.turn_id!r} was used for another turn"
            raise RefusedError("TURN_ID_REUSED", text, "start_turn.turn_id")
        if known is None and self._turn_task is not None and not self._turn_task.done():
            raise RefusedError("TURN_RUNNING", "a turn is running", "start_turn")

    def _cancel(self, turn_id: str) -> None:
        """Cancels the turn that runs. One that has ended stays as it is."""
        task, turn = self._turn_task, self._turn
        runs = task is not None and turn is not None and not task.done()
        if task is not None and turn is not None and runs and turn_id in ("", turn.start.turn_id):
            task.cancel()
        elif turn_id not in self._ended_turns:
            text = f"no turn {turn_id!r} is running" if turn_id else "no turn is running"
            raise RefusedError("TURN_UNKNOWN", text, "cancel_turn.turn_id")

    def _known(self, start: turn_pb2.StartTurn) -> TurnPlayer | None:
        """Returns the turn of that id that runs, or that has ended and is kept."""
        if self._turn is not None and self._turn.start.turn_id == start.turn_id:
            return self._turn if self._turn.completed is None or self._turn.is_kept else None
        return self._ended_turns.get(start.turn_id)

    async def _play(self, turn: TurnPlayer) -> None:
        try:
            await turn.play()
        except BrokenStreamError as broken:
            self._broken = broken
            await self._outgoing.put(None)
        finally:
            self._server.results.extend(turn.results)
            self._messages += turn.messages
            if turn.is_kept:
                self._ended_turns[turn.start.turn_id] = turn
            if len(self._ended_turns) > _ENDED_TURNS_MAX:
                self._ended_turns.popitem(last=False)

    def _settle(self, result: invocation_pb2.InvocationResult) -> None:
        if result.WhichOneof("outcome") is None:
            raise invalid("invocation_result.outcome", "it is unset")
        runs = self._owner_of(result.invocation_id, "invocation_result")
        runs.settle(result, self._server.limits.result_bytes_max)

    def _owner_of(self, invocation_id: str, frame: str) -> HandlerRuns:
        if self._turn is None or not self._turn.runs.owns(invocation_id):
            text = f"no invocation {invocation_id!r} waits"
            raise RefusedError("INVOCATION_UNKNOWN", text, f"{frame}.invocation_id")
        return self._turn.runs

    async def _withdraw(self, frame: agent_pb2.ConverseRequest) -> None:
        self._check_count("withdraw_tools.names", len(frame.withdraw_tools.names))
        withdrawn, unknown = self._tools.withdraw(frame.withdraw_tools.names)
        answer = tool_pb2.ToolsWithdrawn(
            frame_sequence=frame.sequence, names=withdrawn, unknown_names=unknown
        )
        await self._emit(Frame(tools_withdrawn=answer))

    async def _reject(self, frame: agent_pb2.ConverseRequest, error: Status) -> None:
        rejected = common_pb2.FrameRejected(frame_sequence=frame.sequence, error=error)
        await self._emit(Frame(frame_rejected=rejected))

    async def _emit(self, frame: Frame) -> None:
        if not self._ended:
            await self._outgoing.put(frame)

    def _opened(self, opening: agent_pb2.OpenConversation) -> Frame:
        return Frame(
            opened=agent_pb2.ConversationOpened(
                conversation_id=self._id,
                expires_after=_frames.duration(3600.0),
                model=self._server.model,
                capabilities=self._server.capabilities,
                limits=self._server.limits,
                speculation=self._speculation,
                registrations=self._tools.register(opening.tools, "open.tools"),
            )
        )

    def _granted(self, opening: agent_pb2.OpenConversation) -> prediction_pb2.SpeculationSettings:
        """Returns what was asked for; ISSUE if no mode was, and OFF without the capability."""
        granted = prediction_pb2.SpeculationSettings()
        if agent_pb2.CAPABILITY_SPECULATION not in self._server.capabilities:
            granted.mode = prediction_pb2.SPECULATION_MODE_OFF
            return granted
        granted.CopyFrom(opening.speculation)
        granted.mode = granted.mode or prediction_pb2.SPECULATION_MODE_ISSUE
        return granted

    def _numbered(self, frame: Frame) -> Frame:
        self._sequence += 1
        frame.sequence = self._sequence
        frame.acknowledged = self._received
        return frame


def _without_trace(start: turn_pb2.StartTurn) -> turn_pb2.StartTurn:
    """Returns the parts of a turn that must be equal when it is sent again."""
    same = turn_pb2.StartTurn()
    same.CopyFrom(start)
    same.ClearField("trace_context")
    return same
