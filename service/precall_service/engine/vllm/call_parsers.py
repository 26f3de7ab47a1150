"""Puts our own readers of calls in the place of vLLM's, for the families that they can read.

vLLM's parsers for them search for the mark that ends a call, also inside of strings, read the whole
message again at each token, or know calls only in one of the forms that the family writes.

Owns: the forms of the families. Never: reads a message itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

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
from vllm.tool_parsers.apertus_tool_parser import ApertusToolParser
from vllm.tool_parsers.deepseekv3_tool_parser import DeepSeekV3ToolParser
from vllm.tool_parsers.deepseekv31_tool_parser import DeepSeekV31ToolParser
from vllm.tool_parsers.ernie45_tool_parser import Ernie45ToolParser
from vllm.tool_parsers.gigachat3_tool_parser import GigaChat3ToolParser
from vllm.tool_parsers.granite4_tool_parser import Granite4ToolParser
from vllm.tool_parsers.granite_engine_tool_parser import GraniteEngineToolParser
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.hunyuan_a13b_tool_parser import HunyuanA13BToolParser
from vllm.tool_parsers.internlm2_tool_parser import Internlm2ToolParser
from vllm.tool_parsers.jamba_tool_parser import JambaToolParser
from vllm.tool_parsers.kimi_k2_tool_parser import KimiK2ToolParser
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser
from vllm.tool_parsers.longcat_tool_parser import LongcatFlashToolParser
from vllm.tool_parsers.mistral_tool_parser import MistralToolParser

from precall_service.engine.vllm.call_reader import Arguments, Begun, CallReader, Read, Text
from precall_service.engine.vllm.json_calls import JsonCallReader, JsonForm

_BLANKS: Final = re.compile(r"\s*")
_ARRAY: Final = re.compile(r"\s*\[\s*")
_ARRAY_OR_NOT: Final = re.compile(r"\s*\[?\s*")


def _objects(start: str, end: str) -> JsonForm:
    return JsonForm(starts=(start,), head=_BLANKS, head_part=_BLANKS, end=end)


def _arrays(start: str, end: str, *, names_are_keys: bool = False) -> JsonForm:
    return JsonForm(
        starts=(start,),
        head=_ARRAY,
        head_part=_ARRAY_OR_NOT,
        around=(end,),
        several=True,
        names_are_keys=names_are_keys,
    )


_HERMES: Final = _objects("<tool_call>", "</tool_call>")
_KIMI: Final = JsonForm(
    starts=("<|tool_call_begin|>",),
    head=re.compile(
        r"\s*(?=(?P<id>[^\s<]+:\d+)?)(?:functions\.)?(?P<name>[^\s:{}]+)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*"
    ),
    head_part=re.compile(r'[^{}"]*'),
    end="<|tool_call_end|>",
    around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)
_MISTRAL: Final = JsonForm(
    starts=("[TOOL_CALLS]",),
    head=re.compile(
        r"\s*(?:\[?|(?P<name>[\w.-]+)\s*"
        r"(?:\[CALL_ID\]\s*(?:(?P<id>[0-9A-Za-z]{9})|\w*)\s*)?(?:\[ARGS\])?)\s*"
    ),
    head_part=re.compile(r"[\s\w.\[\]-]*"),
    several=True,
)
_DEEPSEEK: Final = JsonForm(
    starts=("<｜tool▁call▁begin｜>",),  # noqa: RUF001 the bars are part of the token
    head=re.compile(
        r"\s*(?:function<｜tool▁sep｜>)?(?P<name>[^\s<{]+)\s*"  # noqa: RUF001
        r"(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*"  # noqa: RUF001
    ),
    head_part=re.compile(r'[^{}"]*'),
    end="<｜tool▁call▁end｜>",  # noqa: RUF001
    around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # noqa: RUF001
)


class CallParser(ToolParser):
    """A parser of vLLM's whose reading of calls is ours.

    `read` reads the next piece of a message alone; vLLM would copy all that came before.

    Attributes:
        form: How the family writes calls.
        reader: What has read the message so far.
    """

    engine_based_streaming = False
    form: ClassVar[JsonForm]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reader = self.new_reader()
        self.begun = False
        """Whether the message has left its reasoning: all that follows may be given to `read`."""
        self._calls = 0

    @property
    def starts(self) -> tuple[str, ...]:
        """The marks that begin calls."""
        return self.form.starts

    @classmethod
    def new_reader(cls) -> CallReader:
        """The reader of one message."""
        return JsonCallReader(cls.form)

    def read(self, text: str) -> DeltaMessage | None:
        """What the next piece of the message, after its reasoning, completes."""
        self.begun = True
        return self._delta(self.reader.feed(text))

    def end(self) -> DeltaMessage | None:
        """What was held back until the message ended."""
        return self._delta(self.reader.end())

    def _delta(self, reads: Iterable[Read]) -> DeltaMessage | None:
        said: list[str] = []
        calls: list[DeltaToolCall] = []
        for read in reads:
            match read:
                case Text(part):
                    said.append(part)
                case Begun(name, written_id):
                    calls.append(
                        DeltaToolCall(
                            index=self._calls,
                            type="function",
                            id=written_id,
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
        reader = self.new_reader()
        said, calls = _whole([*reader.feed(model_output), *reader.end()])
        return ExtractedToolCallInformation(
            tools_called=bool(calls),
            tool_calls=[
                ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments))
                for name, arguments in calls
            ],
            content=said or None,
        )


class HermesCallParser(CallParser, Hermes2ProToolParser):
    """For `<tool_call>{...}</tool_call>`, with vLLM's grammar of that form."""

    form = _HERMES


