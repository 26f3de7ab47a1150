"""How far a server may run ahead of the model, and what that has been worth."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, InstanceOf
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from precall._events import Predictor
from precall._validate import CountOrZero, Flag, Validator

ModeName: TypeAlias = Literal["on", "off", "shadow"]
"""A mode, as a word."""
PredictorName: TypeAlias = Literal["cache", "early_dispatch", "history", "fork", "draft_model"]
"""The value of a `Predictor`."""


class SpeculationMode(enum.Enum):
    """How far speculation goes."""

    UNKNOWN = "unknown"
    """A value of a newer server."""
    OFF = "off"
    """The server makes no predictions."""
    SHADOW = "shadow"
    """The server makes predictions and scores them, but runs nothing early."""
    ISSUE = "issue"
    """The server runs early what it predicts, if its policy allows; as a word: "on"."""


_MODES: Final = {
    "on": SpeculationMode.ISSUE,
    "off": SpeculationMode.OFF,
    "shadow": SpeculationMode.SHADOW,
}


@dataclass(frozen=True, slots=True, init=False)
class Speculation:
    """How far speculation goes in a conversation, as you ask for it or as the server grants it.

    It can only narrow what the operator of the server allows.
    """

    mode: SpeculationMode | None
    """How far it goes. None: as far as the server's default."""
    predictors: tuple[Predictor, ...]
    """The predictors that may be used. Empty: all that the server has."""
    max_depth: int
    """How many calls ahead of the model it may run. 0: the server's default."""
    verify_drafts: bool | None
    """Whether the engine may verify predicted calls instead of generating them. None: the server's
    default."""
    events: bool
    """Whether turns have the prediction events, such as `PredictionConfirmed`."""

    def __init__(
        self,
        mode: SpeculationMode | ModeName | None = None,
        *,
        predictors: Iterable[Predictor | PredictorName] = (),
        max_depth: int = 0,
        verify_drafts: bool | None = None,
        events: bool = False,
    ) -> None:
        """Makes a setting.

        Args:
            mode: A mode, or "on", "off" or "shadow". None: the server's default.
            predictors: The predictors that may be used, or their values, such as "history". Empty:
                all that the server has.
            max_depth: How many calls ahead of the model speculation may run. 0: the server's
                default.
            verify_drafts: Whether the engine may verify predicted calls instead of generating
                them. None: the server's default.
            events: Whether turns have the prediction events.

        Raises:
            TypeError: A value has the wrong type.
            ValueError: A value is not allowed; the message says which are.
        """
        given: dict[str, object] = {
            "mode": mode,
            "predictors": predictors if isinstance(predictors, str) else tuple(predictors),
            "max_depth": max_depth,
            "verify_drafts": verify_drafts,
            "events": events,
        }
        checked = _SPECULATION.validate(given, "speculation")
        words = checked["mode"]
        kept = {
            "mode": _MODES[words] if isinstance(words, str) else words,
            "predictors": tuple(map(Predictor, checked["predictors"])),
            "max_depth": checked["max_depth"],
            "verify_drafts": checked["verify_drafts"],
            "events": checked["events"],
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)


class _SpeculationArguments(TypedDict):
    mode: Annotated[
        ModeName | InstanceOf[SpeculationMode] | None,
        Field(description='"on", "off", "shadow", a SpeculationMode or None'),
    ]
    predictors: Annotated[
        tuple[PredictorName | InstanceOf[Predictor], ...],
        Field(
            description="a list of precall.Predictor, or of their values: "
            '"cache", "early_dispatch", "history", "fork", "draft_model"'
        ),
    ]
    max_depth: CountOrZero
    verify_drafts: Annotated[bool | None, Field(description="True, False or None")]
    events: Flag


_SPECULATION: Final = Validator(_SpeculationArguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorRecord:
    """How well one predictor predicts the calls of one tool, and what that was worth."""

    predictor: Predictor
    """The predictor."""
    stage: SpeculationMode
    """What is done with its predictions of this tool."""
    pinned: bool = False
    """Whether the operator's configuration sets the stage. If not, the measured value decides."""
    proposed: int = 0
    """Predictions that were proposed."""
    launched: int = 0
    """Those for which a handler was started."""
    resolved: int = 0
    """Those that ended because the model made exactly this call or did something else."""
    matched: int = 0
    """Those for which the model made exactly this call, whether or not a handler was started."""
    confirmed: int = 0
    """Those whose run answered the call."""
    saved_s: float = 0.0
    """The time that confirmed predictions saved."""
    wasted_s: float = 0.0
    """The handlers' time spent on discarded predictions."""
    would_save_s: float = 0.0
    """An estimate of the time that predictions would have saved that were not run."""
    would_waste_s: float = 0.0
    """An estimate of the handlers' time that they would have wasted."""
    draft_tokens_proposed: int = 0
    """Tokens of predicted calls that the engine verified as drafts."""
    draft_tokens_accepted: int = 0
    """Those that were accepted."""
    saved_by_drafts_s: float = 0.0
    """An estimate of the time that the accepted tokens saved."""

    @property
    def acceptance(self) -> float | None:
        """The fraction of resolved predictions that matched; None if none is resolved."""
        return self.matched / self.resolved if self.resolved else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpeculation:
    """What speculation has done for the tools of one name."""

    tool_name: str
    """The name of the tools."""
    calls: int = 0
    """The calls that the model made."""
    calls_confirmed: int = 0
    """Those that a confirmed prediction answered."""
    run_time_s: float | None = None
    """The typical time of a run; None if no run has ended yet."""
    breaker_open: bool = False
    """Whether too many early runs failed in succession, so that none is started for a while."""
    predictors: tuple[PredictorRecord, ...] = ()
    """The predictors that proposed calls of the tools."""

    @property
    def coverage(self) -> float | None:
        """The fraction of calls that a confirmed prediction answered; None without calls."""
        return self.calls_confirmed / self.calls if self.calls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationStats:
    """What speculation has done for a tenant since the server started."""

    tools: tuple[ToolSpeculation, ...] = ()
    """The tools that were called or predicted, by name."""
    allowance: float = 1.0
    """How much speculation the load of the engine allows now: from 0 (none) to 1 (no limit)."""
