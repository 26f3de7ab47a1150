"""A result is judged by its median, and says so."""

from __future__ import annotations

import pytest

from bench.report import Report


@pytest.mark.parametrize(("samples", "verdict"), [([0.6, 0.8, 0.9], "met"), ([0.6], "MISSED")])
def test_a_target_is_judged_by_the_median(
    capsys: pytest.CaptureFixture[str], samples: list[float], verdict: str
) -> None:
    report = Report(bench="stream", settings={"rounds": 3})
    report.add("ratio", *samples)
    report.judge("ratio", at_least=0.7)
    report.finish(judge=True, keep=False)
    assert f"[at least 0.700: {verdict}]" in capsys.readouterr().out


def test_a_quick_look_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(bench="stream", settings={})
    report.add("ratio", 0.1)
    report.judge("ratio", at_least=0.7)
    report.finish(judge=False, keep=False)
    assert "MISSED" not in capsys.readouterr().out
