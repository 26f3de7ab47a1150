"""Checks the JSON texts of arguments and results against their schemas.

It is the same in the service and in the process to which costly checks are given (`check_worker`).
Messages say what is wrong in the words that follow on the name of the text.
"""

from __future__ import annotations

import enum

from precall_service.domain.json import (
    HALF_PAIR,
    JsonError,
    JsonObject,
    JsonValue,
    find_half_pair,
    may_hold_half_pair,
    parse,
    parse_object,
    without_half_pairs,
)
from precall_service.tools.schema import MismatchError, Schema


class Subject(enum.StrEnum):
    """What a text is. The value is its name in the paths of mismatches."""

    ARGUMENTS = "arguments"
    RESULT = "result"


def read(subject: Subject, text: str) -> JsonValue:
    """Returns the value of a text, as its schema is to see it.

    Raises:
        MismatchError: not JSON, or not what the subject is.
    """
    return _arguments(text) if subject is Subject.ARGUMENTS else _result(text)


def told(subject: Subject, mismatch: MismatchError) -> str:
    """Returns what is wrong with a text that its schema does not allow."""
    if subject is Subject.ARGUMENTS:
        return str(mismatch)
    return f"breaks its output schema: {mismatch}"


def unchecked(subject: Subject, why: str) -> str:
    """Returns what is wrong with a text whose check was given up."""
    return f"{subject}: {why}" if subject is Subject.ARGUMENTS else why


def check_within(
    subject: Subject, text: str, schema: Schema | None, *, cost_max_ns: int
) -> JsonValue:
    """Returns the value of a text that fits its schema.

    Raises:
        MismatchError: it does not, or is not JSON.
        CostlyError: the check could take more than that much processor time.
    """
    value = read(subject, text)
    if schema is not None:
        try:
            schema.check_within(value, root=subject, cost_max_ns=cost_max_ns)
        except MismatchError as error:
            raise MismatchError(told(subject, error)) from None
    return value


def _arguments(text: str) -> JsonObject:
    try:
        arguments = parse_object(text)
    except JsonError as error:
        raise MismatchError(f"arguments: not a JSON object: {error}") from None
    if may_hold_half_pair(text) and (place := find_half_pair(arguments, "arguments")):
        raise MismatchError(f"{place}: {HALF_PAIR}; write the whole character, or leave it out")
    return arguments


def _result(text: str) -> JsonValue:
    try:
        value = parse(text)
    except JsonError as error:
        raise MismatchError(f"is not JSON text: {error}") from None
    if not may_hold_half_pair(text):
        return value
    try:
        # Such a result is accepted, and a string is shown to the model like this.
        return without_half_pairs(value)
    except JsonError as error:
        raise MismatchError(f"breaks its output schema: {error}") from None
