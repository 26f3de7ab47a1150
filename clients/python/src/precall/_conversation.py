"""A conversation: one stream, its turns and its tools.

Owns: which turn runs, which requests wait for their answer, and where each event goes.
Concurrency: used from one event loop; one turn at a time. Nothing that takes an event waits, so
invocations, cancellations and answers never wait behind events that have not been read.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

from precall import _errors, _events_in, _frames, _speculation_frames, _telemetry
from precall._begun import with_begun
from precall._errors import ConversationClosedError, PrecallError
from precall._feed import TurnFeed
from precall._invocations import Invocations
from precall._messages import Answer
from precall._opening import Opening
from precall._opening_tries import open_with_tries
from precall._registrations import ToolVersions
from precall._replies import Replies
from precall._server import Capability, ServerLimits
from precall._speculation import Speculation
from precall._stream import ConverseStream
from precall._tool import Tool, ToolLike, ToolOptions, as_tool
from precall._turn import Turn
from precall._turn_options import TurnOptions
from precall.v1 import agent_pb2, tool_pb2, turn_pb2

logger = logging.getLogger("precall")


@dataclass(frozen=True, slots=True)
class _Open:
    """The parts that exist only while a conversation is open."""

    stream: ConverseStream
    invocations: Invocations


class Conversation:
    """Messages shared with the model, and the tools that it may call. Made by `Client`.

    Use it with `async with`, or call `open()` and `close()`, as in a notebook.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._options = opening.options
        self._open: _Open | None = None
        self._end: PrecallError | None = None
        self._turn: TurnFeed | None = None
        self._versions = ToolVersions(opening.loosened)
        self._replies = Replies(opening.options.answer_timeout_s)
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def id(self) -> str:
        """The conversation's id, made by the server."""
        return self._opened.conversation_id

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._opened.model

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The server's capabilities when the conversation was opened.

        Capabilities that depend on the engine, such as TOOL_CALLS, are missing while it starts:
        call `client.server_info()` later for those. TOOL_CACHE, SPECULATION and APPROVALS depend
        only on the server.
        """
        return _frames.capabilities(self._opened.capabilities)

    @property
    def limits(self) -> ServerLimits:
        """The server's limits. `context_tokens_max` is 0 if the engine was still starting."""
        return _frames.limits(self._opened.limits)

    @property
    def speculation(self) -> Speculation:
        """The speculation that the server grants; its mode is OFF if the server has none."""
        return _speculation_frames.granted(self._opened.speculation)

    @property
    def expires_after_s(self) -> float:
        """Seconds for which the server keeps an idle conversation."""
        return _frames.seconds(self._opened.expires_after)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that the model may call."""
        return tuple(self._live().invocations.tools.values())

    def tool_version(self, name: str) -> str:
        """Returns the version with which the server has registered a tool, for `client.cache`.

        Raises:
            ToolRejectedError: The conversation has no tool of that name.
            ConversationClosedError: The conversation is not open.
        """
        self._live()
        return self._versions.of(name)

    async def open(self) -> Self:
        """Opens the conversation at the server, with its tools.

        If the server is full, or ends the call unseen, it is tried again: see
        `ClientOptions.open_tries_max`. Warns with `NotServedWarning` of tools' options that have no
        effect on this server.

        Raises:
            ConnectError: No precall server could be reached, it did not answer in time, or the
                client was closed.
            ToolRejectedError: The server refused a tool.
            PrecallError: The server refused the conversation, with its reason.
            RuntimeError: It has been opened before, or the client belongs to another event loop.
        """
        if self._open is not None or self._end is not None:
            raise RuntimeError("a conversation opens once; make another with client.conversation()")
        opening = self._opening
        frame = agent_pb2.OpenConversation()
        frame.CopyFrom(opening.frame)
        frame.tools.extend(_frames.tool(tool) for tool in opening.tools)
        stream, connected = await open_with_tries(
            lambda: opening.connect(self), frame, address=opening.address, options=self._options
        )
        invocations = Invocations(
            stream.send,
            pool=connected.pool,
            limits=_frames.limits(stream.opened.limits),
            options=self._options,
        )
        invocations.tools.update((tool.name, tool) for tool in opening.tools)
        self._open = _Open(stream, invocations)
        stream.start(self._on_event, self._on_end)
        try:
            self._versions.register(stream.opened.registrations)
            opening.unserved.warn(opening.tools, self.capabilities)  # a filter may make it an error
        except Exception:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Ends the conversation: its turn, its handlers and its stream. Bounded and idempotent."""
        if self._open is None:
            return
        closing, self._open = self._open, None
        self._on_end(ConversationClosedError("the conversation was closed"))
        try:
            await closing.invocations.close()
        finally:
            await closing.stream.close()

    def send(self, text: str, **options: Unpack[TurnOptions]) -> Turn:
        """Returns the turn that answers a user's message: iterate over it, or await its answer.

        One turn runs at a time; a second one raises TurnRunningError when it starts. Its handlers
        see the context variables as they are now, each run in a copy of its own.

        Raises:
            TypeError: There is no such option, or the text or an option has the wrong type.
            ValueError: An option has a value that is not allowed, or `tool_choice` is a function
                that is not a tool of this conversation.
        """
        turn_id = options.get("turn_id") or uuid.uuid4().hex
        offered = self.tools if self._open else self._opening.tools
        frame = _frames.start_turn(text, turn_id, options, offered)

        async def begin(feed: TurnFeed) -> None:
            await self._begin(feed, frame)

        return Turn(
            TurnFeed(turn_id, self._options.waiting_events_max), begin=begin, cancel=self._cancel
        )

    async def ask(self, text: str, **options: Unpack[TurnOptions]) -> Answer:
        """Returns the answer to a user's message; `str(answer)` is its text.

        A turn that was cut by a limit or cancelled raises no error: see `Answer.outcome`.

        Raises:
            PrecallError: As `Turn.answer`.
            TypeError, ValueError: As `send`.

        On cancel: the turn is cancelled on the server.
        """
        return await self.send(text, **options).answer()

    async def add_tool(self, function: ToolLike, **options: Unpack[ToolOptions]) -> Tool:
        """Adds a tool, or replaces the tool of the same name, and returns it.

        A new tool is offered from the next turn on. A replaced tool runs in its new form at once,
        also for calls of the turn that runs. A function that is a tool of the client keeps its
        options if none are given here. Warns with `NotServedWarning` of options that have no effect
        on this server.

        Raises:
            ToolRejectedError: The server refused the tool; the previous one stays.
            UnavailableError: No answer came in time. The tool stays, since the server may have
                taken it: add it again.
            TypeError: The function cannot be a tool.

        On cancel: as when no answer comes in time.
        """
        tool = as_tool(function, **options) if options else self._opening.known(function)
        live = self._live()
        self._opening.unserved.warn([tool], self.capabilities)
        tools = live.invocations.tools
        async with self._changing:
            before = tools.get(tool.name)
            # An invocation may come together with the answer: the handler has to be there first.
            tools[tool.name] = tool
            try:
                frame = tool_pb2.RegisterTools(tools=[_frames.tool(tool)])
                reply = await self._replies.reply(
                    live.stream, agent_pb2.ConverseRequest(register_tools=frame)
                )
                assert isinstance(reply, tool_pb2.ToolsRegistered)
                self._versions.register(reply.registrations)
            except PrecallError as error:
                if error.reason:  # the server refused; without a reason, it may have taken the tool
                    _put_back(tools, tool.name, before)
                else:
                    self._versions.forget(tool.name)
                raise
        return tool

    async def remove_tool(self, name: str) -> None:
        """Removes a tool. Runs in flight finish; later calls end as UNAVAILABLE, also in this turn.

        Raises:
            ToolRejectedError: The conversation has no tool of that name.
            UnavailableError: No answer came in time: remove it again.
        """
        live = self._live()
        async with self._changing:
            frame = agent_pb2.ConverseRequest(withdraw_tools=tool_pb2.WithdrawTools(names=[name]))
            reply = await self._replies.reply(live.stream, frame)
            assert isinstance(reply, tool_pb2.ToolsWithdrawn)
            if name in reply.unknown_names:
                raise _errors.no_tool("conversation", name)
            self._versions.forget(name)
            live.invocations.tools.pop(name, None)

    @property
    def _opened(self) -> agent_pb2.ConversationOpened:
        return self._live().stream.opened

    def _live(self) -> _Open:
        if self._open is None:
            raise ConversationClosedError(
                "the conversation was closed" if self._end else "the conversation is not open yet"
            )
        return self._open

    async def _begin(self, feed: TurnFeed, frame: turn_pb2.StartTurn) -> None:
        """Starts a turn. If the previous one was abandoned, waits for its end first."""
        live = self._live()
        while (running := self._turn) is not None and not running.ended:
            if not running.abandoned:
                raise _errors.of_reason(
                    "TURN_RUNNING",
                    f"turn {running.turn_id} is running in this conversation: read it to its end, "
                    "cancel it, or use another conversation",
                    metadata={"turn_id": running.turn_id},
                )
            await self._end_abandoned(running)
        self._turn = feed
        if (context := _telemetry.current()) is not None:
            frame.trace_context.CopyFrom(context)
        try:
            feed.frame_sequence = await live.stream.send(
                agent_pb2.ConverseRequest(start_turn=frame)
            )
        finally:
            if not feed.frame_sequence:
                self._turn = None

    async def _end_abandoned(self, running: TurnFeed) -> None:
        running.discard()
        await self._cancel(running)
        try:
            async with asyncio.timeout(self._options.answer_timeout_s):
                await running.wait_ended()
        except TimeoutError:
            raise _errors.of_reason(
                "TURN_RUNNING",
                f"turn {running.turn_id} was cancelled and has not ended yet",
                metadata={"turn_id": running.turn_id},
            ) from None

    async def _cancel(self, feed: TurnFeed) -> None:
        """Sends the cancellation of a turn, once."""
        if feed.cancel_sent or feed.ended or not feed.frame_sequence or self._open is None:
            return
        feed.cancel_sent = True
        frame = turn_pb2.CancelTurn(turn_id=feed.turn_id)
        try:
            await self._open.stream.send(agent_pb2.ConverseRequest(cancel_turn=frame))
        except PrecallError as error:
            feed.cancel_sent = False
            logger.debug("turn %s could not be cancelled: %s", feed.turn_id, error)
        except BaseException:
            feed.cancel_sent = False
            raise

    def _on_event(self, event: agent_pb2.ConverseResponse) -> None:
        """Hands one event of the server to the part that it is for."""
        match event.WhichOneof("event"):
            case "invoke":
                if self._open is not None:
                    self._open.invocations.start(event.invoke, self._context_of(event.turn_id))
            case "cancel_invocation":
                if self._open is not None:
                    self._open.invocations.cancel(event.cancel_invocation)
            case "invocation_committed":
                if self._open is not None:
                    self._open.invocations.commit(event.invocation_committed)
            case "tools_registered":
                self._replies.settle(event.tools_registered)
            case "tools_withdrawn":
                self._replies.settle(event.tools_withdrawn)
            case "frame_rejected":
                rejected = event.frame_rejected
                self._on_rejected(rejected.frame_sequence, _errors.from_status(rejected.error))
            case "go_away":
                logger.info("the server will close the stream: %s", event.go_away.message)
            case _:
                value = _events_in.event(event)
                if value is not None and self._turn and self._turn.turn_id == event.turn_id:
                    self._turn.put(value)

    def _context_of(self, turn_id: str) -> contextvars.Context:
        """Returns a turn's context variables; none if it is not running, lest they be another's."""
        turn = self._turn
        return turn.context if turn and turn.turn_id == turn_id else contextvars.Context()

    def _on_rejected(self, frame_sequence: int, error: PrecallError) -> None:
        if self._turn is not None and frame_sequence == self._turn.frame_sequence:
            self._turn.end(error)
        elif not self._replies.refuse(frame_sequence, error):
            # An answer or a cancellation that crossed with the end of its turn or its run.
            logger.debug("the server refused frame %s: %r", frame_sequence, error)

    def _on_end(self, reason: PrecallError) -> None:
        """Ends everything that waits for the server. Later reasons are ignored."""
        if self._end is not None:
            return
        self._end = reason
        if self._turn is not None:
            if self._open is not None:
                begun = self._open.invocations.begun(self._turn.turn_id)
                self._turn.end(with_begun(reason, begun))
            self._turn.end(reason)
        self._replies.end(reason)
        if self._open is not None:
            self._open.invocations.cancel_all()  # their results cannot be sent any more


def _put_back(tools: dict[str, Tool], name: str, before: Tool | None) -> None:
    if before is None:
        tools.pop(name, None)
    else:
        tools[name] = before
