"""The composition root: wires one engine, the agent loop and the gRPC server into a service.

Owns: the connections between the parts, and the order of start and stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from precall_service import __version__
from precall_service.admission import Admission, FairStage, GrowthRecord
from precall_service.agent.cached_calls import CachedCalls
from precall_service.agent.capacity import follow_engine
from precall_service.agent.context import TurnServices
from precall_service.agent.conversations import Conversations
from precall_service.agent.known_calls import KnownCalls
from precall_service.agent.speculation import Speculation
from precall_service.cache.base import CacheStore
from precall_service.cache.cache import ToolCache
from precall_service.cache.memory import MemoryStore
from precall_service.cache.redis.opening import redis_store
from precall_service.domain.clock import Clock
from precall_service.engine.base import EngineFactory, EngineInfo, Progress
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.loop_clock import LoopClock
from precall_service.settings import CacheSection, Settings
from precall_service.speculation.predictors.cached import CachePredictor
from precall_service.speculation.predictors.draft_model import DraftModelPredictor
from precall_service.speculation.predictors.early_dispatch import EarlyDispatch
from precall_service.speculation.predictors.fork import Fork
from precall_service.speculation.predictors.history.predictor import HistoryPredictor
from precall_service.tools.dispatch import Dispatcher
from precall_service.transport.server import GrpcServer
from precall_service.transport.server_info import ServerInfo
from precall_service.watch.self_watch import SelfWatch, WatchLimits
from precall_service.watch.vitals import VitalSigns
from precall_tracing.setup import exported_traces

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service: where it listens, what it serves, and its background work."""

    address: str
    model: str
    engine: EngineInfo
    engines: EngineSupervisor
    draft_engines: EngineSupervisor | None
    """Those of the draft model, if there is one. The service does not depend on them."""
    conversations: Conversations
    admission: Admission
    watch: SelfWatch
    """What the service measures of itself."""
    server: GrpcServer
    """Its slots, calls and abandoned calls can be read."""
    background: asyncio.Task[None]
    """Restarts the engine and updates readiness. It ends before the block only by a defect, which
    awaiting it raises."""


@asynccontextmanager
async def serve(
    settings: Settings,
    factory: EngineFactory,
    *,
    model: str,
    on_progress: Progress,
    draft_factory: EngineFactory | None = None,
) -> AsyncGenerator[Service]:
    """Starts a service and yields it when it is ready; drains and stops it after the block.

    `draft_factory` starts the engine of the draft model, which may be any engine. It is started
    when the service is ready, and the service does not depend on it.

    The server listens before the engine starts, so that a port in use is reported immediately, and
    probes see a live process while the weights load.

    Raises:
        AddressInUseError: the port is in use.
        StoreUrlError: the URL of the cache store is malformed.
        EngineStartError: the engine cannot start as configured.
    On cancel, or if the block raises: everything stops immediately; running turns end with a
    retryable status.
    """
    tool_limits = settings.tools.limits(
        cache_ttl_max_s=settings.cache.ttl_max_s,
        early_open_world=settings.speculation.open_world_tools,
    )
    async with (
        exported_traces(settings.tracing.otlp_endpoint, __version__),
        _opened_store(settings.cache) as store,
        ToolCache(store, settings.cache.limits()) as cache,
        HistoryPredictor(cache) as history,
        Dispatcher(LoopClock(), tool_limits) as dispatcher,
        _serve(
            settings,
            factory,
            model=model,
            on_progress=on_progress,
            dispatcher=dispatcher,
            cache=cache,
            history=history,
            draft_factory=draft_factory,
        ) as service,
    ):
        yield service


@asynccontextmanager
async def _opened_store(settings: CacheSection) -> AsyncGenerator[CacheStore]:
    if settings.store_url is None:
        yield MemoryStore(
            LoopClock(),
            bytes_max=settings.memory_bytes_max,
            nodes_max=settings.nodes_max,
            changes_max=settings.changes_max,
        )
        return
    async with redis_store(
        settings.store_url.get_secret_value(),
        LoopClock(),
        key_prefix=settings.key_prefix,
        timeout_s=settings.store_timeout_s,
        nodes_max=settings.nodes_max,
        changes_max=settings.changes_max,
    ) as store:
        yield store


