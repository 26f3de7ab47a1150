"""What the service measures of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from precall_service.admission import Admission
from precall_service.agent.conversations import Conversations
from precall_service.agent.speculation import Speculation
from precall_service.domain.errors import Reason
from precall_service.engine.supervisor import EngineState, EngineSupervisor
from precall_service.tools.dispatch import Dispatcher
from precall_service.transport.server import GrpcServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The state of the service at one moment. Tenants are named, so it is for operators only.

    Attributes:
        engine_progress_age_s: The time since the engine has last said anything, if it owes it.
        turns_waiting: Turns in the queue of the admission, returning ones included.
        runs: Runs of handlers that have not ended.
        predictions: Tasks that predict calls, or await an early run.
        calls: Calls of gRPC that have not ended, conversations included.
        calls_cut_off: Calls that were cancelled before they had a status, since the start; they
            only grow. gRPC loses up to 200 bytes at each (docs/security.md).
        first_messages_waiting: Calls whose first message waits to be read.
        frames_waiting: Frames that wait for their turn to be processed.
        bytes_held: By tenant: what conversations hold of texts, tools and events.
        schema_bytes: By tenant: what compiled schemas hold.
        refusals: By tenant and reason, since the start; they only grow.
    """

    engine_state: EngineState
    engine_progress_age_s: float
    turns_admitted: int
    turns_waiting: Mapping[str, int]
    conversations: Mapping[str, int]
    runs: int
    predictions: int
    calls: int
    calls_cut_off: int
    first_messages_waiting: int
    frames_waiting: int
    bytes_held: Mapping[str, int]
    schema_bytes: Mapping[str, int]
    refusals: Mapping[str, Mapping[Reason, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VitalSigns:
    """Reads the vitals from the parts of the service."""

    engines: EngineSupervisor
    admission: Admission
    conversations: Conversations
    dispatcher: Dispatcher
    speculation: Speculation
    server: GrpcServer

    def read(self) -> Vitals:
        """Returns the vitals now."""
        held = self.conversations.held
        return Vitals(
            engine_state=self.engines.state,
            engine_progress_age_s=self.engines.progress_age_s,
            turns_admitted=self.admission.admitted,
            turns_waiting=self.admission.waiting_by_tenant(),
            conversations=dict(held.conversations_by_tenant),
            runs=self.dispatcher.in_flight,
            predictions=self.speculation.in_flight,
            calls=self.server.calls.in_flight,
            calls_cut_off=self.server.calls.cut_off,
            first_messages_waiting=self.server.reception.arrivals.waiting,
            frames_waiting=self.server.reception.intake.waiting,
            bytes_held=dict(held.bytes_by_tenant),
            schema_bytes=dict(self.dispatcher.schemas_bytes),
            refusals=self.conversations.refusals.by_tenant(),
        )
