"""Opens a stream, and tries again if the server asks for that.

A server that is full says when to come back, and one that was just started may be met by all its
clients at once. A conversation that was not opened has done nothing, so trying again is safe.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from precall import _errors
from precall._connection import Connected
from precall._errors import PrecallError, UnavailableError
from precall._options import ClientOptions
from precall._stream import Call, ConverseStream, open_stream
from precall.v1 import agent_pb2

logger = logging.getLogger("precall")

_JITTER: Final = 0.5
"""A pause is up to this fraction longer than what the server asks for, so that clients spread."""


async def open_with_tries(
    connect: Callable[[], tuple[Call, Connected]],
    frame: agent_pb2.OpenConversation,
    *,
    address: str,
    options: ClientOptions,
) -> tuple[ConverseStream, Connected]:
    """Returns the stream that the server opened, with the connection that it belongs to.

    Tries at most `open_tries_max` times, within `open_timeout_s` in all.

    Raises:
        ConnectError: No precall server could be reached there, it did not answer in time, or the
            client was closed.
        PrecallError: The server refused the conversation, with its reason. If it was tried more
            than once, a note says how often.

    On cancel: the call is cancelled.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.open_timeout_s
    tries = 0
    while True:
        call, connected = connect()
        tries += 1
        try:
            stream = await open_stream(
                call,
                frame,
                address=address,
                options=options,
                timeout_s=deadline - loop.time(),
                closed=lambda: connected.closed,  # noqa: B023 - asked before the next try
            )
        except PrecallError as error:
            pause_s = _pause_s(error)
            late = pause_s is None or loop.time() + pause_s >= deadline
            if pause_s is None or late or tries >= options.open_tries_max:
                if tries > 1:
                    error.add_note(f"{tries} tries to open the conversation failed like that")
                raise
            logger.info("opening a conversation again in %.1f s: %s", pause_s, error)
        else:
            return stream, connected
        await asyncio.sleep(pause_s)
        if connected.closed:
            raise _errors.client_closed()


def _pause_s(error: PrecallError) -> float | None:
    """Returns how long to wait before the next try; None if another try does not help."""
    if not isinstance(error, UnavailableError) or error.retry_after_s is None:
        return None
    return error.retry_after_s * random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311
