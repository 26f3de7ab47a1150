"""Defects of ours: the operator's log has all of one, the client is told its number."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import cast

from precall_service.domain.errors import Reason, ServiceError


def report_defect(log: logging.Logger, what: str, error: BaseException) -> ServiceError:
    """Logs a defect with its causes and its traceback; returns the error for the client.

    `what` has failed, in words for the log: "turn 't1' of conv-1 (tenant ann)".
    """
    incident = secrets.token_hex(4)
    log.error("%s failed, incident %s: %s", what, incident, causes(error), exc_info=error)
    return ServiceError(
        Reason.INTERNAL,
        f"a defect of the server; its log has incident {incident}",
        metadata={"incident": incident},
    )


def causes(error: BaseException) -> str:
    """The errors themselves where a task group has only "unhandled errors in a TaskGroup"."""
    return "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
