"""The result of a bench: printed, judged against its targets, and kept as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bench import machine
from bench.stats import number, paired_ratios, summary
from precall_service.domain.json import JsonObject

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A target: a lower bound of a quantity."""

    bound: float

    def met_by(self, value: float) -> bool:
        """Whether this value is good enough."""
        return value >= self.bound

    def __str__(self) -> str:
        return f"at least {number(self.bound)}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """A target: an upper bound of a quantity."""

    bound: float

    def met_by(self, value: float) -> bool:
        """Whether this value is good enough."""
        return value <= self.bound

    def __str__(self) -> str:
        return f"at most {number(self.bound)}"


@dataclass(slots=True)
class _Quantity:
    unit: str
    samples: list[float]
    target: AtLeast | AtMost | None = None


@dataclass(slots=True)
class Report:
    """Collects samples by quantity.

    `settings` are the settings of the run. `name` is the name of the file that keeps the result;
    without a name the result is not kept.
    """

    bench: str
    settings: JsonObject
    name: str | None = None
    loads_before: list[float] = field(default_factory=lambda: [machine.load()])
    """The machine's load at the start of the run, and at each time it was resumed."""
    _quantities: dict[str, _Quantity] = field(default_factory=dict[str, _Quantity])
    _began: float = field(default_factory=time.time)

    def add(self, quantity: str, *samples: float, unit: str = "") -> None:
        """Adds samples of a quantity."""
        entry = self._quantities.setdefault(quantity, _Quantity(unit, []))
        entry.samples.extend(samples)

    def samples(self, quantity: str) -> list[float]:
        """The samples of a quantity, in the order in which they were added."""
        return self._quantities[quantity].samples

    def count(self, quantity: str) -> int:
        """The number of samples of a quantity."""
        return len(self._quantities[quantity].samples) if quantity in self._quantities else 0

    def ratio(self, quantity: str, over: str, under: str) -> None:
        """Defines a quantity as the ratio of two others, sample by sample."""
        ratios = paired_ratios(self.samples(over), self.samples(under))
        self._quantities[quantity] = _Quantity("", ratios)

    def judge(self, quantity: str, target: AtLeast | AtMost) -> None:
        """Sets a target for the median of a quantity."""
        self._quantities[quantity].target = target

    def resume(self) -> None:
        """Loads the samples of the kept result, so that this run adds to them.

        Raises:
            ValueError: No result is kept, or it has other settings or is from another machine.
        """
        path = self.path
        if path is None or not path.exists():
            raise ValueError(f"nothing to resume: {path or 'the result'} is not kept")
        kept = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        for name, value in (("settings", self.settings), ("machine", machine.facts())):
            if kept[name] != value:
                raise ValueError(f"{path} has another {name}: {kept[name]}, not {value}")
        self.loads_before = kept["loads_before"] + self.loads_before
        for name, entry in cast(dict[str, dict[str, Any]], kept["quantities"]).items():
            self._quantities[name] = _Quantity(entry["unit"], entry["samples"])

    def round_ended(self) -> None:
        """Writes the result so far, so that an interrupted run loses at most one round."""
        if self.path is not None:
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(self._result(), indent=1) + "\n"
            self.path.write_text(text, encoding="utf-8")

    def finish(self, *, judge: bool) -> None:
        """Prints all quantities and, if `judge` is set, whether they meet their targets."""
        print(f"\n{self.bench}: load before {self.loads_before}, {self.settings}")
        for name, entry in self._quantities.items():
            found = summary(entry.samples)
            line = f"  {name:<52} {found!s:<40} {entry.unit}"
            if judge and entry.target is not None:
                met = entry.target.met_by(found.median)
                line += f"  [{entry.target}: {'met' if met else 'MISSED'}]"
            print(line)
        if self.path is not None:
            print(f"  kept in {self.path}")

    @property
    def path(self) -> Path | None:
        """The file that keeps the result; None if it is not kept."""
        return None if self.name is None else RESULTS / f"{self.name}.json"

    def _result(self) -> JsonObject:
        return {
            "bench": self.bench,
            "at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(self._began)),
            "took_s": round(time.time() - self._began),
            "loads_before": self.loads_before,
            "machine": machine.facts(),
            "settings": self.settings,
            "quantities": {name: _as_json(entry) for name, entry in self._quantities.items()},
        }


def _as_json(entry: _Quantity) -> JsonObject:
    found = summary(entry.samples)
    return {
        "unit": entry.unit,
        "n": found.n,
        "median": round(found.median, 6),
        "least": round(found.least, 6),
        "greatest": round(found.greatest, 6),
        "target": None if entry.target is None else str(entry.target),
        "met": None if entry.target is None else entry.target.met_by(found.median),
        "samples": [round(sample, 6) for sample in entry.samples],
    }
