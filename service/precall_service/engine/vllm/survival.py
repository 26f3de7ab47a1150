"""Says of a message of a probe whether it survives its chat template and its parsers.

Never: what follows from it; that is for the proof.
"""

from __future__ import annotations

import logging
from typing import Final

from precall_service.domain.json import parse_object
from precall_service.domain.messages import AssistantMessage, ToolCall, Transcript
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import TemplateRefusedError
from precall_service.engine.vllm import probe_chat as chat
from precall_service.engine.vllm import skeletons
from precall_service.engine.vllm.readback import NotReadError, Read, ReadBack, Written

log = logging.getLogger(__name__)

_AUTO: Final = ToolChoice()


class RefutedError(Exception):
    """Something does not survive; the message says what became of it."""


class Survival:
    """Checks one thing after another, each with its name for the operator (`what`)."""

    def __init__(self, readback: ReadBack) -> None:
        self._readback = readback

    async def answered(self, what: str, *calls: ToolCall) -> None:
        """Raises RefutedError unless the template takes these calls and writes their results."""
        answered = skeletons.with_messages(chat.asked(*chat.TOOLS), chat.round_of(*calls))
        await self.renders(answered, what, *(chat.result_text(call.call_id) for call in calls))

    async def renders(self, transcript: Transcript, what: str, *texts: str) -> None:
        """Raises RefutedError unless the template takes the transcript and writes the texts."""
        try:
            rendered = await self._readback.rendered(transcript, ready=True)
        except TemplateRefusedError as error:
            raise _refused(what, error) from error
        if not all(text in rendered for text in texts):
            raise RefutedError(f"the chat template leaves out {what}")

    async def survives(self, question: Transcript, message: AssistantMessage, what: str) -> Written:
        """Returns the message as the template writes it.

        A message that the template leaves out is not read.

        Raises:
            RefutedError: the parser does not read from it what was rendered.
        """
        names = [call.tool_name for call in message.tool_calls]
        try:
            written = await self._readback.written(question, message)
            if written.text and not all(name in written.text for name in names):
                with_ids = chat.with_written_ids(message)
                written = await self._readback.written(question, with_ids)
        except TemplateRefusedError as error:
            raise _refused(what, error) from error
        except NotReadError as error:
            raise RefutedError(str(error)) from error
        if written.text:
            self.check(written, question, message, what)
        return written

    def check(
        self,
        written: Written,
        question: Transcript,
        message: AssistantMessage,
        what: str,
        choice: ToolChoice = _AUTO,
        *,
        thinks: bool = True,
    ) -> None:
        """Raises RefutedError unless the parser reads this message from what is written."""
        for at_once in (True, False):
            try:
                read = self._readback.read(
                    written, question, choice, thinks=thinks, at_once=at_once
                )
            except NotReadError as error:
                raise RefutedError(f"the parser fails on {what} ({error})") from error
            if difference := _difference(read, written, message, at_once=at_once):
                log.debug("of %r, the parser reads %s: %r", written.text, difference, read)
                raise RefutedError(f"of {what}, the parser reads {difference}")


def _refused(what: str, error: TemplateRefusedError) -> RefutedError:
    return RefutedError(
        f"the chat template refuses a conversation that has {what} ({error.__cause__ or error})"
    )


def _difference(read: Read, written: Written, message: AssistantMessage, *, at_once: bool) -> str:
    """What was read otherwise than it was meant; empty if nothing was.

    Texts are compared where they were read token by token, as most steps are: given a text and a
    call at once, some parsers drop the text.
    """
    names = [call.tool_name for call in message.tool_calls]
    arguments = [parse_object(call.arguments_json) for call in message.tool_calls]
    if len(read.calls) != len(names):
        return f"{len(read.calls)} of {len(names)} calls" if read.calls else "no call"
    if [name for name, _ in read.calls] != names:
        return "another name of the tool"
    if [each for _, each in read.calls] != arguments:
        return "other arguments"
    if at_once:
        return ""
    if message.reasoning and not message.tool_calls and message.reasoning not in read.reasoning:
        return "no thought"
    return "no text" if message.text in written.text and message.text not in read.text else ""
