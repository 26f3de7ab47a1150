"""When a guarded store counts as down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPolicy:
    """When a store counts as down, and how often it is tried then.

    Attributes:
        timeout_s: The time that an operation may take.
        failures_max: The number of failed operations in a row that opens the breaker. A lost
            connection or a missed write opens it at once.
        backoff_first_s: The first pause between two attempts to recover; it doubles each time.
        backoff_max_s: The longest pause.
        stable_s: If the store was up for this long, the first attempt to recover is made at once.
        close_s: The time that writes under way get when the guard is closed.
    """

    timeout_s: float = 0.05
    failures_max: int = 3
    backoff_first_s: float = 0.25
    backoff_max_s: float = 5.0
    stable_s: float = 10.0
    close_s: float = 2.0
