"""The history predictor: one model for each tenant, learned online and kept in a store.

What is learned outlives a restart: each step is kept as a record of some hundred bytes, and the
records of a tenant are learned again when it is first used. They are read in pages, and learned a
few at a time, so that the event loop is never blocked for long. Until then, the tenant's proposals
come from what it has learned since the start.

Owns: the tenants' models, and the tasks that write and read their records.
Never: shares anything between tenants. A tenant's model is reached by its name alone.
Concurrency: one event loop. The tasks end with the `async with` block.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self

from precall_service.domain.events import Predictor as PredictorName
from precall_service.incidents import report_defect
from precall_service.speculation.base import Lesson, Moment, Proposal, Situation
from precall_service.speculation.predictors.history.model import TenantModel
from precall_service.speculation.predictors.history.records import StepSeen, decode, encode

log = logging.getLogger(__name__)

UNWRITTEN_RECORDS_MAX: Final = 1024
"""Above this number, the records that wait longest to be written are lost."""
UNLOADED_STEPS_MAX: Final = 256
"""The steps that are learned while older ones are still loaded. Above it, the oldest are lost."""
STEPS_AT_ONCE: Final = 8
"""So many steps are learned before other work of the event loop gets its turn."""
RETRY_USES: Final = 256
"""If the records of a tenant could not be read, they are tried again after it was used so often."""
CLOSE_S: Final = 1.0
"""The time that unwritten records get at the end."""


class KeptRecords(Protocol):
    """Keeps the newest records of each tenant, up to limits of its own. Raises nothing."""

    async def remember(self, tenant: str, record: bytes) -> None:
        """Adds a record, which may be lost."""
        ...

    async def recall(self, tenant: str, after: int) -> Sequence[tuple[int, bytes]] | None:
        """Returns the oldest records after a number, with their numbers, which grow.

        Returns some of them, so that it does not take long; nothing if there are no more; None if
        they cannot be read now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """Limits of the history predictor.

    Attributes:
        tenants_max: The tenants with a model in memory; a model takes some 5 MB after 10,000
            calls, and some 40 MB if all its tables are full. The tenant that was used longest ago
            is dropped, and loaded again when it comes back.
        half_life_calls: After this many calls of the tenant, what was learned counts half.
    """

    tenants_max: int = 64
    half_life_calls: int = 5000


@dataclass(slots=True)
class _Tenant:
    model: TenantModel
    loading: asyncio.Task[None] | None = None
    retry_in: int = 0
    """The number of uses until the records are read; -1: they were read."""
    learned: deque[StepSeen] = field(default_factory=lambda: deque(maxlen=UNLOADED_STEPS_MAX))
    """What was learned while the records are being read."""


class HistoryPredictor:
    """See `Predictor` and `Learner`. Without `kept`, it forgets everything at the end."""

    def __init__(
        self, kept: KeptRecords | None = None, limits: HistoryLimits | None = None
    ) -> None:
        self._kept = kept
        self._limits = limits or HistoryLimits()
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._unwritten: deque[tuple[str, bytes]] = deque(maxlen=UNWRITTEN_RECORDS_MAX)
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._loads: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        """Starts to write records. Only from here on, records are read."""
        if self._kept is not None:
            self._writer = asyncio.create_task(self._write(self._kept))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends all tasks. Unwritten records get CLOSE_S to be written."""
        writer, self._writer = self._writer, None
        for load in self._loads:
            load.cancel()
        if self._loads:
            await asyncio.wait(self._loads)
        if writer is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait([writer], timeout=CLOSE_S)
        writer.cancel()
        await asyncio.wait([writer])

    @property
    def name(self) -> PredictorName:
        """See `Predictor`."""
        return PredictorName.HISTORY

    @property
    def moments(self) -> frozenset[Moment]:
        """See `Predictor`."""
        return frozenset((Moment.STEP_BEGAN, Moment.RESULT_READY))

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`. Never waits: the proposals are made in the first iteration."""
        for proposal in self._tenant(situation.tenant).model.propose(situation):
            yield proposal

    def learn(self, lesson: Lesson) -> None:
        """See `Learner`. A lesson without calls teaches when a turn ends."""
        try:
            self._learn(lesson)
        except Exception as defect:  # noqa: BLE001 - a turn must not fail because of it
            report_defect(log, "the learning of the history predictor", defect)

    def _learn(self, lesson: Lesson) -> None:
        name = lesson.before.tenant
        tenant = self._tenant(name)
        step = tenant.model.observe(lesson.before, lesson.calls)
        record = encode(step)
        if record is None:
            return
        tenant.model.learn(step)
        if tenant.loading is not None:
            tenant.learned.append(step)
        else:
            self._keep(name, record)

    def _keep(self, name: str, record: bytes) -> None:
        if self._kept is not None:
            self._unwritten.append((name, record))
            self._wake.set()

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(TenantModel(self._limits.half_life_calls))
            if len(self._tenants) > self._limits.tenants_max:
                _, dropped = self._tenants.popitem(last=False)
                if dropped.loading is not None:
                    dropped.loading.cancel()
        self._tenants.move_to_end(name)
        if self._writer is not None and tenant.loading is None and tenant.retry_in >= 0:
            if tenant.retry_in:
                tenant.retry_in -= 1
            else:
                tenant.loading = asyncio.create_task(self._load(name, tenant))
                tenant.loading.add_done_callback(partial(self._loaded, name, tenant))
                self._loads.add(tenant.loading)
        return tenant

    async def _load(self, name: str, tenant: _Tenant) -> None:
        """Learns the kept records of a tenant, and then what it has learned meanwhile."""
        assert self._kept is not None
        model = TenantModel(self._limits.half_life_calls)
        tenant.retry_in = RETRY_USES
        try:
            if not await _learned_again(model, self._kept, name):
                return
            learned = 0
            while learned < len(tenant.learned):
                model.learn(tenant.learned[learned])
                learned += 1
                if learned % STEPS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            tenant.model = model
            tenant.retry_in = -1
        except Exception as defect:  # noqa: BLE001 - what is kept may be damaged
            report_defect(log, "the loading of learned history", defect)

    def _loaded(self, name: str, tenant: _Tenant, load: asyncio.Task[None]) -> None:
        """Keeps what was learned while a tenant was loaded. The load may not even have started."""
        self._loads.discard(load)
        tenant.loading = None
        for step in tenant.learned:
            if (record := encode(step)) is not None:
                self._keep(name, record)
        tenant.learned.clear()

    async def _write(self, kept: KeptRecords) -> None:
        while self._unwritten or not self._closing:
            if not self._unwritten:
                await self._wake.wait()
                self._wake.clear()
                continue
            try:
                await kept.remember(*self._unwritten.popleft())
            except Exception as defect:  # noqa: BLE001 - later records must be written
                report_defect(log, "the keeping of learned history", defect)


async def _learned_again(model: TenantModel, kept: KeptRecords, name: str) -> bool:
    """Lets a model learn the kept records; returns whether all of them could be read."""
    after, count = 0, 0
    while True:
        page = await kept.recall(name, after)
        if page is None:
            return False
        if not page:
            return True
        for after, record in page:  # noqa: B007 - the last one is used
            if (step := decode(record)) is not None:
                model.learn(step)
                count += 1
                if count % STEPS_AT_ONCE == 0:
                    await asyncio.sleep(0)
