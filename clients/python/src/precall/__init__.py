"""Python client of precall: agent turns with your functions as tools.

```python
import precall

async with precall.Client("localhost:50151") as client:

    @client.tool(read_only=True)
    async def get_weather(city: str) -> dict[str, str]:
        \"\"\"Current weather of a city.\"\"\"
        return {"city": city, "weather": "sunny"}

    async with client.conversation() as conversation:
        print(await conversation.ask("What is the weather in Paris?"))
```
"""

from __future__ import annotations

from precall import _events
from precall._cache import ToolCache
from precall._cache_values import (
    CacheChange,
    CacheEntriesInvalidated,
    CacheEntry,
    CacheEntryStored,
    CacheKey,
    CacheOrigin,
    CacheStats,
    CacheTarget,
    CacheWatchGap,
    ResourceVersion,
    ResourceVersions,
)
from precall._client import Client
from precall._context import ToolContext
from precall._conversation import Conversation
from precall._errors import (
    AccessError,
    CacheConflictError,
    ConnectError,
    ConnectionLostError,
    ContextWindowExceededError,
    ConversationClosedError,
    ConversationUnknownError,
    EngineUnavailableError,
    InvalidArgumentError,
    LimitReachedError,
    NoCallError,
    NotServedError,
    OverloadedError,
    PrecallError,
    ServerError,
    TooLargeError,
    ToolCallError,
    ToolRejectedError,
    TurnRunningError,
    UnavailableError,
)
from precall._events import *  # noqa: F403 - generated, with an __all__ of its own
from precall._messages import Answer, Message, ToolCall
from precall._options import ClientOptions
from precall._served import NotServedWarning
from precall._server import (
    Capability,
    EngineLoad,
    EngineState,
    ServerInfo,
    ServerLimits,
    TurnLimits,
)
from precall._speculation import (
    PredictorRecord,
    Speculation,
    SpeculationMode,
    SpeculationStats,
    ToolSpeculation,
)
from precall._tool import Tool, ToolNamed, ToolOptions
from precall._turn import Turn
from precall._turn_options import TurnOptions

__version__ = "0.1.0"

__all__: list[str] = [
    "AccessError",
    "Answer",
    "CacheChange",
    "CacheConflictError",
    "CacheEntriesInvalidated",
    "CacheEntry",
    "CacheEntryStored",
    "CacheKey",
    "CacheOrigin",
    "CacheStats",
    "CacheTarget",
    "CacheWatchGap",
    "Capability",
    "Client",
    "ClientOptions",
    "ConnectError",
    "ConnectionLostError",
    "ContextWindowExceededError",
    "Conversation",
    "ConversationClosedError",
    "ConversationUnknownError",
    "EngineLoad",
    "EngineState",
    "EngineUnavailableError",
    "InvalidArgumentError",
    "LimitReachedError",
    "Message",
    "NoCallError",
    "NotServedError",
    "NotServedWarning",
    "OverloadedError",
    "PrecallError",
    "PredictorRecord",
    "ResourceVersion",
    "ResourceVersions",
    "ServerError",
    "ServerInfo",
    "ServerLimits",
    "Speculation",
    "SpeculationMode",
    "SpeculationStats",
    "TooLargeError",
    "Tool",
    "ToolCache",
    "ToolCall",
    "ToolCallError",
    "ToolContext",
    "ToolNamed",
    "ToolOptions",
    "ToolRejectedError",
    "ToolSpeculation",
    "Turn",
    "TurnLimits",
    "TurnOptions",
    "TurnRunningError",
    "UnavailableError",
]
__all__ += _events.__all__
