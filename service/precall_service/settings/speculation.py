"""The settings of speculation."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PositiveInt,
    SecretStr,
)

from precall_service.domain.events import Predictor
from precall_service.domain.messages import refusal_of
from precall_service.domain.speculation import SpeculationMode, SpeculationSettings
from precall_service.settings.section import Count, Seconds, SecondsOrZero, Section
from precall_service.speculation.limits import DraftModelLimits, SpeculationLimits, StageKey

_STAGE_KEY: Final = r"(\*|[A-Za-z0-9_-]{1,64})(/(cache|early_dispatch|history|fork|draft_model))?"

Mode = Literal["off", "shadow", "issue"]
PredictorChoice = Literal["cache", "early_dispatch", "history", "fork", "draft_model"]


def _checked_stage_key(key: str) -> str:
    if not re.fullmatch(_STAGE_KEY, key):
        raise ValueError(
            f'name "TOOL", "TOOL/PREDICTOR" or "*/PREDICTOR", where PREDICTOR is one of '
            f"{', '.join(get_args(PredictorChoice))}"
        )
    return key


def _checked_variables(variables: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if refusal := refusal_of(variables):
        raise ValueError(refusal)
    return variables


def _number(value: object) -> object:
    """Returns the number in the text of a variable; other values as they are."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


class DraftModelSection(Section):
    """`[speculation.draft_model]`: a smaller model that predicts calls, in an engine of its own.

    Without a model and a URL, there is none.
    """

    model: str | None = None
    """ "embedded", a local folder or a model's name on a hub; with a URL, a model's name there."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """The OpenAI-compatible server that has the model, such as http://localhost:8001/v1."""
    api_key: SecretStr = SecretStr("none")
    streams: bool = False
    """Whether answers of its server are read as they come. Some stream arguments wrongly."""
    samples: Annotated[Literal[1, 3, 5, 7, 9], BeforeValidator(_number)] = 3
    """How often it writes the message of a step: the λ of the paper."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    tokens_max: Annotated[int, Field(ge=1, le=1 << 16)] = 256
    timeout_s: Seconds = 10.0
    samples_running_max: Annotated[int, Field(ge=1, le=1024)] = 16
    """How many samples may run at the same time, of all turns."""
    require_calls: bool | None = None
    """Whether a sample must make a call. None: if its engine can hold it to that."""
    template_variables: Annotated[dict[str, JsonValue], AfterValidator(_checked_variables)] = Field(
        default_factory=dict[str, JsonValue]
    )
    """The variables of its chat template."""
    cores: Count | None = None
    """The CPU cores that its engine has to itself. None: a quarter of them, but at least one."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The fraction of a GPU's memory that its engine has."""
    kv_cache_bytes: PositiveInt | None = None
    tool_call_parser: str | None = None
    """One of vLLM's tool parsers. None: chosen from the model."""
    vllm: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """Any argument of vLLM's engine by name."""

    @property
    def used(self) -> bool:
        """Whether there is a draft model."""
        return self.model is not None or self.url is not None

    def limits(self) -> DraftModelLimits:
        """Returns how it is asked."""
        own = {each.name for each in fields(DraftModelLimits)}
        return DraftModelLimits(**self.model_dump(include=own))


class SpeculationSection(Section):
    """`[speculation]`: which predicted calls may run early. Tools must allow it, too."""

    mode: Mode = "issue"
    """The most that a conversation gets, and what it gets if it asks for nothing."""
    predictors: frozenset[PredictorChoice] = frozenset(get_args(PredictorChoice))
    depth_max: Annotated[int, Field(ge=1, le=8)] = 2
    verify_drafts: bool = True
    """Whether predicted calls are verified in the engine instead of generated."""
    open_world_tools: frozenset[str] = frozenset()
    """Tools that may run early although they are declared as open-world."""
    stages: dict[Annotated[str, AfterValidator(_checked_stage_key)], Mode] = Field(
        default_factory=dict[str, Mode]
    )
    """Fixed stages, by "tool", "tool/predictor" or "*/predictor"."""
    waste_weight: Annotated[float, Field(ge=0, le=1000)] = 0.2
    margin_s: SecondsOrZero = 0.01
    predictions_per_turn_max: Annotated[int, Field(ge=1, le=1024)] = 64
    running_per_turn_max: Count = 4
    running_per_tenant_max: Count = 32
    waste_per_minute_s: SecondsOrZero = 60.0
    result_age_max_s: Seconds = 60.0
    breaker_failures: Count = 5
    breaker_s: Seconds = 30.0
    forks_max: Annotated[int, Field(ge=0, le=1024)] = 8
    fork_tokens_max: Annotated[int, Field(ge=1, le=1 << 16)] = 192
    draft_model: DraftModelSection = DraftModelSection()

    def limits(self) -> SpeculationLimits:
        """Returns the limits of speculation."""
        most = {"mode", "predictors", "depth_max", "verify_drafts"}
        own = most | {"open_world_tools", "stages", "draft_model"}
        predictors = frozenset(Predictor[each.upper()] for each in self.predictors)
        if not self.draft_model.used:
            predictors -= {Predictor.DRAFT_MODEL}
        return SpeculationLimits(
            most=SpeculationSettings(
                mode=SpeculationMode[self.mode.upper()],
                predictors=predictors,
                max_depth=self.depth_max,
                verify_drafts=self.verify_drafts,
            ),
            stages={
                _stage_key(key): SpeculationMode[mode.upper()] for key, mode in self.stages.items()
            },
            draft_model=self.draft_model.limits(),
            **self.model_dump(exclude=own),
        )


def _stage_key(key: str) -> StageKey:
    tool, _, predictor = key.partition("/")
    return tool, Predictor[predictor.upper()] if predictor else None
