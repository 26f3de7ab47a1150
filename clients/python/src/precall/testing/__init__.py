"""A fake server for tests of agents: the real protocol, a scripted model, no engine.

```python
from precall import Client
from precall.testing import Call, FakeServer, Say

script = [Call("get_weather", {"city": "Paris"}), Say("It is sunny.")]
async with FakeServer(script) as server, Client(server.address) as client:
    client.add_tool(get_weather)
    async with client.conversation() as conversation:
        assert str(await conversation.ask("Weather?")) == "It is sunny."
assert server.results[0].value == {"weather": "sunny"}
```
"""

from __future__ import annotations

try:
    from precall.testing._script import (
        Call,
        Disconnect,
        Entry,
        Fail,
        Hang,
        Limit,
        NoCall,
        Parallel,
        Predict,
        Refuse,
        Say,
        Step,
        ToolResult,
    )
    from precall.testing._server import FakeServer, StartedTurn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"precall.testing needs {error.name}: pip install 'precall[testing]'", name=error.name
    ) from error

__all__ = [
    "Call",
    "Disconnect",
    "Entry",
    "Fail",
    "FakeServer",
    "Hang",
    "Limit",
    "NoCall",
    "Parallel",
    "Predict",
    "Refuse",
    "Say",
    "StartedTurn",
    "Step",
    "ToolResult",
]
