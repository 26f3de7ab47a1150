"""What an operator sets for speculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from precall_service.domain.events import Predictor
from precall_service.domain.json import JsonValue
from precall_service.domain.speculation import SpeculationMode, SpeculationSettings

StageKey = tuple[str, Predictor | None]
"""A tool's name, or "*" for all tools; and a predictor, or None for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftModelLimits:
    """How the draft model is asked.

    Attributes:
        samples: How often it writes the message of one step.
        temperature: That of the samples.
        tokens_max: Tokens of one sample.
        timeout_s: A sample that takes longer is given up.
        samples_running_max: Samples at the same time, of all turns.
        require_calls: Whether a sample must make a call. None: if its engine can hold it to that.
        template_variables: The variables of its chat template.
    """

    samples: int = 3
    temperature: float = 0.7
    tokens_max: int = 256
    timeout_s: float = 10.0
    samples_running_max: int = 16
    require_calls: bool | None = None
    template_variables: Mapping[str, JsonValue] = field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationLimits:
    """The limits and weights of speculation. Times are in seconds.

    Attributes:
        most: The most that a client is granted, and what it is granted if it asks for nothing.
        stages: Stages that the operator has fixed.
        waste_weight: What a wasted second of a handler costs, in seconds of a turn.
        margin_s: The expected value that a prediction must have to run early.
        predictions_per_turn_max: Further proposals of the turn are ignored.
        running_per_turn_max, running_per_tenant_max: Handlers that run early at the same time.
        waste_per_minute_s: How much a tenant may waste in a minute.
        result_age_max_s: A result that waits longer for the model is not used.
        breaker_failures: After so many failed early runs in succession, none of the tool is started
            for `breaker_s`.
        forks_max: Branches of the model at the same time.
        fork_tokens_max: Tokens of one branch.
        draft_model: How the draft model is asked, if there is one.
    """

    most: SpeculationSettings = field(default_factory=SpeculationSettings)
    stages: Mapping[StageKey, SpeculationMode] = field(
        default_factory=dict[StageKey, SpeculationMode]
    )
    waste_weight: float = 0.2
    margin_s: float = 0.01
    predictions_per_turn_max: int = 64
    running_per_turn_max: int = 4
    running_per_tenant_max: int = 32
    waste_per_minute_s: float = 60.0
    result_age_max_s: float = 60.0
    breaker_failures: int = 5
    breaker_s: float = 30.0
    forks_max: int = 8
    fork_tokens_max: int = 192
    draft_model: DraftModelLimits = field(default_factory=DraftModelLimits)

    def pinned_stage(self, tool_name: str, predictor: Predictor) -> SpeculationMode | None:
        """Returns the stage that the operator has fixed; the most specific setting counts."""
        for key in (
            (tool_name, predictor),
            (tool_name, None),
            ("*", predictor),
            ("*", None),
        ):
            if key in self.stages:
                return self.stages[key]
        return None
