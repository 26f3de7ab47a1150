"""Puts our reader of JSON calls in the place of vLLM's, for the families that it can read.

vLLM's parser for them searches for the mark that ends a call, also inside of strings, and reads the
whole message again at each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.parser.abstract_parser import Parser
from vllm.tool_parsers.abstract_tool_parser import ToolParser
from vllm.tool_parsers.granite4_tool_parser import Granite4ToolParser
from vllm.tool_parsers.granite_engine_tool_parser import GraniteEngineToolParser
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.longcat_tool_parser import LongcatFlashToolParser

from precall_service.engine.vllm.json_calls import Arguments, Begun, JsonCallReader, Marks, Text


class JsonCallParser(ToolParser):
    """A parser of vLLM's whose reading of calls is ours.

    `read` reads the next piece of a message alone; vLLM would copy all that came before.

    Attributes:
        marks: The marks around a call.
        reader: What has read the message so far.
    """

    marks: Marks

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reader = JsonCallReader(self.marks)
        self.begun = False
        """Whether the message has left its reasoning: all that follows may be given to `read`."""
        self._calls = 0

    def read(self, text: str) -> DeltaMessage | None:
        """What the next piece of the message, after its reasoning, completes."""
        self.begun = True
        said: list[str] = []
        calls: list[DeltaToolCall] = []
        for read in self.reader.feed(text):
            match read:
                case Text(part):
                    said.append(part)
                case Begun(name):
                    calls.append(
                        DeltaToolCall(
                            index=self._calls,
                            type="function",
                            id=str(self._calls),
                            function=DeltaFunctionCall(name=name),
                        )
                    )
                    self._calls += 1
                case Arguments(fragment):
                    function = DeltaFunctionCall(arguments=fragment)
                    calls.append(DeltaToolCall(index=self._calls - 1, function=function))
        if not said and not calls:
            return None
        return DeltaMessage(content="".join(said) or None, tool_calls=calls)

    def extract_tool_calls_streaming(  # noqa: PLR0917 - vLLM's
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """As vLLM's."""
        return self.read(delta_text)

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """As vLLM's: the calls of a whole message."""
        said, calls = _whole(JsonCallReader(self.marks).feed(model_output))
        return ExtractedToolCallInformation(
            tools_called=bool(calls),
            tool_calls=[
                ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments))
                for name, arguments in calls
            ],
            content=said or None,
        )


class HermesCallParser(JsonCallParser, Hermes2ProToolParser):
    """For `<tool_call>{...}</tool_call>`, with vLLM's grammar of that form."""

    marks = Marks(("<tool_call>",), "</tool_call>")


class GraniteCallParser(JsonCallParser):
    """For `<tool_call>[{...}, {...}]`, or the same after a token, of which vLLM has no grammar."""

    marks = Marks(("<|tool_call|>", "<tool_call>"), "")


class LongcatCallParser(JsonCallParser):
    """As Hermes's, with marks and a grammar of LongCat's own."""

    structural_tag_model = LongcatFlashToolParser.structural_tag_model
    marks = Marks(("<longcat_tool_call>",), "</longcat_tool_call>")


_READ_HERE: Final[Mapping[type[ToolParser], type[JsonCallParser]]] = {
    Hermes2ProToolParser: HermesCallParser,
    Granite4ToolParser: HermesCallParser,
    GraniteEngineToolParser: GraniteCallParser,
    LongcatFlashToolParser: LongcatCallParser,
}


def reading_json(parser_class: type[Parser]) -> type[Parser]:
    """The same parser, with our reader of calls if it can read those of the family."""
    own = parser_class.tool_parser_cls
    if own is not None:
        parser_class.tool_parser_cls = _READ_HERE.get(own, own)
    return parser_class


def _whole(reads: Iterable[Text | Begun | Arguments]) -> tuple[str, list[tuple[str, str]]]:
    said = ""
    calls: list[tuple[str, list[str]]] = []
    for read in reads:
        match read:
            case Text(part):
                said += part
            case Begun(name):
                calls.append((name, []))
            case Arguments(fragment):
                calls[-1][1].append(fragment)
    return said, [(name, "".join(fragments)) for name, fragments in calls]
