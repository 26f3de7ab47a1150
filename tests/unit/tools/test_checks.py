"""Where a check is made, and that a hostile one keeps neither the loop nor another tenant."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.tools import checks as checks_module
from precall_service.tools.checked_texts import Subject
from precall_service.tools.checks import AT_ONCE_CHARS_MAX, Checks
from precall_service.tools.schema import CostlyError, MismatchError, Schema
from tests.support.costly_checks import HUGE, none_of
from tests.support.loop_watch import watched_loop

ANY = Schema({})
NUMBERS = Schema({"items": {"type": "number", "minimum": 0, "multipleOf": 0.01}})
LONG = AT_ONCE_CHARS_MAX

# Each stops the validator for between seconds and days.
HOSTILE: dict[str, tuple[JsonObject, JsonValue]] = {
    "the enum of numbers": (none_of({"enum": [n + 0.5 for n in range(6000)]}), [-1] * 5000),
    "huge numbers": ({"uniqueItems": True}, [HUGE + n for n in range(250)]),
    "looking ahead": ({"pattern": "^(?:(?=.*b)[ab])*$"}, "ab" * 50_000),
}


@pytest_asyncio.fixture
async def checks() -> AsyncGenerator[Checks]:
    checks = Checks()
    yield checks
    await checks.close()


async def problem(
    checks: Checks,
    schema: Schema | None,
    text: str,
    *,
    subject: Subject = Subject.RESULT,
    tenant: str = "a",
) -> str:
    """What is wrong with a text; empty if it fits."""
    try:
        await checks.check(subject, text, schema, tenant)
    except MismatchError as error:
        return str(error)
    return ""


async def begun(checks: Checks) -> int:
    """The process, once it was started for a check."""
    for _ in range(100_000):
        if checks.pid is not None:
            return checks.pid
        await asyncio.sleep(0)
    raise AssertionError("no check has begun")


async def test_small_texts_are_checked_at_once(checks: Checks) -> None:
    assert await problem(checks, NUMBERS, "[1, 2.5]") == ""
    assert "result[0]: -1 is less than the minimum" in await problem(checks, NUMBERS, "[-1]")
    assert await problem(checks, None, "{}") == ""
    assert checks.pid is None


@pytest.mark.parametrize("subject", Subject)
@pytest.mark.parametrize(
    "text",
    ["{}", "[", "[1]", '{"a":5}', '{"a":"\\ud800"}', '{"\\ud800":1}', "[" * 300 + "]" * 300, '"é"'],
)
async def test_the_process_says_the_same(checks: Checks, subject: Subject, text: str) -> None:
    schema = Schema({"type": "object", "properties": {"a": {"type": "string"}}})
    at_once = await problem(checks, schema, text, subject=subject)
    assert checks.pid is None
    # Blanks make it too long to be read at once.
    padded = text + " " * LONG if text != "[" else text + "\n" * LONG
    elsewhere = await problem(checks, schema, padded, subject=subject)
    assert checks.pid is not None
    assert elsewhere.partition(" at line")[0] == at_once.partition(" at line")[0]


async def test_arguments_are_returned_wherever_they_are_checked(checks: Checks) -> None:
    for text in ('{"a": 1}', '{"a": 1}' + " " * LONG):
        assert await checks.arguments(text, ANY, "a") == {"a": 1}
    with pytest.raises(MismatchError, match="expected an object, found an array"):
        await checks.arguments("[]" + " " * LONG, ANY, "a")


async def test_predictions_are_checked_at_once_or_not_at_all(checks: Checks) -> None:
    assert checks.at_once(Subject.ARGUMENTS, "{}", ANY) == {}
    of_lists = Schema({"additionalProperties": NUMBERS.source})
    for schema, text in ((ANY, "{}" + " " * LONG), (of_lists, json.dumps({"a": [0.5] * 2000}))):
        with pytest.raises(CostlyError):
            checks.at_once(Subject.ARGUMENTS, text, schema)


async def test_an_honest_megabyte_is_checked(checks: Checks) -> None:
    properties: dict[str, JsonValue] = {
        f"p{n}": {"type": "number", "minimum": 0} if n % 2 else {"type": "string", "minLength": 1}
        for n in range(50)
    }
    schema = Schema({"items": {"properties": properties, "required": list(properties)}})
    row = {name: 12.5 if n % 2 else "words" for n, name in enumerate(properties)}
    rows = [row] * 1400
    assert len(json.dumps(rows)) > 900_000
    async with watched_loop() as watch:
        assert await problem(checks, schema, json.dumps(rows)) == ""
        wrong = [*rows[1:], {**row, "p1": -1}]
        found = await problem(checks, schema, json.dumps(wrong))
    assert found == "breaks its output schema: result[1399].p1: -1 is less than the minimum of 0"
    watch.assert_free()


@pytest.mark.parametrize("attack", HOSTILE)
async def test_a_hostile_check_is_given_up_and_the_loop_stays_free(
    checks: Checks, attack: str
) -> None:
    given, value = HOSTILE[attack]
    schema, text = Schema(given), json.dumps(value)
    async with watched_loop() as watch:
        found = await problem(checks, schema, text)
        assert "takes more than 1 s to be checked; make it smaller" in found
        assert await problem(checks, ANY, "{}" + " " * LONG) == ""
    watch.assert_free()


async def test_a_mismatch_that_takes_long_to_explain_is_told_without(checks: Checks) -> None:
    schema = Schema({"anyOf": [{"items": {"type": "string"}}] * 500})
    found = await problem(checks, schema, json.dumps(list(range(60_000))))
    assert found.endswith("result: does not fit its schema, and is too large to say where")


async def test_one_tenant_does_not_keep_another_waiting(checks: Checks) -> None:
    given, value = HOSTILE["huge numbers"]
    schema, text = Schema(given), json.dumps(value)
    async with asyncio.TaskGroup() as group:
        hostile = [group.create_task(problem(checks, schema, text)) for _ in range(4)]
        await begun(checks)
        assert await problem(checks, ANY, "{}" + " " * LONG, tenant="b") == ""
        assert sum(task.done() for task in hostile) <= 2
        for task in hostile:
            task.cancel()


async def test_the_process_is_replaced_if_it_dies(checks: Checks) -> None:
    assert await problem(checks, ANY, "{}" + " " * LONG) == ""
    pid = checks.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await problem(checks, ANY, "[" + " " * LONG) != ""
    assert checks.pid not in {None, pid}


async def test_a_check_that_is_cancelled_is_ended(checks: Checks) -> None:
    given, value = HOSTILE["huge numbers"]
    checking = asyncio.create_task(problem(checks, Schema(given), json.dumps(value)))
    pid = await begun(checks)
    checking.cancel()
    await asyncio.wait([checking])
    assert checks.pid is None
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110, ASYNC240


async def test_without_a_process_the_text_is_refused(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/does/not/exist")
    found = await problem(checks, ANY, "{}" + " " * LONG)
    assert found == "could not be checked; try again"


def test_reading_at_once_is_bounded() -> None:
    """The longest texts that are read on the loop take a part of what it may be kept."""
    marks = checks_module.AT_ONCE_MARKS_MAX - 2
    texts = (
        "[" + "1," * marks + "1]",
        "[" + "{}," * (marks // 2) + "1]",
        '{"\\ud83d\\ude00":[' + "1.5," * (marks - 1) + "1]}",
        "{" + ",".join(f'"{n}":1' for n in range(marks)) + "}",
        json.dumps({"a": "é" * (LONG // 6 - 20)}),
        json.dumps({"a": "x" * (LONG - 20)}),
    )
    checks = Checks()
    for text in ("[" + "1," * (marks + 2) + "1]", " " * LONG + "1"):
        with pytest.raises(CostlyError):
            checks.at_once(Subject.RESULT, text, None)
    assert checks.at_once(Subject.RESULT, texts[-1], None)
    for text in texts:
        for subject in Subject:
            begun_s = time.thread_time()
            with pytest.raises((MismatchError, CostlyError)):
                checks.at_once(subject, text, Schema({"type": "null"}))
            assert time.thread_time() - begun_s < 0.025 * 3
