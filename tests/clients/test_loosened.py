"""What does not bind the model while it writes a call: told by the server, logged by the client."""

from __future__ import annotations

import pytest

from precall import Client
from precall_service.domain.events import LoosenedKeyword
from tests.clients.helpers import FAST
from tests.support.scripted_engine import ScriptedEngine
from tests.support.stream import running_server


async def look(url: str) -> str:
    return url


async def test_a_loosened_keyword_is_logged_once_for_a_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_server([]) as server:
        engine = server.service.engines.running
        assert isinstance(engine, ScriptedEngine)
        engine.loosened = {"look": [LoosenedKeyword("$.properties.url", "it is too long")]}
        async with Client(server.service.address, options=FAST) as client:
            client.add_tool(look)
            async with client.conversation(), client.conversation() as other:
                await other.add_tool(look, name="look_again")
    [message] = [each.getMessage() for each in caplog.records if each.name == "precall"]
    assert message == (
        "the model is not held to $.properties.url of tool 'look' while it writes a call: it is too"
        " long. Arguments that do not fit it do not reach the handler"
    )
