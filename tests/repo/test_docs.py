"""Documents: links have targets, and the changelog and the list of settings are complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import precall
import precall_service
from precall_service.settings import Settings
from tests.repo.files import ROOT, text, written

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.M)
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
HEADING = re.compile(r"^#+\s+(.+)$", re.M)
SETTINGS = re.compile(r"^##+ `\[([\w.]+)\]`\n\n\| setting \|.*\n.*\n((?:\|.*\n)+)", re.M)


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


def test_relative_links_have_targets() -> None:
    assert not {path: broken for path in written(".md") if (broken := broken_links(path))}


def test_changelog_has_this_version() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", text("CHANGELOG.md"), re.M)
    assert headings[:1] == ["Unreleased"]
    assert precall_service.__version__ in headings or headings == ["Unreleased"]


def test_client_and_service_have_the_same_version() -> None:
    assert precall.__version__ == precall_service.__version__


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yields the name of each section inside a model, at any depth, and its settings."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield prefix + name, set(inner.model_fields)
            yield from sections(inner, f"{prefix}{name}.")


def test_every_setting_is_documented() -> None:
    documented = {
        section: set(
            re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows.splitlines()))
        )
        for section, rows in SETTINGS.findall(text("docs/configuration.md"))
    }
    settings = dict(sections(Settings))
    settings["engine"].remove("vllm")  # vLLM's own arguments have a section of the document
    assert documented == settings
