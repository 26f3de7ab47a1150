"""The error of a turn whose server was lost while handlers ran: it names them."""

from __future__ import annotations

from collections.abc import Mapping

from precall._errors import PrecallError


def with_begun(lost: PrecallError, begun: Mapping[str, bool]) -> PrecallError:
    """Returns the error of a turn whose stream has ended, with the tools that had run in it.

    Args:
        lost: Why the stream ended.
        begun: The tools whose handlers had begun, each with whether it may have had effects.
    """
    if not begun:
        return lost
    effects = [name for name, may_have_effects in begun.items() if may_have_effects]
    harmless = [name for name, may_have_effects in begun.items() if not may_have_effects]
    told = [
        f"{', '.join(names)} ({what})"
        for names, what in ((effects, "may have had effects"), (harmless, "read-only"))
        if names
    ]
    metadata = {**lost.metadata, "begun": ", ".join(begun)}
    if effects:
        metadata["called"] = ", ".join(effects)
    return type(lost)(
        f"{lost.message}. Handlers of the turn had begun: {'; '.join(told)}",
        reason=lost.reason,
        code=lost.code,
        metadata=metadata,
        retry_after_s=None if effects else lost.retry_after_s,
    )
