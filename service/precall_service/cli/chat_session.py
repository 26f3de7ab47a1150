"""A chat on a terminal or a pipe: it reads lines and takes a turn for each.

Owns: the conversation, the slash commands, and the meaning of Ctrl-C.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from rich.console import Console
from rich.markup import escape

import precall
from precall_service.cli.chat_tools import CHAT_TOOLS
from precall_service.cli.console import stderr, stdout
from precall_service.cli.interrupts import on_interrupt
from precall_service.cli.render import TurnView, report_table
from precall_service.engine.vllm.threads import in_daemon_thread

COMMANDS = {
    "/help": "list the commands",
    "/tools": "list the tools that the model may call",
    "/report": "show where the time and tokens of the last turn went",
    "/new": "start a new conversation",
    "/quit": "quit, as Ctrl-D does",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a chat is started with.

    `tools`: whether the model may call those of the chat. `thinks`: whether it reasons first; None
    leaves that to its template.
    """

    address: str
    system: str
    tools: bool
    thinks: bool | None
    turn: precall.TurnOptions


class Chat:
    """A conversation, replaced by `/new`, and the report of its last turn."""

    def __init__(self, client: precall.Client, options: ChatOptions, console: Console) -> None:
        self._client = client
        self._options = options
        self._console = console
        self._report: precall.TurnReport | None = None
        self._conversation = self._new()

    async def open(self) -> None:
        """Opens the conversation.

        Raises:
            PrecallError: the server is not reachable, or refuses the conversation or a tool.
        """
        await self._conversation.open()

    async def say(self, text: str) -> bool:
        """Takes a turn and writes it as it runs; returns whether it was answered.

        Ctrl-C cancels it on the server; a second Ctrl-C does not wait for the server.

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
        """Runs a slash command; returns whether the chat goes on."""
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
                message = f"there is no command {unknown}; /help lists the commands"
                self._console.print(message, markup=False)
        return True

    def greet(self) -> None:
        """Writes which model answers, where, and with which tools."""
        names = ", ".join(tool.name for tool in self._conversation.tools) or "none"
        model, address = escape(self._conversation.model), escape(self._client.address)
        self._console.print(f"[bold]{model}[/] at {address}")
        self._console.print(f"[dim]tools: {names}. /help for help, Ctrl-D to quit[/]\n")

    def _new(self) -> precall.Conversation:
        thinks = self._options.thinks
        return self._client.conversation(
            system_prompt=self._options.system,
            agent_name="precall chat",
            template_variables=None if thinks is None else {"enable_thinking": thinks},
            speculation=precall.Speculation(events=True),
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
    """Takes a turn for each line of the input; returns whether all were answered.

    On a terminal only the user ends the chat, and the result is always True.
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
        if options.tools and _can_call_tools(info := await client.server_info()):
            # Only where it has an effect: a chat has no use for a warning.
            early = precall.Capability.SPECULATION in info.capabilities
            for tool in CHAT_TOOLS:
                client.add_tool(tool, read_only=True, speculation_safe=early)
        chat = Chat(client, options, stdout())
        await chat.open()
        yield chat


def _can_call_tools(info: precall.ServerInfo) -> bool:
    if precall.Capability.TOOL_CALLS in info.capabilities:
        return True
    stderr().print(f"({info.model} cannot call tools)", style="dim", markup=False)
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
            stderr().print("(Ctrl-D or a second Ctrl-C quits)", style="dim")
            continue
        interrupted = False
        try:
            if line.startswith("/"):
                if not await chat.obey(line):
                    return
            elif line:
                await chat.say(line)
        except precall.PrecallError as error:
            lost = isinstance(error, precall.ConnectionLostError | precall.ConversationClosedError)
            hint = " (/new connects again)" if lost else ""
            stderr().print(f"[red]error:[/] {escape(error.message)}{hint}")


async def _on_pipe(chat: Chat) -> bool:
    answered = True
    # The thread is a daemon, so a program that is told to end does not wait for input.
    while line := await in_daemon_thread(sys.stdin.readline):
        text = line.strip()
        if text.startswith("/"):
            if not await chat.obey(text):
                break
        elif text:
            answered = await chat.say(text) and answered
    return answered
