"""Ends a call whose single request cannot be decoded, with a status that says so.

gRPC itself would log a stack trace for each of these calls, and give the client no reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.statuses import abort

# The types of the messages differ from method to method.
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Method: TypeAlias = "Callable[[Any, _Context], Any]"


@dataclass(frozen=True, slots=True)
class _Unreadable:
    error: ServiceError


class UnreadableRequests(grpc.aio.ServerInterceptor):
    """Refuses requests that cannot be decoded, of every method that takes a single request.

    A method that reads a stream decodes its frames itself.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Returns the method's handler, with the refusal in front of it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        decode = _decoder(handler.request_deserializer, handler_call_details.method)
        encode = handler.response_serializer
        # The stubs know only the context of servers without asyncio.
        if handler.response_streaming:
            stream = _stream(cast("_Method", handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        unary = _unary(cast("_Method", handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(unary, decode, encode)


def _decoder(decode: Callable[[bytes], object], method: str) -> Callable[[bytes], object]:
    def decoded(message: bytes) -> object:
        try:
            return decode(message)
        except DecodeError:
            return _Unreadable(
                ServiceError(
                    Reason.FRAME_UNKNOWN,
                    f"the bytes cannot be decoded as a request of {method.lstrip('/')}: check "
                    "that your stubs fit the version of the server, which GetServerInfo returns",
                    field="request",
                )
            )

    return decoded


def _unary(method: _Method) -> _Method:
    async def served(request: object, context: _Context) -> object:
        if isinstance(request, _Unreadable):
            await abort(context, request.error)
        return await method(request, context)

    return served


def _stream(method: _Method) -> _Method:
    async def served(request: object, context: _Context) -> None:
        if isinstance(request, _Unreadable):
            await abort(context, request.error)
        answers = method(request, context)
        if not isasyncgen(answers):
            await answers
            return
        async with aclosing(answers):
            async for answer in answers:
                await context.write(answer)

    return served
