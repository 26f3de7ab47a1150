"""What speculation has done, by tenant, tool and predictor: the counts and the estimates.

Owns: the records, bounded in number; the least recently used are forgotten.
Never: shares anything between tenants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from cachetools import LRUCache

from precall_service.domain.clock import Clock
from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode
from precall_service.speculation.estimates import Acceptance, Durations
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import Places
from precall_service.speculation.stages import Stage

TENANTS_MAX: Final = 256
TOOLS_MAX: Final = 256
"""The tools of one tenant."""
TOOLSETS_MAX: Final = 32
"""The sets of tools of one tenant for which branches are judged apart."""
EXPLORED_EVERY: Final = 128
"""So many branches that do not seem worth it are needed for one that begins all the same."""


class PredictorRecord:
    """How well one predictor predicts the calls of one tool, and what that was worth."""

    def __init__(self, prior: Acceptance | None = None) -> None:
        """`prior` is the acceptance of the predictor for all tools."""
        self.acceptance = Acceptance(prior)
        self.leads = Durations()
        self.far_leads = Durations()
        """The leads of predictions of more than one call ahead."""
        self.stage = Stage()
        self.proposed = 0
        self.launched = 0
        self.resolved = 0
        self.matched = 0
        self.confirmed = 0
        self.saved_s = 0.0
        self.wasted_s = 0.0
        self.would_save_s = 0.0
        self.would_waste_s = 0.0
        self.draft_tokens_proposed = 0
        self.draft_tokens_accepted = 0
        self.saved_by_drafts_s = 0.0

    def leads_at(self, depth: int) -> Durations:
        """Returns the leads of predictions of this depth."""
        return self.leads if depth == 1 else self.far_leads


class ToolRecord:
    """What is known of the tools of one name.

    `acceptances` are those of the predictors for all tools of the tenant.
    """

    def __init__(self, acceptances: defaultdict[Predictor, Acceptance]) -> None:
        self._acceptances = acceptances
        self.run_times = Durations()
        self.calls = 0
        self.calls_confirmed = 0
        self.failures = 0
        """Early runs that failed, in succession."""
        self.closed_until = 0.0
        """When the breaker lets runs start early again."""
        self.running = 0
        """The handlers that run early."""
        self.predictors: dict[Predictor, PredictorRecord] = {}

    def of(self, predictor: Predictor) -> PredictorRecord:
        """Returns the record of a predictor for this tool."""
        record = self.predictors.get(predictor)
        if record is None:
            prior = self._acceptances[predictor]
            record = self.predictors[predictor] = PredictorRecord(prior)
        return record

    def count_call(self, *, confirmed: bool) -> None:
        """Notes a call that the model made, and whether a prediction answered it."""
        self.calls += 1
        self.calls_confirmed += confirmed
        for record in self.predictors.values():
            record.stage.count_call()


class TenantRecord:
    """What is known of one tenant's tools, and what the tenant has left of its budgets."""

    def __init__(self, clock: Clock, limits: SpeculationLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._tools: LRUCache[str, ToolRecord] = LRUCache(TOOLS_MAX)
        self._acceptances: defaultdict[Predictor, Acceptance] = defaultdict(Acceptance)
        self._waste_left_s = limits.waste_per_minute_s
        self._refilled_at = clock.now()
        self._branches = {True: Places(), False: Places()}
        self._toolsets: LRUCache[tuple[frozenset[str], bool], Places] = LRUCache(TOOLSETS_MAX)
        self._unbranched = 0
        self.running = 0
        """The handlers that run early."""

    def tool(self, name: str) -> ToolRecord:
        """Returns the record of the tools of this name."""
        record = self._tools.get(name)
        if record is None:
            record = self._tools[name] = ToolRecord(self._acceptances)
        return record

    def tools(self) -> Iterator[tuple[str, ToolRecord]]:
        """Yields all records, by name."""
        yield from sorted(self._tools.items())

    def branches(self, tools: frozenset[str], *, first_step: bool) -> Places:
        """Returns the record of the branches of turns with these tools.

        A turn's first step is more likely to call than later ones, so they are judged apart.
        """
        record = self._toolsets.get((tools, first_step))
        if record is None:
            record = self._toolsets[tools, first_step] = Places(self._branches[first_step])
        return record

    @property
    def waste_left_s(self) -> float:
        """How many seconds of handlers the tenant may still waste now."""
        now, per_minute = self._clock.now(), self._limits.waste_per_minute_s
        refill_s = (now - self._refilled_at) / 60.0 * per_minute
        self._waste_left_s = min(per_minute, self._waste_left_s + refill_s)
        self._refilled_at = now
        return self._waste_left_s

    def waste(self, seconds: float) -> None:
        """Takes seconds that were wasted from the budget."""
        self._waste_left_s = self.waste_left_s - seconds

    def explores(self) -> bool:
        """Counts a branch that does not seem worth it. Returns whether it begins all the same.

        Otherwise nobody would see it if branches became worth it again.
        """
        self._unbranched += 1
        return self._unbranched % EXPLORED_EVERY == 0

    def pinned_stage(self, tool_name: str, predictor: Predictor) -> SpeculationMode | None:
        """Returns what the operator has fixed that is done with these predictions, if so."""
        return self._limits.pinned_stage(tool_name, predictor)

    def stage(self, tool_name: str, predictor: Predictor) -> SpeculationMode:
        """Returns what is done with a predictor's predictions of a tool."""
        pinned = self.pinned_stage(tool_name, predictor)
        if pinned is not None:
            return pinned
        record = self.tool(tool_name).predictors.get(predictor)
        return SpeculationMode.ISSUE if record is None else record.stage.mode


class SpeculationRecords:
    """The records of all tenants."""

    def __init__(self, clock: Clock, limits: SpeculationLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._tenants: LRUCache[str, TenantRecord] = LRUCache(TENANTS_MAX)

    def peek(self, tenant: str) -> TenantRecord:
        """Returns the record of a tenant, or an empty one that is not kept."""
        return self._tenants.get(tenant) or TenantRecord(self._clock, self._limits)

    def of(self, tenant: str) -> TenantRecord:
        """Returns the record of a tenant."""
        record = self._tenants.get(tenant)
        if record is None:
            record = self._tenants[tenant] = TenantRecord(self._clock, self._limits)
        return record
