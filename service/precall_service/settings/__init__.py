"""The service's settings: from flags, PRECALL_* variables and a TOML file, in order of precedence.

Owns: every setting, with its default and unit. Each package gets its settings as a frozen value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    JsonValue,
    PositiveInt,
    SecretStr,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from precall_service.admission import AdmissionLimits
from precall_service.agent.limits import AgentLimits
from precall_service.cache.limits import CacheLimits
from precall_service.domain.turn import TurnLimits
from precall_service.engine.openai.config import LimitField, ReasoningField
from precall_service.engine.supervisor import RestartPolicy
from precall_service.settings.section import Bytes, Count, Memory, Seconds, SecondsOrZero, Section
from precall_service.settings.speculation import SpeculationSection
from precall_service.tools.declarations import ToolLimits
from precall_service.transport.server import ServerOptions

VARIABLE_PREFIX: Final = "PRECALL_"
OTHER_VARIABLES: Final = frozenset({"PRECALL_ADDRESS", "PRECALL_CACHE_DIR", "PRECALL_LOG_LEVEL"})
"""PRECALL_* variables that are not settings of the service."""


class ServerSection(Section):
    """`[server]`: where to listen."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50151
    frame_bytes_max: Bytes = 4 << 20
    keepalive_s: Seconds = 30.0
    keepalive_timeout_s: Seconds = 10.0
    connections_max: Count = 4096
    """At most so many connections; further ones are closed at once."""
    streams_per_connection_max: Count = 1024
    """Further calls of a connection wait in its client."""
    calls_max: Count = 20_000
    """At most so many calls at once, and half as many of one tenant."""
    arrivals_max: Count = 4
    """First messages that are read at once: each may take twice `frame_bytes_max` of memory."""
    arrivals_waiting_max: Count = 4096
    """Calls whose first message waits to be read, and half as many of one tenant."""
    handshake_s: Seconds = 30.0
    """How long a client may take to send its first frame, and how long it may wait before that."""
    unread_s: Seconds = 60.0
    """How long a client may leave events unread."""
    info_counts: bool = False
    """Whether GetServerInfo tells every client the server's load, which is that of all tenants."""
    drain_s: SecondsOrZero = 30.0
    """How long running turns may continue after the server was told to stop."""
    loop_pause_s: Seconds = 0.05
    """How long the event loop may do nothing else before that is logged."""

    def options(self) -> ServerOptions:
        """Returns the options of the transport."""
        return ServerOptions(
            host=self.host,
            port=self.port,
            frame_bytes_max=self.frame_bytes_max,
            wire_bytes_max=2 * self.frame_bytes_max,
            connections_max=self.connections_max,
            streams_per_connection_max=self.streams_per_connection_max,
            calls_max=self.calls_max,
            arrivals_max=self.arrivals_max,
            arrivals_waiting_max=self.arrivals_waiting_max,
            keepalive_s=self.keepalive_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
            handshake_s=self.handshake_s,
            unread_s=self.unread_s,
        )


class EngineSection(Section):
    """`[engine]`: the model and how it is served."""

    backend: Literal["vllm", "openai"] = "vllm"
    """vllm: an engine in this process. openai: the server of section [openai]."""
    model: str | None = None
    """None: the embedded default model. Otherwise a local folder or a model's name on a hub. For
    a server, a model's name there; None: the one model that it has."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    tool_call_parser: str | None = None
    """One of vLLM's tool parsers. None: chosen from the model; "none": no tool calls."""
    reasoning_parser: str | None = None
    """One of vLLM's reasoning parsers. None: chosen from the model; "none": all is text."""
    reasoning_tokens_max: PositiveInt | None = None
    """The most tokens that a step may reason. None: no limit, or the embedded model's own."""
    chat_template: Path | None = None
    structured_calls: bool = True
    drafts: bool | None = None
    """Whether predicted calls are verified instead of generated, where the engine can do that."""
    kv_cache_bytes: PositiveInt | None = None
    share_prefix_cache: bool = False
    """Whether tenants share the prefix cache. One can then detect another's prompts by timing."""
    offline: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """The lowest level of vLLM's own log that is shown."""
    start_timeout_s: Seconds = 1800.0
    stop_timeout_s: Seconds = 10.0
    restart_backoff_first_s: Seconds = 1.0
    restart_backoff_max_s: Seconds = 60.0
    hung_notice_s: Seconds = 30.0
    """After how long without a sign of life the engine no longer counts as ready."""
    hung_restart_s: Seconds = 300.0
    """After how long without a sign of life it is killed and started again."""
    cache_dir: Path | None = None
    vllm: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """Any argument of vLLM's engine by name, such as max_num_seqs."""

    def restart_policy(self) -> RestartPolicy:
        """Returns the policy of the supervisor."""
        return RestartPolicy(
            backoff_first_s=self.restart_backoff_first_s,
            backoff_max_s=self.restart_backoff_max_s,
            hung_notice_s=self.hung_notice_s,
            hung_restart_s=self.hung_restart_s,
        )


