"""What holds for every call of every service: how many there are, and how they begin and end.

Turns methods that take a single request into ones that read it themselves, because gRPC would read
it before anything of ours runs: without a limit on the time or on the number of such calls. For the
same reason, methods read bytes, and decode them themselves. On the wire there is no difference.

Owns: the count of calls, and the slots for first messages.
Never: knows what a call is about.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgen
from typing import Any, Final, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from precall_service.agent.refusals import RETRY_AFTER_S
from precall_service.domain.clock import Clock
from precall_service.domain.errors import Reason, ServiceError
from precall_service.tasks import traceless
from precall_service.transport.abandoned import AbandonedCalls
from precall_service.transport.boundary import status_boundary
from precall_service.transport.first_messages import ArrivalLimits, FirstMessages
from precall_service.transport.opening_in import tenant
from precall_service.transport.reception import Reception
from precall_service.transport.stall import WriteWatch
from precall_service.transport.statuses import UnreadStatusError

# The types of the messages differ from method to method.
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Method: TypeAlias = "Callable[[Any, _Context], Any]"

_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_HEALTH_LIMITS: Final = ArrivalLimits(reading_max=16, waiting_max=64, timeout_s=5.0, patience_s=0.1)
"""Probes have slots of their own, so that no flood of other calls makes a server look dead. The
slots are shared fairly by the address that a call comes from. A request takes one packet."""
HEALTH_CALLS_MAX: Final = 64
"""Calls of the health service from one address at once, probes and watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How many calls may be in flight, of one tenant half as many; and how their answers are read.

    An answer may be left unread for `unread_s`.
    """

    calls_max: int
    unread_s: float


class Calls(grpc.aio.ServerInterceptor):
    """Stands before every method.

    `reception` takes in what they send; `abandoned` ends what no status can end.
    """

    def __init__(
        self,
        clock: Clock,
        limits: CallLimits,
        reception: Reception,
        abandoned: AbandonedCalls,
    ) -> None:
        self._clock = clock
        self._abandoned = abandoned
        self._limits = limits
        self._reception = reception
        self._probes = Reception.of(clock, _HEALTH_LIMITS)
        self._calls: Counter[str] = Counter()
        """Calls by tenant, without those of the health service."""
        self._in_flight = 0
        self._cut_off = 0
        self._probing: Counter[str] = Counter()
        """Calls of the health service by address."""

    @property
    def in_flight(self) -> int:
        """How many calls there are, without those of the health service."""
        return self._in_flight

    @property
    def cut_off(self) -> int:
        """How many calls were cancelled before they had a status, since the start."""
        return self._cut_off

    @property
    def probes_waiting(self) -> int:
        """How many calls of the health service wait for their requests to be read."""
        return self._probes.arrivals.waiting

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Returns the method's handler, behind the limits; None if there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method.lstrip("/")
        decoded_by_grpc = None
        if not handler.request_streaming:
            served = self._single(name, handler)
        elif name.startswith(reflection.SERVICE_NAME):
            served = self._reflection(name, cast("_Method", handler.stream_stream))
            decoded_by_grpc = handler.request_deserializer
        else:
            served = self._stream(name, cast("_Method", handler.stream_stream))
        return grpc.stream_stream_rpc_method_handler(
            self._let_go(served), decoded_by_grpc, handler.response_serializer
        )

    def _let_go(self, served: _Method) -> _Method:
        """A method that leaves nothing which only the garbage collection would free.

        grpc.aio keeps the error of a call that was aborted, whose traceback refers to the call and
        to what it has received. Calls that are cancelled are counted: of these, gRPC itself may
        leave something.
        """

        async def letting_go(requests: object, context: _Context) -> None:
            try:
                await served(requests, context)
            except grpc.aio.AbortError as aborted:
                aborted.__traceback__ = aborted.__context__ = None
                del requests, context  # raising it again adds this frame
                raise
            except asyncio.CancelledError:
                self._cut_off += 1
                raise

        return letting_go

    def _stream(self, name: str, method: _Method) -> _Method:
        """A method that reads a stream of bytes. It takes a slot for its first message itself."""

        # Without context managers of its own: a conversation keeps all of this for hours.
        async def served(requests: object, context: _Context) -> None:
            try:
                async with status_boundary(context, name):
                    whose = _tenant_of(context)
                    self._count(whose)
                    try:
                        await traceless(partial(method, requests, context))
                    finally:
                        self._uncount(whose)
            except UnreadStatusError:
                self._abandon()

        return served

    def _reflection(self, name: str, method: _Method) -> _Method:
        """Reflection reads all its messages in one slot, since it knows nothing of slots."""

        async def served(requests: object, context: _Context) -> None:
            async with self._ends(context, name):
                whose = _tenant_of(context)
                with self._counted(whose), _request_errors(name, self._reception.arrivals):
                    async with (
                        self._reception.arrivals.slot(whose),
                        aclosing(method(requests, context)) as answers,
                    ):
                        await self._write_all(answers, context)

        return served

    def _single(self, name: str, handler: _Handler) -> _Method:
        """A method that takes a single request, and answers with one message or with a stream."""
        health = name.startswith(_HEALTH)
        reception = self._probes if health else self._reception
        # The stubs know only the context of servers without asyncio.
        method = cast(
            "_Method", handler.unary_stream if handler.response_streaming else handler.unary_unary
        )

        # What the stubs decode with is a method of the message's class.
        kind = cast("type[Message]", cast("Any", handler.request_deserializer).__self__)

        async def read(context: _Context, whose: str) -> Message:
            with _request_errors(name, reception.arrivals):
                async with reception.arrivals.slot(whose):
                    data = await context.read()
                    if data is grpc.aio.EOF:
                        raise _unreadable(name, "there is no request")
                    return await reception.decoder.decoded(data, kind, whose=whose)

        async def served(_requests: object, context: _Context) -> None:
            async with self._ends(context, name):
                whose = _address_of(context) if health else _tenant_of(context)
                with self._probed(whose) if health else self._counted(whose):
                    request = await read(context, whose)
                    answers = method(request, context)
                    if isasyncgen(answers):
                        async with aclosing(answers):
                            await self._write_all(answers, context)
                    elif (answer := await answers) is not None:
                        await self._write(answer, context)

        return served

    @asynccontextmanager
    async def _ends(self, context: _Context, name: str) -> AsyncGenerator[None]:
        """Ends the call with the status of the block's error; or without one, if it is unread."""
        try:
            async with status_boundary(context, name):
                yield
        except UnreadStatusError:
            self._abandon()

    def _abandon(self) -> NoReturn:
        method = asyncio.current_task()
        assert method is not None
        self._abandoned.add(method)
        raise asyncio.CancelledError from None  # what grpc.aio takes for an end without a status

    async def _write_all(self, answers: AsyncIterable[object], context: _Context) -> None:
        async for answer in answers:
            await self._write(answer, context)

    async def _write(self, answer: object, context: _Context) -> None:
        limit_s = self._limits.unread_s
        try:
            async with WriteWatch(self._clock, limit_s) as unread:
                unread.begin()
                await context.write(answer)
        except TimeoutError:
            raise ServiceError(
                Reason.FLOW_LIMIT,
                f"the client left the answer unread for {limit_s:g} s, which is the limit",
                metadata={"limit_s": f"{limit_s:g}"},
            ) from None

    def _count(self, whose: str) -> None:
        """Counts one more call of a tenant; `_uncount` must follow.

        Raises:
            ServiceError: OVERLOADED if there are too many.
        """
        limit = self._limits.calls_max
        if self._calls[whose] >= max(1, limit // 2) or self._in_flight >= limit:
            raise _too_many_calls()
        self._calls[whose] += 1
        self._in_flight += 1

    def _uncount(self, whose: str) -> None:
        _one_less(self._calls, whose)
        self._in_flight -= 1

    @contextmanager
    def _counted(self, whose: str) -> Generator[None]:
        """Counts a call in its block. Raises as `_count`."""
        self._count(whose)
        try:
            yield
        finally:
            self._uncount(whose)

    @contextmanager
    def _probed(self, address: str) -> Generator[None]:
        """Counts a call of the health service in its block. Raises as `_count`."""
        if self._probing[address] >= HEALTH_CALLS_MAX:
            raise _too_many_calls()
        self._probing[address] += 1
        try:
            yield
        finally:
            _one_less(self._probing, address)


def _one_less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


@contextmanager
def _request_errors(name: str, arrivals: FirstMessages) -> Generator[None]:
    """Turns what goes wrong while a request of this method is read into errors for the client."""
    try:
        yield
    except DecodeError:
        raise _unreadable(name, "the bytes cannot be decoded as one") from None
    except TimeoutError:
        raise _unreadable(
            name, f"it did not come whole within {arrivals.limits.timeout_s:g} s"
        ) from None


def _unreadable(name: str, what: str) -> ServiceError:
    return ServiceError(
        Reason.FRAME_UNKNOWN,
        f"{what}, as a request of {name}: check that your stubs fit the version of the server, "
        "which GetServerInfo returns",
        field="request",
    )


def _too_many_calls() -> ServiceError:
    # How many there are is no business of a tenant's.
    return ServiceError(
        Reason.OVERLOADED,
        "the server has as many calls in flight as it takes at once, or as it takes of one tenant: "
        f"try again in {RETRY_AFTER_S:g} s, end calls that you do not need, or use another replica",
        retry_after_s=RETRY_AFTER_S,
    )


def _tenant_of(context: _Context) -> str:
    """Returns the caller's tenant; an empty text if its name is invalid, which a method refuses."""
    try:
        return tenant(context.invocation_metadata() or ())
    except ServiceError:
        return ""


def _address_of(context: _Context) -> str:
    """Returns the host that a call comes from, without the port."""
    return context.peer().rpartition(":")[0]
