"""docs/benchmarks.md says what the kept results say."""

from __future__ import annotations

from bench.tables import refreshed, unplaced
from tests.repo.files import text

DOCUMENT = "docs/benchmarks.md"


def test_tables_are_those_of_the_kept_results() -> None:
    written = text(DOCUMENT)
    assert written == refreshed(written), "run `.venv/bin/python -m bench.tables`"


def test_every_kept_result_has_its_place() -> None:
    assert not unplaced(text(DOCUMENT)), "add a section with `<!-- table: NAME -->`"
