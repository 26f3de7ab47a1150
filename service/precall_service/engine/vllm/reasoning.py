"""Ends the reasoning of a step that has reached a limit, by a grammar.

Owns: the marks around reasoning, and the grammar of a message that begins with limited reasoning.
Never: decides whether a step reasons; vLLM's reasoning parser knows that.

vLLM applies a grammar from the end of the reasoning on. A step with a limit is held from its first
token on instead: to so many tokens of any kind, the mark that ends reasoning, and what the plan of
the step allows after that. No token that ends the message can come before the mark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.parser.abstract_parser import structured_outputs_to_format
from vllm.reasoning import ReasoningParser
from vllm.sampling_params import StructuredOutputsParams
from vllm.tokenizers import TokenizerLike


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningMarks:
    """The texts around a model's reasoning, each of which is one token.

    `opening` is what the model writes first: `start`, and in some families a word after it.
    """

    opening: str
    start: str
    start_id: int
    end: str
    end_id: int

    def opened_in(self, token_ids: Sequence[int]) -> bool:
        """Whether the last mark among the tokens is the first mark of a pair."""
        marks = self.start_id, self.end_id
        last = next((each for each in reversed(token_ids) if each in marks), None)
        return last == self.start_id


def reasoning_marks(
    parser: ReasoningParser, tokenizer: TokenizerLike, opening: str = ""
) -> ReasoningMarks | None:
    """The marks that a reasoning parser looks for; None if they are not single tokens."""
    start, end = parser.reasoning_start_str, parser.reasoning_end_str
    if not start or not end:
        return None
    start_ids, end_ids = [tokenizer.encode(text, add_special_tokens=False) for text in (start, end)]
    if len(start_ids) != 1 or len(end_ids) != 1:
        return None
    return ReasoningMarks(
        opening=opening or start, start=start, start_id=start_ids[0], end=end, end_id=end_ids[0]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningLimit:
    """The most tokens that a step may reason. `special_ids` cannot be among them."""

    marks: ReasoningMarks
    tokens_max: int
    special_ids: frozenset[int]

    def applied_to(
        self, outputs: StructuredOutputsParams | None, *, opened: bool
    ) -> StructuredOutputsParams:
        """The grammar of limited reasoning, and then of `outputs`.

        `opened`: the prompt has begun the reasoning; if not, the step has to.
        """
        marks = self.marks
        never = sorted({*self.special_ids, marks.start_id, marks.end_id})
        thought: list[dict[str, Any]] = [
            {"type": "any_tokens", "exclude_tokens": never, "max_tokens": self.tokens_max},
            {"type": "token", "token": marks.end_id},
            # Templates write empty lines here; a grammar that requires a call allows none.
            {"type": "regex", "pattern": r"\n{0,2}"},
        ]
        if not opened:
            thought.insert(0, {"type": "token", "token": marks.start_id})
        then = None if outputs is None else structured_outputs_to_format(outputs)
        rest = {"type": "any_text"} if then is None else then.model_dump()
        tag = {
            "type": "structural_tag",
            "format": {"type": "sequence", "elements": [*thought, rest]},
        }
        return StructuredOutputsParams(structural_tag=json.dumps(tag))