@asynccontextmanager
async def _serve(
    settings: Settings,
    factory: EngineFactory,
    *,
    model: str,
    on_progress: Progress,
    dispatcher: Dispatcher,
    cache: ToolCache,
    history: HistoryPredictor,
    draft_factory: EngineFactory | None,
) -> AsyncGenerator[Service]:
    clock = LoopClock()
    engines = EngineSupervisor(factory, clock, settings.engine.restart_policy())
    draft_engines = _draft_engines(settings, draft_factory, clock)
    admission = Admission(clock, settings.admission.limits())
    follow_engine(admission, engines)
    speculation = _speculation(
        settings, engines, draft_engines, admission, cache=cache, history=history, clock=clock
    )
    services = TurnServices(
        model=model,
        engines=engines,
        admission=admission,
        prompts=FairStage(admission.limits),
        growth=GrowthRecord(),
        dispatcher=dispatcher,
        cache=cache,
        cached_calls=CachedCalls(cache, dispatcher, clock),
        speculation=speculation,
        clock=clock,
    )
    conversations = Conversations(services, settings.conversations.limits(), dispatcher.limits)
    info = _info(settings, services, conversations)
    server = GrpcServer(settings.server.options(), conversations, cache, info)
    signs = VitalSigns(
        engines=engines,
        admission=admission,
        conversations=conversations,
        dispatcher=dispatcher,
        speculation=speculation,
        server=server,
    )
    watch = SelfWatch(signs.read, _watch_limits(settings), clock)
    async with (
        speculation,
        watch.watching(),
        _running(
            server, engines, draft_engines, on_progress, drain_s=settings.server.drain_s
        ) as running,
    ):
        address, engine, background = running
        yield Service(
            address=address,
            model=model,
            engine=engine,
            engines=engines,
            draft_engines=draft_engines,
            conversations=conversations,
            admission=admission,
            watch=watch,
            server=server,
            background=background,
        )


def _speculation(
    settings: Settings,
    engines: EngineSupervisor,
    draft_engines: EngineSupervisor | None,
    admission: Admission,
    *,
    cache: ToolCache,
    history: HistoryPredictor,
    clock: Clock,
) -> Speculation:
    limits = settings.speculation.limits()
    return Speculation(
        predictors=(
            CachePredictor(KnownCalls(cache)),
            EarlyDispatch(),
            history,
            Fork(),
            DraftModelPredictor(limits.draft_model.samples),
        ),
        learners=(history,),
        engines=engines,
        draft_engines=draft_engines,
        admission=admission,
        clock=clock,
        limits=limits,
    )


def _info(settings: Settings, services: TurnServices, conversations: Conversations) -> ServerInfo:
    return ServerInfo(
        version=__version__,
        model=services.model,
        frame_bytes_max=settings.server.frame_bytes_max,
        agent_limits=conversations.limits,
        tool_limits=conversations.tool_limits,
        engines=services.engines,
        admission=services.admission,
        speculation=services.speculation,
        clock=services.clock,
        started_at=services.clock.now(),
        tells_load=settings.server.info_counts,
    )


def _watch_limits(settings: Settings) -> WatchLimits:
    return WatchLimits(
        loop_pause_s=settings.server.loop_pause_s,
        turns_waiting=settings.admission.waiting_max,
        conversations=settings.conversations.conversations_max,
        bytes_held=settings.conversations.bytes_max,
    )


def _draft_engines(
    settings: Settings, factory: EngineFactory | None, clock: Clock
) -> EngineSupervisor | None:
    if factory is None:
        return None
    policy = settings.engine.restart_policy()
    return EngineSupervisor(factory, clock, policy, name="the engine of the draft model")


@asynccontextmanager
async def _running(
    server: GrpcServer,
    engines: EngineSupervisor,
    draft_engines: EngineSupervisor | None,
    on_progress: Progress,
    *,
    drain_s: float,
) -> AsyncGenerator[tuple[str, EngineInfo, asyncio.Task[None]]]:
    """Starts the server, then the engine. Yields the address, the engine and its watch; drains.

    The engine of the draft model is started when the service is ready, and its state is not part of
    the service's readiness.
    """
    address = await server.start()
    try:
        engine = await engines.start(on_progress)
        background = asyncio.create_task(_keep_going(engines, draft_engines, server))
        try:
            server.set_ready(ready=True)
            yield address, engine, background
            await server.stop(drain_s)
        finally:
            background.cancel()
            await asyncio.wait([background])
    finally:
        await server.stop(0.0)
        kept = (engines,) if draft_engines is None else (engines, draft_engines)
        await asyncio.gather(*(each.close() for each in kept))


async def _keep_going(
    engines: EngineSupervisor, draft_engines: EngineSupervisor | None, server: GrpcServer
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(engines.run())
        if draft_engines is not None:
            group.create_task(draft_engines.keep())
        group.create_task(server.follow(engines))
