"""What `precall demo` asks, with which functions, and how its answer is told from a made-up one.

The functions are ordinary Python. What they return is not in the question, so that a model can say
it only where it called them.
"""

from __future__ import annotations

import datetime
import time
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

QUESTION: Final = "How many miles are 42 kilometers, and what time is it in Tokyo?"
STEP_TOKENS_MAX: Final = 160

_ZONES: Final = {
    "berlin": "Europe/Berlin",
    "london": "Europe/London",
    "madrid": "Europe/Madrid",
    "new york": "America/New_York",
    "paris": "Europe/Paris",
    "tokyo": "Asia/Tokyo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a function: what went in, what came out, and how long it took."""

    name: str
    argument: str
    result: str
    took_s: float


class Functions:
    """The two functions, and a record of their runs."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def convert_to_miles(
        self, kilometers: Annotated[float, Field(description="Distance in kilometers.")]
    ) -> str:
        """Convert kilometers to miles."""
        return self._run(
            "convert_to_miles", f"{kilometers:g}", lambda: f"{kilometers * 0.621371:.1f} miles"
        )

    def get_time(self, city: Annotated[str, Field(description="Name of the city.")]) -> str:
        """Get the time in a city."""
        return self._run("get_time", city, lambda: _local_time(city))

    def tools(self) -> Sequence[Callable[..., object]]:
        """Both, for a client."""
        return (self.convert_to_miles, self.get_time)

    def faults(self, answer: str) -> list[str]:
        """What is missing for the answer to be one that came of these functions; empty: nothing."""
        faults: list[str] = []
        for tool in self.tools():
            name = tool.__name__
            results = [run.result for run in self.runs if run.name == name]
            if not results:
                faults.append(f"the model did not call {name}")
            elif not any(result.split()[0] in answer for result in results):
                faults.append(f"the answer does not use what {name} returned: {results[-1]}")
        return faults

    def _run(self, name: str, argument: str, work: Callable[[], str]) -> str:
        began_at = time.perf_counter()
        result = work()
        took_s = time.perf_counter() - began_at
        self.runs.append(Run(name=name, argument=argument, result=result, took_s=took_s))
        return result


def _local_time(city: str) -> str:
    zone = _ZONES.get(city.strip().lower())
    if zone is None:
        raise ValueError(f"{city} is not known here; {', '.join(sorted(_ZONES))} are")
    return f"{datetime.datetime.now(zoneinfo.ZoneInfo(zone)):%H:%M}"
