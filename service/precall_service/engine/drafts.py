"""Calls that a model is expected to write, and what the engine tells of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """A call that the model is expected to write next.

    The engine verifies its tokens several at a time, and keeps those that the model would have
    written. So a draft changes how fast a step is generated, and nothing else.

    `draft_id` is for whoever made the draft: the end of the step tells by it what became of it.
    """

    tool_name: str
    arguments_json: str
    draft_id: str = ""


@dataclass(frozen=True, slots=True)
class VerifiedDraft:
    """How many tokens of a draft the engine has verified in a step, and how many it has kept.

    `draft` is None for the ends of calls, which are certain once the arguments have ended, so that
    they are drafted without a prediction. Tokens that were kept, but stand behind a stop text, are
    no tokens of the message.
    """

    draft: Draft | None
    proposed_tokens: int
    accepted_tokens: int
