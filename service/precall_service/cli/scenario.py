"""What `precall demo` asks, its two functions, and how it checks that the answer is not made up.

The functions are ordinary Python. No model knows the time, so an answer with what the functions
returned must have used them. Both return whole sentences, which a model as small as the embedded
one repeats best; larger models do not need that. Real tools wait for a network or a disk, and so do
these: each takes some time before it returns.
"""

from __future__ import annotations

import datetime
import re
import time
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

QUESTION: Final = "How many letters are in elephant, and what time is it in Tokyo?"
STEP_TOKENS_MAX: Final = 160

_ZONES: Final = {
    "berlin": "Europe/Berlin",
    "london": "Europe/London",
    "new york": "America/New_York",
    "paris": "Europe/Paris",
    "tokyo": "Asia/Tokyo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a function. An answer that uses the result contains `fact`."""

    name: str
    argument: str
    fact: str
    result: str
    took_s: float


class Functions:
    """The two functions, and a record of their runs. The client runs functions in threads.

    Each run takes `takes_s` seconds. The time in a city is the one at `at`, so that two turns get
    the same results.
    """

    def __init__(
        self,
        on_run: Callable[[Run], None],
        *,
        takes_s: float = 0.0,
        at: datetime.datetime | None = None,
    ) -> None:
        self._on_run = on_run
        self._takes_s = takes_s
        self._at = at or datetime.datetime.now(datetime.UTC)
        self.runs: list[Run] = []

    def count_letters(self, word: Annotated[str, Field(description="The word.")]) -> str:
        """Count the letters of a word."""
        began_at = time.perf_counter()
        fact = str(sum(character.isalpha() for character in word))
        return self._ran(
            "count_letters", word, fact, f"The word {word} has {fact} letters.", began_at
        )

    def get_time(self, city: Annotated[str, Field(description="Name of the city.")]) -> str:
        """Get the time in a city."""
        began_at = time.perf_counter()
        fact = _local_time(city, self._at)
        return self._ran("get_time", city, fact, f"It is {fact} in {city}.", began_at)

    def tools(self) -> Sequence[Callable[..., object]]:
        """Returns both functions, for a client."""
        return (self.count_letters, self.get_time)

    def faults(self, answer: str) -> list[str]:
        """Returns why the answer cannot have come from these functions; empty if it has."""
        faults: list[str] = []
        for tool in self.tools():
            name = tool.__name__
            runs = [run for run in self.runs if run.name == name]
            if not runs:
                faults.append(f"the model did not call {name}")
            elif not any(_has(answer, run.fact) for run in runs):
                faults.append(f"the answer does not use what {name} returned: {runs[-1].result}")
        return faults

    def _ran(self, name: str, argument: str, fact: str, result: str, began_at: float) -> str:
        time.sleep(self._takes_s)
        took_s = time.perf_counter() - began_at
        run = Run(name=name, argument=argument, fact=fact, result=result, took_s=took_s)
        self.runs.append(run)
        self._on_run(run)
        return result


def _local_time(city: str, at: datetime.datetime) -> str:
    zone = _ZONES.get(city.strip().lower())
    if zone is None:
        raise ValueError(
            f"the time in {city} is unknown; known cities: {', '.join(sorted(_ZONES))}"
        )
    return f"{at.astimezone(zoneinfo.ZoneInfo(zone)):%H:%M}"


def _has(answer: str, fact: str) -> bool:
    """Whether the answer contains a number or time, not as a part of another one."""
    return re.search(rf"(?<![\d:.]){re.escape(fact)}(?![\d:])", answer) is not None
