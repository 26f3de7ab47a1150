"""What a turn looks like, line by line, for several orders of its events."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import precall
from precall_service.cli.render import TurnView, report_table, shortened
from precall_service.cli.timeline import Line, Timeline, side_by_side

TIME = re.compile(r"\d+(\.\d+)? (s|ms|µs)(?=\W|$)")


def drawn(*events: precall.Event) -> list[str]:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    view = TurnView(console)
    for event in events:
        view.show(event)
    view.close()
    return lines(console)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [TIME.sub("_", line.rstrip()) for line in console.file.getvalue().splitlines()]


def recorded(timeline: Timeline) -> list[str]:
    return [TIME.sub("_", line.drawn().plain) for line in timeline.lines]


def result(call_id: str, value: str) -> precall.ToolCallCompleted:
    return precall.ToolCallCompleted(call_id, precall.ToolCallOutcome.RESULT, value)


def done(outcome: precall.TurnOutcome, error: str = "") -> precall.TurnCompleted:
    fault = precall.PrecallError(error) if error else None
    return precall.TurnCompleted(outcome, "", fault, precall.TurnReport())


def test_text_streams_into_one_line() -> None:
    deltas = [precall.TextDelta(text) for text in ("It [is]", " 4:", "30.")]
    assert drawn(*deltas, done(precall.TurnOutcome.ANSWERED)) == ["It [is] 4:30."]


def test_call_is_written_when_complete_and_when_ended() -> None:
    shown = drawn(
        precall.TextDelta("Let me see."),
        precall.ToolCallStarted("c1", "calculate"),
        precall.ToolCallArgumentsDelta("c1", '{"expression"'),
        precall.ToolCallArgumentsDelta("c1", ': "2+2"}'),
        precall.ToolCallReady("c1", "calculate", '{"expression": "2+2"}'),
        precall.ToolCallProgress("c1", "adding", 0.5),
        result("c1", "4"),
        precall.TextDelta("4."),
    )
    assert shown == [
        "Let me see.",
        '  → calculate {"expression": "2+2"}',
        "  · calculate: adding 50%",
        "  ← calculate _  4",
        "4.",
    ]


@pytest.mark.parametrize(
    ("source", "age_s", "told"),
    [
        (precall.ResultSource.CACHE, 3.21, "  (from the cache, _ old)"),
        (precall.ResultSource.CACHE, None, "  (from the cache)"),
        (precall.ResultSource.JOINED, None, "  (shared with an equal call)"),
        (precall.ResultSource.SPECULATIVE, None, "  (ran early)"),
        (precall.ResultSource.COMMITTED, None, ""),
    ],
)
def test_a_result_says_where_it_came_from(
    source: precall.ResultSource, age_s: float | None, told: str
) -> None:
    done = precall.ToolCallCompleted(
        "c1", precall.ToolCallOutcome.RESULT, "4", source=source, cache_age_s=age_s
    )
    assert drawn(precall.ToolCallReady("c1", "a", "{}"), done)[-1] == f"  ← a _  4{told}"
    timeline = Timeline()
    timeline.show(done)
    note = told.replace("  (", "; ") if told else ")"
    [line] = recorded(timeline)
    assert line.endswith(f"c1 returned 4  (_ after the call was written{note}")


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (precall.ToolCallOutcome.ERROR, "failed"),
        (precall.ToolCallOutcome.TIMEOUT, "took too long"),
        (precall.ToolCallOutcome.CANCELLED, "cancelled"),
        (precall.ToolCallOutcome.UNAVAILABLE, "has no handler"),
        (precall.ToolCallOutcome.DENIED, "denied"),
        (precall.ToolCallOutcome.UNKNOWN, "unknown"),
    ],
)
def test_every_failed_call_says_why(outcome: precall.ToolCallOutcome, told: str) -> None:
    error = precall.ToolCallError("because")
    shown = drawn(
        precall.ToolCallStarted("c1", "a"),
        precall.ToolCallReady("c1", "a", "{}"),
        precall.ToolCallCompleted("c1", outcome, error=error),
    )
    assert shown[-1] == f"  ✗ a {told} _: because"


def proposed(number: str, name: str = "a") -> precall.PredictionProposed:
    return precall.PredictionProposed(
        number,
        name,
        arguments_json="{}",
        predictor=precall.Predictor.EARLY_DISPATCH,
        confidence=0.5,
    )


def mismatch(number: str, wasted_s: float = 0.0) -> precall.PredictionDiscarded:
    return precall.PredictionDiscarded(number, precall.DiscardReason.MISMATCH, wasted_s)


def test_an_early_run_has_a_line_for_each_thing_that_happened() -> None:
    saved = precall.ToolCallCompleted(
        "c1",
        precall.ToolCallOutcome.RESULT,
        "4",
        source=precall.ResultSource.SPECULATIVE,
        time_saved_s=0.25,
    )
    assert drawn(
        proposed("p1"),
        precall.PredictionLaunched("p1", "r1"),
        precall.PredictionReady("p1", 0.25),
        precall.ToolCallReady("c1", "a", "{}"),
        precall.PredictionConfirmed("p1", "c1", 0.5),
        saved,
    ) == [
        "  ~ a {} runs early (early dispatch, 50%)",
        "  ~ a is ready after _",
        "  → a {}",
        "  ~ a is confirmed, foreseen _ before",
        "  ← a _  4  (ran early, saved _)",
    ]


def test_a_prediction_that_runs_nothing_has_no_line() -> None:
    assert drawn(
        proposed("p1"), proposed("p2"), precall.PredictionLaunched("p2", "r2"),
        precall.PredictionReady("p1"), mismatch("p1"), mismatch("p2", 1.5),
    ) == [
        "  ~ a {} runs early (early dispatch, 50%)",
        "  ~ a is discarded: mismatch, _ wasted",
    ]  # fmt: skip


def test_an_early_run_never_cuts_a_line_of_the_model() -> None:
    assert drawn(
        precall.TextDelta("I will l"),
        proposed("p1"),
        precall.PredictionLaunched("p1", "r1"),
        precall.TextDelta("ook.\nThen"),
        precall.PredictionReady("p1", 0.5),
        precall.TextDelta(" I answer"),
        precall.TextDelta(".\n"),
        mismatch("p1"),
        precall.TextDelta("So."),
        proposed("p2", "b"),
        precall.PredictionLaunched("p2", "r2"),
        done(precall.TurnOutcome.ANSWERED),
    ) == [
        "I will look.",
        "  ~ a {} runs early (early dispatch, 50%)",
        "Then I answer.",
        "  ~ a is ready after _",
        "  ~ a is discarded: mismatch",
        "So.",
        "  ~ b {} runs early (early dispatch, 50%)",
    ]


def test_endings_of_a_turn() -> None:
    assert drawn(done(precall.TurnOutcome.LIMIT, "32 steps, the limit")) == [
        "(cut: 32 steps, the limit)"
    ]
    assert drawn(done(precall.TurnOutcome.CANCELLED)) == ["(cancelled)"]
    assert drawn(precall.TurnQueued(2)) == ["waiting, 2 turns before this one"]


def test_long_results_are_shortened() -> None:
    assert shortened("a\n  b") == "a b"
    assert shortened("x" * 400) == "x" * 299 + "…"


def test_report_says_where_the_time_went() -> None:
    usage = precall.TokenUsage(input_tokens=200, cached_tokens=150, output_tokens=30)
    report = precall.TurnReport(
        wall_time_s=2.0,
        time_to_first_token_s=0.5,
        generation_time_s=1.5,
        continuation_time_s=0.01,
        steps=2,
        tool_calls=1,
        usage=usage,
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(report_table(report))
    shown = "\n".join(lines(console))
    assert "_ in 2 steps" in shown
    assert "to the first token" in shown
    assert "200, 75% of them from the KV cache" in shown
    assert "30, 20 a second" in shown
    assert "result to next token" in shown


@pytest.mark.parametrize(("hits", "told"), [(0, None), (1, "1 call"), (2, "2 calls")])
def test_report_says_what_came_from_the_cache(hits: int, told: str | None) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(report_table(precall.TurnReport(tool_calls=3, cache_hits=hits)))
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in lines(console))
    assert rows.get("from the cache") == told


def test_report_says_what_speculation_did() -> None:
    report = precall.TurnReport(
        tool_time_hidden_s=0.5,
        saved_by_overlap_s=0.25,
        wasted_time_s=0.125,
        predictions=3,
        predictions_confirmed=1,
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(report_table(report))
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in lines(console))
    assert rows["hidden tool time"] == "_ while the model generated"
    assert rows["saved by overlap"] == "_"
    assert rows["predictions confirmed"] == "1 of 3"
    assert rows["wasted by predictions"] == "_ of tools"


def test_report_says_what_drafts_did() -> None:
    report = precall.TurnReport(
        draft_tokens_proposed=75,
        draft_tokens_accepted=34,
        draft_tokens_wasted=41,
        saved_by_drafts_s=0.5,
        drafts=(
            precall.DraftReport(precall.Predictor.FORK, "look", 70, 29, 41, 0.25),
            precall.DraftReport(None, "", 5, 5, 0, 0.25),
        ),
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(report_table(report))
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines(console))
    assert rows["drafts"] == "34 of 75 tokens accepted, _ saved"
    assert rows["fork, look"] == "29 of 70 tokens accepted, _ saved"
    assert rows["ends of calls"] == "5 of 5 tokens accepted, _ saved"


def test_report_of_a_turn_that_did_nothing() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(report_table(precall.TurnReport()))
    shown = "\n".join(lines(console))
    assert "none of them from the KV cache" in shown
    for absent in ("to the first token", "hidden", "saved", "predictions", "wasted"):
        assert absent not in shown


def test_timeline_has_a_line_for_each_thing_that_happened() -> None:
    timeline = Timeline()
    usage = precall.TokenUsage(input_tokens=10, cached_tokens=5, output_tokens=3)
    timeline.sent("Well?")
    for event in (
        precall.TurnQueued(1),
        precall.TurnStarted(0.5),
        precall.StepStarted(0, 10),
        precall.ToolCallStarted("c1", "a"),
        precall.ToolCallArgumentsDelta("c1", "{}"),
        precall.ToolCallReady("c1", "a", "{}"),
        precall.ToolCallProgress("c1", "half", 0.5),
        precall.StepCompleted(0, precall.StepFinishReason.TOOL_CALLS, usage),
        result("c1", '"r"'),
        precall.StepStarted(1, 20),
        precall.TextDelta("so"),
        precall.TextDelta(" it is"),
        precall.ToolCallCompleted("c2", precall.ToolCallOutcome.ERROR),
        precall.StepCompleted(1, precall.StepFinishReason.STOP, precall.TokenUsage()),
        done(precall.TurnOutcome.ANSWERED),
    ):
        timeline.show(event)
    timeline.ran("a", "x", 0.5)
    assert recorded(timeline) == [
        "sent      Well?",
        "queued    1 turn before this one",
        "admitted  after _",
        "step 1    a prompt of 10 tokens",
        "token     the first one, _ after the step began",
        "call      a {}  (written in _)",
        "progress  a: half",
        "step 1    3 tokens in _; 5 of 10 prompt tokens were cached (50%)",
        'result    a returned "r"  (_ after the call was written)',
        "step 2    a prompt of 20 tokens",
        "token     the first one, _ after the last result",
        "result    c2 failed: error  (_ after the call was written)",
        "step 2    0 tokens in _; 0 of 0 prompt tokens were cached (none)",
        "done      answered",
        "runs      a(x) in this process  (_)",
    ]


def test_timeline_has_a_line_for_every_event_of_a_prediction() -> None:
    timeline = Timeline()
    for event in (
        proposed("p1"),
        precall.PredictionLaunched("p1", "r1"),
        precall.PredictionReady("p1", 0.25),
        precall.PredictionConfirmed("p1", "c1", 0.5),
        proposed("p2", "b"),
        mismatch("p2", 1.5),
    ):
        timeline.show(event)
    assert recorded(timeline) == [
        "predicted a {}  (early dispatch, 50%)",
        "launched  a {}, early",
        "ready     a {}  (ran for _)",
        "confirmed a {}  (_ after it was predicted)",
        "predicted b {}  (early dispatch, 50%)",
        "discarded b {}  (mismatch, _ wasted)",
    ]


def test_timelines_stand_side_by_side_in_order_of_time() -> None:
    console = Console(file=io.StringIO(), width=60)
    one = [Line(0.0, "sent", "Well?"), Line(2.5, "done", "answered")]
    other = [Line(0.0, "sent", "Well?"), Line(1.25, "done", "a text that does not fit " * 3)]
    console.print(side_by_side({"without": one, "with": other}))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert [line.split()[:3] for line in shown] == [
        ["seconds", "without", "with"],
        ["0.000", "sent", "Well?"],
        ["0.000", "sent", "Well?"],
        ["1.250", "done", "a"],
        ["2.500", "done", "answered"],
    ]
    column = shown[0].index("with", shown[0].index("without") + 7)
    assert [line.find("done") >= column for line in shown[3:]] == [True, False]
    assert "…" in shown[3]
    assert all(len(line) <= 60 for line in shown)
