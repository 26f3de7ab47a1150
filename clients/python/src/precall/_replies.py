"""Pairs frames with the answers of the server to them.

Owns: the frames that still wait for their answers.
Concurrency: used from one event loop.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import grpc

from precall._errors import PrecallError, UnavailableError
from precall._stream import ConverseStream
from precall.v1 import agent_pb2, tool_pb2

Reply: TypeAlias = tool_pb2.ToolsRegistered | tool_pb2.ToolsWithdrawn


class Replies:
    """The answers that have not come yet."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    async def reply(self, stream: ConverseStream, frame: agent_pb2.ConverseRequest) -> Reply:
        """Sends a frame and returns the server's answer to it.

        Raises:
            PrecallError: The server refused the frame, or the stream ended.
            UnavailableError: No answer came in time. It has no reason, since the server may have
                done what the frame asks for.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        sequence = await stream.send(frame)
        self._waiting[sequence] = future
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise UnavailableError(
                f"the server did not answer within {self._timeout_s:g} s; it may have done what "
                "was asked",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                retry_after_s=0.0,
            ) from None
        finally:
            del self._waiting[sequence]

    def settle(self, reply: Reply) -> None:
        """Passes an answer to the caller that waits for it."""
        future = self._waiting.get(reply.frame_sequence)
        if future is not None and not future.done():
            future.set_result(reply)

    def refuse(self, frame_sequence: int, error: PrecallError) -> bool:
        """Passes a refusal to the caller that waits; returns whether there is one."""
        future = self._waiting.get(frame_sequence)
        if future is None or future.done():
            return False
        future.set_exception(error)
        return True

    def end(self, error: PrecallError) -> None:
        """Fails all that wait: no answer will come."""
        for frame_sequence in list(self._waiting):
            self.refuse(frame_sequence, error)
