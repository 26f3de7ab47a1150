"""Writes the kept results into docs/benchmarks.md as Markdown: `python -m bench.tables`.

Each table goes between two comments, `<!-- table: NAME -->` and `<!-- end -->`, where NAME is the
name of the file in bench/results. Without such a file, nothing stands there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from bench.report import RESULTS
from bench.stats import number

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_TABLE = re.compile(r"(?<=<!-- table: )([\w.-]+) -->\n.*?(?=<!-- end -->)", re.S)


def main() -> None:
    """Writes every kept result between its comments in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(refreshed(text), encoding="utf-8")
    for name in unplaced(text):
        print(f"{name} is kept, but {DOCUMENT.name} has no comments for its table")


def refreshed(text: str) -> str:
    """The document with its tables replaced by those of the kept results."""
    kept = _kept()

    def of(place: re.Match[str]) -> str:
        name = place[1]
        return f"{name} -->\n" + (f"{table(kept[name])}\n" if name in kept else "")

    return _TABLE.sub(of, text)


def unplaced(text: str) -> list[str]:
    """The names of the kept results whose table is not in the document."""
    placed = {place[1] for place in _TABLE.finditer(text)}
    return sorted(_kept().keys() - placed)


def _kept() -> dict[str, dict[str, Any]]:
    return {
        path.stem: cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        for path in RESULTS.glob("*.json")
    }


def table(result: dict[str, Any]) -> str:
    """One result as Markdown: the time of the run, and its quantities, with judged ones in bold."""
    lines = [
        f"Run of {result['at']}, load before {result['loads_before']}.",
        "",
        "| | median | least to greatest | n | target |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["quantities"].items():
        spread = f"{number(found['least'])} to {number(found['greatest'])}"
        bold = "**" if found["target"] else ""
        target = f"{found['target']}: {'met' if found['met'] else 'missed'}" if bold else ""
        median = f"{bold}{number(found['median'])}{bold} {found['unit']}".rstrip()
        lines.append(f"| {name} | {median} | {spread} | {found['n']} | {target} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
