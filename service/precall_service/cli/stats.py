"""`precall stats`: what speculation has done for a tenant, for each tool and predictor."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from precall_service.cli import interrupts, options
from precall_service.cli.console import configure_logging, stderr, stdout
from precall_service.cli.errors import EXIT_USAGE, CommandError, reported

if TYPE_CHECKING:
    import precall

HELP = options.help_text(
    "Print what speculation has done for a tenant since the service started.",
    """A predictor proposes calls of a tool before the model makes them. Its stage says what is done
    with them: off, shadow (only scored) or issue (run early). Acceptance is the fraction of its
    resolved predictions that were exactly the call that the model made; coverage is the fraction of
    the model's calls that an early run answered. Turns would have waited longer by what is saved,
    and handlers ran in vain for what is wasted. Draft tokens are those of predicted calls that the
    engine verified instead of generating them, and of which it accepted some. While the breaker of
    a tool is open, it does not run early, because too many early runs failed.""",
    examples={
        "precall stats": "every tool that was called or predicted",
        "precall stats --tenant acme": "of another tenant",
        "precall stats --json | jq '.tools[].coverage'": "the same for programs",
    },
)

_HEADER: Final = (
    "predictor", "stage", "proposed", "launched", "confirmed", "acceptance", "saved", "wasted",
    "would save", "would waste", "draft tokens", "saved by drafts",
)  # fmt: skip
_TEXTS: Final = 2  # the first columns; the others are numbers
_ESTIMATES: Final = frozenset({"would save", "would waste"})
_DRAFTS: Final = frozenset({"draft tokens", "saved by drafts"})


def stats(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs the command that HELP describes."""
    with reported():
        configure_logging("error")
        found = interrupts.run(_ask(address, tenant))
        if as_json:
            print(json.dumps(_told(found), ensure_ascii=False, indent=2))
        else:
            _show(found)


async def _ask(address: str, tenant: str) -> precall.SpeculationStats:
    """Returns the statistics.

    Raises:
        CommandError: the address or the tenant is invalid, or the service does not speculate.
        PrecallError: the server cannot be reached, or refuses the request.
    """
    import precall

    try:
        client = precall.Client(address, tenant=tenant)
    except ValueError as error:
        raise CommandError(str(error), exit_code=EXIT_USAGE) from None
    async with client:
        try:
            return await client.speculation_stats()
        except precall.NotServedError:
            raise CommandError(
                f"the service at {address} does not speculate: it is an older version, or its "
                "settings turn speculation off"
            ) from None


def _show(found: precall.SpeculationStats) -> None:
    from rich.markup import escape

    console = stdout()
    if not found.tools:
        stderr().print(
            "Nothing yet: no tool of this tenant was called or predicted since the service "
            "started.\nTools run early if they are declared read_only and speculation_safe.",
            style="dim",
        )
        return
    for tool in found.tools:
        console.print(f"[bold]{escape(tool.tool_name)}[/]  {_about(tool)}")
        for line in _lines(tool.predictors) if tool.predictors else ():
            console.print(line, markup=False)
        console.print()
    console.print(f"the engine's load allows {found.allowance:.0%} of speculation", style="dim")


def _about(tool: precall.ToolSpeculation) -> str:
    from precall_service.cli.render import counted

    parts = [counted(tool.calls, "call")]
    if tool.coverage is not None:
        parts.append(f"coverage {tool.coverage:.0%} ({tool.calls_confirmed} answered early)")
    if tool.run_time_s is not None:
        parts.append(f"a run takes {tool.run_time_s:.2f} s")
    if tool.breaker_open:
        parts.append("[yellow]breaker open[/]")
    return ", ".join(parts)


def _lines(records: tuple[precall.PredictorRecord, ...]) -> Iterator[str]:
    """Yields a table, line by line. Estimates and drafts have columns only if there are any."""
    left_out: set[str] = set()
    if not any(record.would_save_s or record.would_waste_s for record in records):
        left_out |= _ESTIMATES
    if not any(record.draft_tokens_proposed for record in records):
        left_out |= _DRAFTS
    rows = [_HEADER, *map(_cells, records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if number < _TEXTS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        shown = zip(_HEADER, cells, strict=True)
        yield "  " + "  ".join(cell for name, cell in shown if name not in left_out)


def _cells(record: precall.PredictorRecord) -> tuple[str, ...]:
    from precall_service.cli.render import words

    counts = (record.proposed, record.launched, record.confirmed)
    times = (record.saved_s, record.wasted_s, record.would_save_s, record.would_waste_s)
    return (
        words(record.predictor),
        f"{words(record.stage)}{' (pinned)' if record.pinned else ''}",
        *map(str, counts),
        "-" if record.acceptance is None else f"{record.acceptance:.0%}",
        *(f"{time_s:.2f} s" for time_s in times),
        f"{record.draft_tokens_accepted} of {record.draft_tokens_proposed}",
        f"{record.saved_by_drafts_s:.2f} s",
    )


def _told(found: precall.SpeculationStats) -> dict[str, object]:
    """Returns the statistics as JSON, with the fractions that follow from the counts."""
    return {
        "tools": [
            {
                **_fields(tool),
                "coverage": tool.coverage,
                "predictors": [
                    {**_fields(record), "acceptance": record.acceptance}
                    for record in tool.predictors
                ],
            }
            for tool in found.tools
        ],
        "allowance": found.allowance,
    }


def _fields(value: precall.ToolSpeculation | precall.PredictorRecord) -> dict[str, object]:
    return {
        field.name: found.value if isinstance(found, enum.Enum) else found
        for field in dataclasses.fields(value)
        for found in [getattr(value, field.name)]
    }