class GraniteCallParser(CallParser):
    """For `<tool_call>[{...}, {...}]`, or the same after a token, of which vLLM has no grammar."""

    form = JsonForm(
        starts=("<|tool_call|>", "<tool_call>"),
        head=_ARRAY_OR_NOT,
        head_part=_ARRAY_OR_NOT,
        several=True,
    )


class LongcatCallParser(CallParser):
    """As Hermes's, with marks and a grammar of LongCat's own."""

    structural_tag_model = LongcatFlashToolParser.structural_tag_model
    form = _objects("<longcat_tool_call>", "</longcat_tool_call>")


class KimiCallParser(CallParser):
    """For calls whose names and ids stand before their arguments, as Kimi K2 writes them."""

    structural_tag_model = KimiK2ToolParser.structural_tag_model
    form = _KIMI


class MistralCallParser(CallParser, MistralToolParser):
    """For `[TOOL_CALLS][{...}, {...}]` and all forms of `[TOOL_CALLS]name{...}`.

    Mistral's own tokenizers bring a grammar, which stays vLLM's.
    """

    engine_based_streaming = False
    form = _MISTRAL


class InternlmCallParser(CallParser):
    """For `<|action_start|><|plugin|>{...}<|action_end|>`."""

    form = _objects("<|action_start|><|plugin|>", "<|action_end|>")


class LlamaCallParser(CallParser):
    """For bare objects, or objects after a token, as Llama 3 writes them."""

    structural_tag_model = Llama3JsonToolParser.structural_tag_model
    form = JsonForm(
        starts=("<|python_tag|>",), head=_BLANKS, head_part=_BLANKS, several=True, bare=True
    )


class ToolCallsCallParser(CallParser):
    """For `<tool_calls>[{...}, {...}]</tool_calls>`, as Jamba and Hunyuan A13B write them."""

    form = _arrays("<tool_calls>", "</tool_calls>")


class ErnieCallParser(CallParser):
    """As Hermes's, beside texts that stand between marks of their own."""

    form = JsonForm(
        starts=("<tool_call>",),
        head=_BLANKS,
        head_part=_BLANKS,
        end="</tool_call>",
        dropped=("<response>", "</response>"),
    )


class DeepSeekCallParser(CallParser):
    """For the calls of DeepSeek V3.1, whose names stand before their arguments."""

    structural_tag_model = DeepSeekV31ToolParser.structural_tag_model
    form = _DEEPSEEK


class FencedDeepSeekCallParser(DeepSeekCallParser):
    """For the calls of DeepSeek V3 and R1, which fence the arguments as a code block."""

    structural_tag_model = DeepSeekV3ToolParser.structural_tag_model


class ApertusCallParser(CallParser):
    """For `<|tools_prefix|>[{"name": {...}}]<|tools_suffix|>`."""

    form = _arrays("<|tools_prefix|>", "<|tools_suffix|>", names_are_keys=True)


class GigaChatCallParser(CallParser):
    """For an object after a token, or in a message of its own, as GigaChat 3 writes them."""

    form = JsonForm(
        starts=("<|function_call|>", "function call<|role_sep|>\n"),
        head=_BLANKS,
        head_part=_BLANKS,
        dropped=("<|message_sep|>\n\n",),
    )


_READ_HERE: Final[Mapping[type[ToolParser], type[CallParser]]] = {
    ApertusToolParser: ApertusCallParser,
    DeepSeekV31ToolParser: DeepSeekCallParser,
    DeepSeekV3ToolParser: FencedDeepSeekCallParser,
    Ernie45ToolParser: ErnieCallParser,
    GigaChat3ToolParser: GigaChatCallParser,
    Granite4ToolParser: HermesCallParser,
    GraniteEngineToolParser: GraniteCallParser,
    Hermes2ProToolParser: HermesCallParser,
    HunyuanA13BToolParser: ToolCallsCallParser,
    Internlm2ToolParser: InternlmCallParser,
    JambaToolParser: ToolCallsCallParser,
    KimiK2ToolParser: KimiCallParser,
    Llama3JsonToolParser: LlamaCallParser,
    LongcatFlashToolParser: LongcatCallParser,
    MistralToolParser: MistralCallParser,
}


def reading_calls(parser_class: type[Parser]) -> type[Parser]:
    """The same parser, with our reader of calls if it can read those of the family."""
    own = parser_class.tool_parser_cls
    if own is not None:
        parser_class.tool_parser_cls = _READ_HERE.get(own, own)
    return parser_class


def _whole(reads: Iterable[Read]) -> tuple[str, list[tuple[str, str]]]:
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
