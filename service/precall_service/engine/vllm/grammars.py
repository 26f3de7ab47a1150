"""Rewrites the grammars that vLLM builds for calls, so that models write calls as templates do.

vLLM's grammars let a model put whitespace anywhere in its JSON and, for some families, choose
between forms of a call. What is not written as the template would write it comes back changed when
a later turn is rendered afresh, and its tokens are computed again.

Never: which tools may be called; that is in the grammar already.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

from xgrammar import Grammar

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallForm:
    """What a template writes around a tool's name when a call begins."""

    before: str
    after: str

    def begin(self, tool_name: str) -> str:
        """The beginning of a call of this tool."""
        return f"{self.before}{tool_name}{self.after}"


def form_of_calls(structural_tag: str, tool_name: str, rendered: str) -> CallForm | None:
    """The form in which a template has rendered a call of this tool, if the grammar knows it."""
    for begin in _begins(json.loads(structural_tag)):
        before, name, after = begin.partition(tool_name)
        if name and begin in rendered:
            return CallForm(before, after)
    return None


def as_templates_write(
    structural_tag: str, tool_names: Collection[str], form: CallForm | None
) -> str:
    """The same grammar with JSON spaced `{"a": 1, "b": 2}`, and calls in one form."""
    begins = [form.begin(name) for name in tool_names] if form else []
    return json.dumps(_rewritten(json.loads(structural_tag), begins))


def _begins(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in cast("list[Any]", node):
            yield from _begins(item)
    elif isinstance(node, dict):
        fields = cast("dict[str, Any]", node)
        if isinstance(fields.get("begin"), str):
            yield fields["begin"]
        yield from _begins(list(fields.values()))


def _rewritten(node: Any, begins: Collection[str]) -> Any:
    if isinstance(node, list):
        return [_rewritten(item, begins) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, Any]", node)
    if fields.get("type") == "json_schema":  # what is in a schema is its author's, and no tag
        if fields["style"] != "json":
            return fields
        return {"type": "grammar", "grammar": _json_grammar(fields["json_schema"])}
    if "tags" in fields:
        fields = fields | {"tags": _in_form(fields["tags"], begins)}
    return {name: _rewritten(value, begins) for name, value in fields.items()}


def _in_form(tags: list[dict[str, Any]], begins: Collection[str]) -> list[dict[str, Any]]:
    """Of the tags that a call may be, those of the template's form; all, where there are none."""
    return [tag for tag in tags if tag.get("begin") in begins] or tags


def _json_grammar(schema: Any) -> str:
    """What a value of this schema may be written as; any JSON, where the schema says too much.

    Arguments are checked again before they are used: what no grammar can hold is refused there.
    """
    try:
        return str(Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))
    except RuntimeError as error:
        reason = str(error).strip().rsplit(": ", maxsplit=1)[-1]
        log.warning("calls of a tool are not held to its schema: %s", reason)
        return str(Grammar.from_json_schema("true", any_whitespace=False))
