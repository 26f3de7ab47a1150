"""Checks arguments and results: the small ones at once, the others in a process of their own.

Owns: where a check is made, and how long it may keep the event loop.
Never: what a mismatch is (`schema`), what follows from one (`arguments`, `answers`).
Concurrency: one event loop. Costly checks are made one after the other; tenants take turns.
"""

from __future__ import annotations

import logging
from typing import Final

from precall_service.domain.json import JsonObject, JsonValue, dump, parse_object
from precall_service.fair_turns import FairTurns
from precall_service.tools.check_process import CheckProcess, CheckProcessError
from precall_service.tools.check_worker import Verdict
from precall_service.tools.checked_texts import Subject, check_within, unchecked
from precall_service.tools.schema import CostlyError, MismatchError, Schema

log = logging.getLogger(__name__)

AT_ONCE_CHARS_MAX: Final = 128 << 10
"""The longest text that is read at once."""
AT_ONCE_MARKS_MAX: Final = 8 << 10
"""The most commas and opening brackets in it, which bound the number of values. To read and measure
these takes about 5 ms, and twice that if the text has escapes of surrogates."""
AT_ONCE_NS_MAX: Final = 10_000_000
"""The most processor time for a check that is made at once, and for the explanation of a mismatch:
as it is estimated, so most take a tenth of it."""

_TRIES: Final = 2


class Checks:
    """Checks texts against schemas. `close` ends the process that it has started."""

    def __init__(self) -> None:
        self._process = CheckProcess()
        self._turns = FairTurns()

    @property
    def pid(self) -> int | None:
        """The process for costly checks; None if there is none."""
        return self._process.pid

    async def close(self) -> None:
        """Ends the process. Idempotent."""
        await self._process.close()

    def at_once(self, subject: Subject, text: str, schema: Schema | None) -> JsonValue:
        """Returns the value of a text that fits its schema, if it is small enough to tell at once.

        Raises:
            MismatchError: it does not fit, or is not JSON.
            CostlyError: it is not that small.
        """
        if len(text) > AT_ONCE_CHARS_MAX or sum(map(text.count, "[{,")) > AT_ONCE_MARKS_MAX:
            raise CostlyError
        return check_within(subject, text, schema, cost_max_ns=AT_ONCE_NS_MAX)

    async def check(self, subject: Subject, text: str, schema: Schema | None, tenant: str) -> None:
        """Returns if a text fits its schema.

        Raises:
            MismatchError: it does not fit, is not JSON, or takes too long to be checked.
        On cancel: the check is given up.
        """
        try:
            self.at_once(subject, text, schema)
        except CostlyError:
            await self._elsewhere(subject, text, schema, tenant)

    async def arguments(self, text: str, schema: Schema, tenant: str) -> JsonObject:
        """Returns the arguments in a text. Raises and ends as `check`."""
        try:
            value = self.at_once(Subject.ARGUMENTS, text, schema)
        except CostlyError:
            await self._elsewhere(Subject.ARGUMENTS, text, schema, tenant)
            value = parse_object(text)
        assert isinstance(value, dict)
        return value

    async def _elsewhere(
        self, subject: Subject, text: str, schema: Schema | None, tenant: str
    ) -> None:
        source = "" if schema is None else dump(schema.source)
        async with self._turns.of(tenant):
            for _ in range(_TRIES):
                try:
                    verdict = await self._process.ask(subject, source, text)
                    break
                except CheckProcessError as error:
                    log.warning("the process for checks of tools failed: %s", error)
            else:
                verdict = Verdict(given_up="could not be checked; try again")
        if verdict.problem:
            raise MismatchError(verdict.problem)
        if verdict.given_up:
            raise MismatchError(unchecked(subject, verdict.given_up))
