"""The settings of a bench, and the name under which its result is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as program
from bench import report as module
from bench import served, stream
from bench.report import RESULTS, Report
from precall_service.engine.models import ResolvedModel


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that results are kept in; the stream bench is replaced by two empty rounds."""

    async def run(options: object, report: Report) -> None:
        for _ in range(2):
            report.add("quantity", 1.0)
            report.round_ended()

    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(stream, "run", run)
    return tmp_path


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    return program.main()


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), ["stream.json"]),
        (("--rounds", "1"), ["stream.json"]),
        (("--deltas", "500"), ["stream.json"]),  # the default
        (("--deltas", "5"), []),
        (("--deltas", "5", "--keep", "short"), ["stream-short.json"]),
        (("--no-keep",), []),
        (("--quick",), []),
    ],
)
def test_a_result_of_custom_sizes_replaces_no_other(
    monkeypatch: pytest.MonkeyPatch, results: Path, flags: tuple[str, ...], kept: list[str]
) -> None:
    assert bench(monkeypatch, "stream", *flags) == 0
    assert [path.name for path in results.iterdir()] == kept


def test_sizes_and_model_are_in_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: list[str | None] = []

    async def run(options: object, report: Report) -> None:
        names.append(report.name)
        report.add("quantity", 1.0)

    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr("bench.pressure.run", run)
    monkeypatch.setattr(served, "resolve_model", _resolved)
    assert bench(monkeypatch, "pressure", "--model", "embedded") == 0
    assert bench(monkeypatch, "pressure", "--sizes", "gpu") == 0
    assert bench(monkeypatch, "pressure", "--sizes", "gpu", "--model", "./Qwen3-8B") == 0
    assert names == ["pressure", "pressure-gpu", "pressure-gpu-Qwen3-8B"]


def _resolved(name: str) -> ResolvedModel:
    return ResolvedModel(
        path_or_name=name,
        display_name=Path(name).name,
        embedded=False,
        local=True,
        tool_parser="hermes",
        reasoning_parser=None,
        chat_template=None,
        parser_reason="",
    )


def test_a_model_must_be_a_local_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(monkeypatch, "pressure", "--model", "Qwen/Qwen3-8B")
    assert "hf download Qwen/Qwen3-8B --local-dir Qwen3-8B" in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_completed_rounds(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    async def run(options: object, report: Report) -> None:
        report.add("quantity", 1.0)
        report.round_ended()
        report.add("quantity", 2.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "run", run)
    assert bench(monkeypatch, "stream") == 130
    kept = json.loads((results / "stream.json").read_text())
    assert kept["quantities"]["quantity"]["samples"] == [1.0]


def test_a_bench_without_quick_sizes_has_no_quick_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(monkeypatch, "demo", "--quick")
    assert "unrecognized arguments: --quick" in capsys.readouterr().err


FLAGS = {
    "pressure-before": ("--before", "77efa77", "--keep", "before"),
    "pressure-before-cold": ("--before", "77efa77", "--cold", "--keep", "before-cold"),
    "speculation_wrong-gpu-h100": ("--sizes", "gpu", "--keep", "h100"),
}
"""What the names of kept results say of how they were made."""


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_kept_results_can_be_resumed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    flags = FLAGS.get(name, ())
    assert name in program.BENCHES or flags, "the test needs the flags that resume it"
    resumed: list[Report] = []

    async def run(options: object, report: Report) -> None:
        resumed.append(report)

    monkeypatch.setattr("bench.machine.facts", lambda: kept["machine"])
    monkeypatch.setattr(f"bench.{kept['bench']}.run", run)
    assert bench(monkeypatch, kept["bench"], "--resume", *flags) == 0
    assert all(resumed[0].count(quantity) for quantity in kept["quantities"])
