"""The tables of docs/benchmarks.md show the kept results."""

from __future__ import annotations

from bench.tables import refreshed, unplaced
from tests.repo.files import text

DOCUMENT = "docs/benchmarks.md"


def test_tables_equal_the_kept_results() -> None:
    written = text(DOCUMENT)
    assert written == refreshed(written), "run `.venv/bin/python -m bench.tables`"


def test_every_kept_result_has_a_table() -> None:
    assert not unplaced(text(DOCUMENT)), "add a section with `<!-- table: NAME -->`"
