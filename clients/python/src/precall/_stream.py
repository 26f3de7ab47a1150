"""One Converse stream: frames out in order and numbered, events in, acknowledgements both ways.

Owns: the gRPC call, the numbers of frames, and how the stream begins and ends.
Never: handles turns or tools.
Concurrency: one task writes and one reads; all others only put frames in a bounded queue. A
cancelled gRPC read or write ends the whole call, so no other task may touch it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeAlias

import grpc
import grpc.aio

from precall import _errors
from precall._errors import ConnectError, ConnectionLostError, PrecallError
from precall._options import ClientOptions
from precall._scope import TaskScope, being_cancelled
from precall.v1 import agent_pb2, common_pb2

logger = logging.getLogger("precall")

Call: TypeAlias = "grpc.aio.StreamStreamCall[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse]"


class ConverseStream:
    """An open stream. Made by `open_stream`."""

    def __init__(self, call: Call, opened: agent_pb2.ConverseResponse, options: ClientOptions):
        self.opened = opened.opened
        """The server's answer to the handshake."""
        self._call = call
        self._options = options
        self._scope = TaskScope()
        self._outgoing: asyncio.Queue[agent_pb2.ConverseRequest] = asyncio.Queue(
            options.outgoing_frames_max
        )
        self._numbering = asyncio.Lock()
        self._sequence = 1  # the handshake
        self._processed = opened.sequence
        self._acknowledged = 0  # the highest event number that an outgoing frame has carried
        self._ended = asyncio.Event()
        self._ending: PrecallError = ConnectionLostError("the stream to the server has ended")
        self._given_up = False
        """Whether the client ended the call, because the server took no frames."""
        self._loop = asyncio.get_running_loop()

    def start(
        self,
        on_event: Callable[[agent_pb2.ConverseResponse], None],
        on_end: Callable[[PrecallError], None],
    ) -> None:
        """Starts reading and writing.

        Args:
            on_event: Takes each event in order. A PrecallError that it raises ends the stream.
            on_end: Called once, with the reason, when the stream has ended.
        """
        self._scope.start(self._write(), name="precall writer")
        self._scope.start(self._read(on_event, on_end), name="precall reader")

    async def send(self, frame: agent_pb2.ConverseRequest) -> int:
        """Puts a frame in the queue and returns its number. Waits while the queue is full.

        Raises:
            TooLargeError: The frame is over the granted limit; nothing was sent.
            ConnectionLostError: The server takes no frames any more.
            PrecallError: The stream has ended; the error says why.
            RuntimeError: This is not the event loop that the stream was opened in.

        On cancel: the frame is not sent.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this conversation belongs to another event loop: open one in this")
        limit = self.opened.limits.frame_bytes_max
        if limit and (size := frame.ByteSize()) > limit:
            raise _errors.of_reason(
                "TOO_LARGE",
                f"a frame of {size:,} bytes is over this server's limit of {limit:,} bytes",
                metadata={"bytes": str(size), "limit": str(limit)},
            )
        try:
            async with asyncio.timeout(self._options.write_timeout_s), self._numbering:
                self._check_open()
                frame.sequence = self._sequence + 1
                await self._outgoing.put(frame)
                # Not earlier, so that a cancelled put leaves no gap in the numbers.
                self._sequence = frame.sequence
                self._check_open()  # the end of the stream makes room, too
                return frame.sequence
        except TimeoutError:
            raise ConnectionLostError("the server takes no frames any more") from None

    async def close(self) -> None:
        """Ends the conversation and the stream, each in a bounded time."""
        frame = agent_pb2.ConverseRequest(close=agent_pb2.CloseConversation())
        try:
            async with asyncio.timeout(self._options.close_timeout_s):
                await self.send(frame)
                await self._ended.wait()
        except (TimeoutError, PrecallError):
            logger.debug("the stream did not end in an orderly way")
        finally:
            self._call.cancel()
            await self._scope.close(self._options.close_timeout_s)

    def _check_open(self) -> None:
        if self._ended.is_set():
            raise _errors.ended(self._ending) from self._ending

    async def _write(self) -> None:
        """Writes frames until the call ends. The reader finds out why it ended."""
        try:
            while True:
                frame = await self._outgoing.get()
                frame.acknowledged = self._acknowledged = self._processed
                async with asyncio.timeout(self._options.write_timeout_s):
                    await self._call.write(frame)
                if frame.WhichOneof("frame") == "close":
                    await self._call.done_writing()
        except TimeoutError:
            self._given_up = True
            self._ending = ConnectionLostError(
                f"the server took no frame for {self._options.write_timeout_s:g} s"
            )
            self._call.cancel()
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            logger.debug("the stream was cancelled before everything was written")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            logger.debug("the stream ended before everything was written")

    async def _read(
        self,
        on_event: Callable[[agent_pb2.ConverseResponse], None],
        on_end: Callable[[PrecallError], None],
    ) -> None:
        try:
            while isinstance(event := await self._call.read(), agent_pb2.ConverseResponse):
                on_event(event)
                self._processed = event.sequence
                self._acknowledge(event)
            self._ending = ConnectionLostError("the server ended the conversation's stream")
        except grpc.aio.AioRpcError as error:
            self._ending = _errors.from_rpc(error)
        except asyncio.CancelledError:  # a status CANCELLED is raised like that, too
            if being_cancelled():
                raise
            if not self._given_up:
                self._ending = await _errors.cancelled_stream(self._call)
        except PrecallError as error:
            self._ending = error
            self._call.cancel()
        finally:
            # Also when this task is cancelled: those that wait must learn that nothing will come.
            self._ended.set()
            while not self._outgoing.empty():  # releases the senders that wait for room
                self._outgoing.get_nowait()
            on_end(self._ending)

    def _acknowledge(self, event: agent_pb2.ConverseResponse) -> None:
        """Sends an Acknowledge unless another frame will carry the number soon.

        Frames in the queue are about to leave, and each of them carries it.
        """
        behind = self._processed - self._acknowledged
        ends_turn = event.WhichOneof("event") == "turn_completed"
        if behind < self._options.acknowledge_every and not ends_turn:
            return
        if self._outgoing.empty() and not self._numbering.locked():
            self._sequence += 1
            self._outgoing.put_nowait(
                agent_pb2.ConverseRequest(
                    sequence=self._sequence, acknowledge=common_pb2.Acknowledge()
                )
            )


async def open_stream(
    call: Call,
    frame: agent_pb2.OpenConversation,
    *,
    address: str,
    options: ClientOptions,
    timeout_s: float,
    closed: Callable[[], bool],
) -> ConverseStream:
    """Sends the handshake and returns the stream that the server opened.

    Args:
        call: The call, on which nothing was sent.
        frame: The handshake.
        address: The server's address, for messages.
        options: Those of the stream.
        timeout_s: The time for all of it.
        closed: Returns whether the client was closed.

    Raises:
        ConnectError: No precall server could be reached there, it did not answer in time, or the
            client was closed.
        PrecallError: The server refused the conversation, with its reason.

    On cancel: the call is cancelled.
    """
    handshake = asyncio.ensure_future(_shake_hands(call, frame))

    def give_up(_: object) -> None:
        # gRPC leaves a write that waits for the connection waiting when its call is cancelled.
        if call.cancelled():
            handshake.cancel()

    call.add_done_callback(give_up)
    try:
        async with asyncio.timeout(timeout_s):
            answer = await handshake
    except TimeoutError:
        call.cancel()
        raise _errors.no_answer(address, options.open_timeout_s) from None
    except grpc.aio.AioRpcError as error:
        raise _errors.unreachable(address, error) from None
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        raise await _errors.cancelled(address, call, closed=closed()) from None
    if not isinstance(answer, agent_pb2.ConverseResponse) or not answer.HasField("opened"):
        call.cancel()
        raise ConnectError(f"{address} did not answer the handshake as a precall server does")
    return ConverseStream(call, answer, options)


async def _shake_hands(call: Call, frame: agent_pb2.OpenConversation) -> object:
    await call.write(agent_pb2.ConverseRequest(sequence=1, open=frame))
    return await call.read()
