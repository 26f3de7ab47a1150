"""The configuration of the engine, which is made before vLLM is imported.

Never: vLLM itself; the command line imports this module.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from precall_service.domain.json import JsonValue

CPU_KV_CACHE_BYTES: Final = 1 << 30
"""The size of the KV cache on a CPU, unless the operator sets another."""

NO_PARSER = "none"
"""The parser name that means no parser, whatever the model is."""


class Device(enum.Enum):
    """Where the model runs. AUTO: wherever the installed build of vLLM runs."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """Everything that the engine is started with.

    `arguments` and `settings` can set every argument of vLLM's engine: the first as on vLLM's own
    command line, the second by name, as in a settings file. `arguments` wins over `settings`; an
    argument that neither sets has our default, or vLLM's.
    """

    model: str
    """A local folder or the name of a model on a hub."""

    model_name: str
    """The name that clients see."""

    chat_template: str | None = None
    """A Jinja template in place of the model's own."""

    tool_call_parser: str | None = None
    """One of vLLM's tool parsers, or NO_PARSER; None: chosen from the model."""

    reasoning_parser: str | None = None
    """One of vLLM's reasoning parsers, or NO_PARSER; None: chosen from the model."""

    reasoning_tokens_max: int | None = None
    """The most tokens that a step may reason; then its reasoning is ended. None: no limit."""

    structured_calls: bool = True
    """Whether every call is held to its schema while it is generated."""

    drafts: bool | None = None
    """Whether predicted calls are verified instead of generated, where the engine can do that.
    None: on a CPU."""

    device: Device = Device.AUTO
    kv_cache_bytes: int | None = None
    """Size of the KV cache; None: our default on a CPU, vLLM's on a GPU."""

    cores: frozenset[int] | None = None
    """The CPU cores that the engine's processes run on; None: all that this process may use."""

    share_prefix_cache: bool = False
    """Whether tenants share cached prompts. A tenant can then tell by the latency that another one
    has sent the same prompt."""

    offline: bool = False
    """Whether no hub is ever asked. A local folder never needs one."""

    beside_hub: bool = False
    """Whether another engine of this process may ask a hub, though this one need not."""

    log_level: str = "WARNING"
    """The level from which vLLM's own log records are shown."""

    start_timeout_s: float = 1800.0
    """How long a running engine may take to answer and to generate for the first time. Fetching and
    loading the model is not counted, because no limit could tell it from a start that hangs."""

    stop_timeout_s: float = 10.0
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def local(self) -> bool:
        """Whether the model is a folder on this machine."""
        return Path(self.model).is_dir()
