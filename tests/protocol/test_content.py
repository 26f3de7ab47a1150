"""Content of a result: the parts that the model reads instead of the result's JSON."""

from __future__ import annotations

import pytest

from precall.v1 import content_pb2, invocation_pb2, turn_pb2
from tests.support.scripted_template import prompt_text
from tests.support.scripts import calls, in_turn, says
from tests.support.stream import WEATHER, running_server
from tests.support.wire import failure, said

CALL = calls(("weather", '{"city":"Rome"}'))
PICTURE = content_pb2.ContentPart(image=content_pb2.MediaPart(media_type="image/png", data=b"P"))
Result = invocation_pb2.InvocationResult


async def test_the_model_sees_the_content_of_a_result() -> None:
    async with running_server(in_turn(CALL, says("Done."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invocation_id = (await stream.invoked()).invocation_id
        content = said("It is warm ", "in Rome.")
        result = Result(invocation_id=invocation_id, result_json='{"c":30}', content=content)
        await stream.send("invocation_result", result)
        completed = await stream.call_completed()
        assert completed.result_json == '{"c":30}'
        assert list(completed.content) == said("It is warm in Rome.")
        assert (await stream.completed()).text == "Done."
        read = prompt_text(server.engine.prompts[-1])
        assert "It is warm in Rome." in read
        assert '{"c":30}' not in read
        await stream.close()


@pytest.mark.parametrize(
    ("content", "reason", "path"),
    [
        ([*said("See:"), PICTURE], "NOT_SERVED", "invocation_result.content[1].image"),
        ([content_pb2.ContentPart()], "FIELD_INVALID", "invocation_result.content[0]"),
        (said("x" * 1024), "TOO_LARGE", "1024"),
    ],
)
async def test_unusable_content_ends_the_call(
    content: list[content_pb2.ContentPart], reason: str, path: str
) -> None:
    script = in_turn(CALL, says("Done."))
    async with running_server(script, tools={"result_bytes_max": 1024}) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        invocation_id = (await stream.invoked()).invocation_id
        result = Result(invocation_id=invocation_id, result_json="1", content=content)
        refused = await stream.refused(await stream.send("invocation_result", result))
        assert refused.reason == reason
        completed = await stream.call_completed()
        assert completed.outcome == turn_pb2.TOOL_CALL_OUTCOME_ERROR
        error = failure(completed.error)
        assert error.reason == reason
        assert path in error.message
        assert (await stream.completed()).text == "Done."
        await stream.close()
