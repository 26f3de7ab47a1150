"""A bench's result: printed as it comes, judged against its targets, kept as JSON."""

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
    """A target: what a quantity should reach."""

    bound: float

    def met_by(self, value: float) -> bool:
        """Whether this value is good enough."""
        return value >= self.bound

    def __str__(self) -> str:
        return f"at least {number(self.bound)}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """A target: what a quantity should stay within."""

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

    `settings` is what the run was asked for, `name` that of the file that keeps it; None: none.
    """

    bench: str
    settings: JsonObject
    name: str | None = None
    loads_before: list[float] = field(default_factory=lambda: [machine.load()])
    """The machine's load before each piece of the run."""
    _quantities: dict[str, _Quantity] = field(default_factory=dict[str, _Quantity])
    _began: float = field(default_factory=time.time)

    def add(self, quantity: str, *samples: float, unit: str = "") -> None:
        """More samples of a quantity."""
        entry = self._quantities.setdefault(quantity, _Quantity(unit, []))
        entry.samples.extend(samples)

    def samples(self, quantity: str) -> list[float]:
        """The samples of a quantity, as they came."""
        return self._quantities[quantity].samples

    def count(self, quantity: str) -> int:
        """How many samples of it there are."""
        return len(self._quantities[quantity].samples) if quantity in self._quantities else 0

    def ratio(self, quantity: str, over: str, under: str) -> None:
        """A quantity that is the ratio of two others, sample by sample."""
        ratios = paired_ratios(self.samples(over), self.samples(under))
        self._quantities[quantity] = _Quantity("", ratios)

    def judge(self, quantity: str, target: AtLeast | AtMost) -> None:
        """The median of this quantity has a target."""
        self._quantities[quantity].target = target

    def resume(self) -> None:
        """Goes on from the kept result: its samples count beside those that come.

        Raises:
            ValueError: none is kept, or it is of other settings or another machine.
        """
        path = self.path
        if path is None or not path.exists():
            raise ValueError(f"there is no {path or 'kept result'} to go on from")
        kept = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        for name, value in (("settings", self.settings), ("machine", machine.facts())):
            if kept[name] != value:
                raise ValueError(f"{path} is of other {name}: {kept[name]}, not {value}")
        self.loads_before = kept["loads_before"] + self.loads_before
        for name, entry in cast(dict[str, dict[str, Any]], kept["quantities"]).items():
            self._quantities[name] = _Quantity(entry["unit"], entry["samples"])

    def round_ended(self) -> None:
        """Keeps what there is so far: a run that is interrupted later loses one round at most."""
        if self.path is not None:
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(self._result(), indent=1) + "\n"
            self.path.write_text(text, encoding="utf-8")

    def finish(self, *, judge: bool) -> None:
        """Prints everything, and judges it."""
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
        """The file that keeps it, if one does."""
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
