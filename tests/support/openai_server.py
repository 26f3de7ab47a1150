"""A scripted server with an OpenAI-compatible interface, over real HTTP.

Each test says what the server sends, byte by byte if need be; it never generates.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
MODELS = [{"id": "tiny", "object": "model", "created": 1, "owned_by": "someone"}]


@dataclass(frozen=True)
class Sent:
    """What is sent for one generation.

    `rest` follows once `when` is set. `hangs`: the connection then stays open, in silence.
    """

    body: bytes
    status: str = "200 OK"
    headers: tuple[str, ...] = ("Content-Type: text/event-stream",)
    hangs: bool = False
    rest: bytes = b""
    when: asyncio.Event | None = None


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A part of a streamed answer."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


def call(name: str | None, arguments: str, *, index: int | None = 0, call_id: str = "") -> Any:
    """A part of a call."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": call_id or None, "type": "function", "function": function}


def counted(usage: dict[str, Any] = USAGE) -> dict[str, Any]:
    """The last part of a streamed answer, which has the usage."""
    return {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}


def streamed(*parts: Any, done: bool = True, hangs: bool = False) -> Sent:
    """An answer in parts."""
    events = [f"data: {json.dumps(part)}\n\n" for part in parts]
    return Sent(("".join(events) + ("data: [DONE]\n\n" if done else "")).encode(), hangs=hangs)


def whole(message: dict[str, Any], finish: str = "stop") -> Sent:
    """An answer that comes as a whole."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return Sent(json.dumps(body).encode(), headers=("Content-Type: application/json",))


def refused(status: str, message: str, *headers: str) -> Sent:
    """An error."""
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}})
    return Sent(body.encode(), status, ("Content-Type: application/json", *headers))


SAYS_HI = streamed(delta(content="Hi"), delta("stop"), counted())


@dataclass
class OpenAiServer:
    """The running server. `answers` are sent one after the other; the last one stays.

    `asked` are the bodies of the generations, in order. `models` None: it does not list them.
    """

    answers: Sequence[Sent] = (SAYS_HI,)
    models: Any = field(default_factory=lambda: list(MODELS))
    models_status: str = "200 OK"
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[str] = field(default_factory=list[str])
    closed_early: asyncio.Event = field(default_factory=asyncio.Event)
    listed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released each time that the models were asked for."""
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[OpenAiServer]:
        """Serves on a free port until the end of the block."""
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            connections.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await self._answer(reader, writer)
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in tuple(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.headers.append(head)
        sizes = [
            int(line.split(":")[1])
            for line in head.splitlines()
            if line.lower().startswith("content-length:")
        ]
        body = await reader.readexactly(sizes[0]) if sizes else b""
        sent = self._models() if head.startswith("GET") else self._generation(json.loads(body))
        lines = [f"HTTP/1.1 {sent.status}", *sent.headers, "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + sent.body)
        await writer.drain()
        if sent.when is not None:
            await sent.when.wait()
            writer.write(sent.rest)
            await writer.drain()
        if sent.hangs:
            await reader.read()  # until the other side closes
            self.closed_early.set()

    def _models(self) -> Sent:
        self.listed.release()
        if self.models is None:
            return refused("404 Not Found", "no such path")
        body = json.dumps({"object": "list", "data": self.models}).encode()
        return Sent(body, self.models_status, ("Content-Type: application/json",))

    def _generation(self, body: dict[str, Any]) -> Sent:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(body)
        return answer