class OpenAiSection(Section):
    """`[openai]`: the OpenAI-compatible server that takes the place of an engine."""

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """The base of its interface, such as http://localhost:8000/v1."""
    api_key: SecretStr = SecretStr("none")
    turns_max: Count = 64
    """How many turns it is given at once."""
    context_tokens_max: PositiveInt | None = None
    """None: what the server says, if it does."""
    step_tokens_max: Count = 4096
    limit_field: LimitField = "max_tokens"
    """The field that bounds the tokens of a step. OpenAI's own reasoning models want the other."""
    reasoning_field: ReasoningField | None = None
    """The field of a message in which the model's reasoning is sent back. None: it is not."""
    connect_timeout_s: Seconds = 10.0
    answer_timeout_s: Seconds = 120.0
    """How long it may take for the first byte of an answer, and for each further one."""
    tries_max: Annotated[int, Field(ge=1, le=10)] = 3


class AdmissionSection(Section):
    """`[admission]`: how many turns may wait and run, and how long a turn keeps its share."""

    waiting_max: Count = 1024
    waiting_per_tenant_max: Count = 256
    running_per_tenant_max: Count | None = None
    """How many turns of one tenant may run at once. None: a tenant alone may use all slots."""
    hold_s: SecondsOrZero = 5.0
    wait_max_s: Seconds = 600.0
    positions_s: Seconds = 0.5
    """How often waiting turns are told their queue positions, at most."""
    prompts_at_once: Count = 1
    """How many prompts are made at once. vLLM's renderer has one thread, unless it gets more."""
    token_latency_s: Seconds | None = None
    """The time that a token may take, on average over the running turns. None: any time."""

    def limits(self) -> AdmissionLimits:
        """Returns the limits of the admission."""
        return AdmissionLimits(**self.model_dump())


class ConversationSection(Section):
    """`[conversations]`: the limits of conversations and turns."""

    conversations_max: Count = 10_000
    conversations_per_tenant_max: Count = 5_000
    bytes_max: Memory = 2 << 30
    """What all conversations together may hold in memory."""
    bytes_per_tenant_max: Memory = 1 << 30
    messages_max: Count = 1_000
    text_bytes_max: Bytes = 1 << 20
    idle_expiry_s: Seconds = 3600.0
    events_max: Count = 256
    events_bytes_max: Bytes = 4 << 20
    turn_steps_max: Count = 32
    turn_tokens_max: Count = 32_768
    turn_duration_max_s: Seconds = 1800.0

    def limits(self) -> AgentLimits:
        """Returns the limits of the agent."""
        return AgentLimits(
            conversations_max=self.conversations_max,
            conversations_per_tenant_max=self.conversations_per_tenant_max,
            bytes_max=self.bytes_max,
            bytes_per_tenant_max=self.bytes_per_tenant_max,
            messages_max=self.messages_max,
            text_bytes_max=self.text_bytes_max,
            idle_expiry_s=self.idle_expiry_s,
            events_max=self.events_max,
            events_bytes_max=self.events_bytes_max,
            turn=TurnLimits(
                max_steps=self.turn_steps_max,
                max_turn_tokens=self.turn_tokens_max,
                max_duration_s=self.turn_duration_max_s,
            ),
        )


