"""Writes what was proved of each family into docs/models.md: `python -m tests.support.model_table`.

The table and the limits go between two comments, `<!-- families -->` and `<!-- end -->`. The rest
of the document is written by hand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from precall_service.engine.base import EngineStartError
from precall_service.engine.families import Parsers
from precall_service.engine.findings import NOTHING_FOUND, Findings, Standing, Subject
from tests.support.model_families import family, names

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "models.md"
_PLACE: Final = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- end -->)", re.S)
_COLUMNS: Final[Mapping[Subject, str]] = {
    Subject.TOOL_CALLS: "calls",
    Subject.PARALLEL_CALLS: "parallel",
    Subject.REQUIRED_CALLS: "required",
    Subject.SCHEMAS: "schemas",
    Subject.REASONING: "reasoning",
    Subject.APPENDING: "appending",
    Subject.HISTORY: "new turns",
}
_WORDS: Final = {Standing.HOLDS: "yes", Standing.LIMITED: "limited", Standing.FAILS: "no"}
_SILENT: Final = re.compile(r"the chat template leaves calls out of the history.*\n  (.*)")
_ROW: Final = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<parsers>[^|]*) \| (?P<calls>\w+) \|", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What was proved of one family; or why an engine would not start with it, as `problem`."""

    name: str
    parsers: Parsers | None = None
    findings: Findings = NOTHING_FOUND
    problem: str = ""


def main() -> None:
    """Writes the table and the limits into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(refreshed(text, asyncio.run(proved_families())), encoding="utf-8")


async def proved_families() -> list[Proved]:
    """What is proved of every family, as at the start of an engine."""
    return [await _proved(name) for name in names()]


def refreshed(text: str, families: Iterable[Proved]) -> str:
    """The document with what was proved."""
    families = list(families)
    written = "\n".join([*_table(families), "", "### Limits", "", *_limits(families)])
    return _PLACE.sub(lambda _: f"{written}\n", text)


def read_families() -> list[str]:
    """The families of the document whose calls are written by the template and read back."""
    text = DOCUMENT.read_text(encoding="utf-8")
    silent = _SILENT.findall(text)
    return [
        row["name"]
        for row in _ROW.finditer(text)
        if row["calls"] != "no" and not any(f"`{row['name']}`" in names for names in silent)
    ]


async def _proved(name: str) -> Proved:
    try:
        parts = family(name).parts
    except EngineStartError as error:
        return Proved(name=name, problem=str(error))
    from precall_service.engine.vllm.proof import prove

    return Proved(name=name, findings=await prove(parts), parsers=parts.parsers)


def _table(families: Iterable[Proved]) -> list[str]:
    head = ["template", "parsers", *_COLUMNS.values()]
    rows = [[f"`{each.name}`", _parsers(each), *_cells(each)] for each in families]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _parsers(proved: Proved) -> str:
    if proved.parsers is None:
        return ""
    named = dict.fromkeys(filter(None, (proved.parsers.tool, proved.parsers.reasoning)))
    return ", ".join(named)


def _cells(proved: Proved) -> list[str]:
    if proved.problem:
        return ["no", *[""] * (len(_COLUMNS) - 1)]
    found = [proved.findings.on(subject) for subject in _COLUMNS]
    return ["" if each is None else _WORDS[each.standing] for each in found]


def _limits(families: Iterable[Proved]) -> list[str]:
    """Each limit once, with the templates that have it."""
    limits: dict[tuple[str, str], list[str]] = {}
    for each in families:
        if each.problem:
            limits.setdefault(("start", each.problem), []).append(each.name)
        for finding in each.findings.each:
            if finding.limits:
                key = (finding.subject.value, finding.sentence)
                limits.setdefault(key, []).append(each.name)
    order = {subject.value: number for number, subject in enumerate(Subject)}
    return [
        f"- **{subject}**: {sentence}.\n  {', '.join(f'`{name}`' for name in found)}"
        for (subject, sentence), found in sorted(
            limits.items(), key=lambda limit: order.get(limit[0][0], -1)
        )
    ]


if __name__ == "__main__":
    main()
