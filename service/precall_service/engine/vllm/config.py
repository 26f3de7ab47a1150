"""What an operator may say about the embedded engine, before vLLM is imported.

Never: vLLM itself; this module is part of the settings and of the command line.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from precall_service.domain.json import JsonValue

NO_PARSER = "none"
"""The name of a parser that means: none at all, whatever the model is."""


class Device(enum.Enum):
    """Where the model runs. AUTO: where the installed build of vLLM can run it."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """Everything that the embedded engine is started with.

    `arguments` and `settings` reach every argument of vLLM's engine: the first as on vLLM's own
    command line, the second by name from a settings file. Where both name one, the command line
    wins; what neither names takes our default, or vLLM's.
    """

    model: str
    """A local folder or the name of a model on a hub."""

    model_name: str
    """What clients are told."""

    chat_template: str | None = None
    """A Jinja template in place of the model's own."""

    tool_call_parser: str | None = None
    """One of vLLM's tool parsers, or NO_PARSER; None: chosen from the model."""

    reasoning_parser: str | None = None
    """One of vLLM's reasoning parsers, or NO_PARSER; None: chosen from the model."""

    structured_calls: bool = True
    """Hold every call to its schema while it is generated."""

    device: Device = Device.AUTO
    kv_cache_bytes: int | None = None
    """Size of the KV cache; None: our default on a CPU, vLLM's on a GPU."""

    share_prefix_cache: bool = False
    """Whether tenants may find each other's prompts in the KV cache, and tell by how fast."""

    offline: bool = False
    """Never ask a hub. Always so for a model that is a local folder."""

    log_level: str = "WARNING"
    """From which level on vLLM's own log records are shown."""

    start_timeout_s: float = 1800.0
    """How long an engine that is up may take to answer and to generate for the first time. Not
    counted: fetching and loading the model, which no limit could tell from being stuck."""

    stop_timeout_s: float = 10.0
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def local(self) -> bool:
        """Whether the model is a folder on this machine."""
        return Path(self.model).is_dir()
