"""A result is judged by its median, kept completely, and resumed only with the same settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import report as module
from bench.report import AtLeast, Report
from precall_service.domain.json import JsonObject

SETTINGS: JsonObject = {"deltas": 50}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for results, apart from the real ones."""
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def report_with(*samples: float, settings: JsonObject = SETTINGS) -> Report:
    report = Report(bench="stream", settings=settings, name="stream")
    report.add("ratio", *samples)
    report.judge("ratio", AtLeast(0.7))
    return report


@pytest.mark.parametrize(("samples", "verdict"), [([0.6, 0.8, 0.9], "met"), ([0.6], "MISSED")])
def test_a_target_is_judged_by_the_median(
    capsys: pytest.CaptureFixture[str], samples: list[float], verdict: str
) -> None:
    report_with(*samples).finish(judge=True)
    assert f"[at least 0.700: {verdict}]" in capsys.readouterr().out


def test_a_quick_run_is_neither_judged_nor_kept(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    report = replace(report_with(0.1), name=None)
    report.round_ended()
    report.finish(judge=False)
    assert "MISSED" not in capsys.readouterr().out
    assert not results.exists()


def test_a_ratio_is_taken_sample_by_sample_and_follows_new_samples() -> None:
    report = Report(bench="stream", settings=SETTINGS)
    for over, under in ((1.0, 2.0), (3.0, 4.0)):
        report.add("over", over)
        report.add("under", under)
        report.ratio("over / under", "over", "under")
    assert report.samples("over / under") == [0.5, 0.75]


def test_a_kept_result_is_resumed() -> None:
    report_with(0.8).round_ended()
    more = Report(bench="stream", settings=SETTINGS, name="stream")
    more.resume()
    more.add("ratio", 0.9)
    assert more.samples("ratio") == [0.8, 0.9]
    assert len(more.loads_before) == 2


def test_a_result_with_other_settings_is_not_resumed() -> None:
    report_with(0.8).round_ended()
    with pytest.raises(ValueError, match="has another settings"):
        Report(bench="stream", settings={"deltas": 500}, name="stream").resume()


def test_without_a_kept_result_there_is_nothing_to_resume() -> None:
    for name in (None, "stream"):
        with pytest.raises(ValueError, match="nothing to resume"):
            Report(bench="stream", settings=SETTINGS, name=name).resume()
