"""How much speculation the engine's load allows: less and less as it fills up, and none when full.

Owns: the latest sample of the load, and the pace of the latest steps.
Concurrency: one event loop. A sample is taken at most once a second, and only if one is asked for.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from precall_service.admission import Admission
from precall_service.domain.clock import Clock
from precall_service.engine.base import EngineDiedError, EngineLoad
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.tools.timeout import within

log = logging.getLogger(__name__)

SAMPLE_EVERY_S: Final = 1.0
SAMPLE_TIMEOUT_S: Final = 5.0
STALE_AFTER_S: Final = 3.0
"""After such a time in which nobody asked, the latest sample says nothing."""
ANSWERS_MAX: Final = 5
"""How often the engine is asked for one sample while requests wait. A new request waits until the
engine's next iteration, which is no queue, and a sample is often taken just when a step begins. The
engine answers between its iterations, so that each further answer is one iteration later."""
FULL: Final = 0.9
"""The fraction of slots or KV cache in use from which nothing is allowed."""
CALM: Final = 0.5
"""The fraction in use up to which everything is allowed."""
SLOW: Final = 2.0
"""How much longer than usual a token may take before nothing is allowed."""
STEPS: Final = 64
STEP_TOKENS_MIN: Final = 16
BRANCH_COST: Final = 0.1
"""What branches are taken to cost until that was measured."""
BRANCH_COST_MIN: Final = 0.01
"""What they are taken to cost at least."""
BRANCHED_MIN: Final = 4
"""The steps that must have shown what branches cost."""
PACE_TOKENS_MIN: Final = 8
"""The tokens that a step needs with branches beside it, and without, to show what they cost."""

_IDLE: Final = EngineLoad(running=0, waiting=0, kv_usage=0.0)


@dataclass(slots=True)
class Pace:
    """How fast a step samples tokens."""

    seconds: float = 0.0
    tokens: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        """Adds tokens, and the time that they took."""
        self.seconds += seconds
        self.tokens += tokens


class LoadWatch:
    """Watches the load of the engine, and what branches add to it."""

    def __init__(
        self,
        engines: EngineSupervisor,
        admission: Admission,
        clock: Clock,
        spawn: Callable[[Coroutine[object, object, None]], object],
    ) -> None:
        self._engines = engines
        self._admission = admission
        self._clock = clock
        self._spawn = spawn
        self._load = _IDLE
        self._sampled_at = -math.inf
        self._asking = False
        self._token_times: deque[float] = deque(maxlen=STEPS)
        """Seconds per token of the latest steps."""
        self._branch_costs: deque[float] = deque(maxlen=STEPS)

    def allowance(self) -> float:
        """Returns how much speculation the load allows, from 0 to 1, by the latest sample."""
        self._sample_if_due()
        info = self._engines.info
        if info is None or self._admission.waiting or self._load.waiting:
            return 0.0
        used = max(
            self._load.kv_usage,
            self._load.running / info.sequences_max,
            self._admission.admitted / info.sequences_max,
        )
        return min(
            _between(used, CALM, FULL),
            _between(self._slowness(), 1.0, SLOW),
            self._admission.speculation_width,
        )

    @property
    def branch_cost(self) -> float:
        """The part of its time that a step loses while branches run beside it."""
        if len(self._branch_costs) < BRANCHED_MIN:
            return BRANCH_COST
        return max(BRANCH_COST_MIN, statistics.median(self._branch_costs))

    def observe_step(self, alone: Pace, beside: Pace) -> None:
        """Notes how fast a step was without branches of any turn beside it, and with them.

        What branches cost is told by steps that had both. Steps are not compared with one another
        for that, because the engine's load changes between them.
        """
        tokens = alone.tokens + beside.tokens
        if tokens >= STEP_TOKENS_MIN:
            self._token_times.append((alone.seconds + beside.seconds) / tokens)
        if min(alone.tokens, beside.tokens) >= PACE_TOKENS_MIN and beside.seconds > 0:
            alone_s = alone.seconds / alone.tokens
            self._branch_costs.append(1.0 - alone_s * beside.tokens / beside.seconds)

    def _slowness(self) -> float:
        """Returns how much longer a token takes now than in the faster ones of the latest steps."""
        if len(self._token_times) < 4:
            return 1.0
        latest = sorted(list(self._token_times)[-3:])[1]
        usual = sorted(self._token_times)[len(self._token_times) // 4]
        return latest / usual if usual else 1.0

    def _sample_if_due(self) -> None:
        now = self._clock.now()
        if now - self._sampled_at > STALE_AFTER_S:
            self._load = _IDLE
        if now - self._sampled_at >= SAMPLE_EVERY_S:
            self._sampled_at = now
            if not self._asking:
                self._spawn(self._sample())

    async def _sample(self) -> None:
        engine = self._engines.running
        if engine is None:
            return
        self._asking = True
        try:
            async with within(self._clock, SAMPLE_TIMEOUT_S):
                load = await engine.load()
                for _ in range(ANSWERS_MAX - 1):
                    if not load.waiting:
                        break
                    load = await engine.load()
                self._load = load
        except EngineDiedError:
            pass  # the engine's state says so
        except TimeoutError:
            log.debug("the engine did not report its load within %g s", SAMPLE_TIMEOUT_S)
        finally:
            self._asking = False


def _between(value: float, calm: float, full: float) -> float:
    """Returns 1 up to `calm`, 0 from `full` on, and a fraction in between."""
    return min(1.0, max(0.0, (full - value) / (full - calm)))
