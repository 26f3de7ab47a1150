"""One stream of a fake server: records the client's frames and answers them by the contract."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeAlias

import grpc
import grpc.aio

from precall import _frames
from precall._scope import TaskScope
from precall.testing._player import BrokenStreamError, TurnPlayer
from precall.testing._runs import HandlerRuns
from precall.testing._script import Refuse
from precall.testing._status import abort, content_text, status
from precall.testing._tools import OfferedTools
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
        self._tools = OfferedTools(server.refuse_tools, server.tools)
        self._scope = TaskScope()
        self._turn: TurnPlayer | None = None
        self._turn_task: asyncio.Task[None] | None = None
        self._ended_turns: OrderedDict[str, TurnPlayer] = OrderedDict()
        self._speculation = prediction_pb2.SpeculationSettings()
        self._sequence = 0
        self._received = 0
        self._ended = False
        self._broken: BrokenStreamError | None = None

    async def serve(self, frames: Frames, context: Context) -> AsyncIterator[Frame]:
        """Yields the server's frames until the conversation is closed or the stream is broken."""
        first = await anext(aiter(frames), None)
        if first is None or first.WhichOneof("frame") != "open":
            await abort(context, status("HANDSHAKE_REQUIRED", "send `open` first"))
        assert first is not None
        self._received = first.sequence
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
                self._received = frame.sequence
                self._server.frames.append(frame)
                if frame.WhichOneof("frame") == "close":
                    return
                await self._answer(frame)
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
                registered = tool_pb2.ToolsRegistered(
                    frame_sequence=frame.sequence,
                    registrations=map(self._tools.register, frame.register_tools.tools),
                )
                await self._emit(Frame(tools_registered=registered))
            case "withdraw_tools":
                await self._withdraw(frame)
            case "start_turn":
                await self._start(frame)
            case "cancel_turn":
                if self._turn_task is None or self._turn_task.done():
                    await self._refuse(frame, Refuse("TURN_UNKNOWN", "no turn runs"))
                else:
                    self._turn_task.cancel()
            case "invocation_result":
                await self._settle(frame)
            case "invocation_progress":
                runs = self._owner_of(frame.invocation_progress.invocation_id)
                if runs is not None:
                    await runs.progress(frame.invocation_progress)
            case "acknowledge":
                pass
            case "open" | "resume":
                refused = Refuse("HANDSHAKE_REPEATED", "the stream is open already")
                await self._refuse(frame, refused)
            case name:
                await self._refuse(frame, Refuse("NOT_SERVED", f"the fake does not serve {name}"))

    async def _start(self, frame: agent_pb2.ConverseRequest) -> None:
        start = frame.start_turn
        if (refused := self._refused(start)) is not None:
            await self._refuse(frame, refused)
            return
        if (known := self._known(start)) is not None:
            if known.completed is not None:
                await self._emit(Frame(turn_id=start.turn_id, turn_completed=known.completed))
            return
        entries = self._server.next_script(start)
        if entries and isinstance(refused := entries[0], Refuse):
            await self._refuse(frame, refused)
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

    def _refused(self, start: turn_pb2.StartTurn) -> Refuse | None:
        """Returns the refusal of a turn that no script can accept; None if there is none."""
        if not start.turn_id:
            return Refuse("FIELD_INVALID", "start_turn.turn_id is empty")
        if not content_text(start).strip():
            return Refuse("FIELD_INVALID", "start_turn.content is empty")
        known = self._known(start)
        if known is not None and _without_trace(known.start) != _without_trace(start):
            return Refuse("TURN_ID_REUSED", f"turn id {start.turn_id!r} was used for another turn")
        if known is None and self._turn_task is not None and not self._turn_task.done():
            return Refuse("TURN_RUNNING", "a turn is running")
        return None

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
            if turn.is_kept:
                self._ended_turns[turn.start.turn_id] = turn
            if len(self._ended_turns) > _ENDED_TURNS_MAX:
                self._ended_turns.popitem(last=False)

    async def _settle(self, frame: agent_pb2.ConverseRequest) -> None:
        result: invocation_pb2.InvocationResult = frame.invocation_result
        runs = self._owner_of(result.invocation_id)
        if runs is None:
            text = f"no invocation {result.invocation_id!r} waits"
            await self._refuse(frame, Refuse("INVOCATION_UNKNOWN", text))
        else:
            runs.settle(result)

    def _owner_of(self, invocation_id: str) -> HandlerRuns | None:
        runs = None if self._turn is None else self._turn.runs
        return runs if runs is not None and runs.owns(invocation_id) else None

    async def _withdraw(self, frame: agent_pb2.ConverseRequest) -> None:
        withdrawn, unknown = self._tools.withdraw(frame.withdraw_tools.names)
        answer = tool_pb2.ToolsWithdrawn(
            frame_sequence=frame.sequence, names=withdrawn, unknown_names=unknown
        )
        await self._emit(Frame(tools_withdrawn=answer))

    async def _refuse(self, frame: agent_pb2.ConverseRequest, refused: Refuse) -> None:
        error = status(refused.reason, refused.message, refused.retry_after_s)
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
                model=opening.model or self._server.model,
                capabilities=self._server.capabilities,
                limits=self._server.limits,
                speculation=self._speculation,
                registrations=map(self._tools.register, opening.tools),
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
