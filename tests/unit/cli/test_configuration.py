"""Invalid settings: the message names the setting, its value, its source and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from precall_service.cli.configuration import Given, load
from precall_service.cli.errors import CommandError
from precall_service.settings import OTHER_VARIABLES, Settings


def fault(file: Path | None = None, given: Given | None = None) -> str:
    with pytest.raises(CommandError) as raised:
        load(file, **(given or {}))
    return str(raised.value)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    return tmp_path / "precall.toml"


def test_flags_win_over_variables_and_variables_over_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text("[server]\nport = 1\ndrain_s = 1\nkeepalive_s = 1\n")
    monkeypatch.setenv("PRECALL_SERVER__PORT", "2")
    monkeypatch.setenv("PRECALL_SERVER__DRAIN_S", "2")
    server = load(settings_file, port=3, host=None).server
    assert (server.port, server.drain_s, server.keepalive_s) == (3, 2.0, 1.0)
    assert server.host == "127.0.0.1"


def test_flag_out_of_range() -> None:
    assert fault(given={"drain": -1.0}) == (
        "the settings are invalid: server.drain_s is -1.0 (from --drain), and must be greater than "
        "or equal to 0"
    )


def test_variable_of_the_wrong_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_SERVER__PORT", "x")
    assert fault() == (
        "the settings are invalid: server.port is 'x' (from the variable PRECALL_SERVER__PORT), "
        "and must be a valid integer, unable to parse string as an integer"
    )


def test_variable_that_is_not_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_ENGINE__VLLM", "{")
    monkeypatch.setenv("PRECALL_ENGINE", "{")
    assert 'field "engine"' in fault()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PRECALL_SERVR__PORT", "PRECALL_SERVER__PORT"),
        ("PRECALL_SERVER_PORT", "PRECALL_SERVER__PORT"),
        ("PRECALL_PORT", "PRECALL_SERVER__PORT"),
        ("precall_port", "PRECALL_SERVER__PORT"),
        ("PRECALL_LOGLEVEL", "PRECALL_LOG_LEVEL"),
    ],
)
def test_variable_that_sets_nothing(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "50152")
    assert fault() == (
        f"the settings are invalid: the variable {name} sets nothing: did you mean {meant}?"
    )


def test_knob_that_a_variable_misspells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_SERVER__PROT", "1")
    assert fault() == (
        "the settings are invalid: there is no setting server.prot (from the variable "
        "PRECALL_SERVER__PROT): did you mean server.port?"
    )


def test_variables_that_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHER_VARIABLES:
        monkeypatch.setenv(name, "info")
    monkeypatch.setenv("PRECALL_ENGINE__VLLM__MAX_NUM_SEQS", "8")
    assert load(None).engine.vllm == {"max_num_seqs": "8"}


def test_variables_of_a_kubernetes_service_named_precall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PRECALL_SERVICE_PORT_GRPC", "50151")
    monkeypatch.setenv("PRECALL_PORT", "tcp://10.0.0.1:50151")
    monkeypatch.setenv("PRECALL_PORT_50151_TCP_ADDR", "10.0.0.1")
    assert load(None).server == Settings().server


def test_value_of_the_file_that_is_not_allowed(settings_file: Path) -> None:
    settings_file.write_text('[engine]\ndevice = "tpu"\n')
    assert fault(settings_file) == (
        f"the settings are invalid: engine.device is 'tpu' (from {settings_file}), and must be "
        "'auto', 'cpu' or 'gpu'"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('mode = "on"', "mode is 'on' (from FILE), and must be 'off', 'shadow' or 'issue'"),
        (
            'predictors = ["history", "oracle"]',
            (
                "predictors.1 is 'oracle' (from FILE), and must be 'cache', 'early_dispatch', "
                "'history', 'fork' or 'draft_model'"
            ),
        ),
        (
            "waste_per_minute_s = -1",
            "waste_per_minute_s is -1 (from FILE), and must be greater than or equal to 0",
        ),
        (
            "running_per_turn_max = 0",
            "running_per_turn_max is 0 (from FILE), and must be greater than or equal to 1",
        ),
        ("depth_max = 9", "depth_max is 9 (from FILE), and must be less than or equal to 8"),
        (
            'stages = {weather = "on"}',
            "stages.weather is 'on' (from FILE), and must be 'off', 'shadow' or 'issue'",
        ),
    ],
)
def test_faults_of_speculation_say_what_is_allowed(
    settings_file: Path, line: str, told: str
) -> None:
    settings_file.write_text(f"[speculation]\n{line}\n")
    expected = told.replace("FILE", str(settings_file))
    assert fault(settings_file) == f"the settings are invalid: speculation.{expected}"


def test_a_stage_of_an_unknown_predictor_names_the_known_ones(settings_file: Path) -> None:
    settings_file.write_text('[speculation.stages]\n"weather/oracle" = "off"\n')
    assert fault(settings_file) == (
        "the settings are invalid: there is nothing of the name speculation.stages.weather/oracle "
        f'(from {settings_file}): name "TOOL", "TOOL/PREDICTOR" or "*/PREDICTOR", '
        "where PREDICTOR is one of cache, early_dispatch, history, fork, draft_model"
    )


def test_every_fault_is_reported_at_once_with_the_nearest_name(settings_file: Path) -> None:
    settings_file.write_text("[server]\nprot = 1\n[enigne]\nmodel = 'x'\n[tools]\nzzz = 1\n")
    told = fault(settings_file)
    assert "there is no setting server.prot" in told
    assert "did you mean server.port?" in told
    assert "did you mean engine?" in told
    assert "there are arguments_bytes_max, concurrency_default" in told


def test_file_that_is_not_there(settings_file: Path) -> None:
    assert fault(settings_file).startswith(f"there is no settings file at {settings_file}")


def test_file_that_is_not_toml(settings_file: Path) -> None:
    settings_file.write_text("[server\n")
    assert f"{settings_file} is not TOML" in fault(settings_file)


def test_file_that_is_not_text(settings_file: Path) -> None:
    settings_file.write_bytes(b"\xff\xfe")
    assert str(settings_file) in fault(settings_file)
