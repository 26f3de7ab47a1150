"""Speculation as all turns of the process share it: predictors, policy, records, and their tasks.

Owns: the tasks of predictors and early runs, inside its `async with` block.
Never: what happens in one turn (`TurnSpeculation` does).
Concurrency: one event loop. A task that fails is logged, and hurts no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Self

from precall_service.admission import Admission
from precall_service.agent.branches import Branches
from precall_service.agent.draft_model import DraftModel
from precall_service.agent.engine_load import LoadWatch
from precall_service.domain.clock import Clock
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.incidents import report_defect
from precall_service.speculation.base import Learner, Predictor
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.policy import Policy
from precall_service.speculation.records import SpeculationRecords

log = logging.getLogger(__name__)


class Speculation:
    """Predicts calls for all turns."""

    def __init__(
        self,
        *,
        predictors: Sequence[Predictor],
        learners: Sequence[Learner],
        engines: EngineSupervisor,
        draft_engines: EngineSupervisor | None,
        admission: Admission,
        clock: Clock,
        limits: SpeculationLimits,
    ) -> None:
        """`draft_engines` has the engine of the draft model, if there is one."""
        self.limits = limits
        self.predictors = tuple(predictors)
        self.learners = tuple(learners)
        self.policy = Policy(clock, limits)
        self.records = SpeculationRecords(clock, limits)
        self.load = LoadWatch(engines, admission, clock, self.spawn)
        self.branches = Branches(
            self.load,
            admission,
            branches_max=limits.forks_max,
            tokens_max=limits.fork_tokens_max,
        )
        self.draft_model = (
            None
            if draft_engines is None
            else DraftModel(draft_engines, self.load, clock, self.spawn, limits.draft_model)
        )
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Calls can be predicted from here to the end of the block."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancels what is left: by now, every turn has ended, and so has every prediction."""
        for task in tuple(self._tasks):
            task.cancel()
        # The group is not given the error of the block, because it would wrap it.
        await self._group.__aexit__(None, None, None)

    @property
    def in_flight(self) -> int:
        """The number of tasks that predict, or await an early run."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Starts work that outlives the coroutine that starts it."""
        task = self._group.create_task(_guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began
        return task


async def _guarded(work: Coroutine[object, object, None]) -> None:
    """Runs work of the group. A defect in it must not end the group, and with it the service."""
    try:
        await work
    except Exception as defect:  # noqa: BLE001
        report_defect(log, "speculation", defect)
