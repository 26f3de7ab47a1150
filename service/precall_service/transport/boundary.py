"""The boundary around every method: whatever happens inside, the client gets a status.

If a CancelledError that the client did not cause leaves a method, grpc.aio sends no status and the
client waits forever (grpc/grpc#29248). So a CancelledError may leave only if the client cancelled
or the server stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import grpc.aio

from precall_service.domain.errors import Reason, ServiceError
from precall_service.incidents import report_defect
from precall_service.transport.statuses import RequestT, ResponseT, abort

log = logging.getLogger(__name__)


@asynccontextmanager
async def status_boundary(
    context: grpc.aio.ServicerContext[RequestT, ResponseT], method: str
) -> AsyncGenerator[None]:
    """Ends the RPC with the status of the error that the block raises.

    Raises:
        grpc.aio.AbortError, UnreadStatusError: as `abort`.
    """
    try:
        yield
    except ServiceError as error:
        # What the traceback holds holds the error, too: without it, the call's memory is free at
        # once, and not only when the garbage collector finds the cycle.
        error.__traceback__ = None
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the client cancelled, or the server stops
        cancelled = RuntimeError("a task inside the method was cancelled")
        await abort(context, report_defect(log, method, cancelled))
    except Exception as error:
        if context.done():
            raise  # the method had ended the RPC itself, and the client was gone
        if _is_broken_stream(error):
            log.info("%s: the stream broke while a frame was written", method)
            await abort(context, ServiceError(Reason.CANCELLED, "the stream broke"))
        await abort(context, report_defect(log, method, error))


def _is_broken_stream(error: BaseException) -> bool:
    """Returns whether a write failed, which is one way grpc.aio reports that the client is gone."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(_is_broken_stream, group.exceptions))
    return isinstance(error, grpc.aio.InternalError)
