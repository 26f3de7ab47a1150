"""How often a branch that skips the reasoning makes the call that the model makes after reasoning.

The engine alone, without the service. For each prompt of the leaderboard, the model reasons and
calls (greedily). Then branches start from the same tokens: at the start, later in the thought, and
with sampling. They are what the service's fork would propose. "Acceptance" is the fraction of the
model's first calls that were among the proposals, with equal tool and equal canonical arguments.

- One fork: the greedy branch at the start.
- Up to three candidates: where the first one is close, two more branches are sampled, as in the
  service's fork.
- Forks again: the greedy branches at the start and at each place where the service may fork. The
  service forks only where its policy has found it worth it.
- Above a gate: only the third of the first candidates to which the model gave the highest
  probability. The rest is not proposed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bench import served, speculating
from bench.process import started
from bench.report import AtLeast, Report
from bench.speculating import ENGINE, ENGINE_ON_GPU
from bench.tool_calls import Call
from precall_service.domain.json import JsonObject
from precall_service.speculation.places import PLACES
from precall_service.speculation.predictors.fork import CLOSE, STABILITY

START = "start"
FRACTIONS = {0.25: "a quarter", 0.5: "half", 0.75: "three quarters"}
GATE = 1 / 3
BINS = 5

SIZES = {
    "cpu": {
        "prompts": 60,
        "at_once": 8,
        "tool_choice": "required",
        "rounds": 4,
        **ENGINE,
    },
    "gpu": {
        "prompts": 60,
        "at_once": 16,
        "tool_choice": "required",
        "rounds": 4,
        **ENGINE_ON_GPU,
    },
    "quick": {"prompts": 4, "at_once": 4, "tool_choice": "required", "rounds": 1, **ENGINE},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A call that a branch wrote, and its probability."""

    call: Call
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The first call that the model made for a prompt, and the branches' calls."""

    call: Call
    branches: dict[str, Guess | None]
    """The first call of each greedy branch, by where it started."""
    samples: tuple[Guess, ...] = field(default=())

    @classmethod
    def read(cls, told: dict[str, Any]) -> Answered:
        """Reads what the engine's process has measured."""
        return cls(
            call=Call(*told["calls"][0]),
            branches={
                name: _guess(found[0]) if found else None
                for name, found in told["branches"].items()
            },
            samples=tuple(_guess(each) for each in told["samples"] if each),
        )

    @property
    def first(self) -> Guess | None:
        """The first call of the branch at the start."""
        return self.branches[START]

    def found_by(self, *names: str) -> bool:
        """Whether a branch that started there wrote the model's call."""
        found = (self.branches.get(name) for name in names)
        return any(guess is not None and guess.call == self.call for guess in found)

    def found_by_three(self) -> bool:
        """Whether the call is the first choice, or was sampled where that one is close."""
        first = self.first
        close = first is None or first.probability**STABILITY < CLOSE
        return self.found_by(START) or (
            close and any(guess.call == self.call for guess in self.samples)
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    speculating.add_arguments(parser)
    parser.add_argument("--prompts", type=int, help="prompts in each round")
    parser.add_argument("--at-once", type=int, help="prompts that are answered at the same time")
    parser.add_argument("--tool-choice", choices=("auto", "required"))
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    how = served.served(options, block_size=options.block_size)
    config: JsonObject = {
        "model": None if how.model.embedded else how.model.path_or_name,
        "device": how.device,
        "vllm": how.vllm,
        "tool_choice": options.tool_choice,
    }
    done = report.count("thought")
    answered: list[Answered] = []
    async with started("bench.arms.branching", config) as child:
        for _ in range(options.rounds):
            told = await child.ask(
                "measure",
                timeout_s=3600.0,
                first=done,
                last=done + options.prompts,
                at_once=options.at_once,
                after=list(PLACES[1:]),
                fractions=list(FRACTIONS),
            )
            done += options.prompts
            found = cast(list[dict[str, Any]], told["prompts"])
            for each in found:
                report.add("thought", each["reasoning_tokens"], unit="tokens")
                report.add("message", each["output_tokens"], unit="tokens")
                report.add("calls in a message", len(each["calls"]))
                report.add("forks", sum(place < each["reasoning_tokens"] for place in PLACES))
            new = [Answered.read(each) for each in found if each["calls"]]
            answered += new
            for name, value in acceptances(new).items():
                report.add(name, value)
            _judge(report)
            report.round_ended()
            print(f"{done} prompts, {len(answered)} with calls: {acceptances(answered)}")
    for name, value in reliability(answered).items():
        report.add(name, value)
    report.round_ended()
    print(reliability_plot(answered))


def acceptances(answered: Sequence[Answered]) -> dict[str, float]:
    """Returns the acceptance of each way to fork."""
    again = [START, *(f"{count} tokens" for count in PLACES[1:])]
    found = {
        "acceptance: one fork at the start": _fraction(answered, lambda each: each.found_by(START)),
        "acceptance of tools: one fork at the start": _fraction(
            answered,
            lambda each: each.first is not None and each.first.call[0] == each.call[0],
        ),
        "acceptance: up to three candidates": _fraction(answered, Answered.found_by_three),
        "acceptance: forks again": _fraction(answered, lambda each: each.found_by(*again)),
        "acceptance: forks again, and up to three candidates": _fraction(
            answered, lambda each: each.found_by(*again) or each.found_by_three()
        ),
        "acceptance: above the gate": _fraction(
            above_gate(answered), lambda each: each.found_by(START)
        ),
    }
    for fraction, words in FRACTIONS.items():
        name = f"{fraction:g} of the thought"
        found[f"acceptance: one fork after {words} of the thought"] = _fraction(
            answered, lambda each, name=name: each.found_by(name)
        )
    return found


def above_gate(answered: Sequence[Answered]) -> list[Answered]:
    """Returns the third with the most probable first candidates."""
    ranked = sorted(answered, key=lambda each: -(each.first.probability if each.first else 0.0))
    return ranked[: max(1, round(GATE * len(answered)))]


def reliability(answered: Sequence[Answered]) -> dict[str, float]:
    """Returns the mean confidence and the acceptance of first candidates.

    They are grouped by their confidence, as many in each group.
    """
    found: dict[str, float] = {}
    for number, group in enumerate(_groups(answered), start=1):
        name = f"calibration, fifth {number}"
        found[f"{name}: mean confidence"] = sum(each for each, _ in group) / len(group)
        found[f"{name}: acceptance"] = sum(right for _, right in group) / len(group)
    return found


def reliability_plot(answered: Sequence[Answered]) -> str:
    """Returns a plot of acceptance over confidence, a line for each group."""
    lines = ["confidence  acceptance"]
    for group in _groups(answered):
        mean = sum(each for each, _ in group) / len(group)
        right = sum(hit for _, hit in group) / len(group)
        lines.append(f"{mean:10.3f}  {right:10.3f}  {'#' * round(40 * right)}")
    return "\n".join(lines)


def _groups(answered: Sequence[Answered]) -> list[list[tuple[float, bool]]]:
    judged = sorted(
        (each.first.probability, each.found_by(START)) for each in answered if each.first
    )
    size = len(judged) / BINS
    cuts = [round(number * size) for number in range(BINS + 1)]
    groups = [judged[start:end] for start, end in itertools.pairwise(cuts)]
    return [group for group in groups if group]


def _fraction(answered: Sequence[Answered], right: Callable[[Answered], bool]) -> float:
    return sum(map(right, answered)) / len(answered) if answered else 0.0


def _guess(told: dict[str, Any]) -> Guess:
    return Guess(call=Call(*told["call"]), probability=told["probability"])


def _judge(report: Report) -> None:
    report.judge("acceptance: one fork at the start", AtLeast(0.6))
    report.judge("acceptance: up to three candidates", AtLeast(0.75))
    report.judge("acceptance: forks again", AtLeast(0.75))
    report.judge("acceptance: above the gate", AtLeast(0.85))
