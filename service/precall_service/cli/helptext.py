"""Builds the help of a command from paragraphs and examples."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape


def help_text(*paragraphs: str, examples: Mapping[str, str]) -> str:
    """What typer shows: paragraphs, then each example with what it does."""
    flowing = [escape(" ".join(paragraph.split())) for paragraph in paragraphs]
    shown = [f"  [cyan]{command}[/]\n      {meaning}" for command, meaning in examples.items()]
    return "\n\n".join([*flowing, "\n".join(["[bold]Examples[/]", *shown])])
