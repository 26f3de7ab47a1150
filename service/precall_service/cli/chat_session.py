"""A chat on a terminal or a pipe: lines in, turns out.

Owns: the conversation that the lines go to, the slash commands, and what Ctrl-C does when.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from rich.console import Console
from rich.markup import escape

import precall
from precall_service.cli.chat_tools import chat_tools
from precall_service.cli.console import stderr, stdout
from precall_service.cli.interrupts import on_interrupt
from precall_service.cli.render import TurnView, report_table

COMMANDS = {
    "/help": "this list",
    "/tools": "the tools that the model may call",
    "/report": "where the time and tokens of the last turn went",
    "/new": "a new conversation",
    "/quit": "the end, as Ctrl-D",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a chat is started with. `tools_root`: the folder for the tools; None: no tools."""

    address: str
    system: str
    tools_root: Path | None
    turn: precall.TurnOptions


class Chat:
    """A conversation, made anew when asked for, and what its last turn reported."""

    def __init__(self, client: precall.Client, options: ChatOptions, console: Console) -> None:
        self._client = client
        self._options = options
        self._console = console
        self._report: precall.TurnReport | None = None
        self._conversation = self._new()

    async def open(self) -> None:
        """Opens the conversation.

        Raises:
            PrecallError: there is no server, or it refuses the conversation or a tool.
        """
        await self._conversation.open()

    async def say(self, text: str) -> bool:
        """Takes a turn, drawn as it comes; returns whether it was answered.

        Ctrl-C cancels it on the server; a second Ctrl-C does not wait for the server to agree.

        Raises:
            PrecallError: the turn was refused or failed.
        """
        turn = self._conversation.send(text, **self._options.turn)
        view = TurnView(self._console)
        try:
            async with on_interrupt(turn.cancel):
                async for event in turn:
                    view.show(event)
        finally:
            view.close()
        answer = await turn.answer()
        self._report = answer.report
        return answer.outcome is precall.TurnOutcome.ANSWERED

    async def obey(self, command: str) -> bool:
        """Does what a slash command says; returns whether the chat goes on."""
        match command.split(maxsplit=1)[0]:
            case "/quit" | "/exit":
                return False
            case "/help":
                for name, meaning in COMMANDS.items():
                    self._console.print(f"  {name:<8} {meaning}")
            case "/tools":
                self._show_tools()
            case "/report":
                self._console.print(
                    "(no turn yet)" if self._report is None else report_table(self._report)
                )
            case "/new":
                await self._conversation.close()
                self._conversation = self._new()
                await self.open()
                self._console.print("(a new conversation)", style="dim")
            case unknown:
                told = f"there is no {unknown}; /help lists what there is"
                self._console.print(told, markup=False)
        return True

    def greet(self) -> None:
        """Says who answers."""
        names = ", ".join(tool.name for tool in self._conversation.tools) or "none"
        model, address = escape(self._conversation.model), escape(self._client.address)
        self._console.print(f"[bold]{model}[/] at {address}")
        self._console.print(f"[dim]tools: {names}. /help for help, Ctrl-D to quit[/]\n")

    def _new(self) -> precall.Conversation:
        return self._client.conversation(
            system_prompt=self._options.system, agent_name="precall chat"
        )

    def _show_tools(self) -> None:
        for tool in self._conversation.tools:
            parameters = ", ".join(inspect.signature(tool.function).parameters)
            self._console.print(f"  {tool.name}({parameters})", style="cyan", markup=False)
            self._console.print(f"      {tool.description}", markup=False)
        if not self._conversation.tools:
            self._console.print("(none)")


async def chat_once(options: ChatOptions, text: str) -> bool:
    """Takes one turn; returns whether it was answered."""
    async with _opened(options) as chat:
        return await chat.say(text)


async def chat_on(options: ChatOptions) -> bool:
    """Takes a turn for each line until there are no more; returns whether all were answered.

    On a terminal nothing but the user ends the chat, and every ending is a good one.
    """
    async with _opened(options) as chat:
        if sys.stdin.isatty() and sys.stdout.isatty():
            chat.greet()
            await _on_terminal(chat)
            return True
        return await _on_pipe(chat)


@asynccontextmanager
async def _opened(options: ChatOptions) -> AsyncGenerator[Chat]:
    async with precall.Client(options.address) as client:
        if options.tools_root is not None and await _calls_tools(client):
            for tool in chat_tools(options.tools_root):
                client.add_tool(tool, read_only=True)
        chat = Chat(client, options, stdout())
        await chat.open()
        yield chat


async def _calls_tools(client: precall.Client) -> bool:
    info = await client.server_info()
    if precall.Capability.TOOL_CALLS in info.capabilities:
        return True
    stderr().print(f"({info.model} calls no tools)", style="dim", markup=False)
    return False


async def _on_terminal(chat: Chat) -> None:
    session: PromptSession[str] = PromptSession(
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_while_typing=False,
        reserve_space_for_menu=0,
    )
    interrupted = False
    while True:
        try:
            line = (await session.prompt_async("> ")).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            stderr().print("(Ctrl-C again, or Ctrl-D, quits)", style="dim")
            continue
        interrupted = False
        try:
            if line.startswith("/"):
                if not await chat.obey(line):
                    return
            elif line:
                await chat.say(line)
        except precall.PrecallError as error:
            _tell(error)


async def _on_pipe(chat: Chat) -> bool:
    answered = True
    while line := await _read_line():
        text = line.strip()
        if text.startswith("/"):
            if not await chat.obey(text):
                break
        elif text:
            answered = await chat.say(text) and answered
    return answered


def _tell(error: precall.PrecallError) -> None:
    """A failure that does not end the chat."""
    lost = isinstance(error, precall.ConnectionLostError | precall.ConversationClosedError)
    hint = " (/new connects again)" if lost else ""
    stderr().print(f"[red]error:[/] {escape(error.message)}{hint}")


async def _read_line() -> str:
    """A line of the input, empty at its end. On cancel: the thread that reads is left behind."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(text: str) -> None:
        if not line.done():
            line.set_result(text)

    def read() -> None:
        text = sys.stdin.readline()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, text)

    # A daemon, and none of the loop's own threads: a program that ends does not wait for input.
    threading.Thread(target=read, name="precall stdin", daemon=True).start()
    return await line
