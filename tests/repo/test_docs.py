"""Documents: links lead somewhere, and the changelog tells of the version that is here."""

from __future__ import annotations

import re
from pathlib import Path

import precall
import precall_service
from tests.repo.files import ROOT, text, written

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.M)
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
HEADING = re.compile(r"^#+\s+(.+)$", re.M)


def anchors(path: Path) -> set[str]:
    """Returns the anchors that a forge makes from the headings of a Markdown file."""
    headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in headings}


def broken_links(path: str) -> list[str]:
    broken: list[str] = []
    for inline, reference in LINK.findall(FENCE.sub("", text(path))):
        link = inline or reference
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / path).parent / name if name else ROOT / path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_relative_links_lead_somewhere() -> None:
    assert not {path: broken for path in written(".md") if (broken := broken_links(path))}


def test_changelog_has_this_version() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", text("CHANGELOG.md"), re.M)
    assert headings[:1] == ["Unreleased"]
    assert precall_service.__version__ in headings or headings == ["Unreleased"]


def test_client_and_service_have_one_version() -> None:
    assert precall.__version__ == precall_service.__version__