class ToolSection(Section):
    """`[tools]`: the limits of tools and their runs."""

    tools_max: Count = 128
    schema_bytes_max: Bytes = 64 << 10
    schemas_stream_bytes_max: Memory = 64 << 20
    """The most memory for the compiled schemas of one stream's tools, as it is estimated."""
    schemas_tenant_bytes_max: Memory = 256 << 20
    """The same for all streams of a tenant. Equal schemas of its tools count once."""
    schemas_bytes_max: Memory = 1 << 30
    """The same for all tenants."""
    description_bytes_max: Bytes = 8 << 10
    arguments_bytes_max: Bytes = 256 << 10
    result_bytes_max: Bytes = 1 << 20
    timeout_default_s: Seconds = 30.0
    timeout_max_s: Seconds = 600.0
    concurrency_default: Count = 16

    def limits(self, *, cache_ttl_max_s: float, early_open_world: frozenset[str]) -> ToolLimits:
        """Returns the limits of tools."""
        settings = self.model_dump()
        settings["timeout_default_s"] = min(self.timeout_default_s, self.timeout_max_s)
        return ToolLimits(
            **settings, cache_ttl_max_s=cache_ttl_max_s, early_open_world=early_open_world
        )


class CacheSection(Section):
    """`[cache]`: the cache of tool results."""

    store_url: SecretStr | None = None
    """The URL of a Redis or Valkey server, such as redis://localhost:6379/0. None: entries are kept
    in the memory of this process."""
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "precall"
    store_timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.05
    memory_bytes_max: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    entry_bytes_max: Bytes = 1 << 20
    ttl_max_s: Seconds = 7 * 86_400.0
    nodes_max: Annotated[int, Field(ge=256, le=1 << 24)] = 1 << 16
    changes_max: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    watches_max: Count = 256
    watches_per_tenant_max: Count = 64

    def limits(self) -> CacheLimits:
        """Returns the limits of the cache."""
        return CacheLimits(
            entry_bytes_max=min(self.entry_bytes_max, self.memory_bytes_max),
            ttl_max_s=self.ttl_max_s,
            watches_max=self.watches_max,
            watches_per_tenant_max=self.watches_per_tenant_max,
        )


class TracingSection(Section):
    """`[tracing]`: where spans are sent. They never hold messages, arguments or results."""

    otlp_endpoint: str | None = None
    """An OTLP/gRPC collector, such as http://localhost:4317. None: no spans are recorded."""


class _Variables(EnvSettingsSource):
    """Reads settings from variables, and passes on misspelled ones for validation to refuse."""

    def __call__(self) -> dict[str, Any]:
        """Returns the values by section, and misspelled variables by their own names."""
        known = {f"{VARIABLE_PREFIX}{section.upper()}" for section in Settings.model_fields}
        misspelled = {
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith(VARIABLE_PREFIX)
            and name.upper() not in OTHER_VARIABLES
            and name.upper().partition("__")[0] not in known
            and not _is_set_by_kubernetes(name)
        }
        return super().__call__() | misspelled


def _is_set_by_kubernetes(name: str) -> bool:
    """Returns whether Kubernetes set the variable for a Service, which may be named precall."""
    services = (
        host.removesuffix("_SERVICE_HOST") for host in os.environ if host.endswith("_SERVICE_HOST")
    )
    return any(name.startswith((f"{each}_SERVICE_", f"{each}_PORT")) for each in services)


class Settings(BaseSettings):
    """All settings.

    A variable names section and setting: PRECALL_SERVER__PORT=50151. The file has a table for each
    section.
    """

    model_config = SettingsConfigDict(
        env_prefix=VARIABLE_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    server: ServerSection = ServerSection()
    engine: EngineSection = EngineSection()
    openai: OpenAiSection = OpenAiSection()
    admission: AdmissionSection = AdmissionSection()
    conversations: ConversationSection = ConversationSection()
    tools: ToolSection = ToolSection()
    cache: CacheSection = CacheSection()
    speculation: SpeculationSection = SpeculationSection()
    tracing: TracingSection = TracingSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources, the first of which wins: flags, variables, the file."""
        return (init_settings, _Variables(settings_cls), TomlConfigSettingsSource(settings_cls))


def load_settings(file: Path | None, flags: Mapping[str, JsonValue]) -> Settings:
    """Returns the settings; flags win over variables, the file, and defaults, in that order.

    `flags` is nested like the file: `{"server": {"port": 0}}`.

    Raises:
        pydantic.ValidationError: a name is unknown, a value is out of range, or the file is not
            TOML.
        OSError: the file cannot be read.
    """
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"there is no settings file at {file}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FromFile.model_validate(flags)
