"""The kept results as Markdown, for docs/benchmarks.md: `python -m bench.tables [BENCH...]`."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from bench.report import RESULTS
from bench.stats import number


def main() -> None:
    """Prints a table for each bench that is named, or for all."""
    names = sys.argv[1:] or sorted(path.stem for path in RESULTS.glob("*.json"))
    for name in names:
        kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        print("\n".join(table(cast(dict[str, Any], kept))), end="\n\n")


def table(result: dict[str, Any]) -> list[str]:
    """The lines of one bench's table, what is judged in bold."""
    lines = [
        f"{result['bench']}, {result['at']}, load before {result['loads_before']}",
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
    return lines


if __name__ == "__main__":
    main()
