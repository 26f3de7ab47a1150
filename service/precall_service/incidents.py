"""Defects of the service: the log gets the details, the client gets an incident number."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import cast

from precall_service.domain.errors import Reason, ServiceError

_MARK = "precall_defect"


def report_defect(log: logging.Logger, what: str, error: BaseException) -> ServiceError:
    """Logs a defect with its causes and traceback; returns the error for the client.

    `what` names what has failed, for the log: "turn 't1' of conv-1 (tenant ann)".
    """
    incident = secrets.token_hex(4)
    log.error(
        "%s failed, incident %s: %s",
        what,
        incident,
        causes(error),
        exc_info=error,
        extra={_MARK: True},
    )
    return ServiceError(
        Reason.INTERNAL,
        f"a defect of the server: its log has the details under incident {incident}",
        metadata={"incident": incident},
    )


def is_defect(record: logging.LogRecord) -> bool:
    """Returns whether a log record is the report of a defect."""
    return hasattr(record, _MARK)


def causes(error: BaseException) -> str:
    """Returns the errors inside exception groups: a group's own text does not name them."""
    return "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
