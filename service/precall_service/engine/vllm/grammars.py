"""Rewrites the grammars that vLLM builds for calls, so that models write calls as templates do.

vLLM's grammars let a model put whitespace anywhere in its JSON and, for some families, choose
between several forms of a call. A call that is not written as the template would write it changes
when a later turn is rendered afresh, and its tokens are then computed again.

Never: decides which tools may be called; vLLM's grammar has decided that.
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
    """The text that a template writes around a tool's name at the beginning of a call."""

    before: str
    after: str

    def begin(self, tool_name: str) -> str:
        """The beginning of a call of this tool."""
        return f"{self.before}{tool_name}{self.after}"


def form_of_calls(structural_tag: str, tool_name: str, rendered: str) -> CallForm | None:
    """The form of a call of this tool in a rendering; None if the grammar lacks it."""
    for begin in _begins(json.loads(structural_tag)):
        before, name, after = begin.partition(tool_name)
        if name and begin in rendered:
            return CallForm(before, after)
    return None


def as_templates_write(
    structural_tag: str, tool_names: Collection[str], form: CallForm | None
) -> str:
    """The same grammar with JSON spaced as `{"a": 1, "b": 2}` and calls in one form."""
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
    if fields.get("type") == "json_schema":  # a schema holds no tags, only lookalikes
        if fields["style"] != "json":
            return fields
        return {"type": "grammar", "grammar": _json_grammar(fields["json_schema"])}
    if "tags" in fields:
        fields = fields | {"tags": _in_form(fields["tags"], begins)}
    return {name: _rewritten(value, begins) for name, value in fields.items()}


def _in_form(tags: list[dict[str, Any]], begins: Collection[str]) -> list[dict[str, Any]]:
    """The tags of a call that have the template's form; all of them if none has."""
    return [tag for tag in tags if tag.get("begin") in begins] or tags


def _json_grammar(schema: Any) -> str:
    """The grammar of a JSON schema; the grammar of any JSON if xgrammar cannot hold the schema.

    Arguments are checked against the schema again before they are used.
    """
    try:
        return str(Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))
    except RuntimeError as error:
        reason = str(error).strip().rsplit(": ", maxsplit=1)[-1]
        log.warning("calls of a tool are not held to its schema: %s", reason)
        return str(Grammar.from_json_schema("true", any_whitespace=False))
