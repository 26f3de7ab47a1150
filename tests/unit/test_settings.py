"""Settings: which source wins, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError

from precall_service.domain.events import Predictor
from precall_service.domain.speculation import SpeculationMode, SpeculationSettings
from precall_service.settings import Settings, load_settings
from precall_service.speculation.limits import DraftModelLimits, SpeculationLimits


def flags(section: str, knob: str, value: JsonValue) -> dict[str, JsonValue]:
    return {section: {knob: value}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "precall.toml"
    path.write_text('[server]\nport = 1001\nhost = "::1"\n[tools]\ntools_max = 5\n')
    return path


def test_flags_win_over_variables_over_the_file_over_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(None, {}).server.port == 50151
    assert load_settings(file, {}).server.port == 1001
    monkeypatch.setenv("PRECALL_SERVER__PORT", "1002")
    assert load_settings(file, {}).server.port == 1002
    settings = load_settings(file, flags("server", "port", 1003))
    assert settings.server.port == 1003
    assert settings.server.host == "::1", "one setting of a section leaves the others unchanged"
    assert settings.tools.tools_max == 5


def test_a_variable_names_section_and_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_CONVERSATIONS__IDLE_EXPIRY_S", "2.5")
    monkeypatch.setenv("PRECALL_ENGINE__STRUCTURED_CALLS", "false")
    settings = load_settings(None, {})
    assert settings.conversations.idle_expiry_s == 2.5
    assert settings.engine.structured_calls is False


def test_any_argument_of_the_engine_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "precall.toml"
    path.write_text("[engine.vllm]\nmax_num_seqs = 4\ncompilation_config = {mode = 0}\n")
    assert load_settings(path, {}).engine.vllm == {
        "max_num_seqs": 4,
        "compilation_config": {"mode": 0},
    }


UNUSABLE: list[tuple[str, str, JsonValue]] = [
    ("server", "port", -1),
    ("server", "port", 65536),
    ("server", "port", "http"),
    ("server", "frame_bytes_max", 0),
    ("server", "frame_bytes_max", 1 << 30),
    ("server", "keepalive_s", 0),
    ("server", "keepalive_s", 1e7),
    ("server", "handshake_s", 0),
    ("server", "drain_s", -1),
    ("server", "drain_s", float("inf")),
    ("engine", "device", "tpu"),
    ("engine", "log_level", "LOUD"),
    ("engine", "restart_backoff_first_s", 0),
    ("engine", "hung_notice_s", 0),
    ("engine", "hung_restart_s", float("inf")),
    ("admission", "waiting_max", 0),
    ("admission", "hold_s", float("nan")),
    ("admission", "running_per_tenant_max", 0),
    ("admission", "positions_s", 0),
    ("admission", "prompts_at_once", 0),
    ("conversations", "idle_expiry_s", float("inf")),
    ("conversations", "idle_expiry_s", float("nan")),
    ("conversations", "messages_max", 1 << 31),
    ("conversations", "turn_steps_max", 0),
    ("conversations", "turn_duration_max_s", 1e300),
    ("tools", "tools_max", 1 << 40),
    ("tools", "timeout_max_s", -5),
    ("tools", "no_such_knob", 1),
    ("server", "prot", 1),
    ("speculation", "mode", "on"),
    ("speculation", "predictors", "fork"),
    ("speculation", "depth_max", 0),
    ("speculation", "depth_max", 9),
    ("speculation", "waste_weight", -0.1),
    ("speculation", "margin_s", -1),
    ("speculation", "predictions_per_turn_max", 0),
    ("speculation", "running_per_turn_max", -1),
    ("speculation", "running_per_tenant_max", 0),
    ("speculation", "waste_per_minute_s", -1),
    ("speculation", "result_age_max_s", 0),
    ("speculation", "breaker_failures", 0),
    ("speculation", "forks_max", -1),
    ("speculation", "fork_tokens_max", 0),
]
UNUSABLE_DRAFT_MODELS: list[tuple[str, JsonValue]] = [
    ("samples", 0),
    ("samples", 2),
    ("samples", 11),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("tokens_max", 0),
    ("timeout_s", 0),
    ("samples_running_max", 0),
    ("template_variables", {"messages": []}),
    ("cores", 0),
    ("gpu_memory_fraction", 0),
    ("gpu_memory_fraction", 1),
    ("kv_cache_bytes", 0),
    ("no_such_knob", 1),
]


@pytest.mark.parametrize(("section", "knob", "value"), UNUSABLE)
def test_an_invalid_setting_is_refused_by_name(section: str, knob: str, value: JsonValue) -> None:
    with pytest.raises(ValidationError) as raised:
        load_settings(None, flags(section, knob, value))
    [error] = raised.value.errors()
    assert error["loc"] == (section, knob)


@pytest.mark.parametrize(("knob", "value"), UNUSABLE_DRAFT_MODELS)
def test_an_invalid_setting_of_the_draft_model_is_refused_by_name(
    knob: str, value: JsonValue
) -> None:
    with pytest.raises(ValidationError) as raised:
        load_settings(None, flags("speculation", "draft_model", {knob: value}))
    [error] = raised.value.errors()
    assert error["loc"] == ("speculation", "draft_model", knob)


@pytest.mark.parametrize("samples", [1, 3, 5, 7, 9])
def test_a_draft_model_is_set_by_variables(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    monkeypatch.setenv("PRECALL_SPECULATION__DRAFT_MODEL__MODEL", "./small")
    monkeypatch.setenv("PRECALL_SPECULATION__DRAFT_MODEL__SAMPLES", str(samples))
    speculation = load_settings(None, {}).speculation
    assert speculation.draft_model.model == "./small"
    assert speculation.limits().draft_model == DraftModelLimits(samples=samples)
    assert Predictor.DRAFT_MODEL in speculation.limits().most.predictors


def test_without_a_draft_model_none_is_granted() -> None:
    section = load_settings(None, {}).speculation
    assert "draft_model" in section.predictors
    assert not section.draft_model.used
    assert Predictor.DRAFT_MODEL not in section.limits().most.predictors


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValidationError, match="servre"):
        load_settings(None, {"servre": {}})


def test_a_file_with_an_unknown_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "precall.toml"
    path.write_text("[server]\nprot = 1\n")
    with pytest.raises(ValidationError, match="prot"):
        load_settings(path, {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.toml"):
        load_settings(tmp_path / "missing.toml", {})


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "precall.toml"
    path.write_text("port: 5\n")
    with pytest.raises(ValidationError, match="line 1"):
        load_settings(path, {})


def test_settings_are_frozen() -> None:
    settings = load_settings(None, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 5


def test_defaults_are_those_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_settings(None, {}).model_dump() == Settings().model_dump()


def test_sections_become_the_values_of_their_packages() -> None:
    settings = load_settings(
        None,
        {
            "server": {"frame_bytes_max": 2048, "handshake_s": 3},
            "admission": {"hold_s": 0, "running_per_tenant_max": 3, "positions_s": 2},
            "conversations": {"turn_steps_max": 4},
            "tools": {"timeout_max_s": 9.0},
        },
    )
    options = settings.server.options()
    assert (options.frame_bytes_max, options.handshake_s) == (2048, 3)
    assert options.wire_bytes_max > options.frame_bytes_max
    limits = settings.admission.limits()
    assert (limits.hold_s, limits.running_per_tenant_max, limits.positions_s) == (0, 3, 2)
    assert limits.prompts_at_once == 1
    assert settings.conversations.limits().turn.max_steps == 4
    assert settings.engine.restart_policy().backoff_first_s == 1.0


def test_a_lower_limit_on_timeouts_lowers_the_default_too() -> None:
    tools = load_settings(None, {"tools": {"timeout_max_s": 9.0}}).tools
    limits = tools.limits(cache_ttl_max_s=60.0, early_open_world=frozenset())
    assert limits.timeout_default_s == limits.timeout_max_s == 9.0


@pytest.mark.parametrize(
    "key", ["", "weather/", "weather/oracle", "*/*", "a b", "weather/fork/1", "/fork"]
)
def test_a_stage_of_no_tool_or_predictor_is_refused(key: str) -> None:
    with pytest.raises(ValidationError) as raised:
        load_settings(None, flags("speculation", "stages", {key: "off"}))
    [error] = raised.value.errors()
    assert error["loc"][:3] == ("speculation", "stages", key)


def test_settings_of_speculation_become_its_limits() -> None:
    section = load_settings(
        None,
        {
            "speculation": {
                "mode": "shadow",
                "predictors": ["history", "early_dispatch"],
                "depth_max": 3,
                "stages": {"weather": "off", "read-file/fork": "issue", "*/history": "shadow"},
                "waste_per_minute_s": 0,
                "forks_max": 0,
            }
        },
    ).speculation
    off, shadow, issue = SpeculationMode.OFF, SpeculationMode.SHADOW, SpeculationMode.ISSUE
    assert section.limits() == SpeculationLimits(
        most=SpeculationSettings(
            mode=shadow,
            predictors=frozenset({Predictor.HISTORY, Predictor.EARLY_DISPATCH}),
            max_depth=3,
        ),
        stages={
            ("weather", None): off,
            ("read-file", Predictor.FORK): issue,
            ("*", Predictor.HISTORY): shadow,
        },
        waste_per_minute_s=0,
        forks_max=0,
    )


def test_defaults_of_speculation_are_those_of_its_limits() -> None:
    assert load_settings(None, {}).speculation.limits() == SpeculationLimits()
