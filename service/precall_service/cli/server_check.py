"""The check of `precall doctor` for a server that takes the place of an engine."""

from __future__ import annotations

from precall_service.cli import interrupts
from precall_service.cli.check import Check, Verdict, bad
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import openai_config
from precall_service.engine.base import EngineStartError
from precall_service.engine.openai.examination import ServerFindings, examine_server
from precall_service.settings import Settings

_CANNOT = "cannot: hold calls to their schemas, fork off a thought, verify drafts, prompts by token"


def check_server(settings: Settings) -> Check:
    """Checks that the server has the model, and has it write an answer and a call."""
    try:
        found = interrupts.run(examine_server(openai_config(settings)))
    except (CommandError, EngineStartError) as error:
        return bad(str(error))
    name = f"{found.info.model} on the {found.info.name}"
    if found.problem:
        return bad(name, found.problem)
    remedy = ""
    if found.call_problem:
        remedy = (
            "the model can chat but not call tools as it is served: a server of vLLM needs "
            "--enable-auto-tool-choice and --tool-call-parser"
        )
    return Check(
        Verdict.DOUBTFUL if found.call_problem else Verdict.GOOD, name, remedy, _details(found)
    )


def _details(found: ServerFindings) -> tuple[str, ...]:
    window, usage = found.info.context_tokens_max, found.usage
    return (
        f"calls: {found.call_problem or 'a required call came whole'}",
        "context window: " + ("unknown" if window is None else f"{window:,} tokens"),
        "streams: " + (f"yes, {found.parts} parts" if found.parts > 1 else "no"),
        "counts tokens: "
        + (
            f"yes, {usage.input_tokens} in and {usage.output_tokens} out"
            if usage.input_tokens
            else "no, so that reports show the parts of an answer in their place"
        ),
        _CANNOT,
    )
